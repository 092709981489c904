"""What the factorial rests on: matched texts by several authors, read by one model in several frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace.activations import read_activations
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.measures import statistics
from emotrace.measures.geometry import neutral_components, project_out
from emotrace.measures.randomness import generator
from emotrace.readings import Reading, frame_tokens, provenance_of

if TYPE_CHECKING:
    from emotrace.files import Cache
    from emotrace.instrument.instrument import Instrument
    from emotrace.models import Model

AUTHORS = ("ours", "self", "other")
FRAMES = ("plain", "unnamed", "chat")
FACTORS = ("author", "frame", "pooling", "texts", "components")
# What tells one reading from another; the number of texts is taken within a reading.
READING_FACTORS = ("author", "frame", "pooling", "components")
NEUTRAL_SHARE = 0.5
FEWEST_TOPICS, FEWEST_EMOTIONS = 4, 2


@dataclass
class Design:
    """Matched texts by several authors in several frames, and what the model's residual stream held.

    Attributes:
        model_name: the model that read them.
        n_layers: decoder layers L.
        topics: names along the first axis.
        emotions: names along the second (*neutral* is not one of them).
        layers: layer indices 1 … L along the third; the embedding output is no layer of the model's own work.
        pooled: (author, frame, pooling) → float32 ``[topic, emotion, layer, d_model]``, zero where absent.
        present: bool ``[topic, emotion]``: the cells that every author has.
        components: pooling → orthonormal rows to be removed, for each of ``layers``.
        seed: of halves, shuffles and resamples.
        bootstrap: number of resamples.
    """

    model_name: str
    n_layers: int
    topics: tuple[str, ...]
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    pooled: dict[tuple[str, str, str], np.ndarray]
    present: np.ndarray
    components: dict[str, list[np.ndarray]] = field(default_factory=dict)
    seed: int = 0
    bootstrap: int = 1000

    def rng(self, *purpose: object) -> np.random.Generator:
        """The generator of one purpose, independent of every other and of the order of work."""
        return generator(self.seed, *purpose)

    @cached_property
    def levels(self) -> dict[str, tuple[Any, ...]]:
        """The levels of each factor, in the order of the axes of the results."""
        authors, frames, poolings = (tuple(dict.fromkeys(key[idx] for key in self.pooled)) for idx in range(3))
        n = len(self.topics)
        return {
            "author": tuple(name for name in AUTHORS if name in authors),
            "frame": tuple(name for name in FRAMES if name in frames),
            "pooling": poolings,
            "texts": (n // 4 * 2, n) if n >= 8 else (n,),
            "components": ("kept", "removed") if self.components else ("kept",),
        }

    def readings(self) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
        """Every combination of ``READING_FACTORS``: the indices of its levels, and their names."""
        levels = [self.levels[factor] for factor in READING_FACTORS]
        return [
            (index, tuple(names[idx] for names, idx in zip(levels, index, strict=True)))
            for index in np.ndindex(*map(len, levels))
        ]

    def halves(self, texts: int) -> tuple[np.ndarray, np.ndarray]:
        """Two disjoint sets of topics, ``texts`` in all; those of fewer texts lie within those of more."""
        order = self.rng("halves").permutation(len(self.topics))
        middle = (len(order) + 1) // 2
        return np.sort(order[:middle][: (texts + 1) // 2]), np.sort(order[middle:][: texts // 2])

    def draws(self, half: np.ndarray) -> np.ndarray:
        """Bootstrap weights of a half's topics ``[draw, topic in half]``, the same for every cell."""
        return statistics.topic_draws(len(half), self.bootstrap, self.rng("bootstrap", list(half)))

    def activations(
        self, author: str, frame: str, pooling: str, components: str = "kept", *, layers: Sequence[int] | None = None
    ) -> np.ndarray:
        """One reading, float64 ``[topic, emotion, layer, d_model]``; ``layers`` are indices into ``Design.layers``."""
        layers = range(len(self.layers)) if layers is None else layers
        reading = self.pooled[author, frame, pooling][:, :, list(layers)].astype(np.float64)
        if components == "removed":
            for column, layer in enumerate(layers):
                reading[:, :, column] = project_out(reading[:, :, column], self.components[pooling][layer])
        return reading


