"""Where in a text are its emotions: the residual stream at every token along every emotion's vector."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import pooling_weights, read_tokens
from emotrace.errors import EmotraceError, unknown
from emotrace.hosts.open_edits import unedited
from emotrace.instrument.instrument import Instrument, default
from emotrace.steered_texts import read_layer
from emotrace.tokens import Tokens, encode
from emotrace.vectors import Emotion, mixture_name
from emotrace.whatif import shipped
from emotrace.whatif.results import TokenReading, highest_present, mean_present
from emotrace.whatif.spans import offsets, spans
from emotrace.whatif.text_reading import Progress, cached_vectors, pooling_of

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

UNUSUAL = 95
"""Percentile of the neutral tokens' strongest scores, above which a token's strongest emotion is named."""
MASSIVE = 2.5
"""Times the neutral tokens' median norm at a layer, above which a token's activation there is left out as massive.

In SmolLM2-135M ordinary tokens stay below 2; in layers 3 to 9 the word *the* reaches 9.
"""


@arguments.checked
def read_emotions(
    model: Model,
    text: str,
    emotion: Emotion | None = None,
    *,
    layer: int | str | None = None,
    vectors: EmotionVectors | None = None,
    prompt: bool = False,
    instrument: Instrument | None = None,
    progress: Progress | None = None,
) -> TokenReading:
    """Reads a text and says, for every token, how far the residual stream lies along each emotion's vector.

    The units are those of :class:`~emotrace.whatif.results.TokenReading`. A token's residual stream holds what the
    model has read up to it, so a score says what the text so far does to the model there, not what the word means by
    itself.

    Args:
        model: the model that reads.
        text: the text.
        emotion: the one to show, or a mixture (emotion → weight); default: the strongest at each token. The data hold
            all of them in any case.
        layer: layer index; default: what the vectors are calibrated at, else half depth; ``all``: every layer of the
            vectors.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        prompt: read the text as a prompt is that is continued: special tokens of the model that it spells are special
            tokens, not their characters, and count no more than those that the tokenizer adds.
        instrument: of which they are extracted, and whose neutral texts (else baseline texts) are the unit; default:
            ``data/``.
        progress: called with what is being done, how much of it, of how much.

    Raises:
        EmotraceError: a text that is empty, too long or of one token, an unknown emotion, a layer out of range,
            vectors of another model, or an emotion whose vector has no direction at the layer.
    """
    if vectors is None:
        vectors = cached_vectors(model, progress=progress, instrument=instrument, needed=layer)
    vectors.check(model)
    text = arguments.text(text, "the text")
    emotion = None if emotion is None else arguments.emotion(emotion)
    mixture = [emotion] if isinstance(emotion, Mapping) else []
    _check_known(vectors, [] if emotion is None else [emotion])
    layers, pooling = chosen_layers(model, vectors, layer), pooling_of(vectors)
    tokens = encode(model, [text], prompts=prompt)[0]
    if tokens.stop - tokens.start < 2:
        raise EmotraceError("a text of one token cannot be read token by token: the first is always left out")
    # By itself, so that two equal texts get equal numbers.
    (stream,) = read_tokens(model, [tokens], layers=layers)
    shown: list[Emotion] = [*vectors.emotions, *mixture]
    blank = isinstance(layer, str)
    scale = scale_of(model, vectors, shown, layers, blank=blank, instrument=instrument, progress=progress)
    projection, score = scale.measure(stream)
    counted = _counted(model, tokens)
    projection[~counted] = score[~counted] = np.nan
    ranges = offsets(model, text, tokens, special=prompt)
    last = pooling_weights([tokens], "last")[0].numpy()
    pooled = last if pooling == "last" else counted / counted.sum()
    return TokenReading(
        text=text,
        model=model.name,
        shown=None if emotion is None else mixture_name(emotion),
        tokens=_token_table(text, ranges, counted),
        spans=tuple(spans(text, ranges)),
        emotions=tuple(map(mixture_name, shown)),
        layers=tuple(layers),
        n_layers=model.n_layers,
        projection=projection,
        score=score,
        ceiling=scale.ceiling,
        n=scale.n,
        activation=np.tensordot(pooled.astype(np.float32), stream, 1),
    )


def chosen_layers(model: Model, vectors: EmotionVectors, layer: int | str | None) -> list[int]:
    """The layers to read: the one given, every one of the vectors, or their calibrated one, else half depth."""
    if isinstance(layer, str):
        if layer == "all":
            return sorted(vectors.layers)
        raise EmotraceError(f"a layer is a number or all, not {layer!r}")
    one = None if layer is None else arguments.integer(layer, "a layer")
    chosen = [read_layer(model, vectors)] if one is None else model.check_layers([one])
    vectors.index(chosen[0])
    return chosen


def _check_known(vectors: EmotionVectors, emotions: Sequence[Emotion]) -> None:
    for name in itertools.chain.from_iterable([one] if isinstance(one, str) else one for one in emotions):
        if name not in vectors.emotions:
            raise unknown("emotion", name, vectors.emotions)


def _weights(vectors: EmotionVectors, emotions: Sequence[Emotion]) -> np.ndarray:
    """What turns the vectors' dot products into those of every direction shown: ``[emotion, direction]``."""
    _check_known(vectors, emotions)
    mixtures = [{one: 1.0} if isinstance(one, str) else one for one in emotions]
    return np.array([[float(one.get(name, 0)) for one in mixtures] for name in vectors.emotions])


