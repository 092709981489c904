"""Reads ``data/`` into tables and checks them as an instrument: schema, balance, length, leakage.

The texts are ours (see ``data/README.md``). The paper used about three passages an emotion
[its public data file]; ours are fully crossed with topics so that no emotion owns a topic.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import defaultdict
from pathlib import Path

import pandas as pd

from emotrace.errors import EmotraceError, unknown

NEUTRAL = "neutral"

# Words a passage may have, and how far an emotion's mean length may lie from the grand mean.
MIN_WORDS, MAX_WORDS, LENGTH_TOLERANCE = 35, 60, 0.05
# Two passages that share a run of this many words share a template.
TEMPLATE_WORDS = 5

_COLUMNS = {
    "emotions": ["emotion", "definition", "valence", "arousal", "norm_note", "goemotions", "goemotions_fit", "kin"],
    "topics": ["topic", "title", "description"],
    "passages": ["id", "topic", "emotion", "person", "gender", "tense", "text"],
    "baseline_texts": ["id", "kind", "text"],
    "scenarios": ["id", "target", "tone", "form", "prompt"],
    "prompts": ["id", "use", "prompt"],
    "calibration": ["model", "weights_id", "layer", "strength", "window_low", "window_high", "n"],
    "models": [
        "name", "hub_id", "family", "parameters_millions", "kind", "source", "weights", "files", "sha256", "licence",
        "paper_nine", "note",
    ],
}  # fmt: skip

_WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*")


_PACKAGE = Path(__file__).parent.parent


def data_dir() -> Path:
    """The folder of the data files: beside the package in a checkout, inside it in an installed wheel."""
    return _PACKAGE.parent / "data" if checkout() else _PACKAGE / "data"


def checkout() -> Path | None:
    """The root of the checkout that the package runs from; None where it is installed without one."""
    return None if (_PACKAGE / "data").is_dir() else _PACKAGE.parent


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
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
    return read_table(data_dir() / f"{name}.csv", _COLUMNS[name])


@functools.cache
def emotions() -> pd.DataFrame:
    """The 20 emotions of the paper and *neutral*, indexed by name.

    Columns ``valence`` and ``arousal`` are floats on the norms' 1–9 scale (Warriner et al. 2013), NaN where
    the norms have no entry; ``goemotions`` and ``kin`` are tuples.
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
    """The models that have a short name, indexed by it. ``files`` is a tuple of package-relative paths."""
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
    table = read_table(path, _COLUMNS["passages"])
    known = list(emotions().index)
    for row in table.itertuples():
        if row.emotion not in known:
            raise EmotraceError(
                f"{path}, passage {row.id}: unknown emotion {row.emotion!r}: known are {', '.join(known)}"
            )
        if not row.text.strip():
            raise EmotraceError(f"{path}, passage {row.id}: the text is empty")
    for columns, what in ((["id"], "id"), (["text"], "text")):
        twice = table[table.duplicated(columns)]
        if len(twice):
            raise EmotraceError(f"{path}, passage {twice.iloc[0]['id']}: the same {what} stands there twice")
    if NEUTRAL not in set(table["emotion"]):
        raise EmotraceError(f"{path} has no passage of the class {NEUTRAL!r}, which the baseline needs")
    return table


def baseline_texts() -> pd.DataFrame:
    """150 unrelated factual texts of the passages' length, for the anisotropy baseline."""
    return _read("baseline_texts")


def scenarios() -> pd.DataFrame:
    """40 scenarios for verification: ``id, target, tone, form, prompt``; each emotion once in either tone."""
    return _read("scenarios")


def prompts(use: str) -> list[str]:
    """Openings without a tone, for ``calibration`` or for ``dose`` response; no experiment uses the other's."""
    table = _read("prompts")
    return list(table[table["use"] == use]["prompt"])


def calibrations() -> pd.DataFrame:
    """What ``emotrace run`` found for the packaged models' mean-pooled comprehension vectors, indexed by weights id."""
    return _read("calibration").set_index("weights_id")


def quick_subset(table: pd.DataFrame, topics_kept: int = 6) -> pd.DataFrame:
    """The passages of the first ``topics_kept`` topics. Six keep person, gender and tense balanced exactly."""
    kept = list(dict.fromkeys(table["topic"]))[:topics_kept]
    return table[table["topic"].isin(kept)].reset_index(drop=True)


