"""What the factorial rests on: matched texts by several authors, read by one model in several frames."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.extraction import Reading, read_framed
from emotrace.instrument import corpus
from emotrace.measures import statistics
from emotrace.vectors import neutral_components, project_out

if TYPE_CHECKING:
    from emotrace.activations import Cache
    from emotrace.models import Model

AUTHORS = ("ours", "self", "other")
FRAMES = ("plain", "unnamed", "chat")
NEUTRAL_SHARE = 0.5


@dataclass
class Design:
    """Matched texts by several authors in several frames, and what the model's residual stream held.

    Attributes:
        model: its name.
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

    model: str
    n_layers: int
    topics: tuple[str, ...]
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    pooled: dict[tuple[str, str, str], np.ndarray]
    present: np.ndarray
    components: dict[str, list[np.ndarray]] = field(default_factory=dict)
    seed: int = 0
    bootstrap: int = 1000

    def rng(self, *what: object) -> np.random.Generator:
        """The generator of one purpose, independent of every other and of the order of work."""
        return np.random.default_rng([self.seed, zlib.crc32(repr(what).encode())])

    @cached_property
    def levels(self) -> dict[str, tuple]:
        """The levels of each factor."""
        seen = [tuple(dict.fromkeys(key[place] for key in self.pooled)) for place in range(3)]
        authors, frames = (
            tuple(name for name in order if name in found)
            for order, found in zip((AUTHORS, FRAMES), seen, strict=False)
        )
        n = len(self.topics)
        texts = (n // 4 * 2, n) if n >= 8 else (n,)
        return {
            "author": authors, "frame": frames, "pooling": seen[2], "texts": texts,
            "components": ("kept", "removed") if self.components else ("kept",),
        }  # fmt: skip

    def halves(self, texts: int) -> tuple[np.ndarray, np.ndarray]:
        """Two disjoint sets of topics, ``texts`` in all; those of fewer texts lie within those of more."""
        order = self.rng("halves").permutation(len(self.topics))
        middle = (len(order) + 1) // 2
        return np.sort(order[:middle][: (texts + 1) // 2]), np.sort(order[middle:][: texts // 2])

    def draws(self, half: np.ndarray) -> np.ndarray:
        """Bootstrap weights of a half's topics ``[draw, topic in half]``, the same for every cell."""
        return statistics.topic_draws(len(half), self.bootstrap, self.rng("bootstrap", list(half)))

    def activations(
        self, author: str, frame: str, pooling: str, components: str = "kept", places: Sequence[int] | None = None
    ) -> np.ndarray:
        """One reading, float64 ``[topic, emotion, layer, d_model]``; ``places`` chooses among ``layers``."""
        places = range(len(self.layers)) if places is None else places
        chosen = self.pooled[author, frame, pooling][:, :, list(places)].astype(np.float64)
        if components == "removed":
            for column, place in enumerate(places):
                chosen[:, :, column] = project_out(chosen[:, :, column], self.components[pooling][place])
        return chosen


def design(
    model: str,
    n_layers: int,
    readings: Mapping[tuple[str, str], Reading],
    *,
    neutral: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
) -> Design:
    """Matches readings by topic and emotion; of several texts in a cell the first is taken.

    Args:
        model: its name.
        n_layers: decoder layers L.
        readings: (author, frame) → reading; every author in every frame, all with the same layers and poolings.
        neutral: pooling → activations of unrelated texts, read plain, ``[text, layer, d_model]`` at the same layers;
            without it nothing is removed.
        seed: of every random draw.
        bootstrap: number of resamples.

    Raises:
        EmotraceError: the readings are not crossed, differ in layers, or share fewer than four topics or two emotions.
    """
    authors, frames = ({key[place] for key in readings} for place in (0, 1))
    missing = [f"{author} × {frame}" for author in authors for frame in frames if (author, frame) not in readings]
    if missing:
        raise EmotraceError(f"the factorial needs every author in every frame: {', '.join(sorted(missing))} is missing")
    layers = next(iter(readings.values())).layers
    if any(reading.layers != layers for reading in readings.values()):
        raise EmotraceError("the readings of a factorial have the same layers")
    tables = {
        key: reading.labels.reset_index(drop=True).drop_duplicates(["topic", "emotion"])
        for key, reading in readings.items()
    }
    rows = {
        key: dict(zip(zip(t["topic"], t["emotion"], strict=True), t.index, strict=True)) for key, t in tables.items()
    }
    shared = set.intersection(*(set(places) for places in rows.values()))
    topics = [name for name in corpus.topics().index if any(name == topic for topic, _ in shared)]
    emotions = [name for name in corpus.emotion_names() if sum(name == e for _, e in shared) >= len(topics) / 2]
    if len(topics) < 4 or len(emotions) < 2:
        raise EmotraceError(
            f"a factorial needs four topics and two emotions that all authors share, not {len(topics)} and {len(emotions)}"
        )
    present = np.array([[(topic, emotion) in shared for emotion in emotions] for topic in topics])
    kept = [place for place, layer in enumerate(layers) if layer > 0]
    pooled = {}
    for (author, frame), reading in readings.items():
        places = [rows[author, frame].get((topic, emotion), 0) for topic in topics for emotion in emotions]
        for pooling, values in reading.pooled.items():
            chosen = values[np.ix_(places, kept)].reshape(*present.shape, len(kept), -1)
            pooled[author, frame, pooling] = chosen * present[:, :, None, None].astype(np.float32)
    removed = {
        pooling: neutral_components(values[:, kept], NEUTRAL_SHARE) for pooling, values in (neutral or {}).items()
    }
    return Design(
        model, n_layers, tuple(topics), tuple(emotions), tuple(layers[place] for place in kept), pooled, present, removed,
        seed, bootstrap,
    )  # fmt: skip


def read_design(
    model: Model,
    passages: pd.DataFrame,
    own: pd.DataFrame | None,
    other: pd.DataFrame | None,
    *,
    frames: Sequence[str] | None = None,
    continuation: bool = False,
    neutral: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Design:
    """The model reads the texts of every author in every frame.

    Args:
        model: the model.
        passages: ours (:func:`corpus.passages`).
        own: the kept stories of the model itself, or None.
        other: the kept stories of another model (:func:`emotrace.stories.stored`), or None.
        frames: default all, or ``plain`` alone where there is no chat template and no ``continuation``.
        continuation: the beginning of a page for a chat, as ``own`` was written.
        neutral: pooling → activations of unrelated texts at all layers 0 … L; see :func:`design`.
        seed: of every random draw.
        bootstrap: number of resamples.
        cache: keeps finished batches.
        progress: called with the number of texts just read; there are authors × frames × texts.

    Raises:
        EmotraceError: what :func:`design` refuses, or a chat's frame on a base model.
    """
    if frames is None:
        frames = FRAMES if continuation or (model.instruct and model.tokenizer.chat_template) else ("plain",)
    given = {name: texts for name, texts in zip(AUTHORS, (passages, own, other), strict=True) if texts is not None}
    shared = set.intersection(*(set(zip(texts["topic"], texts["emotion"], strict=True)) for texts in given.values()))
    readings = {}
    for author, texts in given.items():
        # Only what can be matched is read; the neutral class is no row of the factorial.
        wanted = [
            cell in shared and cell[1] != corpus.NEUTRAL for cell in zip(texts["topic"], texts["emotion"], strict=True)
        ]
        matched = texts[wanted].drop_duplicates(["topic", "emotion"])
        for frame in frames:
            readings[author, frame] = read_framed(
                model, matched, frame, author=author, continuation=continuation, cache=cache, progress=progress
            )
    return design(model.name, model.n_layers, readings, neutral=neutral, seed=seed, bootstrap=bootstrap)
