"""Start-up: how long until something can be done, each time in a fresh process, several times.

Run by ``make bench``; the table goes to ``benchmarks/results/startup.csv``. Files are warm in the disk's cache after
the first round, which is not counted.

- *python*: an interpreter that does nothing, for comparison.
- *import*: ``import emotrace`` alone. torch, transformers and nnsight are loaded when something needs them.
- *help*: ``emotrace --help``, the whole process.
- *load*: ``emotrace.load()`` of the embedded model from its cache, the import of torch, transformers and nnsight
  included.
- *first what-if*, *second what-if*: ``emotrace.what_if`` of one prompt on a loaded model, 60 tokens plain and steered,
  both judged; the second is of another prompt. The model's vectors are in the cache, as after any earlier one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import pandas as pd
import timing

REPETITIONS = 5

IMPORT = "import time; start = time.perf_counter(); import emotrace; print(time.perf_counter() - start)"
HELP = "import sys; sys.argv = ['emotrace', '--help']; from emotrace.cli import main; main()"
WHAT_IF = """
import json, time
times = [time.perf_counter()]
import emotrace
model = emotrace.load()
times.append(time.perf_counter())
for prompt in ("The letter arrived on Monday, and", "When the train stopped, he"):
    emotrace.what_if(model, prompt, "sad")
    times.append(time.perf_counter())
print(json.dumps([later - earlier for earlier, later in zip(times, times[1:])]))
"""


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def wall(code: str) -> float:
    """Seconds that a fresh interpreter takes for it, from start to end."""
    start = time.perf_counter()
    fresh(code)
    return time.perf_counter() - start


def inside(code: str) -> float:
    """Seconds that the code measured itself."""
    return float(fresh(code))


def measure(repetitions: int = REPETITIONS) -> pd.DataFrame:
    """One row a step: seconds (median, lowest, highest)."""
    steps: dict[str, Callable[[], float]] = {
        "python": partial(wall, "pass"),
        "import": partial(inside, IMPORT),
        "help": partial(wall, HELP),
    }
    seconds: dict[str, list[float]] = {step: [] for step in (*steps, "load", "first what-if", "second what-if")}
    for repetition in range(repetitions + 1):
        measured = {step: run() for step, run in steps.items()}
        measured |= dict(zip(("load", "first what-if", "second what-if"), json.loads(fresh(WHAT_IF)), strict=True))
        if repetition:  # the first reads the files from the disk
            for step, value in measured.items():
                seconds[step].append(value)
    rows = [
        {"step": step, **timing.spread(values, "seconds"), "repetitions": repetitions}
        for step, values in seconds.items()
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    timing.save(measure(), "startup")
