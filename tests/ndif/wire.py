"""What passes between nnsight's client and NDIF, read off the bytes: HTTP heads, the posted job, websocket frames."""

from __future__ import annotations

import hashlib
import json
import re

END_OF_HEAD = b"\r\n\r\n"


def one_request(head: bytes) -> bytes:
    """The head with the connection limited to this request, so that each request has a connection of its own."""
    if re.search(rb"\r\nupgrade:", head, re.IGNORECASE):
        return head
    kept = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE)
    return kept[: -len(END_OF_HEAD)] + b"\r\nConnection: close" + END_OF_HEAD


def content_length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length:\s*(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def status_of(answer: bytes) -> int | None:
    words = bytes(answer[:15]).split(b" ")
    return int(words[1]) if len(words) > 2 and words[1].isdigit() else None


def job_of(request: bytes) -> tuple[str | None, str | None]:
    """Session and sha256 of the job in a POST to ``/request``: a form with the fields ``data`` and ``blob``."""
    head, _, body = request.partition(END_OF_HEAD)
    boundary = re.search(rb"boundary=([^\s;]+)", head)
    if not boundary:
        return None, None
    fields = {}
    for part in body.split(b"--" + boundary[1])[1:-1]:
        described, _, content = part.partition(END_OF_HEAD)
        name = re.search(rb'name="([^"]*)"', described)
        fields[name[1].decode()] = content[: -len(b"\r\n")]
    if not {"data", "blob"} <= set(fields):
        return None, None
    return json.loads(fields["data"]).get("session_id"), hashlib.sha256(fields["blob"]).hexdigest()


class Answer:
    """Follows an HTTP answer as it passes."""

    session: str | None = None

    def __init__(self) -> None:
        self.head = b""
        self.left: int | None = None  # of the body, once the head is known

    def feed(self, chunk: bytes) -> None:
        if self.left is not None:
            self.left -= len(chunk)
            return
        self.head, end, body = (self.head + chunk).partition(END_OF_HEAD)
        if end:
            self.left = content_length(self.head + END_OF_HEAD) - len(body)

    @property
    def status(self) -> int | None:
        return status_of(self.head)

    @property
    def whole(self) -> bool:
        return self.left is not None and self.left <= 0


class Frames:
    """Follows what a websocket's server sends: the session that its first frame names, and whole binary frames."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.status: int | None = None
        self.session: str | None = None
        self.whole = False  # a binary frame, so the result, has passed

    def feed(self, chunk: bytes) -> None:
        self.buffer += chunk
        if self.status is None:
            if END_OF_HEAD not in self.buffer:
                return
            self.status = status_of(self.buffer)
            del self.buffer[: self.buffer.index(END_OF_HEAD) + len(END_OF_HEAD)]
        while self.status == 101 and (frame := self._next()):
            opcode, payload = frame
            self.whole = self.whole or opcode == 2
            if opcode == 1 and self.session is None:
                self.session = json.loads(payload).get("session_id")

    def _next(self) -> tuple[int, bytes] | None:
        """The next whole frame; a server's are not masked, and NDIF's are not fragmented."""
        if len(self.buffer) < 2:
            return None
        size, start = self.buffer[1] & 127, 2
        if size > 125:
            wide = 2 if size == 126 else 8
            start += wide
            if len(self.buffer) < start:
                return None
            size = int.from_bytes(self.buffer[2:start])
        if len(self.buffer) < start + size:
            return None
        opcode, payload = self.buffer[0] & 15, bytes(self.buffer[start : start + size])
        del self.buffer[: start + size]
        return opcode, payload
