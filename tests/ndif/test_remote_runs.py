"""emotrace on a real server: the numbers and texts as here, few bytes, little memory, and no fault loses anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import proxy as proxies
import pytest
import served
import server as servers
import torch

import emotrace
from emotrace import activations, doctor, scoring, steered_texts, steering, stories, tokens
from emotrace.errors import EmotraceError
from emotrace.hosts import cpu_attention, patience, remote
from emotrace.instrument import corpus
from emotrace.models import DEFAULT_MODEL, Model
from emotrace.readings import read_texts
from emotrace.tokens import Writing

TEXTS = list(corpus.passages()["text"])[::21]
PROMPTS = ["The door opened, and she", "On Monday he"]
EXPERIMENTS = "separation,anisotropy,dose_response,verification,crosslingual"


@pytest.fixture(scope="module")
def here() -> Model:
    return emotrace.load(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def there(server: servers.Server) -> Model:
    return emotrace.load(DEFAULT_MODEL, remote=server.url)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(pause=0.05, longest_pause=0.3, silence=3, connect=2))


def close(mine: np.ndarray, theirs: np.ndarray) -> None:
    """To 1e-3 relative, which is asked; in fact to the last bits."""
    scale = np.abs(theirs).max()
    assert np.abs(mine - theirs).max() <= 1e-6 * scale
    assert scale > 0


# -- the same numbers --------------------------------------------------------------------------------------------------


def test_the_client_holds_no_weights(there: Model) -> None:
    assert {parameter.device.type for parameter in there.nn._module.parameters()} == {"meta"}
    assert (there.n_layers, there.d_model, there.instruct) == (30, 576, True)
    assert there.provenance["dtype"] == "float32"


def test_activations_norms_and_streams_are_those_of_a_local_model(here: Model, there: Model) -> None:
    batch = activations.SERVER_BATCH_TOKENS  # the same on both sides, as another batch rounds otherwise
    mine, theirs = (activations.read_activations(model, TEXTS, batch_tokens=batch) for model in (here, there))
    for pooling in activations.POOLINGS:
        np.testing.assert_array_equal(mine[pooling], theirs[pooling])  # bit-equal: one thread on both sides
    close(activations.residual_norms(here), activations.residual_norms(there))
    close(activations.read_tokens(here, TEXTS[:1])[0], activations.read_tokens(there, TEXTS[:1])[0])


def test_attention_by_other_kernels_changes_the_last_bits_alone(
    here: Model, there: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = activations.SERVER_BATCH_TOKENS
    theirs = activations.read_activations(there, TEXTS, batch_tokens=batch)["mean"]
    monkeypatch.undo()  # what a user has here, and a server has not
    assert cpu_attention.LONGEST > 100
    mine = activations.read_activations(here, TEXTS, batch_tokens=batch)["mean"]
    apart = np.linalg.norm(mine - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)
    assert apart[:, 0].max() == 0  # embeddings
    assert 0 < apart.max() < 1e-5


def test_steered_texts_are_those_of_a_local_model(here: Model, there: Model) -> None:
    vectors = read_texts(here, corpus.passages(), poolings=("mean",), layers=[12, 15]).vectors("mean")
    rows = [
        steered_texts.Row(p, vectors, e, s, 1) for p in PROMPTS for e in ("happy", "afraid") for s in (-0.2, 0.0, 0.3)
    ]
    for settings, how in (({}, {}), ({"temperature": 0.7}, {}), ({"positions": "all"}, {"on_the_fly": True})):
        mine, theirs = (
            steered_texts.write(model, rows, [15], Writing(10, **settings), **how)["tokens"].tolist()
            for model in (here, there)
        )
        assert mine == theirs
    assert len({tuple(tokens) for tokens in mine}) > 4  # the edits did something


def test_stories_are_written_alike_and_read_alike_while_they_are_written(here: Model, there: Model) -> None:
    wanted = {
        "topics": ["cooking"],
        "emotions": ["happy", "afraid", "neutral"],
        "writing": Writing(24, 0.8),
        "attempts": 2,
    }
    mine, theirs = (stories.write_stories(model, **wanted) for model in (here, there))
    pd.testing.assert_frame_equal(mine, theirs)
    prompt = [stories.request_ids(here, "cooking", "happy")]
    mine, theirs = (activations.read_while_writing(model, prompt, Writing(6, 0.8), [3])[0] for model in (here, there))
    assert mine.ids == theirs.ids
    close(mine.stream, theirs.stream)


def test_the_natural_cell_gives_what_it_gives_here(here: Model, there: Model) -> None:
    """A bare context on the handle that ``load`` returns, as a notebook's first cell has it."""
    push = torch.randn(here.d_model, generator=torch.Generator().manual_seed(0)) * 20

    def cells(model: Model) -> list[np.ndarray]:
        with torch.no_grad(), model.trace(TEXTS[0]):
            hidden = model.layers[11].output.save()
        with torch.no_grad(), model.generate(max_new_tokens=6, do_sample=False) as tracer:
            with tracer.invoke(PROMPTS[0]):
                for _ in tracer.iter[:]:
                    model.layers[14].output[:, -1] += push
            with tracer.invoke():
                ids = tracer.result.save()
        return [hidden.float().numpy(), ids.numpy()]

    for mine, theirs in zip(cells(here), cells(there), strict=True):
        close(mine, theirs)


