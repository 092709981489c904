"""How a server is waited for: attempts, pauses, and a count of what went over the wire."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from emotrace.errors import EmotraceError
from emotrace.hosts.faults import diagnose
from emotrace.redaction import AROUND

T = TypeVar("T")


@dataclass
class Patience:
    """How long a server is waited for.

    Attributes:
        attempts: at most so many for one request.
        pause: seconds before the second attempt; doubled before each further one.
        longest_pause: seconds at most.
        connect: seconds for a connection to be made.
        silence: seconds without a word from the server, to which pings are sent, before a connection counts as dead.
        longest_job: seconds without news of a job whose server answers pings: long queues are waited for.
    """

    attempts: int = 8
    pause: float = 1.0
    longest_pause: float = 30.0
    connect: float = 10.0
    silence: float = 60.0
    longest_job: float = 3600.0

    def before(self, attempt: int, retry_after: float | None) -> float:
        """Seconds to wait before ``attempt`` (2, 3, …): what the server asked for, or growing.

        The growing ones have a random part, so that many clients do not come back at once.
        """
        if retry_after is not None:
            return min(retry_after, 4 * self.longest_pause)
        return min(self.pause * 2 ** (attempt - 2), self.longest_pause) * random.uniform(0.75, 1.25)


PATIENCE = Patience()
_counting = threading.Lock()


@dataclass
class Traffic:
    """What went over the wire for one model: requests that were answered, those sent again, bytes of payload."""

    requests: int = 0
    retries: int = 0
    sent: int = 0
    received: int = 0

    def count(self, **more: int) -> None:
        """Adds to the counts, whatever thread it is."""
        with _counting:
            for name, number in more.items():
                setattr(self, name, getattr(self, name) + number)


def patiently(
    send: Callable[[], T], host: str, say: Callable[[str], None] | None = None, attempts: int | None = None
) -> T:
    """The result of ``send``, called again after a growing pause where a fault may pass.

    Args:
        send: one attempt.
        host: the server's address, for messages.
        say: told in one line about each wait; default: standard error.
        attempts: at most; default: as many as :data:`PATIENCE` has.

    Raises:
        EmotraceError: a fault that does not pass, or that has not after the last attempt; ``TooLarge`` among them.
    """
    key, attempts = api_key(), attempts or PATIENCE.attempts
    for attempt in range(1, attempts + 1):
        try:
            return send()
        except Exception as error:
            fault = diagnose(error, host, key)
        if not fault.transient:
            raise fault.error()
        if attempt < attempts:
            wait = PATIENCE.before(attempt + 1, fault.retry_after)
            (say or to_stderr)(f"{fault.reason}; attempt {attempt + 1} of {attempts} in {wait:.1f} s")
            time.sleep(wait)
    raise EmotraceError(fault.reason + (f"; given up after {attempts} attempts" if attempts > 1 else ""))


def to_stderr(line: str) -> None:
    """Prints a line on standard error."""
    print(f"emotrace: {line}", file=sys.stderr)


def api_key() -> str:
    """From ``NDIF_API_KEY`` or nnsight's configuration, without blanks and quotes around it; empty if there is none.

    Raises:
        EmotraceError: it has a character that no request can carry; the key itself is not named.
    """
    from nnsight import CONFIG

    key = (CONFIG.API.APIKEY or "").strip(AROUND)
    wrong = [number for number, character in enumerate(key, 1) if not " " <= character <= "~"]
    if wrong:
        raise EmotraceError(
            f"the NDIF API key (NDIF_API_KEY) cannot be sent: its character {wrong[0]} of {len(key)} is no printable "
            "ASCII character; set it anew"
        )
    return key
