"""Reads ``data/`` into tables: emotions, topics, passages, prompts, models; and finds kin words in texts.

The texts are ours (see ``data/README.md``). The paper used about three passages an emotion [its public data file];
ours are fully crossed with topics so that no emotion owns a topic.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from emotrace.errors import EmotraceError, unknown
from emotrace.instrument.tables import read_table
from emotrace.instrument.words import any_words as any_words
from emotrace.instrument.words import kin_in
from emotrace.instrument.words import words as words

NEUTRAL = "neutral"
INSTRUMENTS = {"scenes": "passages", "accounts": "accounts"}
"""The sets of passages, by two authors, and the file of each in ``data/``; the first is the default."""
MAIN_INSTRUMENT = next(iter(INSTRUMENTS))

_COLUMNS = {
    "emotions": "emotion definition valence arousal norm_note goemotions goemotions_fit kin",
    "topics": "topic title description",
    "passages": "id topic emotion person gender tense text",
    "accounts": "id topic emotion person gender tense text",
    "baseline_texts": "id kind text",
    "scenarios": "id target tone form prompt",
    "prompts": "id use prompt",
    "implicit": "id emotion prompt",
    "checkable": "id kind prompt right wrong",
    "graded": "id scale kind level emotion sign control_emotion prompt",
    "calibration": "model weights_id layer strength window_low window_high n",
    "models": "name hub_id family parameters_millions kind source weights files sha256 licence paper_nine note",
}
_PACKAGE = Path(__file__).parents[1]


def data_dir() -> Path:
    """The folder of the data files: beside the package in a checkout, inside it in an installed wheel."""
    return _PACKAGE.parent / "data" if checkout() else _PACKAGE / "data"


def checkout() -> Path | None:
    """The root of the checkout that the package runs from; None where it is installed without one."""
    return None if (_PACKAGE / "data").is_dir() else _PACKAGE.parent


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


def passages(
    path: str | Path | None = None, *, topics: bool = False, instrument: str = MAIN_INSTRUMENT
) -> pd.DataFrame:
    """The comprehension passages, or a file of one's own with the columns ``emotion`` and ``text``.

    Args:
        path: a CSV file (:func:`~emotrace.instrument.tables.read_table`).
        topics: whether the column ``topic`` is needed as well, as the study's experiments do.
        instrument: without a path, which of ``INSTRUMENTS``.

    Raises:
        EmotraceError: an unknown instrument; what :func:`check_passages` refuses.
    """
    if path is None:
        if instrument not in INSTRUMENTS:
            raise unknown_instrument(instrument, INSTRUMENTS)
        file = INSTRUMENTS[instrument]
        return check_passages(_read(file), str(data_dir() / f"{file}.csv"))
    columns = ("topic", "emotion", "text") if topics else ("emotion", "text")
    return check_passages(read_table(Path(path), columns), str(path), topics=topics)


def unknown_instrument(name: str, known: Iterable[str]) -> EmotraceError:
    """The error for a set of passages that is not among these, which says where one's own texts go."""
    hint = "for texts of your own see notebook 13 and docs/your_texts.md"
    return EmotraceError(f"{unknown('instrument', name, known)}; {hint}")


def instruments(path: str | Path | None = None) -> dict[str, pd.DataFrame]:
    """The sets of passages that a run reads, by name: ours, or one's own file, named after it.

    Raises:
        EmotraceError: what :func:`passages` refuses.
    """
    if path is not None:
        return {Path(path).stem: passages(path, topics=True)}
    return {name: passages(instrument=name) for name in INSTRUMENTS}