@dataclass(frozen=True, eq=False)
class Scale:
    """What turns a residual stream into projections and scores (see :class:`~emotrace.whatif.results.TokenReading`).

    Attributes:
        vectors: emotion vectors.
        layers: layer indices that are read.
        weights: of the directions, ``[emotion, direction]``.
        squares: their squared norms, ``[layer, direction]``.
        centre, spread: mean and standard deviation of the neutral tokens' projections, ``[layer, direction]``.
        limit: norms above it are massive, ``[layer]``.
        ceiling: float64 ``[layer]``: 95 of 100 neutral tokens have no emotion with a score above it.
        n: neutral tokens that were read.
    """

    vectors: EmotionVectors
    layers: list[int]
    weights: np.ndarray
    squares: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    limit: np.ndarray
    ceiling: np.ndarray
    n: int

    def measure(self, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Projection and score of a stream ``[token, layer, d_model]``: float64 ``[token, layer, direction]`` each."""
        dots, norms = _dots(stream, *self._exact)
        projection = dots @ self.weights / self.squares
        with np.errstate(invalid="ignore", divide="ignore"):
            score = (projection - self.centre) / self.spread
        score[norms > self.limit] = np.nan
        return projection, score

    @cached_property
    def _exact(self) -> tuple[np.ndarray, np.ndarray]:
        return _exact(self.vectors, self.layers)


def scale_of(
    model: Model,
    vectors: EmotionVectors,
    emotions: Sequence[Emotion],
    layers: list[int],
    *,
    blank: bool = False,
    instrument: Instrument | None = None,
    progress: Progress | None = None,
) -> Scale:
    """The scale of some emotions or mixtures, from the instrument's neutral texts, read once in a process.

    Raises:
        EmotraceError: an unknown emotion; a direction that is zero, unless it may be left ``blank``.
    """
    weights = _weights(vectors, emotions)
    squares = _squares(vectors, layers, weights, blank)
    neutral, norms = neutral_dots(model, vectors, layers, instrument, progress)
    limit = MASSIVE * np.median(norms, axis=0)
    reference = neutral @ weights / squares
    reference[norms > limit] = np.nan
    centre = mean_present(reference)
    spread = mean_present((reference - centre) ** 2) ** 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = (reference - centre) / spread
    single = [isinstance(emotion, str) for emotion in emotions]
    highest = highest_present(scores[..., single]) if any(single) else np.full(norms.shape, np.nan)
    ceiling = np.array([_ceiling(column) for column in highest.T])
    return Scale(vectors, layers, weights, squares, centre, spread, limit, ceiling, len(reference))


def _counted(model: Model, tokens: Tokens) -> np.ndarray:
    """The tokens that pooling by mean counts: bool ``[token]``."""
    special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    return np.array([tokens.start < at < tokens.stop and id not in special for at, id in enumerate(tokens.ids)])


def _exact(vectors: EmotionVectors, layers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Centre ``[layer, d_model]`` and vectors ``[emotion, layer, d_model]`` at some layers, float64."""
    indices = [vectors.index(layer) for layer in layers]
    return vectors.grand_mean[indices].astype(np.float64), vectors.values[:, indices].astype(np.float64)


def _dots(stream: np.ndarray, centre: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centred stream ``[token, layer, d_model]`` times every emotion's vector, float64 ``[token, layer, emotion]``,
    and the norm of the stream as it is, ``[token, layer]``."""
    stream = stream.astype(np.float64)
    return np.einsum("tld,eld->tle", stream - centre, values), np.linalg.norm(stream, axis=-1)


def _squares(vectors: EmotionVectors, layers: list[int], weights: np.ndarray, blank: bool) -> np.ndarray:
    """The squared norm of every direction, ``[layer, direction]``; a zero one is NaN if ``blank``, else refused."""
    indices = [vectors.index(layer) for layer in layers]
    directions = np.einsum("eld,es->lsd", vectors.values[:, indices].astype(np.float64), weights)
    squares = (directions**2).sum(axis=-1)
    zero = squares <= vectors.rounding[indices, None]
    if zero.any() and not blank:
        raise EmotraceError(f"at layer {layers[0]} the vectors have no direction: read at another layer")
    return np.where(zero, np.nan, squares)


_remembered: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def neutral_dots(
    model: Model,
    vectors: EmotionVectors,
    layers: list[int],
    instrument: Instrument | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`_dots` at every counted token of the neutral passages, read once in a process, without the edits that
    are open, or brought by emotrace."""
    exact = _exact(vectors, layers)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in exact)).hexdigest()
    unfelt = () if instrument is None else tuple(instrument.unfelt)
    key = f"{model.identity} {model.provenance['dtype']} {layers} {digest} {hash(unfelt)}"
    with model.lock, unedited(model):  # so that threads which come at the same time read it once
        found = shipped.of(model) if key not in _remembered and instrument is None else None
        if found and found.same(vectors, layers):
            _remembered[key] = found.dots[:, None].astype(np.float64), found.token_norms[:, None].astype(np.float64)
        if key not in _remembered:
            texts = encode(model, list(unfelt or default().unfelt))
            report = (lambda done: progress("reading neutral passages", done, len(texts))) if progress else None
            streams = read_tokens(model, texts, layers=layers, progress=report)
            counted = [_counted(model, tokens) for tokens in texts]
            parts = [_dots(stream[rows], *exact) for stream, rows in zip(streams, counted, strict=True)]
            dots, norms = zip(*parts, strict=True)
            _remembered[key] = np.concatenate(dots), np.concatenate(norms)
    return _remembered[key]


def _ceiling(scores: np.ndarray) -> float:
    """What few neutral tokens' highest scores ``[token]`` at a layer exceed; NaN if there are none."""
    present = scores[~np.isnan(scores)]
    return float(np.percentile(present, UNUSUAL)) if len(present) else np.nan


def _token_table(text: str, ranges: Sequence[tuple[int, int]], counted: np.ndarray) -> pd.DataFrame:
    starts, ends = zip(*ranges, strict=True)
    texts = [text[start:end] for start, end in ranges]
    return pd.DataFrame(
        {"token": np.arange(len(ranges)), "text": texts, "start": starts, "end": ends, "counted": counted}
    )
