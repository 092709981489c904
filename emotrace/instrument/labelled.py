"""Rows as people have them → a table of emotion, text and topic: which column is which, and what cannot be used."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from emotrace.errors import EmotraceError, shown, unknown
from emotrace.instrument.corpus import NEUTRAL
from emotrace.instrument.formats import Rows

ROLES: dict[str, tuple[str, ...]] = {
    "text": ("text", "story", "passage", "sentence", "content", "utterance", "message"),
    "emotion": ("emotion", "label", "class", "feeling", "category", "emotion_label"),
    "topic": ("topic", "scenario", "context", "situation", "theme"),
    "split": ("split", "fold", "partition"),
    "positive": ("positive", "pos"),
    "negative": ("negative", "neg"),
}
"""What a column may be, and the names that it usually has; the first wins over the others."""
TEXT_AND_EMOTION = (ROLES["text"], ROLES["emotion"])
LONGEST_NAME = 60
"""A longer name of an emotion is a text in the wrong column."""


class LeftOut(NamedTuple):
    """A row that is not used: where it stands, in which column, and why."""

    place: str
    column: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}, column {self.column}: {self.why}"


class Part(NamedTuple):
    """The rows of one file, and the emotion that stands for it where it has no column of emotions."""

    source: str
    rows: Rows
    emotion: str | None = None


def check_mapping(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Role → column, as a caller maps them; an empty column says that there is none.

    Raises:
        EmotraceError: no mapping of texts, or an unknown role.
    """
    if columns is None:
        return {}
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for pair in columns.items() for name in pair):
        raise EmotraceError(f"columns are a mapping like {{'text': 'story'}}, not {shown(columns)}")
    for role in columns:
        if role not in ROLES:
            raise unknown("role of a column", role, ROLES)
    return dict(columns)


def roles(names: Sequence[object], columns: Mapping[str, str], source: str) -> dict[str, str]:
    """Role → the column that has it.

    Raises:
        EmotraceError: a column that is mapped and not there; two columns that could be the same.
    """
    own: dict[str, list[str]] = {}
    for name in dict.fromkeys(map(str, names)):
        own.setdefault(name.strip().lower(), []).append(name)
    found: dict[str, str] = {}
    for role, usual in ROLES.items():
        if role in columns:
            if columns[role] and columns[role] not in names:
                raise EmotraceError(
                    f"{source} has no column {columns[role]!r} for the {role}: its columns are "
                    f"{', '.join(map(str, names))}"
                )
            candidates = [columns[role]] if columns[role] else []
        else:
            candidates = [one for name in usual for one in own.get(name, []) if one not in columns.values()]
            candidates = [one for one in candidates if one.strip().lower() == role] or candidates
        if len(candidates) > 1:
            raise EmotraceError(
                f"{source}: {' and '.join(candidates)} could each be the {role}: say which, by --columns "
                f"{role}={candidates[0]} (in Python columns={{{role!r}: {candidates[0]!r}}})"
            )
        if candidates:
            found[role] = candidates[0]
    return found


class Labelled(NamedTuple):
    """What rows became.

    Attributes:
        table: columns ``emotion``, ``text``, ``topic`` if there are topics, and the others as they were.
        left_out: rows that are not in it, each named.
        read: how many rows there were: those of the table and those left out.
        notes: how it was understood.
    """

    table: pd.DataFrame
    left_out: list[LeftOut]
    read: int
    notes: list[str]


def labelled(parts: Sequence[Part], columns: Mapping[str, str]) -> Labelled:
    """The rows of one file or several, checked.

    A text given twice to one emotion is used once; a text given to two emotions is not used; both are named.

    Raises:
        EmotraceError: a column that is needed and missing; a row whose cell is empty or no text, with its place and
            column; names of emotions that differ by capitals alone; nothing left.
    """
    tables, places, notes = [], [], []
    for part in parts:
        if part.rows.cells.empty:
            raise EmotraceError(f"{part.source} has no rows")
        found = roles(list(part.rows.cells.columns), columns, part.source)
        tables.append(_part(part, found))
        places += [f"{part.source}, {place}" for place in part.rows.places]
        renamed = [f"{role} is {name!r}" for role, name in found.items() if name != role and role != "split"]
        notes += [note for note in [*part.rows.notes, *renamed] if note not in notes]
    with_topics = [("topic" in table) for table in tables]
    if any(with_topics) and not all(with_topics):
        raise EmotraceError(f"{parts[with_topics.index(False)].source} has no column of topics, and other files have")
    table = pd.concat(tables, ignore_index=True)
    _check_names(table, places)
    table, left_out = _without_repeats(table, places)
    if table.empty:
        raise EmotraceError(f"{parts[0].source}: no row is left: {left_out[0]}")
    return Labelled(table, left_out, len(places), notes)


