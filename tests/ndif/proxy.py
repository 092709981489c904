"""A proxy on the loopback interface that does to a client's connections what networks and busy servers do.

    with Proxy(server.url, Schedule(seed=0, rate=0.3)) as proxy:
        …  # the client talks to proxy.url
    proxy.counts, proxy.jobs

HTTP requests and the websocket pass through; a fault strikes one connection. A remote job is two connections: a
websocket at ``/subscribe``, whose first frame names the session and whose one binary frame is the result, and a POST
to ``/request`` with the session and the job. What passed is kept, so that a test can tell which jobs reached the
server, and whose result reached the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import wire

Result = TypeVar("Result")
LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 16
_PARTING = 5.0


@dataclass(frozen=True)
class Fault:
    """What befalls a connection.

    ``refuse``: closed (reset) before anything is answered. ``drop``: closed once ``after`` bytes of the answer have
    passed. ``stall``: nothing more passes after that many, but the connection stays open, until the client has gone or
    ``seconds`` are over. ``cut``: closed once ``after`` bytes of the request have passed. ``answer``: answered with
    ``status`` by the proxy, with ``Retry-After`` if ``seconds`` is set; the server sees none of it.
    """

    kind: str
    after: int = 0
    seconds: float | None = None
    status: int = 503

    @property
    def name(self) -> str:
        return str(self.status) if self.kind == "answer" else self.kind


REFUSE = Fault("refuse")
SOME = (
    REFUSE,
    Fault("drop"),
    Fault("drop", after=400),
    Fault("cut", after=500),
    Fault("stall"),
    Fault("stall", after=400),
    Fault("answer", status=429, seconds=0),
    *(Fault("answer", status=status) for status in (500, 502, 503)),
)


class Schedule:
    """Seeded faults: the n-th connection to a path meets one of ``faults`` with probability ``rate``.

    Whether it does depends on the seed, the path and n alone. At most ``in_a_row`` strike one path in succession, so
    that a client that tries once more than that gets through.
    """

    def __init__(
        self,
        seed: int,
        rate: float,
        faults: tuple[Fault, ...] = SOME,
        *,
        in_a_row: int = 2,
        paths: tuple[str, ...] = ("/subscribe", "/request"),
    ) -> None:
        self.seed, self.rate, self.faults, self.in_a_row, self.paths = seed, rate, faults, in_a_row, paths
        self._seen: Counter[str] = Counter()
        self._row: Counter[str] = Counter()

    def __call__(self, path: str) -> Fault | None:
        if path not in self.paths:
            return None
        self._seen[path] += 1
        draw = random.Random(f"{self.seed} {path} {self._seen[path]}")
        struck = draw.random() < self.rate and self._row[path] < self.in_a_row
        self._row[path] = self._row[path] + 1 if struck else 0
        return draw.choice(self.faults) if struck else None


@dataclass
class Exchange:
    """One connection: what was asked, what befell it, and how far it came."""

    method: str
    path: str
    fault: Fault | None
    sent: int = 0  # bytes of the request that reached the server, its head included
    received: int = 0  # bytes of the answer that reached the client
    status: int | None = None  # of the answer that the client got
    session: str | None = None
    job: str | None = None  # a POST's: sha256 of the serialised job, the same whenever a client sends it again
    reached: bool = False  # the server has the whole request
    delivered: bool = False  # the client has the whole answer; a websocket's: the result


@dataclass
class Job:
    """A serialised job: how often the server got it whole, and how often its result came back whole."""

    sha256: str
    reached: int = 0
    delivered: int = 0


@dataclass
class Proxy:
    """Stands between a client and ``target`` (``http://host:port``); a context manager.

    ``schedule(path)`` gives the fault of each connection, unless one was set for it by ``inject``. ``delay`` is the
    latency of the network: whatever is sent, in either direction, arrives so many seconds later.
    """

    target: str
    schedule: Callable[[str], Fault | None] = lambda path: None
    delay: float = 0.0
    url: str = field(default="", init=False)

    def __post_init__(self) -> None:
        address = urlsplit(self.target)
        self._host, self._port = address.hostname, address.port
        self._exchanges: list[Exchange] = []
        self._planned: dict[str, deque[Fault | None]] = defaultdict(deque)
        self._loop = asyncio.new_event_loop()
        self._listener: asyncio.Server | None = None
        self._own_port = 0

    def __enter__(self) -> Proxy:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def inject(self, path: str, *faults: Fault | None) -> None:
        """The faults of the next connections to this path, in order; None lets one pass."""
        self._planned[path].extend(faults)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Within, nothing listens: connections are refused by the system itself."""
        self._call(self._close())
        try:
            yield
        finally:
            self._call(self._listen())

    @property
    def exchanges(self) -> list[Exchange]:
        """Every connection so far, in order; whatever a client has got is counted."""
        return list(self._exchanges) if self._loop.is_closed() else self._call(self._so_far())

    @property
    def counts(self) -> Counter[str]:
        """How many faults of each kind have struck."""
        return Counter(exchange.fault.name for exchange in self.exchanges if exchange.fault)

    @property
    def jobs(self) -> dict[str, Job]:
        """Every job of which the server got at least one whole copy, by its sha256."""
        exchanges = self.exchanges
        results = {one.session for one in exchanges if one.path == "/subscribe" and one.delivered}
        found: dict[str, Job] = {}
        for one in exchanges:
            if one.job is not None and one.reached:
                job = found.setdefault(one.job, Job(one.job))
                job.reached += 1
                job.delivered += one.session in results
        return found

    # -- in the proxy's own thread --------------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _so_far(self) -> list[Exchange]:
        return list(self._exchanges)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, LOOPBACK, self._own_port, limit=_CHUNK)
        self._own_port = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self._own_port}"

    async def _close(self) -> None:
        self._listener.close()
        own = asyncio.current_task()
        connections = [task for task in asyncio.all_tasks() if task is not own]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(wire.END_OF_HEAD)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()
            return
        method, path = head.split(b" ", 2)[:2]
        path = urlsplit(path.decode()).path
        planned = self._planned[path]
        fault = planned.popleft() if planned else self.schedule(path)
        exchange = Exchange(method.decode(), path, fault)
        self._exchanges.append(exchange)
        try:
            if fault and fault.kind == "refuse":
                _reset(writer)
            elif fault and fault.kind == "answer":
                await _answer(reader, writer, head, fault, exchange)
            else:
                await self._relay(reader, writer, wire.one_request(head), exchange)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the proxy is closing: both end here
        finally:
            writer.transport.abort()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, exchange: Exchange
    ) -> None:
        try:
            answers, requests = await asyncio.open_connection(self._host, self._port)
        except OSError:
            _reset(writer)
            return
        carriers = []
        if self.delay:
            (reader, up), (answers, down) = _later(reader, self.delay), _later(answers, self.delay)
            carriers = [up, down]
            await asyncio.sleep(self.delay)  # the head of the request
        there = asyncio.create_task(_pass_request(reader, requests, head, exchange))
        back = asyncio.create_task(_pass_answer(answers, writer, exchange))
        try:
            # The client's leaving ends the request's direction; the server's end or a fault, the answer's.
            done, _ = await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (there, back, *carriers):
                task.cancel()
            await asyncio.gather(there, back, *carriers, return_exceptions=True)
            requests.transport.abort()
            writer.close()  # what was passed still goes out
            with contextlib.suppress(ConnectionError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), _PARTING)


