"""The server is restarted, refuses, dies under a client, fails to start; and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import clients
import nnsight
import pytest
import served
import server as servers
import torch
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.modeling.transformers import TransformersModel

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def local(tiny_folder: Callable[..., Path]) -> TransformersModel:
    return clients.loaded(tiny_folder("llama"))


@pytest.fixture(scope="module")
def remote(tiny_folder: Callable[..., Path]) -> TransformersModel:
    return clients.weightless(tiny_folder("llama"))


def backend(url: str, model: TransformersModel, key: str = "") -> RemoteBackend:
    job = clients.backend(url, model, served.TINY)
    job.api_key = key
    return job


def test_the_api_restarts_at_its_address_and_the_models_stay(
    server: servers.Server, local: TransformersModel, remote: TransformersModel
) -> None:
    url, before = server.url, server.processes
    server.restart("api")
    assert server.url == url
    assert torch.equal(clients.sums(remote, backend(url, remote), "one two"), clients.sums(local, None, "one two"))
    actors = {pid for pid, command in before.items() if "ray::Actor" in command or ":ModelActor:" in command}
    assert len(actors) == len(server.models)
    assert actors <= set(server.processes)
    assert not {pid for pid, command in before.items() if "gunicorn" in command} & set(server.processes)


def test_a_client_whose_server_dies_during_a_job_is_told_at_once(
    server: servers.Server, local: TransformersModel, remote: TransformersModel, tmp_path: Path
) -> None:
    runs, ended, died = tmp_path / "runs", tmp_path / "ended", []

    def kill_once_it_runs() -> None:
        while not runs.exists():
            time.sleep(0.05)
        server.kill("api")
        died.append(time.monotonic())

    death = threading.Thread(target=kill_once_it_runs, daemon=True)
    death.start()
    try:
        with pytest.raises(Exception, match=r"lost|closed|reset"):
            _sleep_there(remote, backend(server.url, remote), 15, str(runs), str(ended))
        assert not ended.exists()  # so it was not the job's end that told it
        told = time.monotonic()
    finally:
        runs.touch()
        death.join()
        server.restart("api")
    assert told - died[0] < 8
    # The model goes on with the job that nobody waits for; NDIF would run the next one beside it, and both would fail.
    patience = time.monotonic() + 60
    while not ended.exists() and time.monotonic() < patience:
        time.sleep(0.1)
    time.sleep(1)
    assert torch.equal(clients.sums(remote, backend(server.url, remote), "one"), clients.sums(local, None, "one"))


def _sleep_there(model: TransformersModel, job: RemoteBackend, seconds: float, begun: str, ended: str) -> None:
    with model.trace("one", backend=job):
        import pathlib
        import time as clock

        pathlib.Path(begun).touch()
        clock.sleep(seconds)
        pathlib.Path(ended).touch()
        nnsight.save(model.model.layers[0].output)


@pytest.fixture
def gated(server: servers.Server) -> Iterator[servers.Server]:
    yield server
    server.gate()


def test_keys_are_refused(gated: servers.Server, local: TransformersModel, remote: TransformersModel) -> None:
    gated.gate(keys=True)
    for key, status, message in (
        ("", 401, "Missing or invalid API key"),
        ("none-such", 400, "Invalid API key format"),
        ("00000000-0000-4000-8000-000000000000", 503, "Auth backend unavailable"),
    ):
        with pytest.raises(RemoteError, match=message) as caught:
            clients.sums(remote, backend(gated.url, remote, key), "one two")
        assert caught.value.__cause__.response.status_code == status
    gated.gate()
    assert torch.equal(clients.sums(remote, backend(gated.url, remote), "one"), clients.sums(local, None, "one"))


def test_old_clients_are_refused(gated: servers.Server, remote: TransformersModel) -> None:
    gated.gate(oldest_nnsight="99.0")
    with pytest.raises(RemoteError, match=r"below the minimum supported 99\.0") as caught:
        clients.sums(remote, backend(gated.url, remote), "one two")
    assert caught.value.__cause__.response.status_code == 400


def test_everything_restarts_at_its_address(
    server: servers.Server, local: TransformersModel, remote: TransformersModel
) -> None:
    url, before = server.url, set(server.processes)
    server.kill()
    try:
        assert server.processes == {}
        assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]
        with pytest.raises(ConnectionRefusedError):
            clients.sums(remote, backend(url, remote), "one two")
    finally:
        server.restart()
    assert torch.equal(clients.sums(remote, backend(url, remote), "one two"), clients.sums(local, None, "one two"))


# Run with a server of its own, which it leaves with Ray up and nothing more.
PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from server import Server

class Interrupted(Server):
    def _start_api(self):
        Path({told!r}).write_text(f"{{self.folder}} {{' '.join(map(str, self.processes))}}")
        {act}

with Interrupted({{"a/b": Path({folder!r})}}):
    pass
"""


@pytest.mark.parametrize(
    ("act", "code", "logs"),
    [("raise OSError('no')", 1, 1), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, 0)],
    ids=["fails", "is killed"],
)
def test_nothing_is_left_by_a_program_that(
    tiny_folder: Callable[..., Path], tmp_path: Path, act: str, code: int, logs: int
) -> None:
    told = tmp_path / "told"
    program = textwrap.dedent(PROGRAM).format(here=str(HERE), folder=str(tiny_folder("llama")), told=str(told), act=act)
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=400,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == code
    folder, *pids = told.read_text().split()
    assert len(pids) > 5  # all of Ray
    patience = time.monotonic() + 30
    while time.monotonic() < patience and (_alive(pids) or Path(folder).exists()):
        time.sleep(0.1)
    assert not _alive(pids)
    assert not Path(folder).exists()
    kept = list(tmp_path.glob("ndif-logs-*/ray.log"))
    assert len(kept) == logs
    assert all(str(log.parent) in run.stderr for log in kept)  # it says where they are


def _alive(pids: list[str]) -> list[str]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


class WithoutRedis(servers.Server):
    def _start_redis(self, port: int) -> None:
        self._start("redis", sys.executable, "-c", "raise SystemExit('it has no room')")


def test_a_server_that_does_not_come_up_says_why(
    tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    impossible = WithoutRedis({"a/b": tiny_folder("llama")})
    with pytest.raises(RuntimeError, match=r"did not come up: redis ended") as caught, impossible:
        pass
    assert "it has no room" in str(caught.value)  # the end of its log
    assert not impossible.folder.exists()
    assert "logs are in" in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a/b cannot be served"):
        servers.Server({"a/b": tmp_path}).start()


def test_a_server_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="make test-ndif installs it"):
        servers.Server({}, environment=tmp_path).start()
