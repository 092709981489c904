"""What can go wrong with a request to a server: whether it may pass, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass

from emotrace.errors import EmotraceError, first_line
from emotrace.redaction import redacted


class TooLarge(EmotraceError):
    """The server refused a request for its size, its time or its memory: fewer rows may pass."""


# What allocators say in a RuntimeError: torch's of the CPU (Linux, Windows), oneDNN's, Apple's, and nnsight's wrapping.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "could not create a memory", "out of memory", "bad_alloc")


def too_large(error: BaseException) -> bool:
    """Whether fewer rows at once may pass: the server refused them for their size, or memory ran out here."""
    if isinstance(error, (TooLarge, MemoryError)) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


@dataclass(frozen=True)
class Fault:
    """One failed attempt.

    Attributes:
        reason: one line, without the API key.
        transient: whether another attempt is worth it.
        too_large: whether a smaller request is.
        retry_after: seconds that the server asked to wait, if it did.
    """

    reason: str
    transient: bool = False
    too_large: bool = False
    retry_after: float | None = None

    def error(self) -> EmotraceError:
        return TooLarge(self.reason) if self.too_large else EmotraceError(self.reason)


# Parts of what ndif 0.1.2 says of a job that failed through no fault of its own.
_TRANSIENT = (
    "critical server error",
    "error starting model",
    "error provisioning model",
    "error submitting request",
    "was evicted",
    "cancelled or preempted",
    "reconnecting",
    "temporarily unavailable",
)
_TOO_LARGE = ("execution timeout", "out of memory", "outofmemory", "endpointconnectionerror", "too large")
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


def diagnose(error: BaseException, host: str, key: str = "") -> Fault:
    """What an exception of nnsight's client, httpx or websocket-client means.

    Args:
        error: as it was raised while a request was sent or waited for.
        host: the server's address, for the message.
        key: the API key, which some servers repeat in what they say; it is blotted out in every form.
    """
    import httpx
    import websocket
    from nnsight.intervention.backends.remote import RemoteError

    cause, text = error.__cause__, redacted(str(error), key)
    line = first_line(Exception(text)) if text.strip() else type(error).__name__
    if isinstance(error, websocket.WebSocketBadStatusException):
        return _by_status(error.status_code, line, host, (error.resp_headers or {}).get("retry-after"))
    status_error = error if isinstance(error, httpx.HTTPStatusError) else cause
    if isinstance(status_error, httpx.HTTPStatusError):
        response = status_error.response
        return _by_status(response.status_code, line, host, response.headers.get("retry-after"))
    # What this side refuses to send will not be sent the next time either.
    unsendable = (httpx.LocalProtocolError, httpx.UnsupportedProtocol, UnicodeEncodeError)
    if isinstance(error, unsendable) or isinstance(cause, unsendable):
        return Fault(f"the request to {host} cannot be sent: {_short(line)}")
    if isinstance(error, RemoteError) and not isinstance(cause, httpx.HTTPError):
        return _by_description(text, host)
    if isinstance(error, ConnectionRefusedError | httpx.ConnectError) or isinstance(cause, httpx.ConnectError):
        return Fault(f"the server at {host} cannot be reached", transient=True)
    # A broken frame or answer is the network's doing, as a cut connection is.
    of_the_network = (OSError, EOFError, websocket.WebSocketException, httpx.HTTPError, RemoteError)
    of_an_answer = (ValueError, KeyError, RuntimeError)
    if isinstance(error, of_the_network + of_an_answer):
        return Fault(f"the connection to {host} was lost ({line})", transient=True)
    return Fault(f"the request to {host} failed: {line}")


def _by_status(status: int, message: str, host: str, retry_after: str | None) -> Fault:
    """What an HTTP status means."""
    if status in (401, 403) or "api key" in message.lower():
        return Fault(f"{host} rejects the API key ({_short(message)}): set NDIF_API_KEY, or run `emotrace doctor`")
    if status == 413:
        return Fault(f"{host} refuses a request of this size", too_large=True)
    if status in _TRANSIENT_STATUS:
        seconds = float(retry_after) if retry_after and retry_after.replace(".", "", 1).isdigit() else None
        reason = f"{host} is busy" if status == 429 else f"{host} answers with {status}"
        return Fault(reason, transient=True, retry_after=seconds)
    return Fault(f"{host} refuses the request ({status}): {_short(message)}; see `emotrace doctor`")


def _by_description(text: str, host: str) -> Fault:
    """What a job's own error says."""
    lower, last = text.lower(), _last_line(text)
    if any(part in lower for part in _TOO_LARGE):
        return Fault(f"{host} could not hold a request of this size: {last}", too_large=True)
    if any(part in lower for part in _TRANSIENT):
        return Fault(f"{host}: {last}", transient=True)
    if "could not deploy" in lower or "not deployed" in lower:
        return Fault(f"the model is not deployed on {host}: {last}; `emotrace doctor` lists what is")
    if "doesn't match the one" in lower or "could not be read" in lower or "minimum supported" in lower:
        return Fault(f"client and server do not fit: {last}; `emotrace doctor` compares the versions")
    return Fault(f"the job failed on {host}: {last}")


def _last_line(text: str) -> str:
    """Of a traceback, the line that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _short(lines[-1] if lines else "no reason given")


def _short(text: str) -> str:
    return text if len(text) <= 240 else text[:240] + " …"
