"""The error that a user can cause. The command line prints it on one line and exits with 2."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from emotrace.redaction import redacted


class EmotraceError(Exception):
    """Says in one sentence what was wrong, with what, and what would be right; never a key or token."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class WriteError(EmotraceError):
    """A file cannot be written. A run of several models stops at it, since the next would fare no better."""


EXTRAS = {
    "study": ("matplotlib", "adjustText", "fontTools", "sklearn", "threadpoolctl", "filelock"),
    "embedded": ("gguf",),
    "remote": ("httpx", "websocket"),
    "notebooks": ("ipywidgets", "IPython"),
}
"""What each extra of the package brings, by the names that are imported; the core does without."""


def missing_extra(module: str) -> EmotraceError | None:
    """The error for a library that an extra brings and that is not installed; None of any other library."""
    for extra, modules in EXTRAS.items():
        if module.partition(".")[0] in modules:
            return EmotraceError(f'{module} is not installed: pip install "emotrace[{extra}]" brings it')
    return None


def require(extra: str) -> None:
    """Refuses to go on without the libraries of an extra, none of which is imported.

    Raises:
        EmotraceError: one of them is not installed.
    """
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None and (error := missing_extra(module)):
            raise error


@contextlib.contextmanager
def of_extra() -> Iterator[None]:
    """Around an import: where its library is not installed and an extra brings it, the error says which."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "") or error from None


def unknown(kind: str, name: object, known: Iterable[object]) -> EmotraceError:
    """An :class:`EmotraceError` for a name that is not in ``known``, listing what is."""
    return EmotraceError(f"unknown {kind} {shown(str(name))}: known are {', '.join(map(str, known))}")


def shown(value: Any) -> str:
    """A value in a message: on one line, and not too long."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 60 else f"{line[:60]}…"


def named(path: Path) -> str:
    """A path in a message: on one line, and no longer than file systems take."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(path))
    return line if len(line) <= 256 else f"{line[:256]}…"


def first_line(error: BaseException) -> str:
    """The first line with words in what an exception says, without keys and tokens, or its type's name."""
    return next((line.strip() for line in redacted(str(error)).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's errors (a full disk, no permission) into a :class:`WriteError` that names ``path``."""
    try:
        if b"\0" in os.fsencode(path):
            raise OSError("no path has a zero character")
        yield
    except OSError as error:
        raise WriteError(f"{named(path)} cannot be written: {error.strerror or error}") from None
    except UnicodeEncodeError:  # half of a surrogate pair
        raise WriteError(f"{named(path)} cannot be written: it cannot be encoded") from None
