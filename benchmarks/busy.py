"""Reading and steering beside busy processes, against the same alone.

``python benchmarks/busy.py`` starts one process with SmolLM2-135M-Instruct and asks it, in turns, to read 16 passages
and to write 64 steered texts: alone, and beside one and three processes that count for ever. Ratios are taken within a
turn and go to ``benchmarks/results/busy.csv``.

The fair share: each core is divided among who wants it, and a product ends with its slowest thread. With as many
threads as cores, the one that has the most company takes 1 + ⌈processes / cores⌉ times as long.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pandas as pd
import psutil
import timing

from emotrace.hosts import threads

TURNS = 3
JOBS = ("read", "steer")
COUNTING = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # never left behind

WORKER = """
import sys, time
import emotrace
import numpy as np
from emotrace import activations, steering, tokens
from emotrace.instrument import corpus
from emotrace.tokens import Writing

model = emotrace.load()
texts = list(corpus.passages()["text"])[::16]
prompts = [list(tokens.encode(model, ["The door opened, and she"])[0].ids)] * 64
edit = steering.Edit({15: np.random.default_rng(0).normal(size=(64, model.d_model)).astype("float32")})
jobs = {
    "read": lambda: activations.read_activations(model, texts),
    "steer": lambda: steering.generate(model, prompts, edit, Writing(12)),
}
for line in sys.stdin:
    start = time.perf_counter()
    jobs[line.strip()]()
    print(time.perf_counter() - start, flush=True)
"""


def cores() -> int:
    """How many of this machine's cores this process may use."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(here, int(threads.cpu_quota() or here)))


def fair(processes: int) -> float:
    """Time over time alone that the fair share of the cores gives."""
    return 1 + math.ceil(processes / cores())


def others(seconds: float = 0.5) -> float:
    """The share of the machine that others have now, stolen time included."""
    times = psutil.cpu_times_percent(seconds)
    return 1 - (times.idle + getattr(times, "iowait", 0)) / 100


@contextlib.contextmanager
def worker(jobs: Sequence[str] = JOBS) -> Iterator[subprocess.Popen[str]]:
    """A process that does a job whenever it is asked, its threads waiting as emotrace has them."""
    chosen = (*threads.USERS_POLICY, *threads.USERS_COUNT)
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as process:
        try:
            for job in jobs:
                took(process, job)  # warm
            yield process
        finally:
            process.kill()


def took(process: subprocess.Popen[str], job: str) -> float:
    """Seconds of one job of a worker."""
    process.stdin.write(f"{job}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


@contextlib.contextmanager
def beside(processes: int) -> Iterator[None]:
    """Within, so many processes count."""
    counting = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(processes)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def ratios(process: subprocess.Popen[str], job: str, processes: int, turns: int = TURNS) -> list[float]:
    """Time beside so many busy processes over time alone, turn by turn."""
    found = []
    for _ in range(turns):
        alone = took(process, job)
        with beside(processes):
            found.append(took(process, job) / alone)
    return found


def main() -> None:
    rows = []
    with worker() as process:
        for job in JOBS:
            for processes in (1, 3):
                found = sorted(ratios(process, job, processes))
                row = {"job": job, "busy": processes, "cores": cores(), "fair": fair(processes)}
                rows.append(row | {"ratio": found[len(found) // 2], "lowest": found[0], "highest": found[-1]})
    timing.save(pd.DataFrame(rows), "busy")


if __name__ == "__main__":
    main()
