"""The names that scripts and readers rely on: they may only be added to."""

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import typer

import emotrace
from emotrace import cli, vectors
from emotrace.hosts import gguf
from emotrace.instrument import corpus
from emotrace.study import folder, lab, pipeline, verdicts

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "load": "emotrace.models",
    "extract": "emotrace.extraction",
    "EmotionVectors": "emotrace.vectors",
    "steer": "emotrace.steered_texts",
    "what_if": "emotrace.whatif.compare",
    "what_if_slider": "emotrace.whatif.slider",
    "read_emotions": "emotrace.whatif.token_reading",
    "watch": "emotrace.whatif.watching",
    "lens": "emotrace.logit_lens",
    "compare": "emotrace.comparison",
    "attach": "emotrace.in_memory",
    "steered": "emotrace.steering_hooks",
    "Lab": "emotrace.study.lab",
    "EmotraceError": "emotrace.errors",
}
CLASSES = {"EmotionVectors", "Lab", "EmotraceError"}
TARGETS = "setup demo test test-fast test-ndif bench notebooks lab docs dist models"
COMMANDS = {
    "run": "models --out --experiments --passages --classifier --quick --resume --seed --remote",
    "extract": "model --out --method --continuation --remove-neutral --estimator --pooling --layers --emotions "
    "--passages --gguf --remote",
    "read": "text --emotion --model --vectors --layer --top --html --remote",
    "whatif": "prompt --emotion --strength --model --layer --tokens --temperature --seed --chat --no-judge --live "
    "--html --remote",
    "compare": "vectors --layers-are --same-model --out",
    "lens": "vectors --emotion --model --layers --top --random --csv --remote",
    "models": "",
    "setup": "--models",
    "doctor": "model",
    "report": "folder",
}
REQUIRED = {
    "read": {"text"},
    "lens": {"vectors"},
    "compare": {"vectors"},
    "whatif": {"prompt", "--emotion"},
    "report": {"folder"},
}
DEFAULTS = {
    "run": {"--out": Path("runs/latest"), "--experiments": "all", "--classifier": "minilm-goemotions", "--seed": 0},
    "extract": {"--method": "comprehension", "--pooling": "last", "--layers": "all", "--emotions": "all"},
    "read": {"--top": 20, "--layer": None, "--emotion": None},
    "whatif": {"--tokens": 60, "--temperature": None, "--seed": 0, "--strength": None, "--layer": None},
}
CLAIMS = "model instrument id claim paper measured low high n p verdict how"


# -- Python ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "module"), PUBLIC.items())
def test_public_names_stand_where_readers_look_for_them(name, module):
    assert name in emotrace.__all__
    assert name in dir(emotrace)
    value = getattr(emotrace, name)
    assert isinstance(value, type) == (name in CLASSES)
    assert callable(value)
    assert value.__module__ == module
    assert getattr(importlib.import_module(module), name) is value


def test_every_public_name_resolves_and_no_other_does():
    assert all(getattr(emotrace, name) for name in emotrace.__all__)
    assert isinstance(emotrace.__version__, str)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        emotrace.nothing  # noqa: B018


def test_importing_emotrace_loads_no_library():
    libraries = "torch transformers nnsight numpy pandas scipy sklearn matplotlib typer"
    code = f"import sys, emotrace; print(*set(sys.modules) & set({libraries.split()!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_the_vector_file_format():
    assert vectors.FORMAT == "emotrace-vectors-1"


def test_caches_and_notebook_runs_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path / "runs"))
    assert gguf.cache_dir() == tmp_path / "cache"
    assert lab.runs_folder() == tmp_path / "runs"


def test_packaged_models_by_their_short_names():
    packaged = {"smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct"}
    assert packaged <= set(corpus.model_registry().index)
    assert cli.DEFAULT_MODEL == "smollm2-135m-instruct"


# -- commands ----------------------------------------------------------------------------------------------------------


def parameters(command: str) -> dict[str, object]:
    """Each argument, or option as it is typed → click's parameter."""
    return {parameter.opts[0]: parameter for parameter in typer.main.get_command(cli.app).commands[command].params}


def test_there_are_these_commands():
    assert set(COMMANDS) <= set(typer.main.get_command(cli.app).commands)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["emotrace"] == "emotrace.cli:main"


@pytest.mark.parametrize(("command", "names"), COMMANDS.items())
def test_commands_have_their_arguments_and_options(command, names):
    known = parameters(command)
    assert set(names.split()) <= set(known)
    assert {name for name, parameter in known.items() if parameter.required} == REQUIRED.get(command, set())
    for name, default in DEFAULTS.get(command, {}).items():
        assert known[name].default == default


@pytest.mark.parametrize("command", ["run", "extract", "doctor", "read", "whatif"])
def test_the_embedded_model_is_the_default(command):
    known = parameters(command)
    if command == "run":
        assert "smollm2-135m-instruct" in known["models"].help
    else:
        assert (known.get("--model") or known["model"]).default == "smollm2-135m-instruct"


@pytest.mark.parametrize("target", TARGETS.split())
@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_targets_exist(target):
    made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    if target == "demo":
        assert "emotrace run smollm2-135m-instruct --out runs/demo" in made.stdout


def exit_code(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["emotrace", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_exit_codes(monkeypatch, tmp_path):
    failures: dict[str, str] = {}
    monkeypatch.setattr(pipeline, "run", lambda models, out, **_: out / "report.html")
    monkeypatch.setattr(folder, "read_manifest", lambda _: {"failures": failures})
    run = ["run", "--out", str(tmp_path)]
    assert exit_code(monkeypatch, *run) == 0
    failures["gpt2"] = "it cannot be loaded"  # some models failed, others did not
    assert exit_code(monkeypatch, *run) == 1

    def stop(error: BaseException) -> int:
        def raised(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(pipeline, "run", raised)
        return exit_code(monkeypatch, *run)

    assert stop(emotrace.EmotraceError("the user can mend it")) == 2
    assert stop(KeyboardInterrupt()) == 130
    assert exit_code(monkeypatch, "run", "--no-such-option") == 2


# -- run folders -------------------------------------------------------------------------------------------------------


def test_the_layout_of_a_run_folder(tiny_folder, tmp_path):
    source = tiny_folder("llama", n_layers=6)
    report = pipeline.run([str(source)], tmp_path, chosen="anisotropy", quick=True)
    assert report == tmp_path / "report.html"
    shown = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert shown == {"manifest.json", "vectors", "texts", "tables", "figures", "report.html"}
    model = Path(source).name
    assert {path.name for path in (tmp_path / "vectors").glob("*.safetensors")} == {
        f"{model}-comprehension-{pooling}{of}.safetensors" for pooling in ("last", "mean") for of in ("", "-accounts")
    }
    assert {path.stem for path in (tmp_path / "tables").glob("*.csv")} == {"anisotropy", "claims"}
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
    assert list(pd.read_csv(tmp_path / "tables" / "claims.csv").columns) == CLAIMS.split()
    manifest = folder.read_manifest(tmp_path)
    assert {"settings", "complete", "models", "seconds", "machine"} <= set(manifest)
    assert {"emotrace", "models", "experiments", "quick", "sizes", "classifier"} <= set(manifest["settings"])


def test_verdicts_are_these_words():
    assert verdicts.VERDICTS == ("reproduced", "not reproduced", "inconclusive", "not testable on this model")
    assert CLAIMS.split() == verdicts.COLUMNS