def test_read_outs_are_those_of_a_local_model(here: Model, there: Model) -> None:
    norms = activations.residual_norms(here)
    vectors = read_texts(here, corpus.passages(), poolings=("mean",), layers=[15]).vectors("mean")
    edit = steering.Edit(steering.directions(vectors, [("sad", 0.2)] * 2, [15], norms))
    groups = np.zeros((49152, 2), dtype=np.float32)
    groups[:999, 0] = groups[999:, 1] = 1

    def readings(model: Model) -> list[np.ndarray]:
        scored = scoring.score(model, PROMPTS, edit, read_layers=[20, 30], groups=[[5, 6], [7]])
        ids = [list(tokens.encode(model, [prompt])[0].ids) for prompt in PROMPTS]
        return [
            scored["stream"],
            scored["log_probabilities"],
            scoring.score(model, PROMPTS, edit)["log_probabilities"],
            *scoring.log_likelihoods(model, ids, [[5, 6, 7], [8]]),
            *scoring.reread(model, ids, [[5, 6, 7], [8]], edit, groups),
            scoring.unembed(model, edit.directions[15]),
        ]

    for mine, theirs in zip(readings(here), readings(there), strict=True):
        close(mine, theirs)


# -- how much goes over the wire, and what stays here ------------------------------------------------------------------


