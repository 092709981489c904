"""Reads a CSV file of texts, as spreadsheets write them, into a table of strings."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emotrace.errors import EmotraceError, named

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# The longer mark first: that of UTF-16 is the beginning of UTF-32's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file as a table of strings.

    The encoding is UTF-8, or UTF-16 or UTF-32 with a byte order mark. The separator (comma, semicolon or tab) is the
    one that finds most of ``columns`` in the first line. Empty lines, and empty cells at the right, are skipped.

    Raises:
        EmotraceError: the file is missing or unreadable, in another encoding, empty, lacks one of ``columns``, names
            one twice, or has a row that is longer or shorter than the first line.
    """
    rows = _rows(path, decoded(path), columns)
    header = [name.strip() for name in rows[0]]
    while header and not header[-1] and all(len(row) < len(header) or not row[-1] for row in rows[1:]):
        rows = [row[: len(header) - 1] for row in rows]
        header.pop()
    missing = [column for column in columns if column not in header]
    if missing:
        raise EmotraceError(
            f"{path} lacks the column {', '.join(missing)}: it needs {', '.join(columns)}, with "
            f"{', '.join(SEPARATORS.values())} between them"
        )
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise EmotraceError(f"{path} has the column {', '.join(twice)} twice")
    for number, row in enumerate(rows[1:], 2):
        if len(row) < len(header) or any(row[len(header) :]):
            raise EmotraceError(
                f"{path}, row {number}: {len(row)} fields, but {len(header)} columns; a text with a separator or "
                "a line break in it stands in double quotes"
            )
    if len(rows) == 1:
        raise EmotraceError(f"{path} has no rows")
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    return pd.DataFrame([row[: len(names)] for row in rows[1:]], columns=names)


def decoded(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        EmotraceError: it is missing or unreadable, is in another encoding, or holds NUL characters.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise EmotraceError(f"no file {path}") from None
    except OSError as error:
        raise EmotraceError(f"{named(path)} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise EmotraceError(f"no file {named(path)}: no path has a zero character") from None
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise EmotraceError(
            f"{path}, line {line}: it cannot be read: byte {error.start} is not {encoding.upper()}; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise EmotraceError(f"{path} cannot be read: it is no text")
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a file. ``str.splitlines`` would break texts at form feeds and at Unicode's own separators, too."""
    return re.split(r"\r\n?|\n", text)


def _rows(path: Path, text: str, columns: Sequence[str]) -> list[list[str]]:
    """All rows that are not empty, the first line first."""
    first = lines_of(text.lstrip("\r\n"))[0]
    if not first:
        raise EmotraceError(f"{path} cannot be read as CSV: it is empty")
    separator = max(SEPARATORS, key=lambda sign: len({name.strip(' "') for name in first.split(sign)} & {*columns}))
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise EmotraceError(f"{path} cannot be read as CSV: {error}") from None
    return [row for row in rows if row]
