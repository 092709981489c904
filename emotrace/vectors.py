"""``EmotionVectors [emotion, layer, d_model]``: algebra, files, export.

File format: safetensors. Tensors ``values``, ``neutral_mean``, ``grand_mean``, ``emotions_mean``; the header holds the
names of the emotions, the layer indices, the layer convention and the provenance as JSON. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError, WriteError, unknown

if TYPE_CHECKING:
    from emotrace.models import Model

FORMAT = "emotrace-vectors-1"
LAYER_CONVENTION = "0 = embedding output, i = output of decoder layer i"
CENTRINGS = ("grand", "emotions", "neutral", "none")


@dataclass(frozen=True)
class EmotionVectors:
    """Directions of emotions in a model's residual stream.

    Attributes:
        emotions: names along the first axis.
        layers: layer indices along the second axis (0 = embeddings, i = output of decoder layer i).
        values: float32 ``[emotion, layer, d_model]``, in the units of the residual stream.
        neutral_mean: mean activation of the neutral texts, float32 ``[layer, d_model]``.
        grand_mean: mean of the class means, neutral included (the author's centre, C4), ``[layer, d_model]``.
        emotions_mean: mean of the emotions' means, neutral left out, ``[layer, d_model]``.
        provenance: model, weights id, dtype, quantisation, method, pooling, texts' hash, centring, versions.
    """

    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    values: np.ndarray
    neutral_mean: np.ndarray
    grand_mean: np.ndarray
    emotions_mean: np.ndarray
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.emotions), len(self.layers))
        if self.values.ndim != 3 or self.values.shape[:2] != shape:
            raise EmotraceError(
                f"vectors of shape {self.values.shape} do not fit {shape[0]} emotions and {shape[1]} layers"
            )
        for name in ("neutral_mean", "grand_mean", "emotions_mean"):
            if getattr(self, name).shape != self.values.shape[1:]:
                raise EmotraceError(f"{name} of shape {getattr(self, name).shape} does not fit {self.values.shape[1:]}")

    # -- looking things up --------------------------------------------------------------------------------------

    @property
    def d_model(self) -> int:
        return self.values.shape[2]

    def __getitem__(self, key: str | tuple[str, int]) -> np.ndarray:
        """``v["sad"]`` is ``[layer, d_model]``; ``v["sad", 15]`` is ``[d_model]``."""
        emotion, layer = key if isinstance(key, tuple) else (key, None)
        if emotion not in self.emotions:
            raise unknown("emotion", emotion, self.emotions)
        row = self.values[self.emotions.index(emotion)]
        return row if layer is None else row[self.place(layer)]

    def place(self, layer: int) -> int:
        """The position of a layer index along the layer axis."""
        if layer not in self.layers:
            raise unknown("layer", layer, self.layers)
        return self.layers.index(layer)

    def at(self, layer: int) -> np.ndarray:
        """All emotions at one layer: ``[emotion, d_model]``."""
        return self.values[:, self.place(layer)]

    def to_frame(self) -> pd.DataFrame:
        """A table with one row an emotion and layer, and one column a dimension."""
        index = pd.MultiIndex.from_product([self.emotions, self.layers], names=["emotion", "layer"])
        return pd.DataFrame(self.values.reshape(-1, self.d_model), index=index)

    # -- algebra ------------------------------------------------------------------------------------------------

    def _with(self, values: np.ndarray, step: str) -> EmotionVectors:
        """The same vectors with other values; what was done is added to the provenance."""
        steps = f"{self.provenance['steps']}; {step}" if "steps" in self.provenance else step
        return replace(self, values=values.astype(np.float32), provenance={**self.provenance, "steps": steps})

    def _fits(self, other: EmotionVectors) -> EmotionVectors:
        if (self.emotions, self.layers, self.d_model) != (other.emotions, other.layers, other.d_model):
            raise EmotraceError("vectors of different emotions, layers or widths cannot be combined")
        if self.provenance.get("centring") != other.provenance.get("centring"):
            raise EmotraceError("vectors with different centres cannot be combined: recentre one of them first")
        self._same_weights(other.provenance.get("model", "?"), _identity(other.provenance))
        return other

    def _same_weights(self, name: str, identity: str) -> None:
        mine = _identity(self.provenance)
        if mine != identity:
            raise EmotraceError(
                f"these vectors belong to {self.provenance.get('model', '?')} ({mine}), not to {name} ({identity})"
            )

    def __add__(self, other: EmotionVectors) -> EmotionVectors:
        return self._with(self.values + self._fits(other).values, "added other vectors")

    def __sub__(self, other: EmotionVectors) -> EmotionVectors:
        return self._with(self.values - self._fits(other).values, "subtracted other vectors")

    def __mul__(self, factor: float) -> EmotionVectors:
        return self._with(self.values * float(factor), f"times {float(factor):g}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> EmotionVectors:
        return self * (1 / float(divisor))

    def __neg__(self) -> EmotionVectors:
        return self * -1

    def unit(self) -> EmotionVectors:
        """Each vector divided by its Euclidean norm.

        Raises:
            EmotraceError: a vector is zero, and so has no direction.
        """
        norms = np.linalg.norm(self.values.astype(np.float64), axis=-1, keepdims=True)
        if not (norms > 0).all():
            emotion, layer = np.argwhere(norms[..., 0] <= 0)[0]
            raise EmotraceError(f"the vector of {self.emotions[emotion]} at layer {self.layers[layer]} is zero")
        return self._with(self.values / norms, "unit norm")

    def mix(self, weights: Mapping[str, float]) -> np.ndarray:
        """The weighted sum of several emotions' vectors: ``[layer, d_model]``."""
        return sum((weight * self[emotion] for emotion, weight in weights.items()), np.zeros_like(self.neutral_mean))

    def recentre(self, centring: str) -> EmotionVectors:
        """The same emotions measured from another centre.

        Args:
            centring: ``grand`` (mean of all 21 class means; the paper's), ``emotions`` (of the 20), ``neutral``
                (the neutral mean) or ``none`` (the raw class means).

        Raises:
            EmotraceError: an unknown centring, or vectors that are no plain differences from a centre any more.
        """
        if centring not in CENTRINGS:
            raise unknown("centring", centring, CENTRINGS)
        if self.provenance.get("centring") not in CENTRINGS:
            raise EmotraceError("vectors whose provenance names no centring cannot be centred anew")
        if "steps" in self.provenance:
            raise EmotraceError(f"vectors changed by ({self.provenance['steps']}) cannot be centred anew")
        centres = {
            "grand": self.grand_mean, "emotions": self.emotions_mean, "neutral": self.neutral_mean,
            "none": np.zeros_like(self.grand_mean),
        }  # fmt: skip
        shift = centres[self.provenance["centring"]].astype(np.float64) - centres[centring]
        values = (self.values + shift).astype(np.float32)
        return replace(self, values=values, provenance={**self.provenance, "centring": centring})

    def without(self, components: Sequence[np.ndarray], what: str) -> EmotionVectors:
        """The vectors with some directions projected out at each layer; their centres are left as they were.

        Args:
            components: for each of ``layers`` orthonormal rows ``[component, d_model]``
                (:func:`neutral_components`, whose result this takes as it is).
            what: what they are, for the provenance.

        Raises:
            EmotraceError: as many arrays as layers are needed, each of the vectors' width.
        """
        if len(components) != len(self.layers) or any(basis.shape[1] != self.d_model for basis in components):
            raise EmotraceError(
                f"components to remove: one array a layer is needed ({len(self.layers)}), each of width {self.d_model}"
            )
        values = np.stack([project_out(self.values[:, place], basis) for place, basis in enumerate(components)], axis=1)
        counts = "|".join(str(len(basis)) for basis in components)
        return self._with(values, f"removed {what} (components a layer: {counts})")

    # -- belonging ----------------------------------------------------------------------------------------------

    def check(self, model: Model) -> EmotionVectors:
        """The vectors unchanged if they were extracted from this model's very weights.

        Raises:
            EmotraceError: they belong to another model, or to other weights of it; both are named.
        """
        self._same_weights(model.name, model.identity)
        return self

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the vectors to a safetensors file, whole or not at all."""
        from safetensors.numpy import save_file

        path = Path(path)
        header = {
            "format": FORMAT, "layer_convention": LAYER_CONVENTION, "emotions": json.dumps(self.emotions),
            "layers": json.dumps(self.layers), "provenance": json.dumps(self.provenance, sort_keys=True),
        }  # fmt: skip
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        header["sha256"] = _checksum(tensors)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, scratch, metadata=header)
            scratch.chmod(0o644)  # save_file makes it private
            os.replace(scratch, path)
        except Exception as error:  # safetensors wraps the system's errors in a type of its own
            _discard(scratch)
            raise WriteError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None

    @classmethod
    def load(cls, path: str | Path) -> EmotionVectors:
        """Reads what :meth:`save` wrote.

        Raises:
            EmotraceError: no such file, or one that is cut short, damaged or of another format.
        """
        from safetensors import safe_open

        path = Path(path)
        if not path.is_file():
            raise EmotraceError(f"no file {path}")
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise EmotraceError(f"{path} is no file of emotion vectors ({FORMAT})")
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            if _checksum(tensors) != header["sha256"]:
                raise ValueError("its sha256 does not agree with its content")
            return cls(
                emotions=tuple(json.loads(header["emotions"])),
                layers=tuple(json.loads(header["layers"])),
                provenance=json.loads(header["provenance"]),
                **tensors,
            )
        except EmotraceError:
            raise
        except Exception as error:  # SafetensorError, KeyError, JSONDecodeError …: all mean a damaged file
            reason = str(error).strip().splitlines()[0]
            raise EmotraceError(f"{path} is damaged or no vector file ({reason})") from None

    def export_gguf(self, path: str | Path, emotion: str, layers: list[int] | None = None) -> None:
        """Writes one emotion as a llama.cpp control vector (``--control-vector FILE``).

        llama.cpp counts decoder layers from 0 and adds ``direction.N`` to the output of layer N, for N ≥ 1: our layer
        i becomes ``direction.(i - 1)``. The embedding (0) and the first decoder layer (1) cannot be expressed there:
        by default they are left out.

        Raises:
            EmotraceError: an unknown emotion or layer, one that llama.cpp cannot take, or a file that cannot be written.
        """
        import gguf

        chosen = [layer for layer in self.layers if layer >= 2] if layers is None else sorted(set(layers))
        for layer in chosen:
            self.place(layer)
            if layer < 2:
                raise EmotraceError(f"layer {layer} cannot be exported: llama.cpp control vectors start at our layer 2")
        if not chosen:
            raise EmotraceError("no layer to export: llama.cpp control vectors start at our layer 2")
        vector = self[emotion]
        path = Path(path)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = gguf.GGUFWriter(scratch, "controlvector")
            writer.add_string("controlvector.model_hint", self.provenance.get("class", "unknown"))
            writer.add_uint32("controlvector.layer_count", len(chosen))
            writer.add_string("general.description", f"emotrace: {emotion}")
            writer.add_string("emotrace.provenance", json.dumps(self.provenance, sort_keys=True))
            for layer in chosen:
                writer.add_tensor(f"direction.{layer - 1}", np.ascontiguousarray(vector[self.place(layer)]))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            os.replace(scratch, path)
        except OSError as error:
            _discard(scratch)
            raise EmotraceError(f"{path} cannot be written: {error.strerror or error}") from None


def neutral_components(neutral: np.ndarray, share: float = 0.5) -> list[np.ndarray]:
    """The leading principal components of neutral texts: what moves there moves without any feeling.

    Removing them from emotion vectors follows Sofroniew et al. 2026 (arXiv:2604.07729); the share is ours.

    Args:
        neutral: activations of neutral or unrelated texts ``[text, layer, d_model]``.
        share: as few components a layer as hold at least this share of the texts' variance there.

    Returns:
        For each layer orthonormal rows ``[component, d_model]``, float64; none where the texts do not vary (the last
        token of every text is the same full stop at the embeddings).

    Raises:
        EmotraceError: fewer than two texts, or a share outside 0 … 1.
    """
    if len(neutral) < 2:
        raise EmotraceError(f"principal components need two neutral texts or more, not {len(neutral)}")
    if not 0 < share < 1:
        raise EmotraceError(f"a share of variance lies between 0 and 1, not at {share}")
    return [_leading(neutral[:, place].astype(np.float64), share) for place in range(neutral.shape[1])]


def _leading(texts: np.ndarray, share: float) -> np.ndarray:
    centred = texts - texts.mean(axis=0)
    if np.abs(centred).max() <= 1e-6 * np.abs(texts).max():
        return np.zeros((0, texts.shape[1]))
    _, scale, rows = np.linalg.svd(centred, full_matrices=False)
    held = np.cumsum(scale**2) / (scale**2).sum()
    return rows[: int(np.searchsorted(held, share)) + 1]


def project_out(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """``vectors [..., d_model]`` without their parts along orthonormal rows ``basis [component, d_model]``."""
    return vectors - (vectors @ basis.T) @ basis


_TENSORS = ("values", "neutral_mean", "grand_mean", "emotions_mean")


def _discard(scratch: Path) -> None:
    with contextlib.suppress(OSError):  # the error under way is the one to tell
        scratch.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over the tensors' bytes in the order of their names: safetensors itself has no checksum."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def _identity(provenance: Mapping[str, str]) -> str:
    return f"{provenance.get('source', '?')}@{provenance.get('weights_id', '?')}"
