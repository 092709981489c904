"""A run on a server against the same run here: wall time, bytes, memory.

``python benchmarks/remote.py`` brings up the test suite's NDIF server on this machine (``make test-ndif`` installs it),
with as many threads as this process has. Local and remote take turns, so that neither disturbs the other; ratios are
taken within a repetition and go to ``benchmarks/results/remote.csv``. First both are checked to give the same.

- *extraction*: all 252 passages, all layers, both poolings.
- *steering*: 20 emotions × 3 strengths on one prompt, 24 tokens each, sampled.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import emotrace
from emotrace import activations, steered_texts
from emotrace.hosts import cpu_matmul
from emotrace.hosts.sources import DEFAULT_MODEL, resolve
from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.tokens import Writing
from emotrace.whatif import text_reading as reading

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ndif"))

REPETITIONS = 3
RESULTS = Path(__file__).parent / "results"


def extraction(model: Model) -> np.ndarray:
    pooled = activations.read_activations(model, list(corpus.passages()["text"]))
    return np.stack([pooled[pooling] for pooling in activations.POOLINGS])


def sweep(vectors: emotrace.EmotionVectors) -> Callable[[Model], list[list[int]]]:
    rows = [
        steered_texts.Row("The door opened, and she", vectors, emotion, strength)
        for emotion in vectors.emotions
        for strength in (-0.2, 0.1, 0.2)
    ]
    return lambda model: list(steered_texts.write(model, rows, [15], Writing(24, 0.7))["tokens"])


def same(here: Any, there: Any) -> bool:
    if isinstance(here, np.ndarray):
        return bool(np.abs(here - there).max() <= 1e-3 * np.abs(here).max())
    return here == there


def measure(job: str, run: Callable[[Model], Any], here: Model, there: Model) -> dict[str, Any]:
    if not same(run(here), run(there)):  # also warms both up
        print(f"{job}: local and remote differ", file=sys.stderr)
    before = there.remote.traffic.received
    seconds: dict[str, list[float]] = {"local": [], "remote": []}
    for _ in range(REPETITIONS):
        for side, model in (("local", here), ("remote", there)):
            start = time.perf_counter()
            run(model)
            seconds[side].append(time.perf_counter() - start)
    ratios = [remote / local for local, remote in zip(seconds["local"], seconds["remote"], strict=True)]
    return {
        "job": job,
        "local": statistics.median(seconds["local"]),
        "remote": statistics.median(seconds["remote"]),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "n": REPETITIONS,
        "received_mb": (there.remote.traffic.received - before) / REPETITIONS / 1e6,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    import server as servers

    folder = Path(resolve(DEFAULT_MODEL, print)[0])
    hub_id = corpus.model_registry().loc[DEFAULT_MODEL, "hub_id"]
    here = emotrace.load(DEFAULT_MODEL)
    onednn = cpu_matmul.choose() == "oneDNN"
    with servers.Server({hub_id: folder}, threads=torch.get_num_threads(), onednn=onednn) as server:
        there = emotrace.load(DEFAULT_MODEL, remote=server.url)
        vectors = reading.cached_vectors(here)
        table = pd.DataFrame(
            [measure("extraction", extraction, here, there), measure("steering", sweep(vectors), here, there)]
        )
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "remote.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