def _part(part: Part, found: Mapping[str, str]) -> pd.DataFrame:
    cells, source = part.rows.cells, part.source
    for role in ("text", "emotion"):
        if role not in found and not (role == "emotion" and part.emotion is not None):
            raise EmotraceError(
                f"{source} has no column of the {role} ({', '.join(ROLES[role])}): its columns are "
                f"{', '.join(map(str, cells.columns))}; say which by --columns {role}=NAME"
            )
    if not cells.columns.is_unique:
        raise EmotraceError(f"{source} has the column {cells.columns[cells.columns.duplicated()][0]} twice")
    made: dict[str, list[object]] = {}
    for role in ("emotion", "text", "topic"):
        if role in found:
            made[role] = [
                _cell(value, role, found[role], f"{source}, {place}")
                for value, place in zip(cells[found[role]], part.rows.places, strict=True)
            ]
    if "emotion" not in made:
        made["emotion"] = [_cell(part.emotion, "emotion", "emotion", f"{source}, its name")] * len(cells)
    others = [name for name in cells.columns if name not in found.values() and not str(name).startswith("Unnamed:")]
    others = [name for name in others if name and name not in (*made, "topic")]
    return pd.DataFrame(made).join(cells[others].reset_index(drop=True))


def _cell(value: object, role: str, column: str, where: str) -> str:
    """The text of a cell; names without the blanks around them."""
    where = f"{where}, column {column}"
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        raise EmotraceError(f"{where}: the {role} is missing")
    if role == "topic" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise EmotraceError(f"{where}: the {role} is no text: {shown(value)} ({type(value).__name__})")
    if not value.strip():
        raise EmotraceError(f"{where}: the {role} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise EmotraceError(f"{where}: the {role} has half a character in it")
    if role == "text":
        return value
    name = unicodedata.normalize("NFC", value.strip())
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise EmotraceError(f"{where}: the {role} {shown(name)} has a line break or another control character in it")
    if role == "emotion":
        if len(name) > LONGEST_NAME:
            raise EmotraceError(f"{where}: an emotion's name of {len(name)} characters: is this the column of texts?")
        if name.lstrip("+-").replace(".", "", 1).isdigit():
            raise EmotraceError(f"{where}: the emotion is the number {name}: names of emotions are needed")
        return NEUTRAL if name.casefold() == NEUTRAL else name
    return name


def _check_names(table: pd.DataFrame, places: Sequence[str]) -> None:
    """No two emotions differ by capitals alone."""
    first: dict[str, int] = {}
    for row, name in enumerate(table["emotion"]):
        other = first.setdefault(name.casefold(), row)
        if table["emotion"][other] != name:
            raise EmotraceError(
                f"{places[row]}, column emotion: {name!r} and {table['emotion'][other]!r} ({places[other]}) differ by "
                "capitals alone: write one of them"
            )


def _without_repeats(table: pd.DataFrame, places: Sequence[str]) -> tuple[pd.DataFrame, list[LeftOut]]:
    first: dict[str, int] = {}
    labels: dict[str, set[str]] = {}
    for row, (text, emotion) in enumerate(zip(table["text"], table["emotion"], strict=True)):
        first.setdefault(text.strip(), row)
        labels.setdefault(text.strip(), set()).add(emotion)
    kept, left_out = [], []
    for row, text in enumerate(map(str.strip, table["text"])):
        if len(labels[text]) > 1:
            why = f"the same text has the emotions {', '.join(sorted(labels[text]))}"
            left_out.append(LeftOut(places[row], "text", why))
        elif first[text] != row:
            left_out.append(LeftOut(places[row], "text", f"the same text stands in {places[first[text]]}"))
        else:
            kept.append(row)
    return table.iloc[kept].reset_index(drop=True), left_out
