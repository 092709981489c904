"""How often does each rule of the study err? Runs all simulations of ``scripts/verdict_rates``, writes the table.

    python scripts/verdicts.py                        # all of them → docs/verdicts.md
    python scripts/verdicts.py separation effects     # of these folders alone; the others as they were simulated before
    python scripts/verdicts.py separation --quick --out trial.md   # a tenth of the data sets, another file

What was simulated is kept in ``runs/verdicts/`` and not done again until the rule, or code that it rests on, changes. A
run killed at any moment goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits
from verdict_rates import FOLDERS, Simulation

from emotrace.files import write_file
from emotrace.measures.randomness import generator
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED

ROOT = Path(__file__).resolve().parents[1]
RATES = ROOT / "data/verdict_rates.csv"
"""The same figures for the report of a run, one row a claim and kind of data."""

CHUNK = 40
"""Data sets of one unit of work."""
PROCESSES = 2
SIDES = ("null", "effect")

Key = tuple[str, str, str, int]
"""Folder, simulation, side, chunk."""

INTRODUCTION = """# How often each rule errs

Every verdict of `claims.csv` comes from a rule that names a smallest effect of interest beforehand
([`emotrace/study/verdicts.py`](../emotrace/study/verdicts.py)). Here each rule is fed data of which the truth is known,
through the code that a run calls, and its verdicts are counted. Made by `python scripts/verdicts.py`; the simulations
are in [`scripts/verdict_rates/`](../scripts/verdict_rates/).

Under each rule stand the data sets that it was asked about: without the effect, and with the effect that the paper
claims. **In bold** is what would be an error.

- *Reproduced* where there is no such effect is a false positive: at most 5%; with 400 data sets a true 5% comes out as
  3–7%. Of a rule that asks whether a value is reached, *no such effect* is a value at the margin's outer end.
- *Reproduced* where the effect is there is the rule's power. Where it is low, the study is too small to confirm the
  claim, and then *inconclusive* is the usual answer, not *not reproduced*.

