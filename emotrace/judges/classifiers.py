"""External emotion classifiers: a judge of texts that shares nothing with the model which wrote them.

The embedded one needs no hub: a sentence encoder with an adapter and a head fitted to GoEmotions
(:mod:`emotrace.judges.encoder`). Any other name is a text-classification model of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import transformers
from huggingface_hub import constants as hub

from emotrace.errors import EmotraceError, first_line, unknown
from emotrace.hosts.checkpoints import check_finite, check_whole
from emotrace.hosts.sources import quiet
from emotrace.hosts.threads import one_at_a_time
from emotrace.hosts.tokenizer_files import read_tokenizer
from emotrace.instrument import corpus
from emotrace.judges.encoder import Head, SentenceEncoder, forward, freeze, load_encoder
from emotrace.redaction import without_secret

DEFAULT_CLASSIFIER = "minilm-goemotions"
# Twice what the encoder was trained on.
HUB_TOKENS = 512


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
            or the named model cannot be had or is no classifier; a device that is not there.
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
    labels_of = _usual_labels() if emotion_labels is None else emotion_labels
    columns = {emotion: _columns(classifier, emotion, labels) for emotion, labels in labels_of.items()}
    scores = classifier.scores(texts)
    return pd.DataFrame({emotion: scores[:, indices].max(axis=1) for emotion, indices in columns.items()})


def known_labels(
    classifier: Classifier, emotion_labels: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Each emotion's labels that the classifier has; emotions without any are left out.

    Args:
        classifier: the judge.
        emotion_labels: the labels that stand for each emotion; default: those of ``data/emotions.csv``.

    Raises:
        EmotraceError: it has none at all: its labels are of another kind.
    """
    labels_of = _usual_labels() if emotion_labels is None else emotion_labels
    known = {
        emotion: [label for label in labels if label in classifier.labels] for emotion, labels in labels_of.items()
    }
    if not any(known.values()):
        whose = "data/emotions.csv" if emotion_labels is None else "these emotions"
        raise EmotraceError(
            f"{classifier.name} has none of the labels of {whose}: its own are {', '.join(classifier.labels)}"
        )
    return {emotion: labels for emotion, labels in known.items() if labels}


def _usual_labels() -> dict[str, list[str]]:
    """The ``goemotions`` column of ``data/emotions.csv``."""
    return {str(emotion): labels for emotion, labels in corpus.emotions()["goemotions"].items()}


def _columns(classifier: Classifier, emotion: str, labels: Sequence[str]) -> list[int]:
    """The columns of ``labels`` in the classifier's scores."""
    if not labels or isinstance(labels, str):
        raise EmotraceError(f"the emotion {emotion!r} needs a list of labels, not {labels!r}")
    for label in labels:
        if label not in classifier.labels:
            raise unknown(f"emotion label of {classifier.name}", label, classifier.labels)
    return [classifier.labels.index(label) for label in labels]


# -- the embedded classifier ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddedClassifier:
    """The sentence encoder with its adapter and head. Several labels may hold at once: a text's scores do not sum to 1.

    Its name ends in eight hex digits of what was fitted, so that results which rest on another judge are never mixed
    with its own. A score is calibrated for a label that is as common as not: 0.5 says that the text would be as likely
    to have the label as not if half of all texts had it. A text may be a continuation by itself or with its prompt.
    """

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
    """The shipped head and adapter."""
    return corpus.data_dir() / "classifier" / "goemotions-minilm.safetensors"


def load_embedded(head: str | Path | None = None, *, device: str = "auto") -> EmbeddedClassifier:
    """The embedded classifier, with the shipped head or a head of one's own.

    Raises:
        EmotraceError: as :func:`load_classifier`; a head that was fitted to another encoder names both.
    """
    loaded = Head.load(head or head_file())
    encoder = load_encoder(loaded.header["encoder"]["sha256"], device, loaded.adapter)
    return EmbeddedClassifier(f"{DEFAULT_CLASSIFIER}-{loaded.fingerprint}", encoder, loaded)


# -- classifiers of transformers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubClassifier:
    """A text-classification model of transformers.

    Attributes:
        name: its hub id, or the name of its folder.
        labels: the model's own (``config.id2label``), in the order of its outputs.
        multi_label: sigmoid of each output; otherwise softmax over all.
        max_tokens: where a text is cut.
    """

    name: str
    labels: tuple[str, ...]
    tokenizer: transformers.PreTrainedTokenizerBase
    module: transformers.PreTrainedModel
    multi_label: bool
    max_tokens: int

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities in [0, 1], float ``[text, label]``."""

        def probabilities(output: Any, mask: torch.Tensor) -> torch.Tensor:
            logits = output.logits.float()
            return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)

        return forward(self.module, self.tokenizer, texts, self.max_tokens, len(self.labels), probabilities)


@one_at_a_time
def _load_hub(name: str, device: str) -> HubClassifier:
    """A classifier of the hub or in a folder; refuses what would give scores without meaning."""
    quiet()
    try:
        folder = Path(name).expanduser()
        source = str(folder) if folder.is_dir() else name
        tokenizer = read_tokenizer(source)
        module, info = transformers.AutoModelForSequenceClassification.from_pretrained(source, output_loading_info=True)
    except Exception as error:  # transformers, the hub client and safetensors raise a dozen types here
        offline = ", and HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else ""
        raise EmotraceError(
            f"no classifier {name!r}: neither {DEFAULT_CLASSIFIER!r} nor a text-classification model in a folder or "
            f"on the hub ({first_line(error)}{offline})"
        ) from without_secret(error)
    check_whole({**info, "unexpected_keys": ()}, f"{name} is no trained classifier: ")  # some keep a pooler, unused
    check_finite(module)
    if module.config.num_labels < 2 or module.config.problem_type == "regression":
        raise EmotraceError(f"{name} is no classifier of two labels or more: it gives a number, not probabilities")
    if tokenizer.pad_token is None:
        raise EmotraceError(f"the tokenizer of {name} has no padding token, which batches of texts need")
    freeze(module, device)
    config = module.config
    if config.pad_token_id is None:  # decoders look for the last token before the padding
        config.pad_token_id = tokenizer.pad_token_id
    return HubClassifier(
        # A path is of one machine only: what was loaded from it goes by the folder's own name.
        name=folder.resolve().name if folder.is_dir() else name,
        labels=tuple(config.id2label[index] for index in range(config.num_labels)),
        tokenizer=tokenizer,
        module=module,
        multi_label=config.problem_type == "multi_label_classification",
        # RoBERTa's positions start at 2, and its config counts those two.
        max_tokens=min(HUB_TOKENS, tokenizer.model_max_length, getattr(config, "max_position_embeddings", 1 << 30) - 2),
    )