def _later(source: asyncio.StreamReader, seconds: float) -> tuple[asyncio.StreamReader, asyncio.Task]:
    """What ``source`` gives, so many seconds later; nothing waits for what came before it."""
    loop, late = asyncio.get_running_loop(), asyncio.StreamReader(limit=_CHUNK)

    async def carry() -> None:
        try:
            while chunk := await source.read(_CHUNK):
                loop.call_later(seconds, late.feed_data, chunk)
        except ConnectionError as error:
            loop.call_later(seconds, late.set_exception, error)
        else:
            loop.call_later(seconds, late.feed_eof)

    return late, asyncio.create_task(carry())


async def _pass_request(
    reader: asyncio.StreamReader, server: asyncio.StreamWriter, head: bytes, exchange: Exchange
) -> None:
    """Passes the request on; returns when the client has gone, or when the request is to be cut."""
    fault, total = exchange.fault, len(head) + wire.content_length(head)
    seen = bytearray()
    chunk = head
    while chunk:
        if fault and fault.kind == "cut":
            chunk = chunk[: max(0, fault.after - exchange.sent)]
        seen += chunk if exchange.sent < total else b""
        server.write(chunk)
        await server.drain()
        exchange.sent += len(chunk)
        if not exchange.reached and exchange.sent >= total:
            exchange.reached = True
            exchange.session, exchange.job = wire.job_of(bytes(seen)) if exchange.method == "POST" else (None, None)
        if fault and fault.kind == "cut" and exchange.sent >= fault.after:
            return
        chunk = await reader.read(_CHUNK)


async def _pass_answer(reader: asyncio.StreamReader, client: asyncio.StreamWriter, exchange: Exchange) -> None:
    """Passes the answer back; returns at its end, or when the fault strikes."""
    fault = exchange.fault
    limit = fault.after if fault and fault.kind in ("drop", "stall") else None
    answer = wire.Frames() if exchange.path == "/subscribe" else wire.Answer()
    while chunk := await reader.read(_CHUNK):
        if limit is not None:
            chunk = chunk[: limit - exchange.received]
        client.write(chunk)
        # Counted before anything else can happen here, so that whoever has these bytes finds them counted.
        answer.feed(chunk)
        exchange.received += len(chunk)
        exchange.status, exchange.delivered = answer.status, answer.whole
        exchange.session = exchange.session or answer.session
        await client.drain()
        if limit is not None and exchange.received >= limit:
            if fault.kind == "stall":
                await asyncio.sleep(3600 if fault.seconds is None else fault.seconds)
            return


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, fault: Fault, exchange: Exchange
) -> None:
    left = wire.content_length(head)
    while left > 0 and (chunk := await reader.read(min(left, _CHUNK))):
        left -= len(chunk)
    body = json.dumps({"detail": f"answered {fault.status} by the proxy"}).encode()
    after = "" if fault.seconds is None else f"Retry-After: {fault.seconds:g}\r\n"
    writer.write(
        f"HTTP/1.1 {fault.status} fault\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{after}Connection: close\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    writer.write_eof()
    await reader.read()  # until the client has read it and gone
    exchange.status = fault.status


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes so that the client is told at once, as when nothing had been there."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
