"""The server answers as a local model does, cannot import emotrace, and listens on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import clients
import httpx
import loopback
import nnsight
import proxy as proxies
import pytest
import served
import server as servers
import torch
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.modeling.transformers import TransformersModel

HERE = Path(__file__).parent
LAYERS = (0, 14, 29)


@pytest.fixture(scope="module")
def local() -> TransformersModel:
    return clients.loaded(served.weights())


@pytest.fixture(scope="module")
def remote() -> TransformersModel:
    model = clients.weightless(served.weights())
    assert next(model._module.parameters()).device.type == "meta"
    return model


def backend(url: str, model: TransformersModel) -> RemoteBackend:
    return clients.backend(url, model, served.HUB_ID)


def test_it_is_up_with_its_models_and_says_its_versions(server: servers.Server) -> None:
    status = httpx.get(f"{server.url}/status", timeout=60).json()["deployments"]
    running = {one["repo_id"]: one for one in status.values() if one.get("application_state") == "RUNNING"}
    assert set(running) == {served.HUB_ID, served.TINY}
    assert running[served.HUB_ID]["model_key"] == servers.model_key(served.HUB_ID)
    assert running[served.HUB_ID]["n_params"] == 134_515_008
    packages = httpx.get(f"{server.url}/env", timeout=60).json()["packages"]
    assert packages["nnsight"] == nnsight.__version__
    assert packages["ndif"] == "0.1.2"
    assert packages["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_server_cannot_import_emotrace(server: servers.Server, remote: TransformersModel) -> None:
    attempt = "import importlib.util as u; print(u.find_spec('emotrace'), u.find_spec('cpu_actor') is not None)"
    assert server.python(attempt).split() == ["None", "True"]
    job = backend(server.url, remote)
    with pytest.raises(RemoteError, match="ModuleNotFoundError: No module named 'emotrace'"):
        _import_there(remote, job)  # in the actor itself


def _import_there(model: TransformersModel, job: RemoteBackend) -> None:
    with model.trace(clients.PROMPT, backend=job):
        import emotrace

        nnsight.save(emotrace.__version__)


def test_states_and_tokens_are_those_of_a_local_model(
    server: servers.Server, local: TransformersModel, remote: TransformersModel
) -> None:
    ours, our_logits = clients.read(local, None)
    theirs, their_logits = clients.read(remote, backend(server.url, remote))
    assert [tuple(one.shape) for one in theirs] == [(1, 7, 576)] * len(LAYERS)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert torch.equal(our_logits, their_logits)
    steered = clients.written(local, None, 20.0)
    assert torch.equal(steered, clients.written(remote, backend(server.url, remote), 20.0))
    assert not torch.equal(steered, clients.written(local, None, 0.0))  # so the edit took part


def test_two_clients_at_once_get_their_own_results(server: servers.Server, local: TransformersModel) -> None:
    program = textwrap.dedent("""
        import sys
        sys.path[:0] = {paths!r}
        import clients, served, nnsight, torch
        from emotrace.hosts import cpu_matmul
        nnsight.CONFIG.APP.REMOTE_LOGGING = False  # it would be drawn between the lines below
        cpu_matmul.choose()
        torch.set_num_threads(1)
        model = clients.weightless(served.weights())
        for turn in range(4):
            job = clients.backend({url!r}, model, served.HUB_ID)
            _, logits = clients.read(model, job, "word " * {words} + str(turn))
            print(logits.argmax().item(), logits.sum().item())
    """)
    paths = [str(HERE), str(HERE.parent)]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program.format(paths=paths, url=server.url, words=words)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        for words in (2, 5)
    ]
    told = [run.communicate(timeout=300)[0].splitlines() for run in runs]
    for words, lines in zip((2, 5), told, strict=True):
        expected = [clients.read(local, None, "word " * words + str(turn))[1] for turn in range(4)]
        assert lines == [f"{one.argmax().item()} {one.sum().item()}" for one in expected]
    assert told[0] != told[1]


def test_a_job_is_two_connections_and_its_result_is_counted(
    proxy: proxies.Proxy, local: TransformersModel, remote: TransformersModel
) -> None:
    states, logits = clients.read(remote, backend(proxy.url, remote))
    assert torch.equal(logits, clients.read(local, None)[1])
    listening, posted = proxy.exchanges
    assert (listening.path, listening.status) == ("/subscribe", 101)
    assert (posted.path, posted.status) == ("/request", 200)
    assert listening.session == posted.session
    assert [(job.reached, job.delivered) for job in proxy.jobs.values()] == [(1, 1)]
    payload = 4 * sum(one.numel() for one in (*states, logits))
    assert 0.9 * payload < listening.received < 1.1 * payload + 4000  # floats hardly compress


def test_a_result_that_is_lost_is_told_from_one_that_came(proxy: proxies.Proxy, remote: TransformersModel) -> None:
    proxy.inject("/subscribe", proxies.Fault("drop", after=3000))  # in the middle of the result
    with pytest.raises(Exception, match=r"lost|closed|reset"):
        clients.read(remote, backend(proxy.url, remote))
    assert [(job.reached, job.delivered) for job in proxy.jobs.values()] == [(1, 0)]


def test_nothing_listens_beyond_the_loopback_interface(server: servers.Server) -> None:
    ports = {port: address for pid in server.processes for address, port in loopback.listeners(pid)}
    assert server.api_port in ports
    assert len(ports) > 10  # Redis, Ray's services and workers
    assert set(ports.values()) == {loopback.LOOPBACK}
