"""The whole job by stage: ``python benchmarks/demo.py [FOLDER]`` of a finished run, or of a fresh ``make demo``.

A fresh run goes to a temporary folder; nothing of an earlier run is used but the converted weights. The seconds of each
stage are those of the run's manifest; the table goes to ``benchmarks/results/demo.csv``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import timing

from emotrace.models import DEFAULT_MODEL
from emotrace.study import folder as runs


def stages(folder: Path) -> pd.DataFrame:
    """Seconds and share of each stage of a run, the longest first, and their sum."""
    seconds = runs.read_manifest(folder)["seconds"]
    total = sum(seconds.values())
    rows = [{"stage": stage, "seconds": value, "share": value / total} for stage, value in seconds.items()]
    return pd.DataFrame(
        [*sorted(rows, key=lambda row: -row["seconds"]), {"stage": "all", "seconds": total, "share": 1.0}]
    )


def fresh(folder: str) -> pd.DataFrame:
    """Runs the demo and adds what the stages leave out: the process's start, tables and figures between them."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "emotrace", "run", DEFAULT_MODEL, "--out", folder], check=True)
    elapsed = time.perf_counter() - start
    table = stages(Path(folder))
    whole = {"stage": "wall clock", "seconds": elapsed, "share": elapsed / table["seconds"].iloc[-1]}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def main() -> None:
    if sys.argv[1:]:
        timing.save(stages(Path(sys.argv[1])), "demo")
        return
    with tempfile.TemporaryDirectory() as folder:
        timing.save(fresh(f"{folder}/run"), "demo")


if __name__ == "__main__":
    main()
