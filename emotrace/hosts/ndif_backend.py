"""nnsight's blocking backend with patience. A module of its own, since importing nnsight's takes a while."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import websocket
from nnsight.intervention.backends import remote as nnsight_remote
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import Tracer

from emotrace.hosts import patience
from emotrace.hosts.patience import Traffic, patiently
from emotrace.hosts.torch_settings import as_shipped


class PatientBackend(RemoteBackend):
    """nnsight's own gives up at the first fault, and after some faults waits for ever. This one tries again.

    Threads of one model take turns at serialising, and wait for the server side by side.

    Args:
        model_key: the name by which the server knows the model.
        host: the server's address.
        env: nnsight's settings for the request.
        traffic: what is sent and received is counted in it.
        say: told in one line about each wait.
        packing: the model's own lock, held while a trace is serialised.
    """

    def __init__(
        self,
        model_key: str,
        host: str,
        env: dict[str, Any],
        traffic: Traffic,
        say: Callable[[str], None],
        packing: threading.Lock,
    ) -> None:
        # nnsight's ten minutes are long for an answer that only says "received".
        nnsight_remote._READ_TIMEOUT = patience.PATIENCE.silence
        super().__init__(model_key, host=host, env=env)
        self.api_key = patience.api_key()  # nnsight's own may end in a newline
        self.traffic, self.say, self.packing = traffic, say, packing

    def request(self, request: RequestModel, tracer: Tracer) -> dict[str, Any] | None:
        """Serialises the trace once and sends it until a result comes."""
        self.display.enabled = False  # a progress bar is on the screen already
        with self.packing, as_shipped():
            blob = self._serialize(tracer)

        def announce(line: str) -> None:
            self.traffic.count(retries=1)
            self.say(line)

        result = patiently(lambda: self._attempt(request, blob), self.host, announce)
        self.traffic.count(requests=1)
        return result

    def _attempt(self, request: RequestModel, blob: bytes) -> dict[str, Any] | None:
        self.traffic.count(sent=len(blob))
        header = {"ndif-api-key": self.api_key} if self.api_key else None
        connection = websocket.create_connection(
            f"{self.ws_host}/subscribe", header=header, timeout=patience.PATIENCE.connect
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
                with contextlib.suppress(OSError, websocket.WebSocketException):
                    return self._result(connection, patience.PATIENCE.connect)
                raise
            return self._result(connection, patience.PATIENCE.longest_job)
        finally:
            connection.close()

    def _result(self, connection: websocket.WebSocket, longest: float) -> dict[str, Any] | None:
        """The job's result, waited for until ``longest`` seconds bring no news of it, or a ping gets no answer."""
        silence = patience.PATIENCE.silence
        connection.settimeout(min(silence, longest) / 4)
        last_word = last_news = time.monotonic()
        while True:
            now = time.monotonic()
            if now - last_word > silence or now - last_news > longest:
                since = last_word if now - last_word > silence else last_news
                raise TimeoutError(f"no word for {now - since:.0f} s")
            try:
                # With control frames, so that the answer to a ping counts as a word of the server.
                opcode, data = connection.recv_data(control_frame=True)
            except websocket.WebSocketTimeoutException:
                connection.ping()
                continue
            last_word = time.monotonic()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise ConnectionResetError("closed by the server")
            if opcode not in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
                continue
            last_news = last_word
            # Once the server speaks of the job, it has it, and any wait is the job's own.
            longest = patience.PATIENCE.longest_job
            self.traffic.count(received=len(data))
            response = self.parse(data if opcode == websocket.ABNF.OPCODE_BINARY else data.decode())
            if self.note(response):
                return self.download_result(response.data)


def _unanswered(error: RemoteError) -> bool:
    """Whether a request went out and no answer came: it may have arrived, or not."""
    return isinstance(error.__cause__, httpx.TransportError) and not isinstance(error.__cause__, httpx.ConnectError)
