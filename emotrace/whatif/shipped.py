"""What comes with emotrace for a packaged model, so that its first what-if reads no passages.

Of ``data/vectors/``, one file a model of ``data/calibration.csv``: the mean-pooled comprehension vectors at the
calibrated layer and those beside it, and at the calibrated layer what stands beside them (the neutral tokens along each
vector, vectors of permuted labels), with the residual norms of all layers. A file goes by the sha256 of the weights,
their dtype and the fingerprint of the passages: of other weights or other texts nothing is taken from it. All float32;
``scripts/ship_vectors.py`` writes the files, and a test computes them anew.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotrace.files import safetensors_content
from emotrace.hosts import vector_files
from emotrace.instrument import corpus
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model

FORMAT = "emotrace-shipped-1"
FOLDER = "vectors"
_OF_VECTORS = ("values", "neutral_mean", "grand_mean", "emotions_mean")
_BESIDE = ("norms", "dots", "token_norms", "permuted")

Needed = int | str | Sequence[int | str | None] | None
"""The layers that a caller reads or steers at: None for the calibrated one, ``all``, or several of these."""


@dataclass(frozen=True, eq=False)
class Shipped:
    """One model's file.

    Attributes:
        vectors: at the calibrated layer and those beside it.
        layer: the calibrated one.
        norms: mean residual norm of each layer, float64 ``[layer]``.
        dots: the centred stream at ``layer`` along each vector, at every counted token of the neutral passages:
            ``[token, emotion]``.
        token_norms: of the stream at these tokens, ``[token]``.
        permuted: at ``layer``, the first draws of :meth:`~emotrace.readings.Reading.permuted` from seed 0,
            ``[draw, d_model]``.
    """

    vectors: EmotionVectors
    layer: int
    norms: np.ndarray
    dots: np.ndarray
    token_norms: np.ndarray
    permuted: np.ndarray

    def content(self) -> bytes:
        """The file; the same content gives the same bytes."""
        tensors = {name: getattr(self.vectors, name) for name in _OF_VECTORS}
        tensors |= {name: getattr(self, name) for name in _BESIDE}
        tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        header = {name: json.dumps(getattr(self.vectors, name)) for name in ("emotions", "layers")}
        header |= {"format": FORMAT, "layer": str(self.layer), "sha256": vector_files.checksum(tensors)}
        header["provenance"] = json.dumps(self.vectors.provenance, sort_keys=True)
        return safetensors_content(tensors, header)

    def covers(self, model: Model, needed: Needed) -> bool:
        """Whether every layer that is needed is among these.

        Raises:
            EmotraceError: a layer that the model does not have.
        """
        several = [needed] if isinstance(needed, str) or not isinstance(needed, Sequence) else list(needed)
        layers: Any = [one for one in several if one is not None]
        return "all" not in layers and (not layers or set(model.check_layers(layers)) <= set(self.vectors.layers))

    def same(self, vectors: EmotionVectors, layers: Sequence[int]) -> bool:
        """Whether vectors, at the one layer that is asked for, are these at the calibrated layer."""
        if list(layers) != [self.layer] or self.layer not in vectors.layers:
            return False
        mine, yours = self.vectors.index(self.layer), vectors.index(self.layer)
        return np.array_equal(self.vectors.values[:, mine], vectors.values[:, yours]) and np.array_equal(
            self.vectors.grand_mean[mine], vectors.grand_mean[yours]
        )

    def controls(self, count: int) -> EmotionVectors:
        """``permuted-1`` …, at the calibrated layer."""
        at = slice(self.vectors.index(self.layer), self.vectors.index(self.layer) + 1)
        means = {name: getattr(self.vectors, name)[at] for name in _OF_VECTORS[1:]}
        names = tuple(f"permuted-{number}" for number in range(1, count + 1))
        return replace(self.vectors, emotions=names, layers=(self.layer,), values=self.permuted[:count, None], **means)


def path_of(name: str) -> Path:
    """Where a packaged model's file lies, or would."""
    return corpus.data_dir() / FOLDER / f"{name}.safetensors"


def of(model: Model) -> Shipped | None:
    """What comes with emotrace for these very weights, this dtype and today's passages; else None.

    Raises:
        EmotraceError: the file is damaged.
    """
    known, weights = corpus.calibrations(), model.provenance["weights_id"]
    if weights not in known.index or not (path := path_of(known.loc[weights, "model"])).is_file():
        return None
    found = load(path)
    made, texts = found.vectors.provenance, corpus.fingerprint(corpus.passages())
    agrees = (made["weights_id"], made["dtype"], made["texts"]) == (weights, model.provenance["dtype"], texts)
    return found if agrees else None


@functools.cache
def load(path: Path) -> Shipped:
    """One file.

    Raises:
        EmotraceError: it is damaged.
    """
    tensors, header = vector_files.read(path, (*_OF_VECTORS, *_BESIDE))
    with vector_files.damage_named(path):
        emotions, layers = (tuple(json.loads(header[name])) for name in ("emotions", "layers"))
        parts = {name: tensors.pop(name) for name in _OF_VECTORS}
        vectors = EmotionVectors(emotions, layers, provenance=json.loads(header["provenance"]), **parts)
        return Shipped(vectors, int(header["layer"]), **tensors)
