"""Runs of several models in which some fail, or that are killed."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch

from emotrace import cli
from emotrace.errors import EmotraceError, WriteError
from emotrace.study import pipeline
from emotrace.study.folder import read_manifest, read_tables


@pytest.fixture
def broken(tiny_folder, tmp_path) -> dict[str, Path]:
    """Two good models, one whose weights file is cut short, one whose weights are not numbers."""
    made = {"good": tiny_folder("llama", n_layers=6), "other": tiny_folder("gpt2", n_layers=6)}
    for name in ("cut", "nan"):
        made[name] = tmp_path / f"weights-{name}"  # a model called nan would be read back from a table as no model
        shutil.copytree(made["other"], made[name])
    file = made["cut"] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    file = made["nan"] / "model.safetensors"
    weights = {name: torch.full_like(value, torch.nan) for name, value in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    return made


def test_a_seed_that_is_none_is_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(EmotraceError, match="a seed is 0 or more, not -1"):
        pipeline.run(["no/such"], tmp_path / "run", seed=-1)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_into_a_models_own_folder(tiny_folder):
    source = tiny_folder("llama")
    before = sorted(source.rglob("*"))
    for out in (source, source / "runs" / "mine"):
        with pytest.raises(EmotraceError, match="lies in the model's own folder"):
            pipeline.run([str(source)], out, quick=True)
    assert sorted(source.rglob("*")) == before


@pytest.mark.slow
def test_models_that_fail_do_not_lose_the_others(broken, tmp_path, capsys):
    names = [str(broken[name]) for name in ("cut", "good", "nan")]
    out = tmp_path / "run"
    pipeline.run(names, out, chosen="separation", quick=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emotrace: ")]
    assert len(told) == 2
    manifest = read_manifest(out)
    assert list(manifest["failures"]) == ["weights-cut", "weights-nan"]  # by the names that models have in this run
    assert list(manifest["models"]) == [Path(names[1]).name]
    assert "cannot be loaded" in manifest["failures"]["weights-cut"]
    assert "NaN" in manifest["failures"]["weights-nan"]
    assert all("\n" not in reason for reason in manifest["failures"].values())
    assert told == [
        f"emotrace: {name} failed, the other models go on: {why}" for name, why in manifest["failures"].items()
    ]
    assert not manifest["complete"]
    tables, page = read_tables(out), (out / "report.html").read_text()
    assert set(tables["separation"]["model"]) == {Path(names[1]).name}
    assert "across_depth" not in tables  # one model is left
    assert page.count("failed</strong> and is not in this report") == 2
    assert all(why in page for why in ("weights-cut", "NaN", "--resume"))
    # Mended and resumed, both are there and nothing is said to have failed.
    kept = {file: file.stat().st_mtime_ns for file in (out / ".cache").glob("[0-9a-f]*")}
    for name in ("cut", "nan"):
        shutil.copy(broken["other"] / "model.safetensors", broken[name] / "model.safetensors")
    pipeline.run(names, out, chosen="separation", quick=True, resume=True)
    manifest = read_manifest(out)
    assert manifest["complete"]
    assert "failures" not in manifest
    finished = [Path(name).name for name in names]
    assert list(dict.fromkeys(read_tables(out)["separation"]["model"])) == finished
    assert set(read_tables(out)["across_depth"]["model"]) == set(finished)
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())


def test_a_run_goes_on_with_another_experiment_beside_claims_of_a_model_still_to_come(broken, tmp_path):
    """The first model's early report is written while tables of the second lie there from before."""
    names, out = [str(broken[name]) for name in ("good", "other")], tmp_path / "run"
    pipeline.run(names, out, chosen="separation", quick=True)
    before = (out / "tables" / "separation.csv").read_bytes()
    row = {"model": "", "instrument": "scenes", "id": "neighbour.probe.mean", "claim": "a probe", "paper": "0.9"}
    row |= {"measured": 0.5, "low": 0.4, "high": 0.6, "n": 12, "verdict": "inconclusive", "how": "as said"}
    claims = pd.DataFrame([{**row, "model": name} for name in read_manifest(out)["models"]])
    claims.to_csv(out / "tables" / "claims.csv", index=False)
    pipeline.run(names, out, chosen="separation,anisotropy", quick=True, resume=True)
    manifest = read_manifest(out)
    assert manifest["complete"]
    assert (out / "tables" / "separation.csv").read_bytes() == before
    assert set(read_tables(out)["anisotropy"]["model"]) == set(manifest["models"])


def test_a_failure_of_several_exits_with_1_of_one_or_all_with_2(broken, tmp_path, monkeypatch, capsys):
    def call(*names: str) -> int:
        arguments = [str(broken[name]) for name in names]
        out = str(tmp_path / "-".join(names))
        command = ["emotrace", "run", *arguments, "--out", out, "--quick", "--experiments", "anisotropy"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0

    assert call("good", "cut") == 1
    assert "--resume tries again" in capsys.readouterr().err
    assert call("cut") == 2
    assert call("cut", "nan") in (1, 2)
    assert call("good", "other") == 0


def test_if_every_model_fails_all_reasons_are_in_one_line(broken, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(broken["cut"], second)
    with pytest.raises(EmotraceError) as raised:
        pipeline.run([str(broken["cut"]), str(second)], tmp_path / "run", chosen="separation", quick=True)
    assert str(raised.value).count("failed: ") == 2
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error", [WriteError("disk full"), OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_a_full_disk_and_the_keyboard_stop_the_run(tiny_folder, tmp_path, monkeypatch, error):
    tried = []

    def fail(name, *_):
        tried.append(name)
        raise error

    monkeypatch.setattr(pipeline, "_run_model", fail)
    with pytest.raises(type(error)):
        pipeline.run(["first", "second"], tmp_path / "run", quick=True)
    assert tried == ["first"]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_killed_in_the_second_model_and_resumed_nothing_of_the_first_is_lost(tiny_folder, tmp_path, run_apart):
    folders = [str(tiny_folder("llama", n_layers=6)), str(tiny_folder("gpt2", n_layers=6))]
    wanted = {"chosen": "separation,anisotropy,localisation", "quick": True}
    pipeline.run(folders, tmp_path / "whole", **wanted)
    killed = tmp_path / "killed"
    process = run_apart(folders, killed, **wanted)
    while process.is_alive():
        manifest = killed / "manifest.json"
        if manifest.exists() and f"{Path(folders[1]).name}: load" in json.loads(manifest.read_text())["seconds"]:
            break
        time.sleep(0.01)
    assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    tables = read_tables(killed)
    assert set(tables["localisation"]["model"]) == {Path(folders[0]).name}  # the first model's are on disk already
    pipeline.report(killed)  # a report of what there is
    kept = {file: file.stat().st_mtime_ns for file in (killed / ".cache").glob("[0-9a-f]*")}
    assert len(kept) > 20
    pipeline.run(folders, killed, resume=True, **wanted)
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())
    files = [
        {file.name: file.read_bytes() for file in (out / "tables").iterdir()} for out in (tmp_path / "whole", killed)
    ]
    assert files[0] == files[1]
    assert {"across_depth.csv", "across_rdm.csv"} <= set(files[0])
