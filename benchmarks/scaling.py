"""How time and memory of reading grow: with the number of texts, their length, the batch budget, layers and model size.

Run by ``make bench``; table and figure go to ``benchmarks/results/scaling.csv`` and ``scaling.png``, slopes to
``scaling_slopes.csv``. Each point has a process of its own, which reads a few texts first; the smallest and the median
of its readings are kept. All layers, both poolings.

- *texts*: 100 to 10,000 of 6 words, SmolLM2-135M; *texts to disk*: the same with ``out=``, so no result is in memory.
- *length*: 16 texts of 16 to 1,024 tokens each, SmolLM2-135M.
- *batch tokens*: the budget of one forward pass, 84 passages, SmolLM2-135M.
- *layers*, *parameters*: 42 passages, llamas with random weights, 2 to 32 layers 576 wide and 128 to 2,048 wide with 8
  layers.

*Straight* is a slope of log time on log size near 1, *flat* a peak that stays where it is once the weights and the
result, which grows with texts × layers, are taken off. Python, torch and transformers are part of the peak (0.3 GB).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import timing

import emotrace
from emotrace import activations, tokens
from emotrace.instrument import corpus
from emotrace.models import DEFAULT_MODEL, Model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

WORDS, REPETITIONS = 6, 3
SIZES: dict[str, tuple[int, ...]] = {
    "texts": (100, 300, 1000, 3000, 10000),
    "texts to disk": (100, 300, 1000, 3000, 10000),
    "length": (16, 32, 64, 128, 256, 512, 1024),
    "batch tokens": (256, 512, 1024, 2048, 4096, 8192),
    "layers": (2, 4, 8, 16, 32),
    "width": (128, 256, 512, 1024, 2048),
}


def point(kind: str, size: int, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """Reads what this point asks for, in a process that does nothing else: random weights are made in this one."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, kind, str(size), source(kind, size, folder), str(repetitions), folder]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_point(kind: str, size: int, name: str, repetitions: int, folder: str) -> dict[str, Any]:
    """Seconds, tokens, and the peak over weights and result in gigabytes; a result to disk goes to the folder."""
    model = emotrace.load(name)
    items = of_length(model, size) if kind == "length" else tokens.encode(model, texts(kind, size))
    budget = size if kind == "batch tokens" else activations.BATCH_TOKENS
    out = Path(folder) / "result" if kind.endswith("to disk") else None
    activations.read_activations(model, items[:2], batch_tokens=budget)
    seconds = []
    for _ in range(1 if len(items) >= 3000 else repetitions):  # long ones need no repetition
        start = time.perf_counter()
        result = activations.read_activations(model, items, batch_tokens=budget, out=out)
        seconds.append(time.perf_counter() - start)
    parameters = list(model.nn._module.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters) / 1e9
    in_memory = 0.0 if out else sum(array.nbytes for array in result.values()) / 1e9
    return {
        "kind": kind,
        "size": size,
        "parameters": sum(p.numel() for p in parameters),
        "texts": len(items),
        "tokens": sum(len(item.ids) for item in items),
        "seconds": statistics.median(seconds),
        "lowest_seconds": min(seconds),
        "highest_seconds": max(seconds),
        "repetitions": len(seconds),
        "result_gb": in_memory,
        "peak_over_weights_gb": timing.peak() - weights,
        "peak_over_weights_and_result_gb": timing.peak() - weights - in_memory,
    }


def source(kind: str, size: int, folder: str) -> str:
    """The embedded model, or a llama with random weights written to the folder."""
    if kind not in ("layers", "width"):
        return DEFAULT_MODEL
    import tiny_models

    shape = {"n_layers": size, "d_model": 576} if kind == "layers" else {"n_layers": 8, "d_model": size}
    return str(tiny_models.build("llama", Path(folder), **shape))


def texts(kind: str, size: int) -> list[str]:
    passages = list(corpus.passages()["text"])
    if not kind.startswith("texts"):
        return passages[:: 3 if kind == "batch tokens" else 6]
    words = " ".join(passages).split()
    starts = np.random.default_rng(0).integers(0, len(words) - WORDS, size)
    return [" ".join(words[start : start + WORDS]) for start in starts]


def of_length(model: Model, size: int) -> list[tokens.Tokens]:
    """16 texts of exactly so many tokens."""
    ids = [token for text in corpus.passages()["text"] for token in tokens.encode(model, [text])[0].ids]
    return [tokens.Tokens(tuple(ids[start : start + size]), 0, size) for start in range(0, 16 * 100, 100)]


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Of log seconds on log size, a row for each kind of point."""
    rows = []
    for kind, points in table.groupby("kind", sort=False):
        sizes = points["parameters" if kind == "width" else "size"]
        slope, low, high = timing.slope(sizes, points["seconds"])
        memory = points["peak_over_weights_and_result_gb"]
        rows.append(
            {
                "against": "parameters" if kind == "width" else kind,
                "points": len(points),
                "slope": slope,
                "low": low,
                "high": high,
                "least_memory_gb": memory.min(),
                "most_memory_gb": memory.max(),
            }
        )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, file: Path) -> None:
    """Seconds above, memory below; a dashed line is straight growth through the last point."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(table["kind"].unique())
    figure, axes = plt.subplots(
        2, len(kinds), figsize=(3 * len(kinds), 5.5), sharex="col", squeeze=False, layout="constrained"
    )
    for (upper, lower), (kind, points) in zip(axes.T, table.groupby("kind", sort=False), strict=True):
        sizes = points["parameters" if kind == "width" else "size"].to_numpy(float)
        seconds = points["seconds"].to_numpy()
        upper.loglog(sizes, seconds, "o-", color="#0072b2", label="measured")
        if kind != "batch tokens":
            upper.loglog(sizes, seconds[-1] * sizes / sizes[-1], "--", color="0.6", label="straight")
        lower.semilogx(sizes, points["peak_over_weights_and_result_gb"], "o-", color="#d55e00")
        if sizes[-1] < 100 * sizes[0]:  # too few powers of ten for matplotlib's own ticks
            lower.set_xticks(sizes, [f"{size:g}" for size in sizes])
            lower.tick_params(axis="x", which="minor", labelbottom=False)
        upper.set_title("parameters (8 layers)" if kind == "width" else kind)
        lower.set_ylim(0, max(1.0, 1.1 * table["peak_over_weights_and_result_gb"].max()))
    axes[0, 0].legend(frameon=False)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory over\nweights and result, GB")
    figure.savefig(file, dpi=150)
    plt.close(figure)


def main() -> None:
    rows = []
    for kind, sizes in SIZES.items():
        for size in sizes:
            rows.append(point(kind, size))
            print(f"{kind} {size}: {rows[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    timing.save(table, "scaling")
    timing.save(slopes(table), "scaling_slopes")
    draw(table, timing.RESULTS / "scaling.png")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(run_point(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])))
    else:
        main()
