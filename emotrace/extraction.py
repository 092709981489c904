"""Texts → activations → :class:`~emotrace.vectors.EmotionVectors`.

Two methods (paper, claims C3 and C4). Comprehension: the model reads prewritten passages. Generation: an instruct model
writes stories itself (:mod:`emotrace.stories`), and its residual stream is read at what it writes. Either way an
emotion's vector is the mean of its texts' activations minus the mean over all classes, *neutral* included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import POOLINGS, read_while_writing
from emotrace.errors import EmotraceError
from emotrace.estimation import estimated, read_unrelated
from emotrace.files import Cache
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument, from_names
from emotrace.instrument.loading import Source, load_instrument
from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE
from emotrace.measures.geometry import neutral_components, variance_share
from emotrace.readings import Reading, provenance_of, read_texts
from emotrace.stories import kept, request_ids, write_stories
from emotrace.tokens import Writing
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model

METHODS = ("comprehension", "generation")
# Rows written together while being read: every token's stream is held until the batch is done.
WRITING_ROWS = 16


@arguments.checked
def read_stories(
    model: Model,
    stories: pd.DataFrame,
    *,
    while_writing: Writing | None = None,
    continuation: bool = False,
    instrument: Instrument | None = None,
    layers: Sequence[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """Generation: the residual stream at the stories that the model itself wrote, after the request for each (C3).

    By default each story is read again, in one forward pass over request and story, which is faster. Its text is then
    tokenised again: where that gives other tokens than were written (2 of 16 stories of SmolLM2), activations differ by
    a percent or two; else they are those of reading while it is written.

    Args:
        model: the author.
        stories: kept rows of :func:`emotrace.stories.write_stories`, written with the same ``continuation``.
        while_writing: how the stories were written: the model then writes each once more with its seed, and its stream
            is read as it does (:func:`~emotrace.activations.read_while_writing`), as in the paper.
        continuation: the requests were beginnings of a page.
        instrument: whose emotions and topics they were written for; default: those of ``data/``.
        layers: layer indices; default all.
        poolings: of ``activations.POOLINGS``.
        cache: keeps finished batches.
        progress: called with the number of stories just read.

    Raises:
        EmotraceError: no stories, or a column that is missing; one that the model does not write again from its seed.
    """
    if stories.empty:
        raise EmotraceError("no stories to read: none passed the check")
    if while_writing is None:
        reading = read_texts(
            model,
            stories,
            "chat",
            author="self",
            continuation=continuation,
            instrument=instrument,
            layers=layers,
            poolings=poolings,
            cache=cache,
            progress=progress,
        )
        reading.provenance["read"] = "again"
        return reading
    corpus.check_columns(stories, "the table of stories", ("topic", "emotion", "text", "seed", "kept_tokens"))
    layers = model.check_layers(layers)
    poolings = [arguments.choice(name, "pooling", POOLINGS) for name in arguments.names(poolings, "pooling")]
    pooled: dict[str, list[np.ndarray]] = {pooling: [] for pooling in poolings}
    for start in range(0, len(stories), WRITING_ROWS):
        batch = stories.iloc[start : start + WRITING_ROWS]
        asked: dict[str, Any] = {"continuation": continuation, "instrument": instrument}
        requests = [request_ids(model, row.topic, row.emotion, **asked) for row in batch.itertuples()]
        written = read_while_writing(
            model, requests, while_writing, list(pd.to_numeric(batch["seed"], errors="coerce")), layers=layers
        )
        for row, text in zip(batch.itertuples(), written, strict=True):  # pooled as activations.read_activations does
            count = arguments.integer(row.kept_tokens, "kept_tokens", at_least=2 if "mean" in poolings else 1)
            _check_same(model, row, text.ids[:count], while_writing)
            stream = text.stream[:count]
            for pooling in poolings:
                mean = stream[-1] if pooling == "last" else stream[1:].mean(axis=0, dtype=np.float64)
                pooled[pooling].append(mean.astype(np.float32))
        if progress:
            progress(len(batch))
    provenance = provenance_of(model, stories, "self", "chat") | {"read": "while writing"}
    arrays = {pooling: np.stack(rows) for pooling, rows in pooled.items()}
    return Reading(stories.reset_index(drop=True), arrays, layers, provenance, instrument)


def _check_same(model: Model, story: Any, ids: Sequence[int], writing: Writing) -> None:
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    if len(ids) < story.kept_tokens or not text.strip().startswith(story.text):
        raise EmotraceError(
            f"the story {story.topic} × {story.emotion} is not what {model.name} writes from seed {story.seed} at "
            f"temperature {writing.temperature} in {writing.max_new_tokens} tokens"
        )


@arguments.checked
def extract(
    model: Model,
    *,
    method: str = "comprehension",
    pooling: str = "last",
    layers: list[int] | str | None = None,
    emotions: Sequence[str] | None = None,
    instrument: Source | None = None,
    columns: Mapping[str, str] | None = None,
    passages: pd.DataFrame | str | Path | None = None,
    stories: pd.DataFrame | None = None,
    seed: int = 0,
    continuation: bool = False,
    remove_neutral: float | None = None,
    estimator: str = MEAN_DIFFERENCE,
    progress: Callable[[int], None] | None = None,
) -> EmotionVectors:
    """Emotion vectors of a model.

    Args:
        model: from :func:`emotrace.load`.
        method: ``comprehension``, from the instrument's texts; ``generation``, from stories that the model writes first
            (an instruct model; minutes on a CPU).
        pooling: ``last`` (the paper's for comprehension) or ``mean``.
        layers: layer indices; default all.
        emotions: which of the instrument's; default all. For generation any names: of others than the 20, these and
            *neutral* are all that is written of, on our topics.
        instrument: any emotions and any texts, as :func:`emotrace.load_instrument` takes them; default: ``data/``.
        columns: of its file, role → column.
        passages: for comprehension, texts of the 20 emotions and *neutral*, as a table or a CSV file.
        stories: for generation, in place of writing now: ``topic, emotion, text`` of the emotions and *neutral*.
        seed: of the writing.
        continuation: lets a base model generate, by going on with the beginning of a page.
        remove_neutral: project out the leading principal components of the baseline texts, read plain, up to this share
            of their variance (0.5, say); the provenance records it.
        estimator: one of ``measures.estimators.ESTIMATORS``; the provenance names any but the difference of means.
        progress: called with the number of texts just written or read.

    Raises:
        EmotraceError: an unknown method, pooling, estimator, emotion or layer; generation on a base model; a class of
            which no story passed; texts that :func:`emotrace.load_instrument` or :func:`corpus.check_passages` refuses,
            or that lack the topics that an estimator needs.

    Example:
        >>> vectors = emotrace.extract(emotrace.load())
        >>> vectors["desperate", 15]            # float32 [d_model]
    """
    arguments.choice(method, "method", METHODS)
    arguments.choice(pooling, "pooling", POOLINGS)
    arguments.choice(estimator, "estimator", ESTIMATORS)
    _check_sources(method, instrument, columns, passages, stories, continuation)
    if emotions is not None and not (emotions := list(dict.fromkeys(arguments.names(emotions, "emotion")))):
        raise EmotraceError("no emotion is asked for: leave emotions out for all of them")
    own = _instrument(instrument, columns, emotions, method)
    if emotions is not None:
        emotions = (own.check_emotions if own else corpus.check_emotions)(emotions)
    layers, seed = model.check_layers(layers), arguments.integer(seed, "a seed")
    share = None if remove_neutral is None else variance_share(remove_neutral)
    if method == "comprehension":
        if own is not None:
            table = own.passages
        else:
            given = not isinstance(passages, str | Path | None)
            table = corpus.check_passages(passages) if given else corpus.passages(passages)
        if table.empty:
            raise EmotraceError("names of emotions alone have no texts: use method='generation' (--method generation)")
        read: Callable[..., Reading] = partial(read_texts, model, table, instrument=own, progress=progress)
    else:
        if not (given := stories is not None):
            stories = write_stories(model, seed=seed, continuation=continuation, instrument=own, progress=progress)
        stories = corpus.check_columns(stories, "the table of stories", ("topic", "emotion", "text"))
        known = list(corpus.emotions().index) if own is None else [*own.emotions, corpus.NEUTRAL]
        table = _complete(model, stories, known, [*emotions, corpus.NEUTRAL] if emotions and given else known)
        read = partial(read_stories, model, table, continuation=continuation, instrument=own, progress=progress)
    if "topics" in ESTIMATORS[estimator].needs:
        corpus.check_columns(table, "the table of texts", ("topic", "emotion", "text"))
    reading = read(layers=layers, poolings=(pooling,))
    vectors = reading.vectors(pooling, emotions)
    if estimator != MEAN_DIFFERENCE:
        activations, layer_0 = reading.pooled[pooling], {"layers": [0], "poolings": ("mean",), "progress": None}
        embeddings = read(**layer_0).pooled["mean"][:, 0] if "embeddings" in ESTIMATORS[estimator].needs else None
        vectors = estimated(model, reading.labels, activations, vectors, estimator, embeddings, progress, own)
    if share is None:
        return vectors
    neutral = read_unrelated(model, vectors, progress, own)
    what = f"neutral components up to {share:g} of the variance of {len(neutral)} baseline texts"
    return vectors.without(neutral_components(neutral, share), what)


def _check_sources(method: str, instrument: Any, columns: Any, passages: Any, stories: Any, continuation: bool) -> None:
    """Refuses what the method, or another source of texts, would pass over."""
    if instrument is not None and passages is not None:
        raise EmotraceError("texts are named by instrument or by passages, not by both")
    if method == "comprehension" and (stories is not None or continuation):
        raise EmotraceError("stories and continuation go with method='generation', which is not asked for")
    if method == "generation" and passages is not None:
        raise EmotraceError("passages are read by method='comprehension': generation takes an instrument, or stories")


def _instrument(
    source: Source | None, columns: Mapping[str, str] | None, emotions: list[str] | None, method: str
) -> Instrument | None:
    """The instrument that is named; of emotions by name alone, which a model shall write of; None: ``data/``."""
    if source is not None:
        return load_instrument(source, columns=columns)
    if columns is not None:
        raise EmotraceError("columns are those of an instrument's file: name it as instrument")
    if method == "generation" and emotions and not set(emotions) <= set(corpus.emotion_names()):
        return from_names(emotions)
    return None


def _complete(model: Model, stories: pd.DataFrame, known: Sequence[str], wanted: Sequence[str]) -> pd.DataFrame:
    """The stories that passed, if there is one of every class that is wanted; those with a ``status`` are a model's."""
    table = kept(stories) if "status" in stories else stories
    if lacking := ", ".join(name for name in wanted if name not in set(table["emotion"])):
        if "status" in stories:
            raise EmotraceError(f"{model.name} wrote no story of {lacking} that passed: ask for more attempts")
        raise EmotraceError(f"the table of stories has none of {lacking}: emotions says which are wanted")
    return corpus.check_texts(table, "the table of stories", topics=True, known=known)
