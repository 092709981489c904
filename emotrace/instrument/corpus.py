"""Reads ``data/`` into tables: emotions, topics, passages, prompts, models; and finds kin words in texts.

The texts are ours (see ``data/README.md``). The paper used about three passages an emotion [its public data file];
ours are fully crossed with topics so that no emotion owns a topic.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emotrace.errors import EmotraceError, unknown

NEUTRAL = "neutral"

_COLUMNS = {
    "emotions": "emotion definition valence arousal norm_note goemotions goemotions_fit kin",
    "topics": "topic title description",
    "passages": "id topic emotion person gender tense text",
    "baseline_texts": "id kind text",
    "scenarios": "id target tone form prompt",
    "prompts": "id use prompt",
    "calibration": "model weights_id layer strength window_low window_high n",
    "models": "name hub_id family parameters_millions kind source weights files sha256 licence paper_nine note",
}
_WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*")
_PACKAGE = Path(__file__).parents[1]


def data_dir() -> Path:
    """The folder of the data files: beside the package in a checkout, inside it in an installed wheel."""
    return _PACKAGE.parent / "data" if checkout() else _PACKAGE / "data"


def checkout() -> Path | None:
    """The root of the checkout that the package runs from; None where it is installed without one."""
    return None if (_PACKAGE / "data").is_dir() else _PACKAGE.parent


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file as a table of strings.

    Raises:
        EmotraceError: the file is missing or unreadable, empty, or lacks one of ``columns``.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise EmotraceError(f"no file {path}") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise EmotraceError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise EmotraceError(f"{path} lacks the column {', '.join(missing)}: it needs {', '.join(columns)}")
    if table.empty:
        raise EmotraceError(f"{path} has no rows")
    return table


def _read(name: str) -> pd.DataFrame:
    return read_table(data_dir() / f"{name}.csv", _COLUMNS[name].split())


@functools.cache
def emotions() -> pd.DataFrame:
    """The 20 emotions of the paper and *neutral*, indexed by name.

    ``valence`` and ``arousal`` are floats on the norms' 1–9 scale (Warriner et al. 2013), NaN where the norms have no
    entry; ``goemotions`` (labels of that data set) and ``kin`` (its inflections and near-identical words) are tuples.
    """
    table = _read("emotions").set_index("emotion")
    for column in ("valence", "arousal"):
        table[column] = pd.to_numeric(table[column])
    for column in ("goemotions", "kin"):
        table[column] = [tuple(cell.split("|")) for cell in table[column]]
    return table


def emotion_names() -> list[str]:
    """The 20 emotions in the paper's order, without *neutral*."""
    return [name for name in emotions().index if name != NEUTRAL]


def check_emotions(names: list[str]) -> list[str]:
    """``names`` unchanged, or an :class:`EmotraceError` that lists the known emotions."""
    known = emotion_names()
    for name in names:
        if name not in known:
            raise unknown("emotion", name, known)
    return list(names)


@functools.cache
def topics() -> pd.DataFrame:
    """The 12 everyday topics, indexed by name."""
    return _read("topics").set_index("topic")


@functools.cache
def model_registry() -> pd.DataFrame:
    """The models that have a short name, indexed by it; ``files`` is a tuple of paths within their package."""
    table = _read("models").set_index("name")
    table["files"] = [tuple(cell.split("|")) if cell else () for cell in table["files"]]
    table["parameters_millions"] = pd.to_numeric(table["parameters_millions"])
    return table


def passages(path: str | Path | None = None) -> pd.DataFrame:
    """The comprehension passages, or a file of one's own with the same columns.

    Raises:
        EmotraceError: a missing column, an unknown emotion, an empty text, an id or a text given twice, no neutral.
    """
    path = Path(path) if path else data_dir() / "passages.csv"
    table = read_table(path, _COLUMNS["passages"].split())
    known = list(emotions().index)
    for name, emotion, text in zip(table["id"], table["emotion"], table["text"], strict=True):
        if emotion not in known:
            raise EmotraceError(f"{path}, passage {name}: unknown emotion {emotion!r}: known are {', '.join(known)}")
        if not text.strip():
            raise EmotraceError(f"{path}, passage {name}: the text is empty")
    for column in ("id", "text"):
        repeated = table[table.duplicated(column)]
        if len(repeated):
            raise EmotraceError(f"{path}, passage {repeated.iloc[0]['id']}: the same {column} stands there twice")
    if NEUTRAL not in set(table["emotion"]):
        raise EmotraceError(f"{path} has no passage of the class {NEUTRAL!r}, which the baseline needs")
    return table


def baseline_texts() -> pd.DataFrame:
    """150 unrelated factual texts of the passages' length, for the anisotropy baseline."""
    return _read("baseline_texts")


def scenarios() -> pd.DataFrame:
    """40 scenarios for verification, each emotion once in either tone: ``id, target, tone, form, prompt``."""
    return _read("scenarios")


def prompts(use: str) -> list[str]:
    """Openings without a tone, for ``calibration`` or for ``dose`` response; no experiment uses the other's."""
    table = _read("prompts")
    return list(table[table["use"] == use]["prompt"])


def calibrations() -> pd.DataFrame:
    """The calibration of the packaged models' mean-pooled comprehension vectors, by weights id (as strings)."""
    return _read("calibration").set_index("weights_id")


def quick_subset(table: pd.DataFrame, topics_kept: int = 6) -> pd.DataFrame:
    """The passages of the first ``topics_kept`` topics. Six keep person, gender and tense balanced exactly."""
    first = table["topic"].unique()[:topics_kept]
    return table[table["topic"].isin(first)].reset_index(drop=True)


def words(text: str) -> list[str]:
    """The words of a text, in lower case; a hyphenated or apostrophised word is one."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def leaks(text: str, names: Sequence[str] | None = None) -> list[str]:
    """The kin words of the emotions ``names`` (default all 21 classes) in ``text``, also as part of a hyphenation."""
    kin_words = emotions()["kin"]
    kin = {word for name in (names or kin_words.index) for word in kin_words[name]}
    # joy's, joy'll, mother-love's: every piece between apostrophes and hyphens
    parts = (part for word in words(text) for part in re.split(r"['-]", word))
    return sorted({part for part in parts if part in kin})


def fingerprint(table: pd.DataFrame) -> str:
    """The first 16 hex digits of the sha256 of a table's texts and labels, for provenance and cache keys."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]
