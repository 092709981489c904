"""Labelled texts in the files that people have them in: CSV with any separator, JSON, JSON Lines, Parquet, plain text.

A file becomes its rows as they stand there, each with its place (a line, a record), so that whoever checks them can
name it. What is no row (a comment line, an empty line) is counted and said. Nothing is dropped without a word.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from emotrace.errors import EmotraceError, first_line, shown
from emotrace.instrument.tables import SEPARATORS, decoded, lines_of


class Rows(NamedTuple):
    """What a file holds.

    Attributes:
        cells: one row a text, the columns named as in the file, every value as it was written.
        places: where each row stands, for messages: ``line 7``.
        notes: how the file was understood, and what in it is no row.
    """

    cells: pd.DataFrame
    places: list[str]
    notes: list[str]


def read_rows(path: Path, wanted: Sequence[Sequence[str]]) -> Rows:
    """The rows of a file, by the format that its name ends in.

    Args:
        path: a file whose name ends in one of ``FORMATS``.
        wanted: for each column that is needed, the names that it may have: a separated file is split by the sign that
            finds most of them in its first line.

    Raises:
        EmotraceError: another ending; a file that is missing, cannot be read or has no rows, with the line that is
            wrong.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise EmotraceError(f"{path}: texts are read from files that end in {', '.join(FORMATS)}")
    rows = FORMATS[suffix](path, wanted)
    if not rows.places:
        raise EmotraceError(f"{path} has no rows" + (f" ({'; '.join(rows.notes)})" if rows.notes else ""))
    return rows


# -- separated values -------------------------------------------------------------------------------------------------


def _separated(path: Path, wanted: Sequence[Sequence[str]]) -> Rows:
    text = decoded(path)
    header = _header(path, text, wanted)
    for separator in _separators(header, wanted):
        try:
            return _records(path, text, separator, wanted)
        except EmotraceError as error:
            first = error
            if len(_split(header, separator)) > 1:
                raise
    raise first


def _split(line: str, separator: str) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.split(separator)]


def _found(cells: Sequence[str], wanted: Sequence[Sequence[str]]) -> int:
    names = {cell.strip().lower() for cell in cells}
    return sum(any(name.lower() in names for name in known) for known in wanted)


def _header(path: Path, text: str, wanted: Sequence[Sequence[str]]) -> str:
    """The line that names the columns: the first that is no comment, or the last comment where it names more."""
    comment = ""
    for line in lines_of(text.lstrip("\ufeff")):
        if line.lstrip().startswith("#"):
            comment = line.lstrip()[1:]
        elif line.strip():
            named = [max(_found(_split(one, sign), wanted) for sign in _signs(one)) for one in (line, comment)]
            return comment if named[1] > named[0] else line
    raise EmotraceError(f"{path} is empty" + (": all its lines begin with #" if comment else ""))


def _signs(header: str) -> list[str]:
    others = [sign for sign in dict.fromkeys(header) if not sign.isalnum() and sign not in "\"'_ "]
    return [*SEPARATORS, *(sign for sign in others if sign not in SEPARATORS)]


def _separators(header: str, wanted: Sequence[Sequence[str]]) -> list[str]:
    """The sign that finds most of the columns; all usual ones where the header has one column alone."""
    best = max(_signs(header), key=lambda sign: (_found(_split(header, sign), wanted), header.count(sign)))
    return [best] if header.count(best) else list(SEPARATORS)


def _records(path: Path, text: str, separator: str, wanted: Sequence[Sequence[str]]) -> Rows:
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    places: list[str] = []
    comments: list[int] = []
    blank, line = 0, 1
    try:
        for record in reader:
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in record):
                blank += 1
            elif _is_comment(record, header, wanted):
                if not header and _found([record[0].lstrip(" #"), *record[1:]], wanted) == len(wanted):
                    header = [record[0].lstrip(" #"), *record[1:]]
                else:
                    comments.append(start)
            elif not header:
                header = record
            else:
                rows.append(_fitting(path, record, header, start))
                places.append(f"line {start}")
    except csv.Error as error:
        raise EmotraceError(f"{path}, line {line}: it cannot be read as separated values: {error}") from None
    names = [name.strip() for name in header]
    while names and not names[-1] and not any(row[len(names) - 1].strip() for row in rows):
        names.pop()
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise EmotraceError(f"{path} has the column {twice[0]} twice")
    filled = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
    notes = [f"{SEPARATORS.get(separator, repr(separator))} between columns"]
    if comments:
        notes.append(f"{len(comments)} comment line{'s' * (len(comments) > 1)} (line {_listed(comments)})")
    notes += [f"{blank} empty line{'s' * (blank > 1)}"] if blank else []
    return Rows(pd.DataFrame([row[: len(names)] for row in rows], columns=filled, dtype=object), places, notes)


