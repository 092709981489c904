"""Where in a text are its emotions: the residual stream at every token along every emotion's vector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.activations import Tokens, encode, read_tokens
from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.steering import mixture_name, steered_layers
from emotrace.whatif.spans import Span, offsets, spans
from emotrace.whatif.text_reading import cached_vectors

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

UNUSUAL = 95
"""Percentile of the neutral tokens' strongest scores, above which a token's strongest emotion is named."""
MASSIVE = 2.5
"""Times the neutral tokens' median norm at a layer, above which a token's activation there is left out as massive.

In SmolLM2-135M ordinary tokens stay below 2; in layers 3 to 9 the word *the* reaches 9.
"""


@dataclass(frozen=True, repr=False)
class TokenReading:
    """What a model's residual stream held along each emotion's vector at every token of a text.

    Two units, both ours:

    - ``projection``: of the centred stream on the unit vector, in class gaps: 1 is as far along as the mean of the
      emotion's own texts lies.
    - ``score``: how far that is from the neutral passages' tokens, in their standard deviations: 0 is what a token
      without any feeling reads on average, and emotions and layers can be compared. It does not depend on the centre.
      The neutral passages differ from another text in more than feeling (who speaks, what of, in which words): a score
      that all tokens of a text share may say no more than that.

    Attributes:
        text: the text.
        model: the model's name.
        shown: the emotion (or mixture) that is coloured; None: the strongest at each token.
        tokens: one row a token: ``token`` (0 …), ``text`` (of its characters), ``start``, ``end``, ``counted``. Not
            counted, and NaN below: special tokens and the text's first token, whose massive activation says nothing of
            the text (see :func:`~emotrace.activations.read_activations`).
        spans: the text in pieces that can be shown (see :class:`~emotrace.whatif.spans.Span`).
        emotions: names along the last axis; a mixture that was asked for stands last.
        layers: layer indices along the second axis.
        n_layers: of the model, for the depth.
        projection: float64 ``[token, layer, emotion]``.
        score: float64 ``[token, layer, emotion]``; NaN also where a later token's activation is massive at a layer (more
            than 2.5 times the neutral tokens' median norm there): a few such tokens would set the scale for all others.
        ceiling: float64 ``[layer]``: 95 of 100 neutral tokens have no emotion with a score above it.
        n: neutral tokens that the score rests on (at a layer where some are massive, less those).
    """

    text: str
    model: str
    shown: str | None
    tokens: pd.DataFrame
    spans: tuple[Span, ...]
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    n_layers: int
    projection: np.ndarray
    score: np.ndarray
    ceiling: np.ndarray
    n: int

    def to_frame(self) -> pd.DataFrame:
        """Tidy, one row a token, layer and emotion: ``model, token, text, start, end, counted, layer, depth, emotion,
        projection, score``."""
        n_tokens, n_layers, n_emotions = self.score.shape
        repeated = self.tokens.loc[self.tokens.index.repeat(n_layers * n_emotions)].reset_index(drop=True)
        layers = np.tile(np.repeat(self.layers, n_emotions), n_tokens)
        return repeated.assign(
            layer=layers, depth=layers / self.n_layers, emotion=np.tile(self.emotions, n_tokens * n_layers),
            projection=self.projection.ravel(), score=self.score.ravel(),
        ).pipe(lambda table: table.assign(model=self.model)[["model", *table.columns]])  # fmt: skip

    def strongest(self) -> pd.DataFrame:
        """One row a counted token and layer: ``token, text, layer, emotion, score`` of the emotion that scores highest."""
        table = self.to_frame().dropna(subset="score")
        best = table.groupby(["token", "layer"])["score"].idxmax()
        return table.loc[best, ["token", "text", "layer", "emotion", "score"]].reset_index(drop=True)

    def of_spans(self) -> np.ndarray:
        """The mean score of each span's counted tokens, NaN where it has none: float64 ``[span, layer, emotion]``."""
        counted = self.tokens["counted"].to_numpy()
        empty = np.full(self.score.shape[1:], np.nan)
        kept = [[token for token in span.tokens if counted[token]] for span in self.spans]
        return np.stack([_mean(self.score[tokens]) if tokens else empty for tokens in kept])

    def __str__(self) -> str:
        from emotrace.whatif.terminal import reading_text

        return reading_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks. The text is escaped: markup in it shows as text."""
        from emotrace.whatif.html import reading_html

        return reading_html(self)

    def to_html(self, path: str | Path) -> Path:
        """Writes a page that stands alone: it opens from a file and loads nothing.

        Raises:
            EmotraceError: the file cannot be written.
        """
        from emotrace.whatif.html import write_page

        return write_page(path, f"Emotions in a text, read by {self.model}", self._repr_html_())


def read_emotions(
    model: Model,
    text: str,
    emotion: str | Mapping[str, float] | None = None,
    *,
    layer: int | str | None = None,
    vectors: EmotionVectors | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> TokenReading:
    """Reads a text and says, for every token, how far the residual stream lies along each emotion's vector.

    The units are those of :class:`TokenReading`. A token's residual stream holds what the model has read up to it, so a
    score says what the text so far does to the model there, not what the word means by itself.

    Args:
        model: the model that reads.
        text: the text.
        emotion: the one to show, or a mixture (emotion → weight); default: the strongest at each token. The data hold
            all of them in any case.
        layer: layer index; default: what the vectors are calibrated at, else half depth; ``all``: every layer of the
            vectors.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        progress: called with what is being done, how much of it, of how much.

    Raises:
        EmotraceError: a text that is empty, too long or of one token, an unknown emotion, a layer out of range,
            vectors of another model, or an emotion whose vector has no direction at the layer.
    """
    vectors = cached_vectors(model, progress=progress) if vectors is None else vectors
    vectors.check(model)
    weights = _weights(vectors, emotion)
    layers = chosen_layers(model, vectors, layer)
    item = encode(model, [text])[0]
    if item.stop - item.start < 2:
        raise EmotraceError("a text of one token cannot be read token by token: the first is always left out")
    counted = _counted(model, item)
    own, norms = _dots(model, item, vectors, layers)
    neutral, usual_norms = _neutral_dots(model, vectors, layers, progress)
    limit = MASSIVE * np.median(usual_norms, axis=0)
    squares = _squares(vectors, layers, weights, layer == "all")
    projection, reference = own @ weights / squares, neutral @ weights / squares
    projection[~counted] = np.nan
    reference[usual_norms > limit] = np.nan
    middle, spread = _mean(reference), _mean((reference - _mean(reference)) ** 2) ** 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        score, usual = (projection - middle) / spread, (reference - middle) / spread
    score[norms > limit] = np.nan
    ranges = offsets(model, text, item)
    return TokenReading(
        text=text, model=model.name, shown=None if emotion is None else mixture_name(emotion),
        tokens=_table(text, ranges, counted), spans=tuple(spans(text, ranges)),
        emotions=(*vectors.emotions, *((mixture_name(emotion),) if isinstance(emotion, Mapping) else ())),
        layers=tuple(layers), n_layers=model.n_layers, projection=projection, score=score,
        ceiling=_percentile(_highest(usual[..., : len(vectors.emotions)])), n=len(reference),
    )  # fmt: skip


def chosen_layers(model: Model, vectors: EmotionVectors, layer: int | str | None) -> list[int]:
    """The layers to read: the one given, every one of the vectors, or their calibrated one, else half depth."""
    if layer == "all":
        return sorted(vectors.layers)
    if isinstance(layer, str):
        raise EmotraceError(f"a layer is a number or all, not {layer!r}")
    found = steered_layers(model, vectors, None)[0] if layer is None else model.check_layers([layer])[0]
    vectors.place(found)
    return [found]


def _weights(vectors: EmotionVectors, emotion: str | Mapping[str, float] | None) -> np.ndarray:
    """What turns the vectors' dot products into those of every direction shown: ``[emotion, shown]``."""
    asked = emotion if isinstance(emotion, Mapping) else {} if emotion is None else {emotion: 1.0}
    for name in asked:
        if name not in vectors.emotions:
            raise unknown("emotion", name, vectors.emotions)
    own = np.eye(len(vectors.emotions))
    if not isinstance(emotion, Mapping):
        return own
    return np.column_stack([own, [float(asked.get(name, 0)) for name in vectors.emotions]])


