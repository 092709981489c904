"""Texts → activations → :class:`~emotrace.vectors.EmotionVectors`.

Two methods (paper, claims C3 and C4). Comprehension: the model reads prewritten passages. Generation: an instruct model
writes stories itself (:mod:`emotrace.stories`), and its residual stream is read at what it writes. Either way an
emotion's vector is the mean of its texts' activations minus the mean over all classes, *neutral* included.

A text is read in one of three frames. ``plain``: the text alone. ``chat``: as the answer to the very request that asks
for it, which names the feeling. ``unnamed``: as the answer to the same request without the feeling. What ``chat`` adds
to ``unnamed`` is the label in the context, not anything the text says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import POOLINGS, read_activations, read_while_writing
from emotrace.errors import EmotraceError, unknown
from emotrace.estimation import estimated, read_unrelated
from emotrace.files import Cache
from emotrace.instrument import corpus
from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE
from emotrace.measures.geometry import neutral_components
from emotrace.stories import kept, request_ids, write_stories
from emotrace.tokens import Tokens, Writing, encode
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model

METHODS = ("comprehension", "generation")
FRAMES = ("plain", "chat", "unnamed")

# Rows written together while being read: every token's stream is held until the batch is done.
WRITING_ROWS = 16


@dataclass(eq=False)
class Reading:
    """A labelled set of texts and what the model's residual stream held when it read them.

    Attributes:
        labels: one row a text, with the columns ``topic``, ``emotion`` and ``text``.
        pooled: for each pooling, float32 ``[text, layer, d_model]``.
        layers: the layer indices along the second axis.
        provenance: of the model, the texts and the method.
    """

    labels: pd.DataFrame
    pooled: dict[str, np.ndarray]
    layers: list[int]
    provenance: dict[str, str]

    def vectors(self, pooling: str = "last", emotions: Sequence[str] | None = None) -> EmotionVectors:
        """Class means minus their grand mean (C4). Means are accumulated in float64.

        Args:
            pooling: which of the poolings that were read.
            emotions: which of the 20 to keep; the grand mean is over all 21 classes in any case.
        """
        if pooling not in self.pooled:
            raise unknown("pooling", pooling, self.pooled)
        labels = set(corpus.check_texts(self.labels, "the texts that were read")["emotion"])
        present = [name for name in corpus.emotions().index if name in labels]
        for name in [corpus.NEUTRAL, *(corpus.check_emotions(list(emotions)) if emotions else [])]:
            if name not in present:
                raise EmotraceError(f"no text of {name!r} was read: the texts have {', '.join(present)}")
        if present == [corpus.NEUTRAL]:
            raise EmotraceError(f"no text of an emotion was read: the texts have {corpus.NEUTRAL} alone")
        means = class_means(self.pooled[pooling], self.labels["emotion"], present)
        names = [name for name in present if name != corpus.NEUTRAL]
        kept = list(emotions) if emotions else names
        grand = means.mean(axis=0)
        return EmotionVectors(
            emotions=tuple(kept),
            layers=tuple(self.layers),
            values=(means[[present.index(name) for name in kept]] - grand).astype(np.float32),
            neutral_mean=means[present.index(corpus.NEUTRAL)].astype(np.float32),
            grand_mean=grand.astype(np.float32),
            emotions_mean=means[[present.index(name) for name in names]].mean(axis=0).astype(np.float32),
            provenance={**self.provenance, "pooling": pooling, "centring": "grand"},
        )


def class_means(pooled: np.ndarray, labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The mean of ``pooled [text, …]`` over the texts of each name, accumulated in float64: ``[name, …]``."""
    of_text = np.asarray(labels)
    return np.stack([pooled[of_text == name].mean(axis=0, dtype=np.float64) for name in names])


