"""Where in a text are its emotions: the residual stream at every token along every emotion's vector."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import pooling_weights, read_tokens
from emotrace.errors import EmotraceError, unknown
from emotrace.instrument.instrument import Instrument, default
from emotrace.steered_texts import read_layer
from emotrace.tokens import Tokens, encode
from emotrace.vectors import Emotion, mixture_name
from emotrace.whatif.results import TokenReading, highest_present, mean_present
from emotrace.whatif.spans import offsets, spans
from emotrace.whatif.text_reading import Progress, cached_vectors

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
        instrument: of which they are extracted, and whose neutral texts (else baseline texts) are the unit; default:
            ``data/``.
        progress: called with what is being done, how much of it, of how much.

    Raises:
        EmotraceError: a text that is empty, too long or of one token, an unknown emotion, a layer out of range,
            vectors of another model, or an emotion whose vector has no direction at the layer.
    """
    vectors = cached_vectors(model, progress=progress, instrument=instrument) if vectors is None else vectors
    vectors.check(model)
    text = arguments.text(text, "the text")
    emotion = None if emotion is None else arguments.emotion(emotion)
    weights, layers = _weights(vectors, emotion), chosen_layers(model, vectors, layer)
    tokens = encode(model, [text])[0]
    if tokens.stop - tokens.start < 2:
        raise EmotraceError("a text of one token cannot be read token by token: the first is always left out")
    # By itself, so that two equal texts get equal numbers.
    (stream,) = read_tokens(model, [tokens], layers=layers)
    own, norms = _dots(stream, vectors, layers)
    neutral, neutral_norms = _neutral_dots(model, vectors, layers, instrument, progress)
    counted, limit = _counted(tokens), MASSIVE * np.median(neutral_norms, axis=0)
    squares = _squares(vectors, layers, weights, blank=isinstance(layer, str))
    projection, reference = own @ weights / squares, neutral @ weights / squares
    projection[~counted] = np.nan
    reference[neutral_norms > limit] = np.nan
    centre = mean_present(reference)
    spread = mean_present((reference - centre) ** 2) ** 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        score, neutral_score = (projection - centre) / spread, (reference - centre) / spread
    score[norms > limit] = np.nan
    highest = highest_present(neutral_score[..., : len(vectors.emotions)])
    ranges = offsets(model, text, tokens)
    return TokenReading(
        text=text,
        model=model.name,
        shown=None if emotion is None else mixture_name(emotion),
        tokens=_token_table(text, ranges, counted),
        spans=tuple(spans(text, ranges)),
        emotions=vectors.emotions + ((mixture_name(emotion),) if isinstance(emotion, Mapping) else ()),
        layers=tuple(layers),
        n_layers=model.n_layers,
        projection=projection,
        score=score,
        ceiling=np.array([_ceiling(column) for column in highest.T]),
        n=len(reference),
        activation=np.tensordot(pooling_weights([tokens], vectors.provenance["pooling"])[0].numpy(), stream, 1),
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


def _weights(vectors: EmotionVectors, emotion: Emotion | None) -> np.ndarray:
    """What turns the vectors' dot products into those of every direction shown: ``[emotion, direction]``."""
    for name in [emotion] if isinstance(emotion, str) else emotion or ():
        if name not in vectors.emotions:
            raise unknown("emotion", name, vectors.emotions)
    own = np.eye(len(vectors.emotions))
    if not isinstance(emotion, Mapping):
        return own
    return np.column_stack([own, [float(emotion.get(name, 0)) for name in vectors.emotions]])


def _counted(tokens: Tokens) -> np.ndarray:
    """The tokens that pooling by mean counts: bool ``[token]``."""
    return np.array([tokens.start < index < tokens.stop for index in range(len(tokens.ids))])


def _dots(stream: np.ndarray, vectors: EmotionVectors, layers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The centred stream ``[token, layer, d_model]`` times every emotion's vector, float64 ``[token, layer, emotion]``,
    and the norm of the stream as it is, ``[token, layer]``."""
    indices = [vectors.index(layer) for layer in layers]
    stream, values = stream.astype(np.float64), vectors.values[:, indices].astype(np.float64)
    return np.einsum("tld,eld->tle", stream - vectors.grand_mean[indices], values), np.linalg.norm(stream, axis=-1)


def _squares(vectors: EmotionVectors, layers: list[int], weights: np.ndarray, blank: bool) -> np.ndarray:
    """The squared norm of every direction, ``[layer, direction]``; a zero one is NaN if ``blank``, else refused."""
    indices = [vectors.index(layer) for layer in layers]
    directions = np.einsum("eld,es->lsd", vectors.values[:, indices].astype(np.float64), weights)
    squares = (directions**2).sum(axis=-1)
    scale = (vectors.grand_mean[indices].astype(np.float64) ** 2).sum(axis=-1, keepdims=True)
    # Where all texts end in the same full stop, what is left of its embedding is rounding.
    zero = squares <= 1e-12 * np.maximum(scale, 1e-30)
    if zero.any() and not blank:
        raise EmotraceError(f"at layer {layers[0]} the vectors have no direction: read at another layer")
    return np.where(zero, np.nan, squares)


_remembered: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _neutral_dots(
    model: Model, vectors: EmotionVectors, layers: list[int], instrument: Instrument | None, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`_dots` at every counted token of the neutral passages, read once in a process."""
    digest = hashlib.sha256(vectors.values.tobytes() + vectors.grand_mean.tobytes()).hexdigest()
    unfelt = () if instrument is None else tuple(instrument.unfelt)
    key = f"{model.identity} {model.provenance['dtype']} {vectors.layers} {layers} {digest} {hash(unfelt)}"
    with model.lock:  # so that threads which come at the same time read it once
        if key not in _remembered:
            texts = encode(model, list(unfelt or default().unfelt))
            report = (lambda done: progress("reading neutral passages", done, len(texts))) if progress else None
            streams = read_tokens(model, texts, layers=layers, progress=report)
            counted = [_counted(tokens) for tokens in texts]
            parts = [_dots(stream[rows], vectors, layers) for stream, rows in zip(streams, counted, strict=True)]
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