Holm's correction within a claim's number comes on top and makes *reproduced* rarer; it is not in these figures. Where
units are so few that no outcome gives p < 0.05 (the signs of four topics have 16 patterns), a claim is *not testable*.
"""


def simulations(folder: str) -> tuple[Simulation, ...]:
    """The simulations of one question folder; none where its module does not exist."""
    if importlib.util.find_spec(f"verdict_rates.{folder}") is None:
        return ()
    return tuple(importlib.import_module(f"verdict_rates.{folder}").SIMULATIONS)


def fingerprint(folder: str) -> str:
    """Changes with every file that the verdicts of this folder's simulations rest on."""
    parts = sorted((ROOT / "scripts/verdict_rates").glob(f"{folder}*.py"))
    files = [ROOT / "scripts/verdict_rates/__init__.py", *parts]
    files += [ROOT / "emotrace/study/verdicts.py", *sorted((ROOT / "emotrace/measures").glob("*.py"))]
    files += sorted((ROOT / "emotrace/study" / folder).glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def draw(key: Key, number: int) -> dict[str, int]:
    """The verdicts of one chunk of data sets, counted."""
    folder, name, side, chunk = key
    simulation = next(one for one in simulations(folder) if one.name == name)
    judge = simulation.draw_null if side == "null" else simulation.draw_effect
    if judge is None:
        raise ValueError(f"{folder} {name} has no {side}")
    rng = generator(0, "verdict rates", folder, name, side, chunk)
    return dict(Counter(judge(rng) for _ in range(number)))


def planned(folders: list[str], quick: bool) -> Iterator[tuple[Key, int]]:
    """The units of work, each with its number of data sets."""
    for folder in folders:
        names = [simulation.name for simulation in simulations(folder)]
        if len(set(names)) < len(names):
            raise ValueError(f"two simulations of {folder} have one name: {', '.join(sorted(names))}")
        for simulation in simulations(folder):
            draws = max(1, simulation.draws // 10) if quick else simulation.draws
            for side in SIDES:
                if getattr(simulation, f"draw_{side}") is not None:
                    for chunk, start in enumerate(range(0, draws, CHUNK)):
                        yield (folder, simulation.name, side, chunk), min(CHUNK, draws - start)


class Kept:
    """The counts that were simulated before, one file a folder and state of the code."""

    def __init__(self, folders: list[str]) -> None:
        self.files = {folder: ROOT / "runs/verdicts" / f"{folder}-{fingerprint(folder)}.jsonl" for folder in folders}
        self.counts: dict[tuple[Key, int], dict[str, int]] = {}
        for file in self.files.values():
            for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
                if line.endswith("}"):  # a line may be cut short where a run was killed
                    record = json.loads(line)
                    self.counts[tuple(record["key"]), record["number"]] = record["counts"]

    def add(self, key: Key, number: int, counts: dict[str, int]) -> None:
        self.counts[key, number] = counts
        self.files[key[0]].parent.mkdir(parents=True, exist_ok=True)
        with self.files[key[0]].open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({"key": key, "number": number, "counts": counts}))


def simulate(folders: list[str], quick: bool, kept: Kept) -> None:
    """Does what is not kept yet, in two processes."""
    missing = [unit for unit in planned(folders, quick) if unit not in kept.counts]
    start = time.time()
    with ProcessPoolExecutor(PROCESSES, initializer=threadpool_limits, initargs=(1,)) as pool:
        futures = [(unit, pool.submit(draw, *unit)) for unit in missing]
        for done, (unit, future) in enumerate(futures, 1):
            kept.add(*unit, future.result())
            print(f"\r{done} of {len(missing)}, {time.time() - start:.0f} s: {' '.join(unit[0][:3])}   ", end="")
    print()


def share(counts: Counter[str], verdict: str) -> str:
    total = counts.total()
    return f"{counts[verdict] / total:.1%}" if total else ""


def table(folder: str, quick: bool, kept: Kept) -> str:
    """The rules of one folder: each with its claims and its smallest effect, and a row for each simulation of it."""
    totals: dict[tuple[str, str], Counter[str]] = {}
    for key, number in planned([folder], quick):
        totals.setdefault((key[1], key[2]), Counter()).update(kept.counts[key, number])
    rules: dict[tuple[tuple[str, ...], str], list[Simulation]] = {}
    for one in simulations(folder):
        rules.setdefault((one.claims, one.rule), []).append(one)
    lines: list[str] = []
    for (claims, rule), members in rules.items():
        lines += ["### " + ", ".join(f"`{name}`" for name in claims), "", f"{rule[0].upper()}{rule[1:]}."]
        lines += [f"Smallest effect of interest: {members[0].smallest}.", "", *HEADER]
        lines += [line for one in members for line in rows(one, totals)]
        lines.append("")
    return "\n".join(lines).rstrip()


HEADER = ("| data | the truth | reproduced | not reproduced | inconclusive | data sets |", "|---|---|---|---|---|---|")
TRUTHS = {"null": "no such effect", "effect": "the effect is there"}


def rows(one: Simulation, totals: dict[tuple[str, str], Counter[str]]) -> list[str]:
    """The rows of one simulation: the side without the effect, the side with it; what is an error is in bold."""
    lines = []
    for side, words in (("null", one.null), ("effect", one.effect)):
        counts = totals.get((one.name, side), Counter())
        if not counts:
            continue
        wrong = REPRODUCED if side == "null" else NOT_REPRODUCED
        shares = [share(counts, verdict) for verdict in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)]
        marked = [
            f"**{text}**" if verdict == wrong else text
            for verdict, text in zip((REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE), shares, strict=True)
        ]
        cells = [words, TRUTHS[side], *marked, str(counts.total())]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def rates(folder: str, quick: bool, kept: Kept) -> list[dict[str, object]]:
    """The figures of one folder as rows of ``data/verdict_rates.csv``: one a claim, simulation and side."""
    totals: dict[tuple[str, str], Counter[str]] = {}
    for key, number in planned([folder], quick):
        totals.setdefault((key[1], key[2]), Counter()).update(kept.counts[key, number])
    made = []
    for one, side in itertools.product(simulations(folder), SIDES):
        counts = totals.get((one.name, side), Counter())
        for claim in one.claims if counts else ():
            row = {"claim": claim, "data": getattr(one, side), "effect": side == "effect", "n": counts.total()}
            shares = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)
            made.append(row | {verdict.replace(" ", "_"): counts[verdict] / counts.total() for verdict in shares})
    return made


def write_rates(made: list[dict[str, object]]) -> None:
    text = pd.DataFrame(made).to_csv(index=False, float_format="%.4g", lineterminator="\n")
    write_file(RATES, text.encode())


def notes(folder: str) -> str:
    """What the module's ``NOTES`` says beneath its table, if it has any."""
    return str(getattr(importlib.import_module(f"verdict_rates.{folder}"), "NOTES", "")).strip()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help=f"of {', '.join(FOLDERS)}; all, by default")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data sets")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/verdicts.md")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.folders) - set(FOLDERS)):
        parser.error(f"no folder {', '.join(unknown)}; there are {', '.join(FOLDERS)}")
    known = [folder for folder in FOLDERS if simulations(folder)]
    asked = [folder for folder in known if folder in options.folders] or known
    kept = Kept(known)
    simulate(asked, options.quick, kept)
    complete = [folder for folder in known if all(unit in kept.counts for unit in planned([folder], options.quick))]
    parts = [INTRODUCTION]
    for folder in complete:
        parts += [f"## `{folder}`\n", table(folder, options.quick, kept) + "\n"]
        parts += [notes(folder) + "\n"] if notes(folder) else []
    write_file(options.out, "\n".join(parts).encode())
    if options.out == parser.get_default("out"):
        write_rates([row for folder in complete for row in rates(folder, options.quick, kept)])
    if left := [folder for folder in known if folder not in complete]:
        print(f"not simulated in the code's present state, hence left out: {', '.join(left)}")


if __name__ == "__main__":
    main(sys.argv[1:])
