"""Traces on a server: NDIF, one's own NDIF, or nnsight's simulation of one in this process (``remote="local"``).

A trace leaves as source with the values that it names, runs beside the model, and what it saved comes back. The code of
emotrace is the same as for a local model; only the ``backend`` that its traces are given differs:

    with nn.trace(batch, backend=model.backend()) as tracer: ...

A server is busy, restarts, and drops connections. :class:`PatientBackend` sends a finished payload again, with growing
pauses and an end to them, where the fault may pass; where it cannot, it fails at once with one clear message. The block
of the ``with`` is serialised once, so nothing of the caller's runs twice. A job whose answer was lost is computed again:
the protocol has no way to ask for it a second time.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from emotrace.errors import EmotraceError
from emotrace.hosts.faults import TooLarge, diagnose

if TYPE_CHECKING:
    from emotrace.models import Model

T = TypeVar("T")
Rows = TypeVar("Rows", bound=Sequence)


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

    def before(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait before ``attempt`` (2, 3, …): what the server asked for, or growing, with a random part so
        that many clients do not come back at once."""
        if asked is not None:
            return min(asked, 4 * self.longest_pause)
        return min(self.pause * 2 ** (attempt - 2), self.longest_pause) * random.uniform(0.75, 1.25)


PATIENCE = Patience()


@dataclass
class Traffic:
    """What went over the wire for one model: requests that were answered, those sent again, bytes of payload."""

    requests: int = 0
    retries: int = 0
    sent: int = 0
    received: int = 0


@dataclass
class Remote:
    """Where a model's traces run.

    Attributes:
        where: ``local`` (nnsight's simulation), or the server's address.
        key: the name by which the server knows the model; empty for the simulation.
        traffic: counts.
        say: told in one line about each wait.
    """

    where: str
    key: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    say: Callable[[str], None] = field(default_factory=lambda: _say)

    def backend(self, nn: Any) -> Any:
        """A fresh backend of nnsight for one trace, generation or session."""
        import nnsight

        from emotrace import in_trace

        nnsight.register(in_trace)  # it travels by value: the server has no emotrace
        if self.where == "local":
            from nnsight.intervention.backends.local import LocalSimulationBackend

            return LocalSimulationBackend(nn)
        return _patient(self, nn)


def address(remote: bool | str) -> str:
    """``local``, the address given, or the one that nnsight is configured with (``NDIF_HOST``).

    Raises:
        EmotraceError: an address that is none.
    """
    from nnsight import CONFIG

    where = CONFIG.API.HOST if remote is True else str(remote)
    if where != "local" and not where.startswith(("http://", "https://")):
        raise EmotraceError(f"remote is True, 'local' or a server's address (https://…), not {remote!r}")
    return where.rstrip("/")


class Deployment(NamedTuple):
    """One model on a server: the key that it is asked for by, and what the server tells of it (``unknown``: nothing)."""

    key: str
    revision: str = "unknown"
    dtype: str = "unknown"


def deployment(where: str, hub_id: str) -> Deployment:
    """What the server at ``where`` says of a model; its default key if it lists none, since some deploy on demand.

    Raises:
        EmotraceError: the server cannot be reached, for as long as :data:`PATIENCE` waits.
    """
    for about in ask(where, "/status").get("deployments", {}).values():
        key = about.get("model_key", "")
        if about.get("repo_id") == hub_id and "TransformersModel:" in key and about.get("task") == "text-generation":
            return Deployment(key, about.get("revision") or "main", about.get("dtype") or "unknown")
    about = {"repo_id": hub_id, "revision": None, "task": "text-generation"}
    return Deployment("nnsight.modeling.transformers.TransformersModel:" + json.dumps(about))


def ask(where: str, path: str) -> Any:
    """One GET of JSON, tried again where the fault may pass."""
    import httpx

    headers = {"ndif-api-key": api_key()} if api_key() else None

    def once() -> Any:
        answer = httpx.get(
            where + path, headers=headers, timeout=httpx.Timeout(PATIENCE.silence, connect=PATIENCE.connect)
        )
        answer.raise_for_status()
        return answer.json()

    return patiently(once, where)


def patiently(once: Callable[[], T], where: str, waits: Callable[[str], None] | None = None) -> T:
    """The result of ``once``, called again after a growing pause where a fault may pass.

    Raises:
        EmotraceError: a fault that does not pass, or that has not after the last attempt; :class:`TooLarge` among them.
    """
    for attempt in range(1, PATIENCE.attempts + 1):
        try:
            return once()
        except Exception as error:
            fault = diagnose(error, where, api_key())
        if not fault.passing:
            raise fault.error()
        if attempt < PATIENCE.attempts:
            wait = PATIENCE.before(attempt + 1, fault.wait)
            (waits or _say)(f"{fault.what}; attempt {attempt + 1} of {PATIENCE.attempts} in {wait:.1f} s")
            time.sleep(wait)
    raise EmotraceError(f"{fault.what}; given up after {PATIENCE.attempts} attempts")


