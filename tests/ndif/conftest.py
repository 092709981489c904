"""A real NDIF server for the tests of this folder, which ``make test-ndif`` runs; ``make test`` leaves them out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nnsight
import proxy as proxies
import pytest
import server as servers
import torch

from emotrace.hosts import cpu_attention, cpu_matmul
from emotrace.hosts.sources import DEFAULT_MODEL, resolve
from emotrace.instrument import corpus

HUB_ID = corpus.model_registry().loc[DEFAULT_MODEL, "hub_id"]
TINY = "emotrace-tests/llama"  # a hub id that no hub knows
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


def weights(name: str = DEFAULT_MODEL) -> Path:
    """The folder of a packaged model, as ``save_pretrained`` would write it."""
    return Path(resolve(name, lambda line: None)[0])


@contextlib.contextmanager
def aimed(url: str, key: str = "") -> Iterator[None]:
    """Within, nnsight's remote requests go to ``url`` with this API key, and nothing is drawn on the terminal."""
    api, app = nnsight.CONFIG.API, nnsight.CONFIG.APP
    before = api.HOST, api.APIKEY, app.REMOTE_LOGGING
    api.HOST, api.APIKEY, app.REMOTE_LOGGING = url, key, False
    try:
        yield
    finally:
        api.HOST, api.APIKEY, app.REMOTE_LOGGING = before
