"""What every benchmark shares: taking turns, peak memory, straightness, the tables."""

from __future__ import annotations

import contextlib
import platform
import re
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
from scipy import stats

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emotrace.models import Model

RESULTS = Path(__file__).parent / "results"


def taking_turns(
    contenders: Mapping[str, Callable[[], object]], repetitions: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Runs the contenders in turn, ``repetitions`` times: each run's seconds, each one's largest resident bytes.

    A contender that returns a number has timed itself: these are its seconds.
    """
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    peaks = dict.fromkeys(contenders, 0)
    for _ in range(repetitions):
        for contender, run in contenders.items():
            with PeakMemory() as memory:
                start = time.perf_counter()
                returned = run()
                elapsed = time.perf_counter() - start
            seconds[contender].append(returned if isinstance(returned, float) else elapsed)
            peaks[contender] = max(peaks[contender], memory.peak)
    return seconds, peaks


@contextlib.contextmanager
def as_it_comes(model: Model) -> Iterator[None]:
    """Within, torch multiplies and attends by its own choice, as it does for whoever has no emotrace."""
    import torch

    module, matmul = model.nn._module, getattr(torch.backends.mkldnn, "matmul", None)
    attention, precision = module.config._attn_implementation, getattr(matmul, "fp32_precision", None)
    _choose(module, "sdpa" if attention == "emotrace_sdpa" else attention, matmul, "ieee")
    try:
        yield
    finally:
        _choose(module, attention, matmul, precision)


def _choose(module: PreTrainedModel, attention: str, matmul: Any, precision: str | None) -> None:
    module.set_attn_implementation(attention)
    if hasattr(matmul, "fp32_precision"):
        matmul.fp32_precision = precision


def spread(values: Sequence[float], name: str) -> dict[str, float]:
    """Median, lowest and highest as three columns of a table."""
    return {name: statistics.median(values), f"lowest_{name}": min(values), f"highest_{name}": max(values)}


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


def peak() -> float:
    """Largest resident size of this process so far, gigabytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would include the parent process that started this one
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # macOS counts bytes


def slope(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float, float]:
    """The power with which a cost grows with a size: slope of log cost on log size, with its 95% interval (t, n − 2).

    1 is a straight line through the origin; 0 is flat. At least three sizes.
    """
    fit = stats.linregress(np.log(sizes), np.log(costs))
    half = stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def machine() -> str:
    """The machine in one line: what times depend on."""
    import torch

    from emotrace.hosts import cpu_matmul

    return (
        f"{psutil.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} torch threads, "
        f"torch {torch.__version__}, float32 products by {cpu_matmul.choose()}"
    )


def save(table: pd.DataFrame, name: str) -> None:
    """Prints a table under the machine's line and writes it to ``benchmarks/results/NAME.csv``."""
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.4g")
    print(machine())
    print(table.to_string(index=False, float_format="%.3g"), flush=True)