def match_readings(
    model_name: str,
    n_layers: int,
    readings: Mapping[tuple[str, str], Reading],
    *,
    neutral: Mapping[str, np.ndarray] | None = None,
    instrument: Instrument | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
) -> Design:
    """Matches readings by topic and emotion; of several texts in a cell the first is taken.

    Args:
        model_name: the model that read.
        n_layers: decoder layers L.
        readings: (author, frame) → reading; every author in every frame, all with the same layers and poolings.
        neutral: pooling → activations of unrelated texts, read plain, ``[text, layer, d_model]`` at the same layers;
            without it nothing is removed.
        instrument: whose emotions and topics, in its order; default: those of ``data/``.
        seed: of every random draw.
        bootstrap: number of resamples.

    Raises:
        EmotraceError: the readings are not crossed, differ in layers, or share fewer than four topics or two emotions.
    """
    authors, frames = ({key[idx] for key in readings} for idx in (0, 1))
    missing = [f"{author} × {frame}" for author in authors for frame in frames if (author, frame) not in readings]
    if missing:
        raise EmotraceError(f"the factorial needs every author in every frame: {', '.join(sorted(missing))} is missing")
    read = next(iter(readings.values())).layers
    if any(reading.layers != read for reading in readings.values()):
        raise EmotraceError("the readings of a factorial have the same layers")
    rows = {key: _first_rows(reading.labels) for key, reading in readings.items()}
    shared = set.intersection(*map(set, rows.values()))
    topics, emotions = _shared_names(shared, instrument)
    if reason := _too_few(topics, emotions):
        raise EmotraceError(reason)
    cells = [(topic, emotion) for topic in topics for emotion in emotions]
    present = np.array([cell in shared for cell in cells]).reshape(len(topics), len(emotions))
    decoder = [idx for idx, layer in enumerate(read) if layer > 0]
    pooled = {}
    for (author, frame), reading in readings.items():
        texts = [rows[author, frame].get(cell, 0) for cell in cells]
        for pooling, values in reading.pooled.items():
            matched = values[np.ix_(texts, decoder)].reshape(*present.shape, len(decoder), -1)
            pooled[author, frame, pooling] = matched * present[:, :, None, None].astype(np.float32)
    layers = tuple(read[idx] for idx in decoder)
    removed = {name: neutral_components(values[:, decoder], NEUTRAL_SHARE) for name, values in (neutral or {}).items()}
    names = tuple(topics), tuple(emotions)
    return Design(model_name, n_layers, *names, layers, pooled, present, removed, seed, bootstrap)


def too_few(authors: Mapping[str, pd.DataFrame], instrument: Instrument | None = None) -> str:
    """Why the texts of these authors make no factorial, in words; empty where they do."""
    shared = set.intersection(*(set(_first_rows(table)) for table in authors.values()))
    return _too_few(*_shared_names(shared, instrument))


def _shared_names(cells: set[tuple[str, str]], instrument: Instrument | None) -> tuple[list[str], list[str]]:
    """The topics of these cells, and the emotions that have a text on half of them at least."""
    known = corpus.topics().index if instrument is None else instrument.topics
    names = corpus.emotion_names() if instrument is None else instrument.emotions
    topics = [name for name in known if any(name == topic for topic, _ in cells)]
    return topics, [name for name in names if sum(name == e for _, e in cells) >= len(topics) / 2]


def _too_few(topics: Sequence[str], emotions: Sequence[str]) -> str:
    if len(topics) >= FEWEST_TOPICS and len(emotions) >= FEWEST_EMOTIONS:
        return ""
    counts = f"{len(topics)} and {len(emotions)}"
    return f"a factorial needs four topics and two emotions that all authors share, not {counts}"


def _first_rows(texts: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(topic, emotion) → the number of the first row of that cell."""
    rows: dict[tuple[str, str], int] = {}
    for row, cell in enumerate(zip(texts["topic"], texts["emotion"], strict=True)):
        rows.setdefault(cell, row)
    return rows


def read_design(
    model: Model,
    passages: pd.DataFrame,
    own: pd.DataFrame | None,
    other: pd.DataFrame | None,
    *,
    neutral: Mapping[str, np.ndarray] | None = None,
    instrument: Instrument | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Design:
    """The model reads the texts of every author in every frame; in the plain one alone if it has no chat template.

    Args:
        model: the model.
        passages: ours (:func:`corpus.passages`).
        own: the kept stories of the model itself, or None.
        other: the kept stories of another model (:func:`emotrace.instrument.stories.stored`), or None.
        neutral: pooling → activations of unrelated texts at all layers 0 … L; see :func:`match_readings`.
        instrument: whose texts ``passages`` are; default: ``data/``'s.
        seed: of every random draw.
        bootstrap: number of resamples.
        cache: keeps finished batches.
        progress: called with the number of texts just read; there are authors × frames × texts.

    Raises:
        EmotraceError: what :func:`match_readings` refuses.
    """
    frames = FRAMES if model.instruct and model.tokenizer.chat_template else ("plain",)
    texts = {name: table for name, table in zip(AUTHORS, (passages, own, other), strict=True) if table is not None}
    rows = {author: _first_rows(table) for author, table in texts.items()}
    shared = set.intersection(*map(set, rows.values()))
    readings = {}
    for author, table in texts.items():
        # Only what can be matched is read; the neutral class is no row of the factorial.
        matched = [row for cell, row in rows[author].items() if cell in shared and cell[1] != corpus.NEUTRAL]
        part = table.iloc[matched].reset_index(drop=True)
        for frame in frames:  # not by `read_texts`, which reads baseline texts beside those of one's own instrument
            tokens = frame_tokens(model, part, frame, instrument=instrument)
            pooled = read_activations(model, tokens, cache=cache, progress=progress)
            layers = list(range(model.n_layers + 1))
            readings[author, frame] = Reading(part, pooled, layers, provenance_of(model, part, author, frame))
    drawn: dict[str, Any] = {"instrument": instrument, "seed": seed, "bootstrap": bootstrap}
    return match_readings(model.name, model.n_layers, readings, neutral=neutral, **drawn)
