"""Executes the notebooks in order and holds them to what is committed.

    python scripts/run_notebooks.py                     # all; fails on an error, a missing figure, a number that moved
    python scripts/run_notebooks.py 05 07 --update      # some, and writes their outputs back
    python scripts/run_notebooks.py --folder runs/check # keep what was measured, and go on from it the next time
    python scripts/run_notebooks.py --exercises         # the exercises' code as well, after the last cell

One kernel a notebook; they share one run folder, so that nothing is measured twice.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from emotrace.study.notebook import HEADLINE

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
# What a notebook and all of them should take on two cores, in seconds. More is said; twice as much fails, since
# machines differ.
SECONDS_EACH, SECONDS_ALL = 180, 900
PATIENCE = 2

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
Notebook = Any
"""A notebook as nbformat reads it."""


def outputs(notebook: Notebook) -> Iterator[Any]:
    """Every output of every code cell."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from cell.outputs


def headlines(notebook: Notebook) -> dict[str, dict[str, Any]]:
    """The headline numbers in a notebook's outputs, by name."""
    numbers = [output.data[HEADLINE] for output in outputs(notebook) if HEADLINE in output.get("data", {})]
    return {number["name"]: dict(number) for number in numbers}


def figures(notebook: Notebook) -> set[str]:
    """The figures that a notebook shows."""
    return {
        output.metadata.get("emotrace", {}).get("figure")
        for output in outputs(notebook)
        if "image/png" in output.get("data", {})
    } - {None}


def faults(committed: Notebook, executed: Notebook) -> list[str]:
    """What is wrong with an executed notebook beside the committed one: errors, missing figures, moved numbers."""
    lines = [f"error: {output.ename}: {output.evalue}" for output in outputs(executed) if output.output_type == "error"]
    expected = executed.metadata.get("emotrace", {}).get("figures", [])
    lines += [f"the figure {name} is missing" for name in expected if name not in figures(executed)]
    before, after = headlines(committed), headlines(executed)
    lines += [f"the number {name} is not there any more" for name in before if name not in after]
    lines += [f"the number {name} is new: --update commits it" for name in after if name not in before]
    return lines + [line for name in before if name in after if (line := moved(before[name], after[name]))]