@arguments.checked
def read_texts(
    model: Model,
    texts: pd.DataFrame,
    frame: str = "plain",
    *,
    author: str | None = None,
    continuation: bool = False,
    layers: Sequence[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """The model reads texts: comprehension, if not its own.

    Args:
        model: the model that reads.
        texts: one row a text, columns ``emotion`` and ``text``; in a frame, or with an author, also ``topic``.
        frame: what stands before each text (:func:`frame_tokens`).
        author: who wrote them, for the provenance: ``self``, or a name; default: passages, whose whole table is named.
        continuation: the beginning of a page instead of a chat.
        layers: layer indices; default all.
        poolings: of ``activations.POOLINGS``.
        cache: keeps finished batches.
        progress: called with the number of texts just read.

    Raises:
        EmotraceError: a table that lacks a column or has a label or text that is no string, or empty; what
            :func:`frame_tokens` refuses.
    """
    layers, frame = model.check_layers(layers), arguments.choice(frame, "frame", FRAMES)
    author = author if author is None else arguments.text(author, "an author")
    texts = corpus.check_texts(texts, topics=frame != "plain" or author is not None, emotions_known=False)
    tokens = frame_tokens(model, texts, frame, continuation=continuation)
    activations = read_activations(model, tokens, layers=layers, poolings=poolings, cache=cache, progress=progress)
    return Reading(texts.reset_index(drop=True), activations, layers, _provenance(model, texts, author, frame))


@arguments.checked
def frame_tokens(model: Model, texts: pd.DataFrame, frame: str, *, continuation: bool = False) -> list[Tokens]:
    """Texts in a frame, as tokens to be read: the span to be pooled is the text's own tokens in every frame.

    Args:
        model: for ``chat`` and ``unnamed`` one with a chat template.
        texts: a table with the columns ``topic``, ``emotion`` and ``text``.
        frame: one of ``FRAMES``.
        continuation: the beginning of a page instead of a chat, for base models.

    Raises:
        EmotraceError: an unknown frame, a base model in a chat's frame, a text that is empty or too long.
    """
    arguments.choice(frame, "frame", FRAMES)
    corpus.check_texts(texts, topics=frame != "plain", emotions_known=False)
    alone = encode(model, list(texts["text"]))
    if frame == "plain":
        return alone
    framed = []
    for number, (row, text) in enumerate(zip(texts.itertuples(), alone, strict=True), 1):
        before = request_ids(model, row.topic, row.emotion, named=frame == "chat", continuation=continuation)
        ids = before + text.ids[text.start : text.stop]
        if len(ids) > model.context:
            raise EmotraceError(f"text {number} is too long ({len(ids)} tokens): {model.name} takes {model.context}")
        framed.append(Tokens(ids, len(before), len(ids)))
    return framed


@arguments.checked
def read_stories(
    model: Model,
    stories: pd.DataFrame,
    *,
    while_writing: Writing | None = None,
    continuation: bool = False,
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
        layers: layer indices; default all.
        poolings: of ``activations.POOLINGS``.
        cache: keeps finished batches.
        progress: called with the number of stories just read.

    Raises:
        EmotraceError: no stories; a story that the model does not write again from its seed.
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
            layers=layers,
            poolings=poolings,
            cache=cache,
            progress=progress,
        )
        reading.provenance["read"] = "again"
        return reading
    layers = model.check_layers(layers)
    poolings = [arguments.choice(name, "pooling", POOLINGS) for name in arguments.names(poolings, "pooling")]
    pooled: dict[str, list[np.ndarray]] = {pooling: [] for pooling in poolings}
    for start in range(0, len(stories), WRITING_ROWS):
        batch = stories.iloc[start : start + WRITING_ROWS]
        requests = [request_ids(model, row.topic, row.emotion, continuation=continuation) for row in batch.itertuples()]
        written = read_while_writing(
            model, requests, while_writing, list(pd.to_numeric(batch["seed"], errors="coerce")), layers=layers
        )
        for row, text in zip(batch.itertuples(), written, strict=True):
            _check_same(model, row, text.ids, while_writing)
            stream = text.stream[: row.kept_tokens]  # pooled as activations.read_activations does
            for pooling in poolings:
                mean = stream[-1] if pooling == "last" else stream[1:].mean(axis=0, dtype=np.float64)
                pooled[pooling].append(mean.astype(np.float32))
        if progress:
            progress(len(batch))
    provenance = _provenance(model, stories, "self", "chat") | {"read": "while writing"}
    arrays = {pooling: np.stack(rows) for pooling, rows in pooled.items()}
    return Reading(stories.reset_index(drop=True), arrays, layers, provenance)


def _check_same(model: Model, story: Any, ids: Sequence[int], writing: Writing) -> None:
    text = model.tokenizer.decode(ids[: story.kept_tokens], skip_special_tokens=True)
    if not text.strip().startswith(story.text):
        raise EmotraceError(
            f"the story {story.topic} × {story.emotion} is not what {model.name} writes from seed {story.seed} at "
            f"temperature {writing.temperature} in {writing.max_new_tokens} tokens"
        )


def _provenance(model: Model, texts: pd.DataFrame, author: str | None, frame: str) -> dict[str, str]:
    method = "generation" if author == "self" else "comprehension"
    provenance = {**model.provenance, "model": model.name, "method": method}
    if author is None:
        return {**provenance, "texts": corpus.fingerprint(texts)}
    fingerprint = corpus.fingerprint(texts[["topic", "emotion", "text"]])
    return {**provenance, "texts": fingerprint, "author": author, "frame": frame}


@arguments.checked
def extract(
    model: Model,
    *,
    method: str = "comprehension",
    pooling: str = "last",
    layers: list[int] | str | None = None,
    emotions: Sequence[str] | None = None,
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
        method: ``comprehension``, from ``data/passages.csv`` or passages of one's own; ``generation``, from stories
            that the model writes first (an instruct model; minutes on a CPU).
        pooling: ``last`` (the paper's for comprehension) or ``mean``.
        layers: layer indices; default all.
        emotions: which of the 20; default all.
        passages: for comprehension, a table of one's own with the columns ``emotion`` and ``text``, or a CSV file.
        stories: for generation, what :func:`emotrace.stories.write_stories` returned, instead of writing now, or a
            table with the columns ``topic``, ``emotion`` and ``text``.
        seed: of the writing.
        continuation: lets a base model generate, by going on with the beginning of a page.
        remove_neutral: project out the leading principal components of the baseline texts, read plain, up to this share
            of their variance (0.5, say); the provenance records it.
        estimator: how vectors are computed from what was read, one of ``measures.estimators.ESTIMATORS``; the
            provenance names any but the difference of means.
        progress: called with the number of texts just written or read.

    Raises:
        EmotraceError: an unknown method, pooling, estimator, emotion or layer; generation on a base model; a class of
            which no story passed; a table that :func:`corpus.check_passages` refuses, with an unknown emotion in it,
            say, or that lacks the topics that an estimator needs.

    Example:
        >>> vectors = emotrace.extract(emotrace.load())
        >>> vectors["desperate", 15]            # float32 [d_model]
    """
    arguments.choice(method, "method", METHODS)
    arguments.choice(pooling, "pooling", POOLINGS)
    arguments.choice(estimator, "estimator", ESTIMATORS)
    if emotions is not None and not (emotions := corpus.check_emotions(arguments.names(emotions, "emotion"))):
        raise EmotraceError("no emotion is asked for: leave emotions out for all of them")
    layers, seed = model.check_layers(layers), arguments.integer(seed, "a seed")
    share = _share_of_variance(remove_neutral)
    if method == "comprehension":
        own = not isinstance(passages, str | Path | None)
        table = corpus.check_passages(passages) if own else corpus.passages(passages)
        read: Callable[..., Reading] = partial(read_texts, model, table, progress=progress)
    else:
        if stories is None:
            stories = write_stories(model, seed=seed, continuation=continuation, progress=progress)
        stories = corpus.check_columns(stories, "the table of stories", ("topic", "emotion", "text"))
        table = kept(stories) if "status" in stories else stories
        table = corpus.check_texts(_complete(model, table), "the table of stories", topics=True)
        read = partial(read_stories, model, table, continuation=continuation, progress=progress)
    if "topics" in ESTIMATORS[estimator].needs:
        corpus.check_columns(table, "the table of texts", ("topic", "emotion", "text"))
    reading = read(layers=layers, poolings=(pooling,))
    vectors = reading.vectors(pooling, emotions)
    if estimator != MEAN_DIFFERENCE:
        activations, layer_0 = reading.pooled[pooling], {"layers": [0], "poolings": ("mean",), "progress": None}
        embeddings = read(**layer_0).pooled["mean"][:, 0] if "embeddings" in ESTIMATORS[estimator].needs else None
        vectors = estimated(model, reading.labels, activations, vectors, estimator, embeddings, progress)
    if share is None:
        return vectors
    neutral = read_unrelated(model, vectors, progress)
    what = f"neutral components up to {share:g} of the variance of {len(neutral)} baseline texts"
    return vectors.without(neutral_components(neutral, share), what)


def _share_of_variance(value: float | None) -> float | None:
    if value is None:
        return None
    share = arguments.number(value, "a share of variance")
    if not 0 < share <= 1:
        raise EmotraceError(f"remove_neutral is a share of variance, above 0 and up to 1, not {share:g}")
    return share


def _complete(model: Model, stories: pd.DataFrame) -> pd.DataFrame:
    """The stories unchanged, if there is one of every class."""
    lacking = [name for name in corpus.emotions().index if name not in set(stories["emotion"])]
    if lacking:
        raise EmotraceError(f"{model.name} wrote no story of {', '.join(lacking)} that passed: ask for more attempts")
    return stories