def words(text: str) -> list[str]:
    """The words of a text, in lower case; a hyphenated or apostrophised word is one."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def leaks(text: str, names: list[str] | None = None) -> list[str]:
    """The kin words of the emotions ``names`` (default: all 21) that stand in ``text``, also as part of a hyphenation."""
    table = emotions()
    kin = set().union(*(table.loc[name, "kin"] for name in (names or table.index)))
    # joy's, joy'll, mother-love's: every piece between apostrophes and hyphens
    parts = (part for word in words(text) for part in re.split(r"['-]", word))
    return sorted({part for part in parts if part in kin})


def fingerprint(table: pd.DataFrame) -> str:
    """The first 16 hex digits of the sha256 of a table's texts and labels, for provenance and cache keys."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def check_instrument(table: pd.DataFrame) -> list[str]:
    """Everything in which the passages fall short of what ``data/README.md`` promises; empty when nothing does.

    Checked: full crossing of topics and classes, length of each passage and of each emotion's mean, kin words
    of *any* emotion, the same last character, balance of person, gender and tense within each emotion, shared
    sentences and shared runs of five words, opening words.
    """
    return [
        *_check_crossing(table),
        *_check_lengths(table),
        *_check_endings(table),
        *_check_leakage(table),
        *_check_balance(table),
        *_check_repetition(table),
    ]


def _check_crossing(table: pd.DataFrame) -> list[str]:
    counts = pd.crosstab(table["topic"], table["emotion"])
    counts = counts.reindex(index=topics().index, columns=emotions().index, fill_value=0)
    stray = sorted(set(table["topic"]) - set(topics().index))
    off = [f"{topic} × {emotion}: {n} passages, not 1" for (topic, emotion), n in counts.stack().items() if n != 1]
    return [f"unknown topic {topic}" for topic in stray] + off


def _check_lengths(table: pd.DataFrame) -> list[str]:
    lengths = table["text"].map(lambda text: len(words(text)))
    off = [
        f"{row.id}: {n} words, not {MIN_WORDS} to {MAX_WORDS}"
        for row, n in zip(table.itertuples(), lengths, strict=True)
        if not MIN_WORDS <= n <= MAX_WORDS
    ]
    grand = lengths.mean()
    for emotion, mean in lengths.groupby(table["emotion"]).mean().items():
        if abs(mean / grand - 1) > LENGTH_TOLERANCE:
            off.append(f"{emotion}: mean length {mean:.1f} words, more than 5% from {grand:.1f}")
    return off


def _check_endings(table: pd.DataFrame) -> list[str]:
    """Last-token pooling reads the last token: were it a full stop here and a quotation mark there, it would tell."""
    return [f"{row.id}: does not end with a full stop" for row in table.itertuples() if not row.text.endswith(".")]


def _check_leakage(table: pd.DataFrame) -> list[str]:
    found = ((row.id, leaks(row.text)) for row in table.itertuples())
    return [f"{name}: names an emotion ({', '.join(hits)})" for name, hits in found if hits]


def _check_balance(table: pd.DataFrame) -> list[str]:
    """Each emotion has every combination of person, gender and tense equally often."""
    combination = table["person"] + "/" + table["gender"] + "/" + table["tense"]
    counts = pd.crosstab(table["emotion"], combination)
    common = counts.loc[:, (counts > 0).mean() > 0.5]  # a stray combination is its own emotion's fault alone
    expected = counts.sum(axis=1) / common.shape[1]
    uneven = counts[common.ne(expected, axis=0).any(axis=1)]
    return [f"{emotion}: person/gender/tense uneven ({dict(row)})" for emotion, row in uneven.iterrows()]


def _check_repetition(table: pd.DataFrame) -> list[str]:
    places: dict[str, dict[object, set[str]]] = {
        "sentence": defaultdict(set), f"run of {TEMPLATE_WORDS} words": defaultdict(set), "opening": defaultdict(set),
    }  # fmt: skip
    sentences, runs, openings = places.values()
    for row in table.itertuples():
        tokens = words(row.text)
        openings[tuple(tokens[:3])].add(row.id)
        for sentence in re.split(r"(?<=[.!?])\s+", row.text.lower()):
            sentences[sentence.strip()].add(row.id)
        for start in range(len(tokens) - TEMPLATE_WORDS + 1):
            runs[tuple(tokens[start : start + TEMPLATE_WORDS])].add(row.id)
    return [
        f"the same {what} in {', '.join(sorted(ids))}: {key if isinstance(key, str) else ' '.join(key)}"
        for what, found in places.items()
        for key, ids in found.items()
        if len(ids) > 1
    ]
