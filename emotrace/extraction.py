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
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace import stories as writing
from emotrace.activations import POOLINGS, Cache, Tokens, encode, read_activations, read_while_writing
from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.vectors import EmotionVectors, neutral_components

if TYPE_CHECKING:
    from emotrace.models import Model

METHODS = ("comprehension", "generation")
FRAMES = ("plain", "chat", "unnamed")

# Rows written together while being read: every token's stream is held until the batch is done.
WRITING_ROWS = 16


@dataclass
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
        present = [name for name in corpus.emotions().index if name in set(self.labels["emotion"])]
        for name in [corpus.NEUTRAL, *(corpus.check_emotions(list(emotions)) if emotions else [])]:
            if name not in present:
                raise EmotraceError(f"no text of {name!r} was read: the texts have {', '.join(present)}")
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
    labels = np.asarray(labels)
    return np.stack([pooled[labels == name].mean(axis=0, dtype=np.float64) for name in names])


def read_passages(
    model: Model,
    passages: pd.DataFrame,
    *,
    layers: list[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """Comprehension: the model reads the passages (table of :func:`corpus.passages`)."""
    layers = model.check_layers(layers)
    texts = list(passages["text"])
    pooled = read_activations(model, texts, layers=layers, poolings=poolings, cache=cache, progress=progress)
    provenance = {
        **model.provenance,
        "model": model.name,
        "method": "comprehension",
        "texts": corpus.fingerprint(passages),
    }
    return Reading(passages.reset_index(drop=True), pooled, layers, provenance)


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
    if frame not in FRAMES:
        raise unknown("frame", frame, FRAMES)
    alone = encode(model, list(texts["text"]))
    if frame == "plain":
        return alone
    framed = []
    for number, (row, item) in enumerate(zip(texts.itertuples(), alone, strict=True), 1):
        before = writing.prompt_ids(model, row.topic, row.emotion, named=frame == "chat", continuation=continuation)
        ids = before + item.ids[item.start : item.stop]
        if len(ids) > model.context:
            raise EmotraceError(f"text {number} is too long ({len(ids)} tokens): {model.name} takes {model.context}")
        framed.append(Tokens(ids, len(before), len(ids)))
    return framed


def read_framed(
    model: Model,
    texts: pd.DataFrame,
    frame: str,
    *,
    author: str,
    continuation: bool = False,
    layers: list[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """The model reads texts in a frame (see :func:`frame_tokens`); ``author`` says in the provenance who wrote them."""
    layers = model.check_layers(layers)
    tokens = frame_tokens(model, texts, frame, continuation=continuation)
    pooled = read_activations(model, tokens, layers=layers, poolings=poolings, cache=cache, progress=progress)
    return Reading(texts.reset_index(drop=True), pooled, layers, _provenance(model, texts, author=author, frame=frame))


def read_stories(
    model: Model,
    stories: pd.DataFrame,
    *,
    while_writing: bool = False,
    continuation: bool = False,
    max_new_tokens: int = 80,
    temperature: float = 0.8,
    layers: list[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """Generation: the residual stream at the stories that the model itself wrote, after the request for each (C3).

    By default each story is read again, in one forward pass over request and story, which is faster and gives the same
    activations as reading while it is written. ``while_writing`` has the model write each story once more with its seed
    and captures the stream as it does (:func:`~emotrace.activations.read_while_writing`); ``max_new_tokens`` and
    ``temperature`` are then those of the writing.

    Args:
        model: the author.
        stories: kept rows of :func:`emotrace.stories.write_stories`, written with the same ``continuation``.

    Raises:
        EmotraceError: no stories; a story that the model does not write again from its seed.
    """
    if stories.empty:
        raise EmotraceError("no stories to read: none passed the check")
    provenance = {"author": "self", "frame": "chat", "method": "generation"}
    if not while_writing:
        reading = read_framed(
            model, stories, "chat", author="self", continuation=continuation,
            layers=layers, poolings=poolings, cache=cache, progress=progress,
        )  # fmt: skip
        reading.provenance |= provenance | {"read": "again"}
        return reading
    layers = model.check_layers(layers)
    pooled = {pooling: np.empty((len(stories), len(layers), model.d_model), np.float32) for pooling in poolings}
    for start in range(0, len(stories), WRITING_ROWS):
        batch = stories.iloc[start : start + WRITING_ROWS]
        written = read_while_writing(
            model,
            [
                writing.prompt_ids(model, row.topic, row.emotion, continuation=continuation)
                for row in batch.itertuples()
            ],
            max_new_tokens=max_new_tokens, temperature=temperature, seeds=[int(seed) for seed in batch["seed"]],
            layers=layers,
        )  # fmt: skip
        for place, (row, item) in enumerate(zip(batch.itertuples(), written, strict=True), start):
            text = model.tokenizer.decode(item.ids[: row.kept_tokens], skip_special_tokens=True)
            if not text.strip().startswith(row.text):
                raise EmotraceError(
                    f"the story {row.topic} × {row.emotion} is not what {model.name} writes from seed {row.seed} at "
                    f"temperature {temperature} in {max_new_tokens} tokens"
                )
            for pooling in poolings:
                pooled[pooling][place] = _pool(item.stream[: row.kept_tokens], pooling)
        if progress:
            progress(len(batch))
    return Reading(
        stories.reset_index(drop=True), pooled, layers,
        _provenance(model, stories, **provenance, read="while writing"),
    )  # fmt: skip


def _pool(stream: np.ndarray, pooling: str) -> np.ndarray:
    """One story's stream ``[token, layer, d_model]``, pooled as ``activations.read_activations`` does."""
    return stream[-1] if pooling == "last" else stream[1:].mean(axis=0, dtype=np.float64)


def _provenance(model: Model, texts: pd.DataFrame, **how: str) -> dict[str, str]:
    method = "generation" if how["author"] == "self" else "comprehension"
    fingerprint = corpus.fingerprint(texts[["topic", "emotion", "text"]])
    return {**model.provenance, "model": model.name, "method": method, "texts": fingerprint, **how}


def extract(
    model: Model,
    *,
    method: str = "comprehension",
    pooling: str = "last",
    layers: list[int] | str | None = None,
    emotions: Sequence[str] | None = None,
    passages: pd.DataFrame | None = None,
    stories: pd.DataFrame | None = None,
    seed: int = 0,
    continuation: bool = False,
    remove_neutral: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> EmotionVectors:
    """Emotion vectors of a model.

    Args:
        model: from :func:`emotrace.load`.
        method: ``comprehension``, from ``data/passages.csv`` or passages of one's own; ``generation``, from stories that
            the model writes first (an instruct model; minutes on a CPU).
        pooling: ``last`` (the paper's for comprehension) or ``mean``.
        layers: layer indices; default all.
        emotions: which of the 20; default all.
        passages: for comprehension, a table like :func:`corpus.passages`.
        stories: for generation, what :func:`emotrace.stories.write_stories` returned, instead of writing now.
        seed: of the writing.
        continuation: lets a base model generate, by going on with the beginning of a page.
        remove_neutral: project out the leading principal components of the baseline texts, read plain, up to this share
            of their variance (0.5, say); the provenance records it.
        progress: called with the number of texts just written or read.

    Raises:
        EmotraceError: an unknown method, pooling, emotion or layer; generation on a base model; a class of which no
            story passed.

    Example:
        >>> vectors = emotrace.extract(emotrace.load())
        >>> vectors["desperate", 15]            # float32 [d_model]
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    if emotions:
        corpus.check_emotions(list(emotions))
    layers = model.check_layers(layers)
    how = {"layers": layers, "poolings": (pooling,), "progress": progress}
    if method == "comprehension":
        reading = read_passages(model, corpus.passages() if passages is None else passages, **how)
    else:
        passed = _stories(model, stories, seed, continuation, progress)
        reading = read_stories(model, passed, continuation=continuation, **how)
    vectors = reading.vectors(pooling, emotions)
    if remove_neutral is None:
        return vectors
    unrelated = list(corpus.baseline_texts()["text"])
    neutral = read_activations(model, unrelated, layers=layers, poolings=(pooling,), progress=progress)[pooling]
    what = f"neutral components up to {remove_neutral:g} of the variance of {len(unrelated)} baseline texts"
    return vectors.without(neutral_components(neutral, remove_neutral), what)


def _stories(
    model: Model, stories: pd.DataFrame | None, seed: int, continuation: bool, progress: Callable[[int], None] | None
) -> pd.DataFrame:
    """The stories that passed, at least one of every class."""
    if stories is None:
        written = writing.write_stories(model, seed=seed, continuation=continuation, progress=progress)
    else:
        written = stories
    passed = writing.kept(written)
    lacking = [name for name in corpus.emotions().index if name not in set(passed["emotion"])]
    if lacking:
        raise EmotraceError(f"{model.name} wrote no story of {', '.join(lacking)} that passed: ask for more attempts")
    return passed
