"""When a run shows what: ``python benchmarks/first_table.py [--quick] [--busy 1]``, on a fresh ``make demo | cat``.

Prints the seconds from the command to the first table, to the report's first figure and to the complete report, the
longest silence of the log, and what the run said beforehand that reading and writing would take beside what they took.
``--busy N`` keeps N processes counting beside it. The table goes to ``benchmarks/results/first_table.csv``.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import timing

from emotrace.models import DEFAULT_MODEL
from emotrace.study.folder import read_manifest

SAID = re.compile(r"take about ([\d.]+) (second|minute|hour)s? on this machine")
UNITS = {"second": 1, "minute": 60, "hour": 3600}
STAGES = ("read", "generate", "steer")


def shown(folder: Path) -> set[str]:
    """What of a run is there to be looked at by now."""
    seen = {"first table"} if any(folder.glob("tables/*.csv")) else set()
    page = folder / "report.html"
    if page.exists() and re.search(r'<figure id="', page.read_text(encoding="utf-8")):
        seen.add("first figure")
    return seen


def watch(command: list[str], folder: Path) -> tuple[dict[str, float], list[str]]:
    """Runs the command; seconds until each thing was there, the log's longest silence, and its lines."""
    start = last = time.perf_counter()
    when, lines, silence = {}, [], 0.0
    process = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_tell, args=(process.stdout, told), daemon=True).start()
    while True:
        with contextlib.suppress(queue.Empty):
            line = told.get(timeout=0.5)
            if line is None:
                break
            now = time.perf_counter()
            silence, last = max(silence, now - last), now
            lines.append(line.rstrip())
        if len(when) < 2:  # the page is long: not read again once it has a figure
            when |= {name: time.perf_counter() - start for name in shown(folder) - set(when)}
    if process.wait():
        raise SystemExit("\n".join(lines[-5:]))
    return {**when, "complete": time.perf_counter() - start, "longest silence": silence}, lines


def _tell(log: Iterable[str], told: queue.Queue[str | None]) -> None:
    for line in log:
        told.put(line)
    told.put(None)


def forecast(lines: list[str], folder: Path) -> dict[str, float]:
    """Seconds that reading and writing were said to take, and what they took."""
    found = next((match for line in lines if (match := SAID.search(line))), None)
    took = {name.rpartition(": ")[2]: value for name, value in read_manifest(folder)["seconds"].items()}
    said = float(found[1]) * UNITS[found[2]] if found else float("nan")
    return {"reading and writing, said": said, "they took": sum(took.get(stage, 0) for stage in STAGES)}


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    others = [multiprocessing.Process(target=_count, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.terminate()


def _count() -> None:
    while True:
        sum(range(100_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--busy", type=int, default=0, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, busy(options.busy):
        folder = Path(scratch) / "run"
        command = [sys.executable, "-m", "emotrace", "run", options.model, "--out", str(folder)]
        when, lines = watch(command + ["--quick"] * options.quick, folder)
        when |= forecast(lines, folder)
    rows = [{"what": name, "seconds": round(value, 1), "busy": options.busy} for name, value in when.items()]
    timing.save(pd.DataFrame(rows), "first_table")


if __name__ == "__main__":
    main()
