"""The network's latency is hidden: small batches travel together, two requests are in flight, and no number changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import proxy as proxies
import pytest
import server as servers
import torch

import emotrace
from emotrace import activations, steered_texts, stories
from emotrace.hosts import patience
from emotrace.instrument import corpus
from emotrace.models import DEFAULT_MODEL, Model
from emotrace.tokens import Writing
from emotrace.vectors import EmotionVectors

DELAY = 0.1  # seconds, each way
TEXTS = list(corpus.passages()["text"])[::3]
EMOTIONS = ("happy", "sad", "angry", "afraid")


@pytest.fixture
def far(server: servers.Server) -> Iterator[proxies.Proxy]:
    with proxies.Proxy(server.url, delay=DELAY) as running:
        yield running


@pytest.fixture(scope="module")
def here() -> Model:
    return emotrace.load(DEFAULT_MODEL)


def planted(model: Model) -> EmotionVectors:
    values = np.random.default_rng(0).normal(size=(len(EMOTIONS), 1, model.d_model)).astype(np.float32)
    return EmotionVectors(EMOTIONS, (15,), values, *[np.zeros_like(values[0])] * 3)


def reading(model: Model) -> np.ndarray:
    read = activations.read_activations(model, TEXTS, batch_tokens=activations.SERVER_BATCH_TOKENS // 4)
    return np.stack([read[pooling] for pooling in activations.POOLINGS])


def sweep(vectors: EmotionVectors) -> Callable[[Model], list[list[int]]]:
    prompts = ("The door opened, and she", "On Monday he", "Nobody knew why the")
    rows = [steered_texts.Row(p, vectors, e, s) for p in prompts for e in EMOTIONS for s in (-0.2, 0.0, 0.1, 0.2)]
    return lambda model: list(steered_texts.write(model, rows, [15], Writing(16, 0.7), batch_rows=16)["tokens"])


def ratios(run: Callable[[Model], Any], here: Model, there: Model, turns: int = 3) -> list[float]:
    """Remote over local wall time, in turns, once both have shown that they give the same."""
    mine, theirs = run(here), run(there)
    assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
    found = []
    for _ in range(turns):
        seconds = []
        for model in (here, there):
            start = time.perf_counter()
            run(model)
            seconds.append(time.perf_counter() - start)
        found.append(seconds[1] / seconds[0])
    return found


@pytest.mark.parametrize("job", ["reading", "sweep"])
def test_a_far_server_takes_little_longer_than_this_machine(here: Model, far: proxies.Proxy, job: str) -> None:
    there = emotrace.load(DEFAULT_MODEL, remote=far.url)
    there.norms = activations.residual_norms(here)
    found = ratios(reading if job == "reading" else sweep(planted(here)), here, there)
    print(f"{job}: {there.remote.traffic}, remote over local {', '.join(f'{ratio:.2f}' for ratio in found)}")
    assert min(found) <= 1.3
    assert {(one.reached, one.delivered) for one in far.jobs.values()} == {(1, 1)}
    assert there.remote.traffic.requests == len(far.jobs)


def test_small_batches_are_one_request(server: servers.Server, here: Model) -> None:
    there = emotrace.load(DEFAULT_MODEL, remote=server.url)
    few, settings = TEXTS[:24], {"layers": [10, 20], "poolings": ("mean",), "batch_tokens": 256}
    found = activations.read_activations(there, few, **settings)["mean"]
    assert there.remote.traffic.requests == 1
    np.testing.assert_array_equal(found, activations.read_activations(here, few, **settings)["mean"])


def test_two_in_flight_pass_a_faulty_network_with_every_number_right(
    here: Model, server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(pause=0.05, longest_pause=0.3, silence=3, connect=2))
    monkeypatch.setattr(activations, "REQUEST_TOKENS", 1)  # so that there are many
    settings = {"layers": [0, 15], "poolings": ("mean",), "batch_tokens": 256}
    with proxies.Proxy(server.url, proxies.Schedule(seed=3, rate=0.3)) as proxy:
        there = emotrace.load(DEFAULT_MODEL, remote=proxy.url)
        found = activations.read_activations(there, TEXTS, **settings)["mean"]
        jobs, counts = proxy.jobs, proxy.counts
    np.testing.assert_array_equal(found, activations.read_activations(here, TEXTS, **settings)["mean"])
    assert there.remote.traffic.requests == len(jobs) > 15
    assert all(job.delivered == 1 for job in jobs.values())
    assert counts.total() > 8
    assert there.remote.traffic.retries >= counts.total() / 2


def test_stories_written_two_batches_at_once_are_those_written_one_by_one(here: Model, server: servers.Server) -> None:
    there = emotrace.load(DEFAULT_MODEL, remote=server.url)
    wanted = {"topics": ["cooking"], "emotions": ["happy", "afraid", "sad"], "writing": Writing(16, 0.8)}
    mine, theirs = (stories.write_stories(model, attempts=2, batch_rows=1, **wanted) for model in (here, there))
    assert mine.equals(theirs)
    assert there.remote.traffic.requests == len(mine) > 3
    assert torch.get_num_threads() == 1