def test_extraction_brings_back_little_more_than_the_vectors_and_holds_little(server: servers.Server) -> None:
    program = textwrap.dedent("""
        import json, resource, sys
        import emotrace
        from emotrace import activations
        from emotrace.instrument import corpus
        model = emotrace.load(remote=sys.argv[1])
        found = activations.read_activations(model, list(corpus.passages()["text"]))
        size = sum(array.nbytes for array in found.values())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"size": size, "received": model.remote.traffic.received, "peak": peak}))
    """)
    done = subprocess.run([sys.executable, "-c", program, server.url], env=environment(server), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert 0.8 * told["size"] < told["received"] < 1.2 * told["size"]
    assert told["peak"] < 1.7e9  # two answers may be here at once


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quickly")
@pytest.mark.slow
def test_two_hundred_requests_pass_a_faulty_network_with_every_number_right(
    here: Model, server: servers.Server, capsys: pytest.CaptureFixture
) -> None:
    schedule = proxies.Schedule(seed=7, rate=0.25)
    texts = [f"{text[:60]} {number}" for number, text in enumerate(TEXTS * 17)][:200]
    expected = activations.read_activations(here, texts, layers=[0, 15], poolings=("mean",))["mean"]
    with proxies.Proxy(server.url, schedule) as proxy:
        model = emotrace.load(DEFAULT_MODEL, remote=proxy.url)
        found = [
            activations.read_activations(model, [text], layers=[0, 15], poolings=("mean",))["mean"][0] for text in texts
        ]
        counts, jobs = proxy.counts, proxy.jobs
    for mine, theirs in zip(found, expected, strict=True):
        close(mine, theirs)
    assert model.remote.traffic.requests == 200
    assert len(jobs) == 200
    assert all(
        job.delivered == 1 for job in jobs.values()
    )  # no result came twice: nothing finished was asked for again
    assert len(counts) >= 6
    assert counts.total() > 50
    # A job runs again only where its result was lost on the way.
    again = sum(job.reached - 1 for job in jobs.values())
    lost = sum(1 for one in proxy.exchanges if one.path == "/subscribe" and one.fault)
    assert again <= lost + sum(1 for one in proxy.exchanges if one.path == "/request" and one.fault and one.reached)
    assert "attempt 2 of" in capsys.readouterr().err


@pytest.mark.usefixtures("quickly")
def test_an_answer_that_was_lost_is_not_computed_twice(
    server: servers.Server, proxy: proxies.Proxy, here: Model
) -> None:
    model = emotrace.load(DEFAULT_MODEL, remote=proxy.url)
    proxy.inject("/request", proxies.Fault("drop", after=0))
    found = activations.read_activations(model, TEXTS[:1])["mean"]
    np.testing.assert_array_equal(found, activations.read_activations(here, TEXTS[:1])["mean"])
    assert [(job.reached, job.delivered) for job in proxy.jobs.values()] == [(1, 1)]


@pytest.mark.usefixtures("quickly")
def test_what_does_not_pass_fails_at_once_in_one_line(server: servers.Server, there: Model) -> None:
    stranger = remote.Remote(server.url, servers.model_key("nobody/nothing"))
    before = time.monotonic()
    for broken, says in ((stranger, "not deployed"),):
        try:
            there.remote, kept = broken, there.remote
            with pytest.raises(EmotraceError, match=says) as caught:
                activations.read_activations(there, TEXTS[:1])
        finally:
            there.remote = kept
        assert "\n" not in str(caught.value)
    assert broken.traffic.retries == 0
    assert time.monotonic() - before < 30


def test_a_rejected_key_and_an_old_client_are_told_apart_and_the_key_is_not_told(server: servers.Server) -> None:
    try:
        server.gate(keys=True)
        with served.aimed(server.url, "very secret"):
            model = emotrace.load(DEFAULT_MODEL, remote=True)
            with pytest.raises(EmotraceError, match="rejects the API key") as caught:
                activations.read_activations(model, TEXTS[:1])
        assert "very secret" not in str(caught.value)
        server.gate(oldest_nnsight="99.0")
        with pytest.raises(EmotraceError, match=r"99\.0.*doctor"):
            activations.read_activations(emotrace.load(DEFAULT_MODEL, remote=server.url), TEXTS[:1])
    finally:
        server.gate()


def test_a_result_too_large_for_the_server_comes_in_parts(here: Model, server: servers.Server) -> None:
    texts = list(corpus.passages()["text"])[
        :150
    ]  # 150 × 31 × 576 × 2 × 4 bytes = 21 MB, more than the server passes on
    model = emotrace.load(DEFAULT_MODEL, remote=server.url)
    found = activations.read_activations(model, texts, batch_tokens=20_000)
    assert model.parts > 1
    for pooling, expected in activations.read_activations(here, texts).items():
        close(found[pooling], expected)


def test_two_clients_at_once_get_their_own_numbers(here: Model, server: servers.Server) -> None:
    models = [emotrace.load(DEFAULT_MODEL, remote=server.url) for _ in range(2)]
    halves = [TEXTS[:6], TEXTS[6:12]]
    found: dict[int, np.ndarray] = {}

    def client(number: int) -> None:
        rows = [activations.read_activations(models[number], [text])["mean"][0] for text in halves[number]]
        found[number] = np.stack(rows)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, texts in enumerate(halves):
        close(found[number], activations.read_activations(here, texts)["mean"])


# -- whole runs --------------------------------------------------------------------------------------------------------


def environment(server: servers.Server) -> dict[str, str]:
    """A client that finds the shape and tokenizer of the server's models, offline, and computes on one thread."""
    return {
        **os.environ,
        "NDIF_HOST": server.url,
        "HF_HUB_CACHE": str(server.folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "NDIF_API_KEY": "a-key-that-nobody-may-see",
    }


def start(server: servers.Server, out: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "emotrace", "run", served.TINY, "--quick", "--experiments", EXPERIMENTS]
    return subprocess.Popen(
        [*command, "--out", str(out), *flags], env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def tables(out: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_csv(file) for file in sorted((out / "tables").glob("*.csv"))}


RESTING_ON_TEXTS = {
    *("claims", "dose_response", "monotonicity", "regime_sensitivity", "regimes", "steerability", "steering_effects")
}


@pytest.mark.slow
def test_a_remote_run_has_the_tables_of_a_local_one_even_if_the_server_is_killed_meanwhile(
    server: servers.Server, tmp_path: Path
) -> None:
    local = start(server, tmp_path / "local")
    told = local.communicate(timeout=600)
    assert local.returncode == 0, told[1].decode()

    run = start(server, tmp_path / "remote", "--remote")
    finished = tmp_path / "remote" / ".cache"
    while run.poll() is None and len(list(finished.glob("*.json"))) < 3:
        time.sleep(0.05)
    assert run.poll() is None  # in the middle of the work
    server.restart("api")
    out, error = run.communicate(timeout=600)
    if run.returncode:  # it gave up: then it goes on
        run = start(server, tmp_path / "remote", "--remote", "--resume")
        out, error = run.communicate(timeout=600)
    assert run.returncode == 0, error.decode()
    assert b"a-key-that-nobody-may-see" not in out + error
    assert "a-key-that-nobody-may-see" not in (tmp_path / "remote" / "manifest.json").read_text()

    mine, theirs = tables(tmp_path / "local"), tables(tmp_path / "remote")
    assert set(mine) == set(theirs)
    assert {"separation", "dose_response", "verification", "crosslingual", "claims"} <= set(mine)
    # Other kernels there round otherwise, so that a sampled text can part from ours at a tie, and what rests on it.
    written = [pd.read_csv(tmp_path / side / "texts" / "steered.csv")["text"] for side in ("local", "remote")]
    parted = int((written[0].fillna("") != written[1].fillna("")).sum())
    assert parted <= 0.005 * len(written[0])
    for name, table in mine.items():
        if parted and name in RESTING_ON_TEXTS:
            assert table.shape == theirs[name].shape
        else:
            pd.testing.assert_frame_equal(table, theirs[name], rtol=1e-3, atol=1e-6)
    manifest = json.loads((tmp_path / "remote" / "manifest.json").read_text())
    assert manifest["models"][served.TINY]["server"] == server.url
    assert manifest["models"][served.TINY]["traffic"]["requests"] > 20


def test_the_doctor_finds_a_good_server_good_and_says_what_is_wrong_with_a_bad_one(server: servers.Server) -> None:
    checks = {check.subject: check for check in doctor.examine(DEFAULT_MODEL, server.url)}
    assert all(check.good is not False for check in checks.values())
    assert next(iter(checks)) == "threads"
    assert {"server", "Python", "nnsight", "torch", "transformers", "API key", "model", "a trace"} == set(checks) - {
        "threads"
    }
    assert checks["a trace"].good
    assert checks["nnsight"].good
    stranger = {check.subject: check for check in doctor.examine("nobody/nothing", server.url)}
    assert stranger["model"].good is False
    assert served.HUB_ID in stranger["model"].advice
    assert stranger["a trace"].good is False
