"""A real NDIF server for the tests of this folder, which ``make test-ndif`` runs; ``make test`` leaves them out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nnsight
import proxy as proxies
import pytest
import server as servers
import torch
from served import HUB_ID, TINY, weights

from emotrace.hosts import cpu_attention, cpu_matmul

REQUIRED = "EMOTRACE_NDIF_REQUIRED"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if servers.installed() or os.environ.get(REQUIRED):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no NDIF server is installed: make test-ndif installs and runs it"))


@pytest.fixture(autouse=True)
def _alike_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server's threads and attention, so that results are bit-equal; a job's progress is not drawn."""
    monkeypatch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)
    monkeypatch.setattr(cpu_attention, "LONGEST", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def server(tiny_folder: Callable[..., Path]) -> Iterator[servers.Server]:
    """A server with SmolLM2 and a tiny llama, one thread each, so that results are bit-equal to a client's with one."""
    models = {HUB_ID: weights(), TINY: tiny_folder("llama")}
    with servers.Server(models, onednn=cpu_matmul.choose() == "oneDNN") as running:
        yield running
        pids = running.processes
    assert not running.folder.exists()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def proxy(server: servers.Server) -> Iterator[proxies.Proxy]:
    """A proxy before the server; it passes everything on until told otherwise (``inject``, ``schedule``)."""
    with proxies.Proxy(server.url) as running:
        yield running
