"""``EmotionVectors [emotion, layer, d_model]``: algebra, files, export.

File format: safetensors. Tensors ``values``, ``neutral_mean``, ``grand_mean``, ``emotions_mean``; the header holds the
names of the emotions, the layer indices, the layer convention and the provenance as JSON. No pickle anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.errors import EmotraceError, WriteError, shown, unknown
from emotrace.files import safetensors_content, write_file
from emotrace.hosts import checkpoints, control_vectors, hub, vector_files
from emotrace.measures.estimators import MEAN_DIFFERENCE
from emotrace.measures.geometry import project_out

if TYPE_CHECKING:
    from emotrace.models import Model

FORMAT = "emotrace-vectors-1"
LAYER_CONVENTION = "0 = embedding output, i = output of decoder layer i"
CENTRINGS = ("grand", "emotions", "neutral", "none")
_TENSORS = ("values", "neutral_mean", "grand_mean", "emotions_mean")


Emotion = str | Mapping[str, float]
"""An emotion's name, or a mixture: name → weight."""


def mixture_name(emotion: Emotion) -> str:
    """``happy``, or ``happy×0.5 + calm×0.5`` for a mixture."""
    if isinstance(emotion := arguments.emotion(emotion), str):
        return emotion
    return " + ".join(f"{name}×{weight:g}" for name, weight in emotion.items())


