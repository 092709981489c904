"""Extraction of all passages: tokens per second and peak memory, against what else would do the same.

Run by ``make bench``. Ours and the others take turns in one process, each several times; medians, spread and ratios are
printed and written to ``benchmarks/results/extraction.csv``. Absolute times depend on the machine and on what else it
does: the ratios are the result. Before anything is timed, all sides are checked to compute the same numbers.

- *emotrace*: both poolings at all layers, pooled in the trace, batches sorted by length.
- *bare body*: the transformer without its head on the very same batches, nothing kept: the speed limit of the batching.
- *one at a time*: one text a call with ``output_hidden_states`` through the language model, then pooled: the usual loop.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

import emotrace
from emotrace import activations, corpus
from emotrace.models import Model

REPETITIONS = 3
RESULTS = Path(__file__).parent / "results"


def ours(model: Model, tokens: list[activations.Tokens]) -> dict[str, np.ndarray]:
    return activations.read_activations(model, tokens)


def bare_body(model: Model, tokens: list[activations.Tokens]) -> None:
    body = model.nn._module.base_model
    with torch.no_grad():
        for rows in activations.batches([len(item.ids) for item in tokens], activations.BATCH_TOKENS):
            ids, _ = activations._pad([tokens[row] for row in rows], ("last",))
            body(input_ids=ids, use_cache=False)


def one_at_a_time(model: Model, tokens: list[activations.Tokens]) -> dict[str, np.ndarray]:
    last, mean = [], []
    with torch.no_grad():
        for item in tokens:
            states = model.nn._module(input_ids=torch.tensor([item.ids]), output_hidden_states=True).hidden_states
            stacked = torch.stack([state[0] for state in states])
            last.append(stacked[:, item.stop - 1])
            mean.append(stacked[:, item.start + 1 : item.stop].mean(dim=1))
    return {"last": torch.stack(last).numpy(), "mean": torch.stack(mean).numpy()}


class PeakMemory:
    """The largest resident size of this process while the block runs, sampled a hundred times a second."""

    def __enter__(self) -> PeakMemory:
        self.process, self.peak, self.running = psutil.Process(), 0, True
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def _sample(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss)
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()


def agree(model: Model, tokens: list[activations.Tokens]) -> float:
    """The largest difference between ours and the usual loop, relative to the vectors' norms (all but the last layer,
    which transformers returns after the final norm)."""
    some = tokens[:: len(tokens) // 8]
    mine, theirs = ours(model, some), one_at_a_time(model, some)
    worst = 0.0
    for pooling in mine:
        gap = np.linalg.norm(mine[pooling][:, :-1] - theirs[pooling][:, :-1], axis=-1)
        worst = max(worst, float((gap / np.linalg.norm(theirs[pooling][:, :-1], axis=-1)).max()))
    return worst


def measure(name: str, texts: list[str], repetitions: int = REPETITIONS) -> pd.DataFrame:
    """One row a contender: tokens per second (median, lowest, highest), the ratio of ours to it, peak memory."""
    model = emotrace.load(name)
    tokens = activations.encode(model, texts)
    total = sum(len(item.ids) for item in tokens)
    gap = agree(model, tokens)
    if gap > 1e-4:
        sys.exit(f"{name}: the contenders disagree by {gap:.2g}; nothing was timed")
    weights = sum(p.numel() * p.element_size() for p in model.nn._module.parameters())
    contenders: dict[str, Callable] = {"emotrace": ours, "bare body": bare_body, "one at a time": one_at_a_time}
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    peaks = dict.fromkeys(contenders, 0)
    for _ in range(repetitions):
        for contender, run in contenders.items():
            with PeakMemory() as memory:
                start = time.perf_counter()
                run(model, tokens)
                seconds[contender].append(time.perf_counter() - start)
            peaks[contender] = max(peaks[contender], memory.peak)
    rows = []
    for contender, times in seconds.items():
        # Ratios within a repetition, where the machine was in the same state.
        ratios = [other / mine for other, mine in zip(times, seconds["emotrace"], strict=True)]
        rows.append({
            "model": name, "contender": contender, "texts": len(tokens), "tokens": total,
            "tokens_per_second": total / statistics.median(times), "slowest": total / max(times), "fastest": total / min(times),
            "ours_to_it": statistics.median(ratios), "lowest_ratio": min(ratios), "highest_ratio": max(ratios),
            "peak_over_weights_gb": (peaks[contender] - weights) / 1e9, "disagreement": gap,
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    names = sys.argv[1:] or ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"]
    texts = list(corpus.passages()["text"])
    table = pd.concat([measure(name, texts) for name in names])
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "extraction.csv", index=False, float_format="%.4g")
    print(f"{psutil.cpu_count()} cores, {torch.get_num_threads()} torch threads, torch {torch.__version__}")
    print(table.to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main()
