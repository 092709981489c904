"""GoEmotions as its authors publish it: texts, label ids and three splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.hosts import gguf

SPLITS = ("train", "dev", "test")
SOURCE = {
    "name": "GoEmotions",
    "citation": "Demszky et al. 2020, ACL, https://aclanthology.org/2020.acl-main.372",
    "licence": "Apache-2.0",
}


@dataclass(frozen=True)
class Split:
    """Texts with their labels: ``positive`` is bool ``[text, label]``; ``sha256`` is the file's."""

    texts: list[str]
    positive: np.ndarray
    sha256: str


def read_labels(folder: Path) -> list[str]:
    """The labels in the order of their ids.

    Raises:
        EmotraceError: no such file, or none or the same label twice in it.
    """
    path = folder / "labels.txt"
    if not path.is_file():
        raise EmotraceError(f"no file {path}")
    labels = path.read_text(encoding="utf-8").split()
    if not labels or len(set(labels)) < len(labels):
        raise EmotraceError(f"{path} must name each label once, one a line")
    if "neutral" not in labels:
        raise EmotraceError(f"{path} must name the label neutral")
    return labels


def read_split(folder: Path, name: str, n_labels: int) -> Split:
    """One split.

    Raises:
        EmotraceError: no such file, a row of another form, an id out of range, a label with no example or only such.
    """
    path = folder / f"{name}.tsv"
    if not path.is_file():
        raise EmotraceError(f"no file {path}")
    # Texts hold quotation marks of their own (quoting=3: none is special).
    columns = ["text", "ids", "comment"]
    try:
        table = pd.read_csv(path, sep="\t", header=None, names=columns, quoting=3, dtype=str, keep_default_na=False)
        ids = [[int(label) for label in cell.split(",")] for cell in table["ids"]]
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise EmotraceError(f"{path} is not text, label ids, comment id: {str(error).splitlines()[0]}") from None
    positive = np.zeros((len(table), n_labels), dtype=bool)
    for row, chosen in enumerate(ids):
        if not all(0 <= label < n_labels for label in chosen):
            raise EmotraceError(f"{path}, row {row + 1}: label ids are 0 to {n_labels - 1}, not {chosen}")
        positive[row, chosen] = True
    lone = np.flatnonzero(positive.all(axis=0) | ~positive.any(axis=0))
    if len(lone):
        raise EmotraceError(f"{path}: label {lone[0]} needs texts that have it and texts that have it not")
    return Split(list(table["text"]), positive, gguf.sha256(path))


def unseen(splits: dict[str, Split]) -> np.ndarray:
    """Which test texts stand, letter for letter, in no other split: bool ``[text]``."""
    known = set(splits["train"].texts) | set(splits["dev"].texts)
    return np.array([text not in known for text in splits["test"].texts])


def header(splits: dict[str, Split], labels: list[str]) -> dict[str, object]:
    """Where the texts come from, how many there are and how often each label holds."""
    counts = {name: split.positive.sum(axis=0).tolist() for name, split in splits.items()}
    return {
        **SOURCE,
        "texts": {name: len(split.texts) for name, split in splits.items()},
        "sha256": {name: split.sha256 for name, split in splits.items()},
        "positives": {name: dict(zip(labels, values, strict=True)) for name, values in counts.items()},
    }
