"""The proxy alone, before a web server that is there for this only."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import wire
from proxy import REFUSE, SOME, Fault, Proxy, Schedule

BODY = bytes(range(256)) * 40
SESSION, BLOB = "a1b2", b"\r\n--what\x00looks like a boundary\r\n" * 50


class _Echo(BaseHTTPRequestHandler):
    """Answers a GET with BODY, and a POST with the length of what came whole; keeps the lengths."""

    protocol_version = "HTTP/1.1"
    posts: list[int]

    def do_GET(self) -> None:
        self._answer(BODY)

    def do_POST(self) -> None:
        asked = int(self.headers["Content-Length"])
        got = len(self.rfile.read(asked))
        if got == asked:
            self.posts.append(got)
            self._answer(str(got).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:  # as the client asked
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[type[_Echo]]:
    handler = type("Echo", (_Echo,), {"posts": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        handler.url = f"http://127.0.0.1:{listening.server_port}"
        yield handler
        listening.shutdown()


@pytest.fixture
def proxy(echo: type[_Echo]) -> Iterator[Proxy]:
    with Proxy(echo.url) as running:
        yield running


def post(url: str, blob: bytes = BLOB) -> httpx.Response:
    return httpx.post(
        f"{url}/request", data={"data": f'{{"session_id": "{SESSION}"}}'}, files={"blob": ("request", blob)}, timeout=5
    )


def test_everything_passes_unchanged_and_is_counted(proxy: Proxy, echo: type[_Echo]) -> None:
    with httpx.Client() as client:  # it would keep its connection: each request must still be seen
        for _ in range(3):
            assert client.get(f"{proxy.url}/thing?a=1").content == BODY
    assert [int(post(proxy.url).text)] == echo.posts
    assert [one.path for one in proxy.exchanges] == ["/thing"] * 3 + ["/request"]
    assert all(one.reached and one.delivered and one.status == 200 for one in proxy.exchanges)
    assert all(one.received > len(BODY) for one in proxy.exchanges[:3])
    assert proxy.exchanges[3].sent > len(BLOB)
    assert not proxy.counts


def test_what_is_sent_arrives_later_and_is_not_slowed_down(echo: type[_Echo]) -> None:
    blob = bytes(3_000_000)
    seconds = {}
    for delay in (0.0, 0.2):
        with Proxy(echo.url, delay=delay) as proxy:
            start = time.monotonic()
            assert int(post(proxy.url, blob).text) > len(blob)
            seconds[delay] = time.monotonic() - start
    assert 0.4 <= seconds[0.2] < seconds[0.0] + 2  # there and back, and not once for each of 46 chunks


def test_a_job_is_known_by_its_bytes_and_its_session(proxy: Proxy) -> None:
    for blob in (BLOB, BLOB, BLOB[:-1]):
        post(proxy.url, blob)
    assert {sha256: job.reached for sha256, job in proxy.jobs.items()} == {
        hashlib.sha256(BLOB).hexdigest(): 2,
        hashlib.sha256(BLOB[:-1]).hexdigest(): 1,
    }
    assert {one.session for one in proxy.exchanges} == {SESSION}
    assert all(job.delivered == 0 for job in proxy.jobs.values())  # no websocket brought a result


@pytest.mark.parametrize("fault", [REFUSE, Fault("drop"), Fault("drop", after=300), Fault("drop", after=9000)])
def test_refused_and_dropped(proxy: Proxy, fault: Fault) -> None:
    proxy.inject("/thing", fault)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{proxy.url}/thing")
    (struck,) = proxy.exchanges
    assert struck.received == fault.after
    assert struck.reached == (fault.kind == "drop")
    assert not struck.delivered
    assert proxy.counts == {fault.kind: 1}
    assert httpx.get(f"{proxy.url}/thing").content == BODY  # the next is not struck


def test_refused_is_reset_at_once(proxy: Proxy) -> None:
    proxy.inject("/thing", REFUSE)
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(b"GET /thing HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_what_a_drop_lets_through_arrives(proxy: Proxy) -> None:
    proxy.inject("/thing", Fault("drop", after=9000))
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=5)
    connection.request("GET", "/thing")
    with pytest.raises(http.client.IncompleteRead) as caught:
        connection.getresponse().read()
    connection.close()
    received = caught.value.partial
    assert 8000 < len(received) < 9000  # the head is part of the 9000
    assert BODY.startswith(received)


@pytest.mark.parametrize("after", [0, 100, 1000])
def test_a_request_cut_short_never_counts_as_a_job(proxy: Proxy, echo: type[_Echo], after: int) -> None:
    proxy.inject("/request", Fault("cut", after=after))
    with pytest.raises(httpx.TransportError):
        post(proxy.url)
    assert proxy.exchanges[0].sent == after
    assert echo.posts == []
    assert proxy.jobs == {}


def test_an_answer_that_is_lost_leaves_a_job_that_was_done(proxy: Proxy, echo: type[_Echo]) -> None:
    proxy.inject("/request", Fault("drop"))
    with pytest.raises(httpx.TransportError):
        post(proxy.url)
    assert len(echo.posts) == 1
    assert [job.reached for job in proxy.jobs.values()] == [1]


def test_a_stall_outlasts_the_client(proxy: Proxy) -> None:
    proxy.inject("/thing", Fault("stall", after=200))
    began = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{proxy.url}/thing", timeout=0.5)
    assert 0.4 < time.monotonic() - began < 3
    assert proxy.exchanges[0].received == 200


def test_a_stall_may_end(proxy: Proxy) -> None:
    proxy.inject("/thing", Fault("stall", after=200, seconds=0.3))
    began = time.monotonic()
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{proxy.url}/thing", timeout=5)
    assert 0.2 < time.monotonic() - began < 3


@pytest.mark.parametrize(("status", "seconds"), [(429, 7), (500, None), (502, None), (503, 0.5)])
def test_answers_of_its_own(proxy: Proxy, echo: type[_Echo], status: int, seconds: float | None) -> None:
    proxy.inject("/request", Fault("answer", status=status, seconds=seconds))
    answer = post(proxy.url, BLOB * 100)
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == (None if seconds is None else f"{seconds:g}")
    assert str(status) in answer.json()["detail"]
    assert echo.posts == []  # the server saw nothing of it
    assert proxy.jobs == {}
    assert proxy.counts == {str(status): 1}


def test_down_is_refused_by_the_system_and_up_again_at_the_same_address(proxy: Proxy) -> None:
    url = proxy.url
    with proxy.down(), pytest.raises(httpx.ConnectError, match="refused"):
        httpx.get(f"{url}/thing")
    assert proxy.url == url
    assert httpx.get(f"{url}/thing").content == BODY


def test_a_server_that_is_away_is_passed_on_as_a_reset(echo: type[_Echo]) -> None:
    with Proxy("http://127.0.0.1:1") as lone, pytest.raises(httpx.TransportError):
        httpx.get(lone.url)


def test_a_schedule_depends_on_its_seed_and_the_number_of_the_connection_alone() -> None:
    def drawn(seed: int, rate: float = 0.4, n: int = 400) -> list[Fault | None]:
        schedule = Schedule(seed, rate)
        return [schedule("/request") for _ in range(n)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    mixed = Schedule(0, 0.4)
    between = []
    for _ in range(400):
        mixed("/subscribe")
        between.append(mixed("/request"))
    assert between == drawn(0)  # other paths change nothing
    struck = [fault is not None for fault in drawn(0)]
    assert "111" not in "".join("01"[one] for one in struck)  # two in a row at the most
    assert 0.25 < sum(struck) / len(struck) < 0.4
    assert set(drawn(0)) == {*SOME, None}
    assert not any(drawn(0, rate=0.0))
    assert Schedule(0, 1.0)("/thing") is None


def test_a_schedule_is_followed(echo: type[_Echo]) -> None:
    schedule = Schedule(3, 0.5, (REFUSE, Fault("answer", status=503)), paths=("/thing",))
    expected = [schedule("/thing") for _ in range(40)]
    met = []
    with Proxy(echo.url, Schedule(3, 0.5, (REFUSE, Fault("answer", status=503)), paths=("/thing",))) as proxy:
        for _ in range(40):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{proxy.url}/thing")
        met = [one.fault for one in proxy.exchanges]
    assert met == expected
    assert proxy.counts == {
        "refuse": expected.count(REFUSE),
        "503": sum(f is not None for f in expected) - expected.count(REFUSE),
    }


@pytest.mark.parametrize("step", [1, 3, 7, 10_000])
@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_every_size_cut_anywhere(step: int, size: int) -> None:
    def frame(opcode: int, payload: bytes) -> bytes:
        n = len(payload)
        short = bytes([n]) if n < 126 else bytes([126]) + n.to_bytes(2) if n < 1 << 16 else bytes([127]) + n.to_bytes(8)
        return bytes([128 | opcode]) + short + payload

    stream = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    stream += (
        frame(1, b'{"session_id": "s1"}') + frame(1, b'{"status": "QUEUED"}') + frame(9, b"") + frame(2, b"\x01" * size)
    )
    frames = wire.Frames()
    for start in range(0, len(stream) - 1, step):
        frames.feed(stream[start : min(start + step, len(stream) - 1)])
    assert (frames.status, frames.session) == (101, "s1")
    assert not frames.whole  # one byte of it is still to come
    frames.feed(stream[-1:])
    assert frames.whole
