"""The error that a user can cause. The command line prints it on one line and exits with 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path


class EmotraceError(Exception):
    """Says in one sentence what was wrong, with what, and what would be right."""


class WriteError(EmotraceError):
    """A file cannot be written. A run of several models stops at it, since the next would fare no better."""


def unknown(kind: str, name: object, known: Iterable[object]) -> EmotraceError:
    """An :class:`EmotraceError` for a name that is not in ``known``, listing what is."""
    return EmotraceError(f"unknown {kind} {str(name)!r}: known are {', '.join(map(str, known))}")


def first_line(error: BaseException) -> str:
    """The first line with words in what an exception says, or its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's errors (a full disk, no permission) into a :class:`WriteError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from None
