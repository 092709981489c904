"""A run folder keeps every finished unit: killed at any moment and resumed, it ends in the very same bytes."""

import contextlib
import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emotrace.errors import EmotraceError
from emotrace.study import experiments, pipeline
from emotrace.study.folder import RunFolder, read_manifest, read_tables, select

FEW = "separation,anisotropy"
SETTINGS = {"models": ["tiny"], "seed": 0}


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "emotrace", "run", str(folder), "--out", str(out), "--quick", *more]


def tables(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "tables").iterdir())}


def test_rows_and_arrays_are_computed_once_and_come_back_equal(tmp_path):
    run, calls = RunFolder(tmp_path / "run", SETTINGS), []

    def rows():
        calls.append("rows")
        return [{"value": 0.1 + 0.2, "n": np.float64(3)}]

    def array():
        calls.append("array")
        return np.arange(6, dtype=np.float32).reshape(2, 3)

    first = run.rows({"what": "a"}, rows), run.arrays("key", array)
    again = run.rows({"what": "a"}, rows), run.arrays("key", array)
    assert calls == ["rows", "array"]
    assert first[0] == again[0] == [{"value": 0.30000000000000004, "n": 3.0}]
    assert again[1].dtype == np.float32
    np.testing.assert_array_equal(first[1], again[1])
    run.rows({"what": "b"}, rows)
    assert calls == ["rows", "array", "rows"]


def test_a_damaged_unit_is_computed_again(tmp_path):
    run = RunFolder(tmp_path / "run", SETTINGS)
    kept = run.rows({"what": "a"}, lambda: [{"value": 1.5}]), run.arrays("key", lambda: np.arange(900.0))
    for file in (tmp_path / "run" / ".cache").glob("*.*"):
        file.write_bytes(file.read_bytes()[:-600])
    again = run.rows({"what": "a"}, lambda: [{"value": 2.5}]), run.arrays("key", lambda: np.arange(900.0) + 1)
    assert (kept[0], again[0]) == ([{"value": 1.5}], [{"value": 2.5}])
    np.testing.assert_array_equal(again[1], kept[1] + 1)
    assert run.rows({"what": "a"}, list) == again[0]


@pytest.mark.parametrize("content", ["{}", "[]", "7", '{"settings": 1, "models": {}, "seconds": {}}'])
def test_a_manifest_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(EmotraceError, match=r"is not one of emotrace"):
        read_manifest(tmp_path)


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "separation.csv").touch()
    with pytest.raises(EmotraceError, match=r"separation\.csv cannot be read .*--resume"):
        read_tables(tmp_path)


