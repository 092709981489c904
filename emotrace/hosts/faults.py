"""What can go wrong with a request to a server: whether it may pass, and what to tell."""

from __future__ import annotations

from dataclasses import dataclass

from emotrace.errors import EmotraceError


class TooLarge(EmotraceError):
    """The server refused a request for its size, its time or its memory: fewer rows may pass."""


@dataclass(frozen=True)
class Fault:
    """One failed attempt.

    Attributes:
        what: one line, without the API key.
        passing: whether another attempt is worth it.
        smaller: whether a smaller request is.
        wait: seconds that the server asked to wait, if it did.
    """

    what: str
    passing: bool
    smaller: bool = False
    wait: float | None = None

    def error(self) -> EmotraceError:
        return TooLarge(self.what) if self.smaller else EmotraceError(self.what)


# Parts of what ndif 0.1.2 says of a job that failed through no fault of its own.
_PASSING = (
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
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


def diagnose(error: BaseException, host: str, key: str = "") -> Fault:
    """What an exception of nnsight's client, httpx or websocket-client means.

    Args:
        error: as it was raised while a request was sent or waited for.
        host: the server's address, for the message.
        key: the API key, which some servers repeat in what they say; it is blotted out.
    """
    fault = _diagnose(error, host)
    return Fault(_without(fault.what, key), fault.passing, fault.smaller, fault.wait) if key else fault


def _without(text: str, key: str) -> str:
    return text.replace(key, "…")


def _diagnose(error: BaseException, host: str) -> Fault:
    import httpx
    import websocket
    from nnsight.intervention.backends.remote import RemoteError

    cause = error.__cause__
    if isinstance(error, websocket.WebSocketBadStatusException):
        return _by_status(error.status_code, _first_line(error), host, (error.resp_headers or {}).get("retry-after"))
    response = error if isinstance(error, httpx.HTTPStatusError) else cause
    if isinstance(response, httpx.HTTPStatusError):
        answer = response.response
        return _by_status(answer.status_code, _first_line(error), host, answer.headers.get("retry-after"))
    if isinstance(error, RemoteError) and not isinstance(cause, httpx.HTTPError):
        return _by_description(str(error), host)
    if isinstance(error, (ConnectionRefusedError, httpx.ConnectError)) or isinstance(cause, httpx.ConnectError):
        return Fault(f"the server at {host} cannot be reached", passing=True)
    # A broken frame or answer is the network's doing, as a cut connection is.
    if isinstance(
        error,
        (
            OSError,
            EOFError,
            websocket.WebSocketException,
            httpx.HTTPError,
            RemoteError,
            ValueError,
            KeyError,
            RuntimeError,
        ),
    ):
        return Fault(f"the connection to {host} was lost ({_first_line(error)})", passing=True)
    return Fault(f"the request to {host} failed: {_first_line(error)}", passing=False)


def _by_status(status: int, said: str, host: str, retry_after: str | None) -> Fault:
    if status in (401, 403) or "api key" in said.lower():
        return Fault(
            f"{host} rejects the API key ({_short(said)}): set NDIF_API_KEY, or run `emotrace doctor`", passing=False
        )
    if status == 413:
        return Fault(f"{host} refuses a request of this size", passing=False, smaller=True)
    if status in _PASSING_STATUS:
        wait = float(retry_after) if retry_after and retry_after.replace(".", "", 1).isdigit() else None
        what = "is busy" if status == 429 else f"answers with {status}"
        return Fault(f"{host} {what}", passing=True, wait=wait)
    return Fault(f"{host} refuses the request ({status}): {_short(said)}; see `emotrace doctor`", passing=False)


def _by_description(text: str, host: str) -> Fault:
    """What a job's own error says."""
    lower = text.lower()
    if any(part in lower for part in _TOO_LARGE):
        return Fault(f"{host} could not hold a request of this size: {_last_line(text)}", False, smaller=True)
    if any(part in lower for part in _PASSING):
        return Fault(f"{host}: {_last_line(text)}", passing=True)
    if "could not deploy" in lower or "not deployed" in lower:
        return Fault(
            f"the model is not deployed on {host}: {_last_line(text)}; `emotrace doctor` lists what is", passing=False
        )
    if "doesn't match the one" in lower or "could not be read" in lower or "minimum supported" in lower:
        return Fault(
            f"client and server do not fit: {_last_line(text)}; `emotrace doctor` compares the versions", passing=False
        )
    return Fault(f"the job failed on {host}: {_last_line(text)}", passing=False)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_line(text: str) -> str:
    """Of a traceback, the line that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _short(lines[-1] if lines else "no reason given")


def _short(text: str) -> str:
    return text if len(text) <= 240 else text[:240] + " …"
