"""The one error that a user can cause. The command line prints it on one line and exits with 2."""


class EmotraceError(Exception):
    """What was wrong, with what, and what would be right, in one sentence."""


class WriteError(EmotraceError):
    """A file cannot be written: no other model would fare better, so a run of several stops at it."""


def unknown(kind: str, name: object, known: object) -> EmotraceError:
    """An :class:`EmotraceError` for a name that is not in ``known``, listing what is."""
    return EmotraceError(f"unknown {kind} {str(name)!r}: known are {', '.join(map(str, known))}")