def check_passages(table: pd.DataFrame, source: str = "the table of passages", *, topics: bool = False) -> pd.DataFrame:
    """Passages that vectors can be made of, as :func:`check_texts` returns them.

    Raises:
        EmotraceError: what :func:`check_texts` refuses; an id or a text given twice (without ids: a text given to two
            emotions); no neutral passage, or no other.
    """
    table = check_texts(table, source, topics=topics)
    if "id" in table.columns:
        for column in ("id", "text"):
            repeated = table[table.duplicated(column)]
            if len(repeated):
                raise EmotraceError(f"{source}, passage {repeated.iloc[0]['id']}: the same {column} stands there twice")
    different = table.drop_duplicates(["emotion", "text"])
    for number in different.index[different.duplicated("text")]:
        raise EmotraceError(f"{source}, {_row_name(table, number)}: the same text stands there with another emotion")
    if NEUTRAL not in set(table["emotion"]):
        raise EmotraceError(f"{source} has no passage of the class {NEUTRAL!r}, which the baseline needs")
    if set(table["emotion"]) == {NEUTRAL}:
        raise EmotraceError(f"{source} has passages of the class {NEUTRAL!r} alone: it needs those of an emotion too")
    return table


def check_texts(
    table: pd.DataFrame,
    source: str = "the table of texts",
    *,
    topics: bool = False,
    emotions_known: bool = True,
    known: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A table of labelled texts, its rows numbered from 0 and its labels without spaces around them.

    Args:
        table: columns ``emotion`` and ``text``.
        source: what it is, for messages.
        topics: whether it needs the column ``topic``, too.
        emotions_known: whether the emotions must be known ones.
        known: those; default: the 21 classes.

    Raises:
        EmotraceError: no table; a column that is missing or there twice; no rows; a label or text that is no string or
            is empty; an unknown emotion.
    """
    columns = ["topic", "emotion", "text"] if topics else ["emotion", "text"]
    if check_columns(table, source, columns).empty:
        raise EmotraceError(f"{source} has no rows")
    table = table.reset_index(drop=True)
    for column in columns:
        for number, value in enumerate(table[column]):
            if not isinstance(value, str):
                row = _row_name(table, number)
                raise EmotraceError(f"{source}, {row}: the {column} is no string: {value!r} ({type(value).__name__})")
            if not value.strip():
                raise EmotraceError(f"{source}, {_row_name(table, number)}: the {column} is empty")
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                raise EmotraceError(f"{source}, {_row_name(table, number)}: the {column} has half a character in it")
    table = table.assign(**{column: table[column].str.strip() for column in columns[:-1]})
    known = list(emotions().index if known is None else known)
    for number, name in enumerate(table["emotion"]):
        if emotions_known and name not in known:
            raise EmotraceError(
                f"{source}, {_row_name(table, number)}: unknown emotion {name!r}: known are {', '.join(known)}"
            )
    return table


def check_columns(table: pd.DataFrame, source: str, columns: Sequence[str]) -> pd.DataFrame:
    """The table unchanged, if it is one and has each of these columns once.

    Raises:
        EmotraceError: it is no table, lacks a column, or has one twice.
    """
    if not isinstance(table, pd.DataFrame):
        raise EmotraceError(f"{source} is a pandas DataFrame, or a CSV file, not of type {type(table).__name__}")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise EmotraceError(f"{source} lacks the column {', '.join(missing)}: it needs {', '.join(columns)}")
    if not table.columns.is_unique:
        raise EmotraceError(f"{source} has the column {table.columns[table.columns.duplicated()][0]} twice")
    return table


def _row_name(table: pd.DataFrame, number: int) -> str:
    return f"passage {table['id'].iloc[number]}" if "id" in table.columns else f"row {number + 1}"


def imbalances(table: pd.DataFrame, topics_kept: int, names: Sequence[str] | None = None) -> list[str]:
    """What a reader of the study's statistics should know of passages that are not fully crossed, a sentence each.

    Args:
        table: passages.
        topics_kept: how many of their topics are read, the first ones.
        names: of the emotions, in their order; default: the 20.

    Raises:
        EmotraceError: fewer than two emotions or two topics on the first ``topics_kept`` topics, which the study reads.
    """
    counts = quick_subset(table[table["emotion"] != NEUTRAL], topics_kept).groupby(["topic", "emotion"]).size()
    counts = counts.unstack(fill_value=0)  # [topic, emotion]
    if min(counts.shape) < 2:
        raise EmotraceError(
            "the study needs passages of two emotions or more on two topics or more, not of "
            f"{', '.join(counts.columns) or 'none'} on {', '.join(counts.index) or 'none'}"
        )
    lost = [name for name in names or emotion_names() if name in set(table["emotion"]) - set(counts.columns)]
    notes = [f"no passage of {', '.join(lost)} on the {topics_kept} topics that are read"] if lost else []
    if (counts == counts.iloc[0, 0]).all(axis=None):
        return notes
    texts, spread = counts.sum(), (counts > 0).sum()
    notes.append(
        f"the emotions have {texts.min()} to {texts.max()} passages ({texts.idxmin()} to {texts.idxmax()}), not as "
        "many on every topic: shuffled labels keep these numbers, and chance is the share of the commonest emotion"
    )
    for name in spread[spread == 1].index:
        topic = counts.index[counts[name] > 0][0]
        notes.append(f"{name} has passages on one topic only ({topic}): nothing tells the emotion from the topic")
    for topic in counts.index[(counts > 0).sum(axis=1) == 1]:
        notes.append(f"the topic {topic} has passages of one emotion only: it says nothing about shuffled labels")
    return notes


def baseline_texts() -> pd.DataFrame:
    """150 unrelated factual texts of the passages' length, for the anisotropy baseline."""
    return _read("baseline_texts")


def scenarios() -> pd.DataFrame:
    """40 scenarios for verification, each emotion once in either tone: ``id, target, tone, form, prompt``."""
    return _read("scenarios")


def openings() -> pd.DataFrame:
    """Openings without a tone: ``id, use, prompt``."""
    return _read("prompts")


def prompts(use: str) -> list[str]:
    """Openings without a tone, for ``calibration`` or for ``dose`` response; no experiment uses the other's."""
    table = openings()
    return list(table[table["use"] == use]["prompt"])


def implicit_scenarios() -> pd.DataFrame:
    """24 messages to an assistant that imply an emotion and name none: ``id, emotion, prompt``."""
    return _read("implicit")


def graded_prompts() -> pd.DataFrame:
    """Messages with two numbers, one of which varies.

    Columns: ``id, scale, kind, level, emotion, sign, control_emotion, prompt``.
    ``kind`` says which varies: the ``dose``, which makes what is told better or worse, or the ``control``, which means
    nothing for it; the other has one value in all rows of that kind. ``level`` is its value, an int, ascending;
    ``sign`` is 1 where the emotion should rise with the dose and −1 where it should fall.
    """
    table = _read("graded")
    for column in ("level", "sign"):
        table[column] = table[column].astype(int)
    return table


def checkable() -> pd.DataFrame:
    """60 items with one right continuation of two: ``id, kind, prompt, right, wrong``.

    Every pair of words stands twice, each time the other one right: a liking for a word scores 0.5, which is chance.
    """
    return _read("checkable")


def calibrations() -> pd.DataFrame:
    """The calibration of the packaged models' mean-pooled comprehension vectors, by weights id (as strings)."""
    return _read("calibration").set_index("weights_id")


def quick_subset(table: pd.DataFrame, topics_kept: int = 6) -> pd.DataFrame:
    """The passages of the first ``topics_kept`` topics. Six keep person, gender and tense balanced exactly."""
    first = table["topic"].unique()[:topics_kept]
    return table[table["topic"].isin(first)].reset_index(drop=True)


def leaks(text: str, names: Sequence[str] | None = None) -> list[str]:
    """The kin words of the emotions ``names`` (default all 21 classes) in ``text``, also as part of a hyphenation."""
    kin_words = emotions()["kin"]
    return kin_in(text, words(text), {word for name in (names or kin_words.index) for word in kin_words[name]})


def fingerprint(table: pd.DataFrame) -> str:
    """The first 16 hex digits of the sha256 of a table's texts and labels, for provenance and cache keys."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]