def _counted(model: Model, item: Tokens) -> np.ndarray:
    """The tokens that pooling by mean counts, less special tokens that the text spells out."""
    special = set(model.tokenizer.all_special_ids)
    return np.array([item.start < place < item.stop and token not in special for place, token in enumerate(item.ids)])


def _dots(model: Model, item: Tokens, vectors: EmotionVectors, layers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The centred residual stream at every token times every emotion's vector, float64 ``[token, layer, emotion]``, and
    the norm of the stream as it is, ``[token, layer]``."""
    places = [vectors.place(layer) for layer in layers]
    stream = read_tokens(model, item, layers=layers).astype(np.float64)
    values = vectors.values[:, places].astype(np.float64)
    return np.einsum("tld,eld->tle", stream - vectors.grand_mean[places], values), np.linalg.norm(stream, axis=-1)


def _squares(vectors: EmotionVectors, layers: list[int], weights: np.ndarray, lenient: bool) -> np.ndarray:
    """The squared norm of every direction: ``[layer, shown]``; NaN for one without a direction if that is to be borne."""
    places = [vectors.place(layer) for layer in layers]
    directions = np.einsum("eld,es->lsd", vectors.values[:, places].astype(np.float64), weights)
    squares = (directions**2).sum(axis=-1)
    scale = (vectors.grand_mean[places].astype(np.float64) ** 2).sum(axis=-1, keepdims=True)
    # Where all texts end in the same full stop, what is left of its embedding is rounding.
    empty = squares <= 1e-12 * np.maximum(scale, 1e-30)
    if empty.any() and not lenient:
        raise EmotraceError(f"at layer {layers[0]} the vectors have no direction: read at another layer")
    return np.where(empty, np.nan, squares)


_remembered: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _neutral_dots(
    model: Model, vectors: EmotionVectors, layers: list[int], progress: Callable[[str, int, int], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`_dots` at every counted token of the neutral passages, read once in a process."""
    digest = hashlib.sha256(vectors.values.tobytes() + vectors.grand_mean.tobytes()).hexdigest()
    key = f"{model.identity} {model.provenance['dtype']} {vectors.layers} {layers} {digest}"
    if key not in _remembered:
        passages = corpus.passages()
        texts = encode(model, list(passages[passages["emotion"] == corpus.NEUTRAL]["text"]))
        found = []
        for item in texts:
            counted = _counted(model, item)
            found.append([part[counted] for part in _dots(model, item, vectors, layers)])
            if progress:
                progress("reading neutral passages", 1, len(texts))
        dots, norms = (np.concatenate(part) for part in zip(*found, strict=True))
        _remembered[key] = dots, norms
    return _remembered[key]


def _highest(scores: np.ndarray) -> np.ndarray:
    """The highest along the last axis; NaN where there is none."""
    return np.where(np.isnan(scores).all(axis=-1), np.nan, np.nan_to_num(scores, nan=-np.inf).max(axis=-1))


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean along the first axis of what is there; NaN where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)


def _percentile(highest: np.ndarray) -> np.ndarray:
    """The ceiling of each layer from the neutral tokens' highest scores ``[token, layer]``."""
    return np.array(
        [np.percentile(kept, UNUSUAL) if len(kept := column[~np.isnan(column)]) else np.nan for column in highest.T]
    )


def _table(text: str, ranges: list[tuple[int, int]], counted: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "token": np.arange(len(ranges)),
            "text": [text[start:end] for start, end in ranges],
            "start": [start for start, _ in ranges],
            "end": [end for _, end in ranges],
            "counted": counted,
        }
    )