def _is_comment(record: list[str], header: list[str], wanted: Sequence[Sequence[str]]) -> bool:
    """A line that begins with #; but a text may, where the texts are the first column."""
    if not record[0].lstrip().startswith("#"):
        return False
    text_first = bool(header) and header[0].strip().lower() in {name.lower() for name in wanted[0]}
    return not (text_first and len(record) == len(header))


def _fitting(path: Path, record: list[str], header: list[str], line: int) -> list[str]:
    if len(record) < len(header) or any(cell.strip() for cell in record[len(header) :]):
        raise EmotraceError(
            f"{path}, line {line}: {len(record)} fields, but {len(header)} columns ({', '.join(header)}); a text with "
            "a separator or a line break in it stands in double quotes"
        )
    return record


def _listed(lines: Sequence[int], most: int = 5) -> str:
    return ", ".join(map(str, lines[:most])) + (f" and {len(lines) - most} more" if len(lines) > most else "")


# -- JSON -------------------------------------------------------------------------------------------------------------


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; Python's own reader keeps the last of two values of one name without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise EmotraceError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _json(path: Path, wanted: Sequence[Sequence[str]]) -> Rows:
    text = decoded(path)
    lines = [line for line in lines_of(text) if line.strip()]
    if not lines:
        raise EmotraceError(f"{path} is empty")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except EmotraceError as error:
        raise EmotraceError(f"{path}: {error}") from None
    except RecursionError:
        raise EmotraceError(f"{path} is no JSON of texts: it is nested too deep") from None
    except json.JSONDecodeError as error:
        if (len(lines) > 1 and lines[0].strip().endswith("}")) or path.suffix.lower() != ".json":
            return _json_lines(path, text)
        raise EmotraceError(
            f"{path}, line {error.lineno}, character {error.colno}: it is no JSON ({error.msg})"
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise EmotraceError(f"{path} is no JSON of texts: {first_line(error)}") from None
    if len(lines) == 1 and path.suffix.lower() != ".json" and isinstance(value, dict):
        return _json_lines(path, text)
    return rows_of(value, str(path), wanted)


def _json_lines(path: Path, text: str) -> Rows:
    records, places = [], []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_once)
        except (EmotraceError, ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
            raise EmotraceError(f"{path}, line {number}: it is no JSON ({why})") from None
        if not isinstance(record, dict):
            raise EmotraceError(f"{path}, line {number}: an object {{…}} is wanted on each line, not {shown(record)}")
        records.append(record)
        places.append(f"line {number}")
    return Rows(_table(records), places, ["an object a line"])


def rows_of(value: Any, source: str, wanted: Sequence[Sequence[str]]) -> Rows:
    """Records, columns, or emotions with their texts, as JSON has them or Python does.

    Args:
        value: a list of objects; an object of columns; ``{emotion: [text, …]}``, ``{emotion: [object, …]}`` or
            ``{emotion: {topic: text or [text, …]}}``; an object with a list of objects under one name.
        source: what it is, for messages.
        wanted: the names that the columns text and emotion may have.

    Raises:
        EmotraceError: none of these.
    """
    shapes = "a list of objects, or {emotion: [text, …]}, is wanted"
    if isinstance(value, list):
        for number, record in enumerate(value, 1):
            if not isinstance(record, dict):
                raise EmotraceError(f"{source}, record {number}: {shapes}, not {shown(record)}")
        return Rows(_table(value), [f"record {number}" for number in range(1, len(value) + 1)], ["a list of objects"])
    if not isinstance(value, dict) or not value:
        raise EmotraceError(f"{source}: {shapes}, not {shown(value)}")
    if _found([str(name) for name in value], wanted) == len(wanted):
        return _of_columns(value, source)
    lists = [name for name, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict)]
    if len(lists) == 1 and _found(list(value[lists[0]][0]), wanted) == len(wanted):
        rows = rows_of(value[lists[0]], f"{source}, {lists[0]!r}", wanted)
        others = [str(name) for name in value if name != lists[0]]
        unread = [f"unread: {', '.join(others)}"] if others else []
        return rows._replace(notes=[*rows.notes, f"under {lists[0]!r}", *unread])
    return _of_emotions(value, source)