def moved(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """A line if a headline number lies further from the committed one than the tolerance stated now; else None."""
    old, new, name = before["value"], after["value"], after["name"]
    if old is None and new is None:
        return None
    if old is None or new is None:
        return f"the number {name} was {old} and is {new}"
    if abs(new - old) <= after["tolerance"]:
        return None
    return f"the number {name} moved from {old:g} to {new:g}, by more than {after['tolerance']:g}"


def clean(notebook: Notebook) -> Notebook:
    """The notebook without what differs from run to run: progress, standard error, times, counts that say nothing.

    What was printed bit by bit becomes one output.
    """
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.metadata.pop("execution", None)
        cell.outputs = joined([output for output in cell.outputs if not _passing(output)])
        cell.execution_count = number
        for output in cell.outputs:
            output.pop("transient", None)
            if "execution_count" in output:
                output["execution_count"] = number
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def joined(outputs: list[Any]) -> list[Any]:
    """The outputs, those that were printed one after the other as one."""
    together: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and together and together[-1].output_type == "stream":
            together[-1].text += output.text
        else:
            together.append(output)
    return together


def _passing(output: Any) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    return bool(output.get("metadata", {}).get("emotrace", {}).get("progress"))


def with_exercises(notebook: Notebook) -> Notebook:
    """The notebook with one more cell for each block of Python in its exercise."""
    longer = nbformat.from_dict(notebook)
    prose = "\n".join(cell.source for cell in longer.cells if cell.cell_type == "markdown")
    exercise = prose.partition("\n## Exercise\n")[2]
    longer.cells += [nbformat.v4.new_code_cell(code.strip()) for code in _BLOCK.findall(exercise)]
    return longer


def execute(notebook: Notebook, runs: Path, seconds: int | None) -> Notebook:
    """The notebook, run from top to bottom in a kernel of its own; an error stays in it as an output."""
    executed = nbformat.from_dict(notebook)
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    environment = {**os.environ, "EMOTRACE_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    client = NotebookClient(executed, timeout=seconds, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    try:
        client.execute(env=environment, cwd=str(FOLDER))
    except CellExecutionError:
        pass  # the cell holds it as an output
    except CellTimeoutError:
        executed.cells[-1].outputs = [_error("TimeoutError", f"a cell took more than {seconds} s")]
    except (DeadKernelError, AssertionError):  # nbclient's own clean-up asserts that there still is a kernel
        executed.cells[-1].outputs = [_error("DeadKernelError", "the kernel died, of too little memory perhaps")]
    return executed


def _error(name: str, text: str) -> Any:
    return nbformat.v4.new_output("error", ename=name, evalue=text, traceback=[])


def check(
    path: Path, runs: Path, *, update: bool, exercises: bool = False, seconds: int | None = PATIENCE * SECONDS_EACH
) -> list[str]:
    """Executes one notebook; its faults.

    Args:
        path: of the notebook.
        runs: the folder of run folders.
        update: write the outputs back unless there was an error.
        exercises: execute the exercises' code as well; it is not written back.
        seconds: what it may take; None on a machine that is busy with other work.
    """
    committed = nbformat.read(path, as_version=4)
    print(f"{path.stem:<30}", end="", flush=True)
    start = time.monotonic()
    executed = execute(with_exercises(committed) if exercises else committed, runs, seconds)
    elapsed = time.monotonic() - start
    lines = faults(executed if update else committed, executed)
    if seconds and elapsed > seconds:
        lines.append(f"took {elapsed:.0f} s, more than {seconds}")
    if update and not any(line.startswith("error") for line in lines):
        del executed.cells[len(committed.cells) :]  # the exercises
        nbformat.write(clean(executed), path)
    slow = f", more than the {SECONDS_EACH} s of two quiet cores" if elapsed > SECONDS_EACH else ""
    print(f"{'FAIL' if lines else 'ok'}  {elapsed:.0f} s{slow}", flush=True)
    for line in lines:
        print(f"     {line}", flush=True)
    for output in outputs(executed):
        if output.output_type == "error":
            print("\n".join(output.traceback), file=sys.stderr)
    return lines


def main() -> int:
    """Runs the notebooks asked for; 1 if any fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="beginnings of notebooks' names (05, 07); default all")
    parser.add_argument("--update", action="store_true", help="write the outputs back")
    parser.add_argument("--folder", type=Path, help="keep what is measured here; default: a folder that is thrown away")
    parser.add_argument("--no-limit", action="store_true", help="a busy machine: do not fail for taking long")
    parser.add_argument("--exercises", action="store_true", help="run the exercises' code too")
    options = parser.parse_args()
    paths = [path for path in sorted(FOLDER.glob("*.ipynb")) if path.name.startswith(tuple(options.numbers or [""]))]
    if not paths:
        parser.error(f"no notebook begins with {', '.join(options.numbers)}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        runs = (options.folder or Path(scratch)).resolve()
        limit = None if options.no_limit else PATIENCE * SECONDS_EACH
        how = {"update": options.update, "exercises": options.exercises, "seconds": limit}
        failed = [path.stem for path in paths if check(path, runs, **how)]
    elapsed = time.monotonic() - start
    print(f"{len(paths) - len(failed)} of {len(paths)} notebooks ok, {elapsed / 60:.1f} minutes")
    late = elapsed > PATIENCE * SECONDS_ALL and not options.no_limit
    if late:
        print(f"FAIL: more than {PATIENCE * SECONDS_ALL / 60:.0f} minutes in all")
    return int(bool(failed) or late)


if __name__ == "__main__":
    sys.exit(main())