@dataclass(frozen=True, eq=False)
class EmotionVectors:
    """Directions of emotions in a model's residual stream. Two are equal if the files that they save are.

    Attributes:
        emotions: names along the first axis.
        layers: layer indices along the second axis (0 = embeddings, i = output of decoder layer i).
        values: float32 ``[emotion, layer, d_model]``, in the units of the residual stream; lists and tensors are taken.
        neutral_mean: mean activation of the neutral texts, float32 ``[layer, d_model]``.
        grand_mean: mean of the class means, neutral included (the author's centre, C4), ``[layer, d_model]``.
        emotions_mean: mean of the emotions' means, neutral left out, ``[layer, d_model]``.
        provenance: model, weights id, dtype, quantisation, method, pooling, texts' hash, centring, versions;
            the estimator, if it is not the difference of means; an own instrument's norms, as JSON.
    """

    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    values: np.ndarray
    neutral_mean: np.ndarray
    grand_mean: np.ndarray
    emotions_mean: np.ndarray
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in vector_files.checked(**vars(self)).items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmotionVectors) and self._header() == other._header()

    def __hash__(self) -> int:
        return hash(tuple(self._header().values()))

    # -- looking things up --------------------------------------------------------------------------------------

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.values.shape[2]

    def __getitem__(self, key: str | tuple[str, int]) -> np.ndarray:
        """``v["sad"]`` is ``[layer, d_model]``; ``v["sad", 15]`` is ``[d_model]``."""
        emotion, layer = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        if not isinstance(emotion, str) or emotion not in self.emotions:
            raise unknown("emotion", emotion, self.emotions)
        row = self.values[self.emotions.index(emotion)]
        return row if layer is None else row[self.index(layer)]

    def index(self, layer: int) -> int:
        """Where a layer stands along the second axis of ``values``."""
        if (layer := arguments.integer(layer, "a layer")) not in self.layers:
            raise unknown("layer", layer, self.layers)
        return self.layers.index(layer)

    def at(self, layer: int) -> np.ndarray:
        """All emotions at one layer: ``[emotion, d_model]``."""
        return self.values[:, self.index(layer)]

    def direction(self, emotion: Emotion, layer: int) -> np.ndarray:
        """The unit vector of an emotion or a mixture at a layer: float64 ``[d_model]``.

        Raises:
            EmotraceError: an unknown emotion or layer, or a vector that is zero.
        """
        values = self[emotion] if isinstance(emotion, str) else self.mix(emotion)
        vector = values[self.index(layer)].astype(np.float64)
        norm = np.linalg.norm(vector)
        if norm == 0:
            raise EmotraceError(f"the vector of {emotion} at layer {layer} is zero and has no direction")
        unit: np.ndarray = vector / norm
        return unit

    @property
    def rounding(self) -> np.ndarray:
        """Squared norms that rounding leaves where all texts end in the same full stop (ours), float64 ``[layer]``."""
        return 1e-12 * np.maximum((self.grand_mean.astype(np.float64) ** 2).sum(axis=-1), 1e-30)

    @property
    def calibration(self) -> dict[str, Any]:
        """Layers, window and strength that ``judges.calibration`` stored with the vectors; empty if it never ran."""
        stored: dict[str, Any] = json.loads(self.provenance.get("calibration", "{}"))
        return stored

    def to_frame(self) -> pd.DataFrame:
        """A table with one row an emotion and layer, and one column a dimension."""
        index = pd.MultiIndex.from_product([self.emotions, self.layers], names=["emotion", "layer"])
        return pd.DataFrame(self.values.reshape(-1, self.d_model), index=index)

    # -- algebra ------------------------------------------------------------------------------------------------

    def _with(self, values: np.ndarray, step: str) -> EmotionVectors:
        """The same vectors with other values; what was done is added to the provenance."""
        steps = f"{self.provenance['steps']}; {step}" if "steps" in self.provenance else step
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():  # before the general refusal, which cannot name the step
            raise EmotraceError(f"vectors {step} are not finite")
        return replace(self, values=values, provenance={**self.provenance, "steps": steps})

    def _fits(self, other: EmotionVectors) -> EmotionVectors:
        if not isinstance(other, EmotionVectors):
            raise EmotraceError(f"vectors are combined with vectors, not with {shown(other)}")
        if (self.emotions, self.layers, self.d_model) != (other.emotions, other.layers, other.d_model):
            raise EmotraceError("vectors of different emotions, layers or widths cannot be combined")
        if self.provenance.get("centring") != other.provenance.get("centring"):
            raise EmotraceError("vectors with different centres cannot be combined: recentre one of them first")
        own, others = (one.provenance.get("estimator", MEAN_DIFFERENCE) for one in (self, other))
        if own != others:
            raise EmotraceError(f"vectors of different estimators cannot be combined: {own} and {others}")
        self._same_weights(other.provenance.get("model", "?"), other.provenance)
        return other

    def _same_weights(self, name: str, provenance: Mapping[str, str]) -> None:
        if "of" in self.provenance:
            raise EmotraceError(f"these vectors (of {self.provenance['of']}) say not whose weights they are of")
        if checkpoints.content(self.provenance) != checkpoints.content(provenance):
            raise EmotraceError(
                f"these vectors belong to {self.provenance.get('model', '?')} "
                f"({checkpoints.identity(self.provenance)}), not to {name} ({checkpoints.identity(provenance)})"
            )

    def __add__(self, other: EmotionVectors) -> EmotionVectors:
        return self._with(self.values + self._fits(other).values, "added other vectors")

    def __sub__(self, other: EmotionVectors) -> EmotionVectors:
        return self._with(self.values - self._fits(other).values, "subtracted other vectors")

    def __mul__(self, factor: float) -> EmotionVectors:
        factor = float(arguments.number(factor, "a factor"))
        with np.errstate(over="ignore"):
            return self._with(self.values * factor, f"times {factor:g}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> EmotionVectors:
        if (number := float(arguments.number(divisor, "a divisor"))) == 0:
            raise EmotraceError("vectors cannot be divided by 0")
        return self * (1 / number)

    def __neg__(self) -> EmotionVectors:
        return self * -1

    def unit(self) -> EmotionVectors:
        """Each vector divided by its Euclidean norm.

        A layer at which all are zero but for rounding, as the embeddings of last tokens that are all full stops, is 0.

        Raises:
            EmotraceError: a vector is zero where others are not, and so has no direction.
        """
        norms = np.linalg.norm(self.values.astype(np.float64), axis=-1)
        norms[:, (norms**2 <= self.rounding).all(axis=0)] = np.inf
        if not (norms > 0).all():
            emotion, layer = np.argwhere(norms <= 0)[0]
            raise EmotraceError(f"the vector of {self.emotions[emotion]} at layer {self.layers[layer]} is zero")
        return self._with(self.values / norms[..., None], "unit norm")

    def mix(self, weights: Mapping[str, float]) -> np.ndarray:
        """The weighted sum of several emotions' vectors: ``[layer, d_model]``."""
        mixture = arguments.mixture(weights)
        return sum((weight * self[emotion] for emotion, weight in mixture.items()), np.zeros_like(self.neutral_mean))

    def recentre(self, centring: str) -> EmotionVectors:
        """The same emotions measured from another centre.

        Args:
            centring: ``grand`` (mean of all 21 class means; the paper's), ``emotions`` (of the 20), ``neutral``
                (the neutral mean) or ``none`` (the raw class means).

        Raises:
            EmotraceError: an unknown centring, or vectors that are no plain differences from a centre any more.
        """
        centring = arguments.choice(centring, "centring", CENTRINGS)
        if self.provenance.get("centring") not in CENTRINGS:
            raise EmotraceError("vectors whose provenance names no centring cannot be centred anew")
        if "estimator" in self.provenance:
            raise EmotraceError(f"vectors of the estimator {self.provenance['estimator']} cannot be centred anew")
        if "steps" in self.provenance:
            raise EmotraceError(f"vectors changed by ({self.provenance['steps']}) cannot be centred anew")
        centres = {"grand": self.grand_mean, "emotions": self.emotions_mean, "neutral": self.neutral_mean}
        centres["none"] = np.zeros_like(self.grand_mean)
        shift = centres[self.provenance["centring"]].astype(np.float64) - centres[centring]
        values = (self.values + shift).astype(np.float32)
        return replace(self, values=values, provenance={**self.provenance, "centring": centring})

    def without(self, components: Sequence[np.ndarray], what: str) -> EmotionVectors:
        """The vectors with some directions projected out at each layer; their centres are left as they were.

        Args:
            components: orthonormal rows ``[component, d_model]`` for each layer, of ``geometry.neutral_components``.
            what: what they are, for the provenance.

        Raises:
            EmotraceError: as many arrays as layers are needed, each of the vectors' width.
        """
        given = list(arguments.ordered(components, "array a layer"))
        if len(given) != len(self.layers):
            raise EmotraceError(f"components to remove: one array a layer is wanted ({len(self.layers)})")
        components = [arguments.array(basis, "components of a layer", None, self.d_model) for basis in given]
        values = np.stack([project_out(self.values[:, index], basis) for index, basis in enumerate(components)], axis=1)
        counts = "|".join(str(len(basis)) for basis in components)
        return self._with(values, f"removed {what} (components a layer: {counts})")

    @arguments.checked
    def check(self, model: Model) -> EmotionVectors:
        """The vectors unchanged if they were extracted from this model's very weights, and fit it.

        Raises:
            EmotraceError: they belong to another model or to other weights, both named; a layer or width that it lacks.
        """
        self._same_weights(model.name, model.provenance)
        model.check_layers(self.layers)
        if self.d_model != model.d_model:
            raise EmotraceError(f"vectors of width {self.d_model} do not fit {model.name}, which has {model.d_model}")
        return self

    # -- files --------------------------------------------------------------------------------------------------

    @arguments.checked
    def save(self, path: str | Path) -> None:
        """Writes the vectors to a safetensors file, whole or not at all; the same vectors give the same bytes.

        Raises:
            WriteError: it cannot be written.
        """
        if checkpoints.is_content(path := Path(path)):
            raise WriteError(f"{path} is a file of a model, which vectors do not replace")
        write_file(path, safetensors_content(self._tensors(), self._header()))

    def _tensors(self) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}

    def _header(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "layer_convention": LAYER_CONVENTION,
            "emotions": json.dumps(self.emotions),
            "layers": json.dumps(self.layers),
            "provenance": json.dumps(self.provenance, sort_keys=True),
            "sha256": vector_files.checksum(self._tensors()),
        }

    @classmethod
    @arguments.checked
    def load(cls, path: str | Path, *, layers_are: str | None = None) -> EmotionVectors:
        """Reads what :meth:`save` wrote, or another tool's vectors: GGUF control vectors, safetensors, npz, torch.

        Another tool's have no means (zeros) and no centring, and name no weights: they are for comparing.

        Args:
            path: the file; of another tool also a folder of one file an emotion.
            layers_are: another tool's layer numbers, where its file is silent: ``block-output`` or ``hidden-states``.

        Raises:
            EmotraceError: no such file; one that is cut short, damaged, or not understood.
        """
        return cls(**vector_files.load(Path(path), FORMAT, _TENSORS, layers_are))

    def push_to_hub(
        self, repo: str, *, private: bool = True, licence: str | None = None, reliability: pd.DataFrame | None = None
    ) -> str:
        """Puts the vectors and a model card into a repository of the model hub, as the user who is logged in there.

        Args:
            repo: ``USER/NAME``; made if there is none.
            private: of a repository that is made now; who may see one that exists stays as it is.
            licence: as the hub spells it; default: the base model's, where the registry knows it.
            reliability: the rows of a run's ``reliability.csv`` that are of these vectors, for the card.

        Returns:
            The commit's address.

        Raises:
            EmotraceError: what the hub refuses, and why.
        """
        about = hub.card(
            repo, self.emotions, self.layers, self.d_model, self.provenance, licence=licence, reliability=reliability
        )
        content = {hub.FILE: safetensors_content(self._tensors(), self._header()), hub.CARD: about}
        return hub.upload(repo, content, private=private, message=f"{len(self.emotions)} emotion vectors")

    @classmethod
    def from_hub(cls, repo: str, revision: str | None = None) -> EmotionVectors:
        """Reads what :meth:`push_to_hub` put into a repository, at a branch, tag or commit.

        Raises:
            EmotraceError: no such repository or file, or one that is damaged.
        """
        return cls.load(hub.download(repo, revision))

    @arguments.checked
    def export_gguf(self, path: str | Path, emotion: str, layers: Sequence[int] | None = None) -> None:
        """Writes one emotion as a llama.cpp control vector (``--control-vector FILE``).

        Args:
            path: of the GGUF file.
            emotion: whose vector it is.
            layers: layer indices from 2 on; default all of them. See :mod:`emotrace.hosts.control_vectors`.

        Raises:
            EmotraceError: an unknown emotion or layer, or one that llama.cpp cannot take; the file cannot be written.
        """
        if layers is None:
            layers = [layer for layer in self.layers if layer >= control_vectors.FIRST_LAYER]
        directions = {layer: self[emotion, layer] for layer in sorted(set(arguments.integers(layers, "layer")))}
        control_vectors.write(Path(path), directions, name=emotion, provenance=self.provenance)
