"""The one error that a user can cause. The command line prints it on one line and exits with 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class EmotraceError(Exception):
    """What was wrong, with what, and what would be right, in one sentence."""


class WriteError(EmotraceError):
    """A file cannot be written: no other model would fare better, so a run of several stops at it."""


def unknown(kind: str, name: object, known: object) -> EmotraceError:
    """An :class:`EmotraceError` for a name that is not in ``known``, listing what is."""
    return EmotraceError(f"unknown {kind} {str(name)!r}: known are {', '.join(map(str, known))}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, what keeps ``path`` from being written (a full disk, no permission) becomes a :class:`WriteError`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from None