def _of_columns(value: dict[str, Any], source: str) -> Rows:
    columns = {name: list(part.values()) if isinstance(part, dict) else part for name, part in value.items()}
    columns = {name: part for name, part in columns.items() if isinstance(part, list)}
    sizes = {name: len(part) for name, part in columns.items()}
    if len(set(sizes.values())) > 1:
        raise EmotraceError(
            f"{source}: its columns have {', '.join(f'{n} {name}' for name, n in sizes.items())} values"
        )
    numbers = range(1, next(iter(sizes.values()), 0) + 1)
    return Rows(pd.DataFrame(columns, dtype=object), [f"row {number}" for number in numbers], ["an object of columns"])


def _of_emotions(value: dict[str, Any], source: str) -> Rows:
    records: list[dict[str, Any]] = []
    places: list[str] = []
    for emotion, part in value.items():
        topics = part.items() if isinstance(part, dict) else [(None, part)]
        for topic, texts in topics:
            for number, text in enumerate(texts if isinstance(texts, list) else [texts], 1):
                record = dict(text) if isinstance(text, dict) else {"text": text}
                if topic is not None:
                    record.setdefault("topic", topic)
                records.append({"emotion": emotion, **record})
                places.append(f"{emotion!r}, {f'{topic!r}, ' if topic is not None else ''}text {number}")
    return Rows(_table(records), places, ["an object of emotions"])


def _table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    names = list(dict.fromkeys(name for record in records for name in record))
    cells = {name: pd.Series([record.get(name) for record in records], dtype=object) for name in names}
    return pd.DataFrame(cells, columns=pd.Index(names, dtype=object))


# -- the others -------------------------------------------------------------------------------------------------------


def _parquet(path: Path, wanted: Sequence[Sequence[str]]) -> Rows:
    if not path.is_file():
        raise EmotraceError(f"no file {path}")
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise EmotraceError(f"{path}: pandas reads Parquet with pyarrow: pip install pyarrow") from None
    except Exception as error:  # of whichever engine
        raise EmotraceError(f"{path} cannot be read as Parquet ({first_line(error)})") from None
    return of_table(table, "Parquet")


def of_table(table: pd.DataFrame, what: str = "a table") -> Rows:
    """The rows of a table in memory, numbered from 1."""
    return Rows(table.reset_index(drop=True), [f"row {number}" for number in range(1, len(table) + 1)], [what])


_ENDS = re.compile(r"[.!?…。！？؟।][^\w\s]*$")


def _plain(path: Path, wanted: Sequence[Sequence[str]]) -> Rows:
    """A text a line; or, where one goes over several, empty lines between them: the breaks fall within sentences.

    Raises:
        EmotraceError: it could be either, as a list of texts with an empty line in it could.
    """
    blocks: list[tuple[int, list[str]]] = []
    lines = lines_of(decoded(path).lstrip("\ufeff"))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number > 1 and blocks and lines[number - 2].strip():
            blocks[-1][1].append(line.strip())
        else:
            blocks.append((number, [line.strip()]))
    if len(blocks) > 1 and any(len(block) > 1 for _, block in blocks):
        ends = [bool(_ENDS.search(block[-1])) for _, block in blocks]
        breaks = [bool(_ENDS.search(line)) for _, block in blocks for line in block[:-1]]
        if 2 * sum(ends) <= len(ends) or 2 * sum(breaks) >= len(breaks):
            raise EmotraceError(
                f"{path}, line {blocks[1][0] - 1}: an empty line, and it cannot be told whether such lines stand "
                "between texts: write one text a line without empty lines, or CSV or JSON"
            )
        texts, note = [(number, "\n".join(block)) for number, block in blocks], "empty lines between texts"
    else:
        texts, note = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()], "a text a line"
    cells = pd.DataFrame({"text": [text for _, text in texts]}, dtype=object)
    return Rows(cells, [f"line {number}" for number, _ in texts], [note])


FORMATS: dict[str, Callable[[Path, Sequence[Sequence[str]]], Rows]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
    ".parquet": _parquet,
    ".txt": _plain,
}
"""How a file is read, by the ending of its name."""
