"""Traces on a server: NDIF, one's own NDIF, or nnsight's simulation of one in this process (``remote="local"``).

A trace leaves as source with the values that it names, runs beside the model, and what it saved comes back. The code of
emotrace is the same as for a local model: ``with model.trace(batch) as tracer: ...``. Only nnsight's ``backend``, which
the handle gives to its traces, differs.

A server is busy, restarts, and drops connections. :class:`emotrace.hosts.ndif_backend.PatientBackend` sends a finished
payload again where the fault may pass, with growing pauses and an end to them; where it cannot, it fails at once with
one clear message. The block of the ``with`` is serialised once, so nothing of the caller's runs twice. A job whose
answer was lost is computed again: the protocol has no way to ask for it a second time.

The network's latency is hidden: :func:`answers` has the next request under way while the server computes the last one.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from emotrace.errors import EmotraceError
from emotrace.hosts import patience
from emotrace.hosts.patience import Traffic, api_key, patiently, to_stderr
from emotrace.hosts.threads import Turn
from emotrace.instrument import corpus

if TYPE_CHECKING:
    from nnsight.modeling.transformers import TransformersModel
    from nnsight.tracing.backend import Backend

Job = TypeVar("Job")
Answer = TypeVar("Answer")

IN_FLIGHT = 2
"""Requests of one model that are under way at once: one is computed, the other travels. More would only queue."""


@dataclass
class Remote:
    """Where a model's traces run.

    Attributes:
        where: ``local`` (nnsight's simulation), or the server's address.
        key: the name by which the server knows the model; empty for the simulation.
        traffic: counts.
        say: told in one line about each wait.
        packing: held by the thread that serialises a trace.
    """

    where: str
    key: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    say: Callable[[str], None] = to_stderr
    packing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def backend(self, nn: TransformersModel, lock: Turn) -> Backend:
        """A fresh backend of nnsight for one trace, generation or session of the model that ``lock`` belongs to."""
        import nnsight

        from emotrace import in_trace

        nnsight.register(in_trace)  # it travels by value: the server has no emotrace
        if self.where == "local":
            from nnsight.intervention.backends.local import LocalSimulationBackend

            from emotrace.hosts.turns import InTurn

            return InTurn(lock, LocalSimulationBackend(nn))
        from emotrace.hosts.ndif_backend import PatientBackend

        env = nn._remoteable_get_env()
        return PatientBackend(self.key, self.where, env, self.traffic, self.say, self.packing)


def answers(
    remote: Remote | None, jobs: Iterable[Job], compute: Callable[[Job], Answer]
) -> Iterator[tuple[Job, Answer]]:
    """Each job and what ``compute`` makes of it, in order; on a server :data:`IN_FLIGHT` of them at once.

    In this process one is done after the other. What is under way when a job fails, or when the caller stops, is not
    waited for.
    """
    if remote is None or remote.where == "local":
        for job in jobs:
            yield job, compute(job)
        return
    waiting: deque[tuple[Job, Future[Answer]]] = deque()
    for job in jobs:
        waiting.append((job, _begun(compute, job)))
        if len(waiting) == IN_FLIGHT:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _begun(compute: Callable[[Job], Answer], job: Job) -> Future[Answer]:
    """In a daemon thread: those of a pool would be joined at exit, and a queue may be an hour long."""
    future: Future[Answer] = Future()

    def work() -> None:
        try:
            future.set_result(compute(job))
        except BaseException as error:  # raised where the answer is asked for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def address(remote: bool | str) -> str:
    """``local``, the address given, or the one that nnsight is configured with (``NDIF_HOST``).

    Raises:
        EmotraceError: an address that is none.
    """
    from nnsight import CONFIG

    where = CONFIG.API.HOST if remote is True else str(remote)
    if where == "local":
        return where
    parts = urllib.parse.urlsplit(where) if where.isprintable() else urllib.parse.SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise EmotraceError(f"remote is True, 'local' or a server's address (https://…), not {where!r}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise EmotraceError(
            "the server's address holds a user or a query: it is https://HOST, and the key NDIF_API_KEY"
        )
    return where.rstrip("/")


class Deployment(NamedTuple):
    """One model on a server: the key that it is asked for by, and what the server says of it, if anything."""

    key: str
    revision: str = "unknown"
    dtype: str = "unknown"


def deployment(where: str, hub_id: str) -> Deployment:
    """What the server at ``where`` says of a model; its default key if it lists none, since some deploy on demand.

    Raises:
        EmotraceError: the server cannot be reached, for as long as :data:`emotrace.hosts.patience.PATIENCE` waits.
    """
    for deployed in ask(where, "/status").get("deployments", {}).values():
        key = deployed.get("model_key", "")
        same_name = deployed.get("repo_id") == hub_id and "TransformersModel:" in key
        if same_name and deployed.get("task") == "text-generation":
            return Deployment(key, deployed.get("revision") or "main", deployed.get("dtype") or "unknown")
    default = {"repo_id": hub_id, "revision": None, "task": "text-generation"}
    return Deployment("nnsight.modeling.transformers.TransformersModel:" + json.dumps(default))


def ask(where: str, path: str, attempts: int | None = None) -> dict[str, Any]:
    """One GET of a JSON object, tried again where the fault may pass, up to ``attempts`` times; empty if it is none."""
    import httpx

    key = api_key()
    headers = {"ndif-api-key": key} if key else None
    timeout = httpx.Timeout(patience.PATIENCE.silence, connect=patience.PATIENCE.connect)

    def get() -> dict[str, Any]:
        answer = httpx.get(where + path, headers=headers, timeout=timeout)
        answer.raise_for_status()
        content = answer.json()
        return content if isinstance(content, dict) else {}

    return patiently(get, where, attempts=attempts)


def hub_id(name: str) -> str:
    """The hub id of a model of the registry; any other name as it is."""
    registry = corpus.model_registry()
    return str(registry.loc[name, "hub_id"]) if name in registry.index else name