def test_a_unit_that_fails_leaves_nothing_behind(tmp_path):
    run = RunFolder(tmp_path / "run", SETTINGS)
    before = sorted((tmp_path / "run" / ".cache").iterdir())
    with pytest.raises(ZeroDivisionError):
        run.arrays("key", lambda: np.array([1 // 0]))
    assert sorted((tmp_path / "run" / ".cache").iterdir()) == before


def test_a_second_run_in_the_same_process_is_refused_while_the_first_is_at_work(tmp_path):
    first = RunFolder(tmp_path / "run", SETTINGS)
    with pytest.raises(EmotraceError, match="another emotrace is at work"):
        RunFolder(tmp_path / "run", SETTINGS, resume=True)
    first.close()
    second = RunFolder(tmp_path / "run", SETTINGS, resume=True)
    with pytest.raises(EmotraceError, match="another emotrace is at work"):
        RunFolder(tmp_path / "run", SETTINGS, resume=True)
    del second  # an abandoned one holds nothing
    RunFolder(tmp_path / "run", SETTINGS, resume=True).close()


def test_a_second_process_is_refused_while_the_first_is_at_work_or_until_it_is_killed(tmp_path):
    program = f"""
import sys
from emotrace.study.folder import RunFolder
run = RunFolder({str(tmp_path / "run")!r}, {SETTINGS!r})
print("at work", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"at work\n"
        with pytest.raises(EmotraceError, match=f"^another emotrace is at work in {re.escape(str(tmp_path / 'run'))}$"):
            RunFolder(tmp_path / "run", SETTINGS, resume=True)
        process.kill()
    RunFolder(tmp_path / "run", SETTINGS, resume=True).close()


def test_a_finished_folder_is_not_overwritten_unasked(tmp_path):
    RunFolder(tmp_path / "run", SETTINGS).close()
    with pytest.raises(EmotraceError, match="--resume"):
        RunFolder(tmp_path / "run", SETTINGS)


def test_a_folder_holds_one_run_and_says_what_differs(tmp_path):
    RunFolder(tmp_path / "run", SETTINGS).close()
    with pytest.raises(EmotraceError, match="seed was 0 and is 1"):
        RunFolder(tmp_path / "run", {**SETTINGS, "seed": 1}, resume=True)


def test_experiments_are_added_to_a_run_that_is_resumed_and_none_is_taken_away(tmp_path):
    settings = {"models": ["m"], "experiments": ["separation"]}
    RunFolder(tmp_path, settings).close()
    more = {**settings, "experiments": ["separation", "precision"]}
    with pytest.raises(EmotraceError, match="go on with it by --resume"):
        RunFolder(tmp_path, more)
    grown = RunFolder(tmp_path, more, resume=True)
    assert grown.manifest["settings"]["experiments"] == ["separation", "precision"]
    assert grown.manifest["complete"] is False
    grown.close()
    RunFolder(tmp_path, {**more, "experiments": more["experiments"][::-1]}, resume=True).close()
    for other in (settings, {**more, "models": ["n"], "experiments": ["separation", "precision", "graded"]}):
        with pytest.raises(EmotraceError, match="other settings"):
            RunFolder(tmp_path, other, resume=True)


def test_tables_are_written_with_six_digits_and_empty_cells(tmp_path):
    run = RunFolder(tmp_path / "run", SETTINGS)
    run.write_table("t", pd.DataFrame({"model": ["a", "b"], "value": [1 / 3, np.nan]}))
    assert (tmp_path / "run/tables/t.csv").read_text() == "model,value\na,0.333333\nb,\n"
    assert len(select(read_tables(tmp_path / "run")["t"], model="b")) == 1


def units(out: Path) -> list[Path]:
    """The finished units of a run folder."""
    return list((out / ".cache").glob("[0-9a-f]*"))


@pytest.fixture(scope="module")
def whole(small, tiny_folder, tmp_path_factory) -> Path:
    """A run of a tiny model that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    pipeline.run([str(tiny_folder("llama", n_layers=6))], out, quick=True)
    return out


@pytest.mark.slow
def test_killed_at_ten_moments_and_resumed_the_tables_are_byte_identical(tmp_path, tiny_folder, whole, run_apart):
    folders, killed = [str(tiny_folder("llama", n_layers=6))], tmp_path / "killed"
    total, moments = len(units(whole)), random.Random(7)
    for kill in range(10):
        process = run_apart(folders, killed, resume=True)
        # By progress, not by the clock, since one machine is faster than another; then somewhere in the next unit.
        while len(units(killed)) < (kill + 0.5) / 10 * total and process.is_alive():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        assert process.is_alive()  # else nothing was interrupted, and the test would show nothing
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finished = {file: file.stat().st_mtime_ns for file in units(killed)}
    assert total / 2 < len(finished) < total
    pipeline.run(folders, killed, quick=True, resume=True)
    assert tables(killed) == tables(whole)
    made = {name for name, experiment in experiments.TABLES.items() if not experiment.extra} | {"transfer"}
    assert set(tables(whole)) == {f"{name}.csv" for name in {*made, "claims", "method_comparison_models"}}
    assert all(file.stat().st_mtime_ns == written for file, written in finished.items())  # none was computed again
    assert json.loads((killed / "manifest.json").read_text())["complete"]


@pytest.mark.slow
def test_interrupted_from_the_keyboard_it_says_how_to_go_on(tmp_path, tiny_folder):
    long = [word for word in command(tiny_folder("llama", n_layers=24), tmp_path / "run") if word != "--quick"]
    # A background job of a shell ignores the interrupt, and so would its children: back to the default.
    process = subprocess.Popen(
        long,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run/.cache").glob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)  # once as a rule; one that falls into a destructor is lost, as for a person
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=8)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on with it" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_from_there(tmp_path, tiny_folder):
    folder, wanted = tiny_folder("llama", n_layers=6), ("--experiments", FEW)
    # No file may grow beyond 40 kB: writing fails in the middle of the work, as on a full disk.
    limited = subprocess.run(
        command(folder, tmp_path / "full", *wanted),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert limited.returncode == 2
    last = limited.stderr.strip().splitlines()[-1]
    assert last.startswith("emotrace: ")
    assert "cannot be written: File too large" in last
    assert "Traceback" not in limited.stderr
    kept = {file: file.stat().st_mtime_ns for file in units(tmp_path / "full")}
    assert kept
    for out, again in (("full", ["--resume"]), ("whole", [])):
        subprocess.run(command(folder, tmp_path / out, *wanted, *again), check=True, capture_output=True)
    assert tables(tmp_path / "full") == tables(tmp_path / "whole")
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())
