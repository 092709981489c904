"""Runs the processes of a test server and ends every one of them when whoever asked for them stops or dies.

A program of its own (``python keeper.py FOLDER``), because a test process that is killed cannot tidy up after itself.
It reads one JSON request a line and answers each with a line. When its input ends, or its parent is gone, it kills all
its descendants and removes FOLDER. As a subreaper it inherits processes whose own parents died, so none escapes.
Linux only.

Requests: ``{"do": "start", "name", "command", "env", "cwd", "log"}``, ``{"do": "kill", "name"}`` and ``{"do":
"codes"}`` are answered with the exit code of each service, null while it runs; ``{"do": "list"}`` with every process
there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SERVICE = "NDIF_TEST_SERVICE"  # names a process's service in its environment, for those whose parent has died
_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_POLL = 0.5
_PATIENCE = 60.0  # seconds for the dead to be gone


class Keeper:
    def __init__(self) -> None:
        self.started: dict[str, subprocess.Popen] = {}
        self.ended: dict[int, int] = {}

    def answer(self, request: dict) -> dict:
        self.reap()
        if request["do"] == "start":
            self.start(**{key: value for key, value in request.items() if key != "do"})
        elif request["do"] == "kill":
            self.kill(request["name"])
        if request["do"] == "list":
            return {"processes": {str(pid): _command(pid) for pid in _descendants(os.getpid())}}
        return {"codes": {name: self.ended.get(child.pid) for name, child in self.started.items()}}

    def start(self, name: str, command: list[str], env: dict[str, str], cwd: str, log: str) -> None:
        with open(log, "ab") as output:
            self.started[name] = subprocess.Popen(
                command,
                env={**env, SERVICE: name},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self, name: str | None = None) -> None:
        """Kills a service with all that it started, or everything; again and again while new ones appear.

        Returns once the system has none of them any more, for a process with many threads ends a while after its death.
        """
        killed = set()
        while victims := self.of(name):
            killed |= victims
            for pid in victims:
                _remove_sandbox_socket(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
            self.reap()
        patience = time.monotonic() + _PATIENCE
        while time.monotonic() < patience and any(Path(f"/proc/{pid}").exists() for pid in killed):
            time.sleep(0.02)
            self.reap()
        if name is not None:
            self.started.pop(name, None)

    def of(self, name: str | None) -> set[int]:
        everything = _descendants(os.getpid())
        if name is None:
            return everything
        child = self.started.get(name)
        tree = {child.pid, *_descendants(child.pid)} if child and child.pid not in self.ended else set()
        return tree | {pid for pid in everything if _environment(pid).get(SERVICE) == name}

    def reap(self, options: int = os.WNOHANG) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, options)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.ended[pid] = os.waitstatus_to_exitcode(status)


def _descendants(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, grew = {root}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grew = bool(more)
        found |= more
    return found - {root}


def _environment(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in raw.split("\0") if "=" in pair)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _remove_sandbox_socket(pid: int) -> None:
    """A sandbox runner keeps its socket outside the server's folder and, killed, cannot remove it."""
    words = _command(pid).split()
    if "ndif.services.ray.sandbox.runner" in words:
        Path(words[words.index("ndif.services.ray.sandbox.runner") + 1]).unlink(missing_ok=True)


def _requests(parent: int, keeper: Keeper) -> Iterator[dict]:
    """Requests from standard input, until it ends or the parent has gone."""
    pending = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], _POLL)[0]:
            keeper.reap()
            continue
        received = os.read(0, 1 << 16)
        if not received:
            return
        *lines, pending = (pending + received).split(b"\n")
        yield from (json.loads(line) for line in lines)


def main(folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = Keeper()
    try:
        for request in _requests(os.getppid(), keeper):
            print(json.dumps(keeper.answer(request)), flush=True)
    except BrokenPipeError:
        pass
    finally:
        keeper.kill()
        keeper.reap(0)  # so that none is there any more, not even as a zombie
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