def _say(line: str) -> None:
    print(f"emotrace: {line}", file=sys.stderr)


def hub_id(name: str) -> str:
    """The hub id of a model of the registry; any other name as it is."""
    from emotrace.instrument import corpus

    registry = corpus.model_registry()
    return str(registry.loc[name, "hub_id"]) if name in registry.index else name


def api_key() -> str:
    """From ``NDIF_API_KEY`` or nnsight's configuration; empty if there is none."""
    from nnsight import CONFIG

    return CONFIG.API.APIKEY or ""


def in_parts(model: Model, rows: Rows, compute: Callable[[Rows], T]) -> list[T]:
    """``compute`` over the rows in as few parts as the server, or the GPU, takes.

    A part that is refused for its size is halved, and all later batches of the model are split alike.
    """
    import torch

    results: list[T] = []
    place = 0
    while place < len(rows):
        width = max(1, -(-len(rows) // model.parts))
        part = rows[place : place + width]
        try:
            results.append(compute(part))
        except (TooLarge, torch.cuda.OutOfMemoryError) as error:
            if len(part) == 1:
                raise EmotraceError(f"one row alone is too large: {error}") from error
            model.parts *= 2
            continue
        place += width
    return results


# -- the backend ------------------------------------------------------------------------------------------------------


def _patient(remote: Remote, nn: Any) -> Any:
    """A :class:`PatientBackend`; its class is made here because nnsight's takes a while to import."""
    import websocket
    from nnsight.intervention.backends import remote as nnsights
    from nnsight.intervention.backends.remote import RemoteBackend, RemoteError

    nnsights._READ_TIMEOUT = PATIENCE.silence  # its own ten minutes are long for an answer that only says "received"
    lost = (OSError, websocket.WebSocketException)

    class PatientBackend(RemoteBackend):
        """nnsight's blocking backend, which by itself gives up at the first fault and may wait for ever at the others."""

        def request(self, request: Any, tracer: Any) -> Any:
            self.display.enabled = False  # a progress bar is on the screen already
            blob = self._serialize(tracer)

            def waits(line: str) -> None:
                remote.traffic.retries += 1
                remote.say(line)

            result = patiently(lambda: self._once(request, blob), self.host, waits)
            remote.traffic.requests += 1
            return result

        def _once(self, request: Any, blob: bytes) -> Any:
            remote.traffic.sent += len(blob)
            header = {"ndif-api-key": self.api_key} if self.api_key else None
            connection = websocket.create_connection(
                f"{self.ws_host}/subscribe", header=header, timeout=PATIENCE.connect
            )
            try:
                # The server names the subscription before anything is sent, so that no word of it is missed.
                request.session_id = json.loads(connection.recv())["session_id"]
                try:
                    self.send(request, blob)
                except RemoteError as error:
                    if not _unanswered(error):
                        raise
                    # The request may have arrived all the same: then its result comes, and nothing is computed twice.
                    with contextlib.suppress(*lost):
                        return self._listen(connection, PATIENCE.connect)
                    raise
                return self._listen(connection, PATIENCE.longest_job)
            finally:
                connection.close()

        def _listen(self, connection: Any, patience: float) -> Any:
            """Until the result comes; or no news of the job for ``patience`` seconds, or not even an answer to a ping."""
            connection.settimeout(min(PATIENCE.silence, patience) / 4)
            heard = news = time.monotonic()
            while True:
                now = time.monotonic()
                if now - heard > PATIENCE.silence or now - news > patience:
                    raise TimeoutError(f"no word for {now - (heard if now - heard > PATIENCE.silence else news):.0f} s")
                try:
                    # With control frames, so that the answer to a ping counts as a word of the server.
                    opcode, data = connection.recv_data(control_frame=True)
                except websocket.WebSocketTimeoutException:
                    connection.ping()
                    continue
                heard = time.monotonic()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    raise ConnectionResetError("closed by the server")
                if opcode not in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
                    continue
                news = heard
                # Once the server speaks of the job, it has it, and any wait is the job's own.
                patience = PATIENCE.longest_job
                remote.traffic.received += len(data)
                response = self.parse(data if opcode == websocket.ABNF.OPCODE_BINARY else data.decode())
                if self.note(response):
                    return self.download_result(response.data)

    return PatientBackend(remote.key, host=remote.where, env=nn._remoteable_get_env())


def _unanswered(error: BaseException) -> bool:
    """Whether a request went out and no answer came: it may have arrived, or not."""
    import httpx

    return isinstance(error.__cause__, httpx.TransportError) and not isinstance(error.__cause__, httpx.ConnectError)
