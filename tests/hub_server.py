"""A stand-in of the model hub on this machine: repositories are made, take a commit, and give their files back."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """What it holds, and what it was asked.

    Attributes:
        repos: repository → file → content; what is private stands in ``private``.
        seen: method, path and key of every request.
        refusal: status and text with which every change is answered, if any.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.seen: list[tuple[str, str, str]] = []
        self.messages: list[str] = []
        self.refusal: tuple[int, str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(("POST", self.path, self.headers.get("Authorization", "")))
        if self.server.refusal:
            status, text = self.server.refusal
            return self.answer(status, json.dumps({"error": text}).encode(), X_Error_Message=text)
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            exists = repo in self.server.repos
            self.server.repos.setdefault(repo, {})
            if not exists and (asked.get("private") or asked.get("visibility") == "private"):
                self.server.private.add(repo)
            answer = {"url": f"{self.server.address}/{repo}", "name": repo}
        elif path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif path.endswith("/commit/main"):
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.server.messages.append(line["value"]["summary"])
                else:
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repos[repo][line["value"]["path"]] = content
            answer = {"commitUrl": f"{self.server.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT}
        else:  # the check of a card's header
            answer = {"errors": [], "warnings": []}
        return self.answer(200, json.dumps(answer).encode())

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization", "")))
        repo, verb, file = self.path.strip("/").partition("/resolve/")
        files = self.server.repos.get(repo)
        if files is None or not verb:
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        if (content := files.get(file.partition("/")[2])) is None:
            return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.answer(200, content, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A stand-in that listens until the block ends."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
