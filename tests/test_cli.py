"""The command line: what it prints, and that every mistake is one clear line and exit code 2."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tiny_models

from emotrace import EmotraceError, cli, cli_output, commands
from emotrace.hosts import gguf as gguf_weights
from emotrace.vectors import EmotionVectors


@pytest.fixture
def emotrace(monkeypatch, capsys):
    """``emotrace("run", "gpt2", …)`` → exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["emotrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


def one_line(result: tuple[int, str, str]) -> str:
    code, _, error = result
    assert code == 2
    lines = [line for line in error.splitlines() if line.startswith("emotrace: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    return lines[0]


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return tiny_folder("llama", n_layers=6)


@pytest.fixture(scope="module")
def vectors_file(tiny, tmp_path_factory):
    """Vectors of the tiny llama, extracted by the command line itself."""
    file = tmp_path_factory.mktemp("vectors") / "v.safetensors"
    subprocess.run(
        [sys.executable, "-m", "emotrace", "extract", tiny, "--out", file, "--pooling", "mean"],
        check=True,
        capture_output=True,
    )
    return file


def test_unknown_model(emotrace, tmp_path):
    line = one_line(emotrace("run", "gpt5", "--out", tmp_path / "run"))
    assert "unknown model 'gpt5'" in line
    assert "smollm2-135m-instruct" in line


def test_unknown_emotion_lists_the_known(emotrace, tmp_path):
    line = one_line(emotrace("extract", "--emotions", "happy,smug", "--out", tmp_path / "v"))
    assert "unknown emotion 'smug'" in line
    assert "exasperated" in line


@pytest.mark.parametrize(
    ("layers", "words"), [("99", "layer 99 is out of range"), ("-1", "out of range"), ("two", "numbers with commas")]
)
def test_bad_layer(emotrace, tiny, tmp_path, layers, words):
    assert words in one_line(emotrace("extract", tiny, f"--layers={layers}", "--out", tmp_path / "v"))


def test_unknown_pooling_experiment_and_seed(emotrace, tiny, tmp_path):
    assert "unknown pooling 'max'" in one_line(emotrace("extract", tiny, "--pooling", "max", "--out", tmp_path / "v"))
    assert "unknown experiment 'magic'" in one_line(
        emotrace("run", tiny, "--experiments", "magic", "--out", tmp_path / "r")
    )
    assert emotrace("run", tiny, "--seed", "x", "--out", tmp_path / "r")[0] == 2


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("  \n", "is empty"), ("word " * 300_000, "too long")])
def test_empty_or_huge_text(emotrace, tiny, vectors_file, text, words):
    assert words in one_line(emotrace("read", text, "--model", tiny, "--vectors", vectors_file))


def test_vectors_of_another_model_name_both(emotrace, tiny_folder, vectors_file):
    other = tiny_folder("llama", seed=3, n_layers=6)
    line = one_line(emotrace("read", "A plain text.", "--model", other, "--vectors", vectors_file))
    assert "these vectors belong to" in line
    assert line.count("sha256:") == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage"])
def test_damaged_vector_file(emotrace, tiny, vectors_file, tmp_path, damage):
    content = bytearray(vectors_file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-10] ^= 0x40  # inside the tensors, where only the checksum can see it
    else:
        content = bytearray(b"no safetensors at all")
    file = tmp_path / "v.safetensors"
    file.write_bytes(content)
    assert "damaged" in one_line(emotrace("read", "A plain text.", "--model", tiny, "--vectors", file))


@pytest.mark.parametrize("content", [b"GGUF", b"not a model", b""])
def test_damaged_gguf(emotrace, tmp_path, content, monkeypatch):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    assert "cannot be read as a GGUF model" in one_line(emotrace("run", file, "--out", tmp_path / "run"))


def test_damaged_cache_names_the_folder_to_remove(emotrace, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path))
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")
    folder = gguf_weights.converted_folder(f"model-{gguf_weights._CONVERSION}", gguf_weights.sha256(source))
    tiny_models.build("llama", folder)
    gguf_weights._stamp(folder, "0")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    line = one_line(emotrace("run", source, "--out", tmp_path / "run"))
    assert f"remove {folder}" in line or str(folder) in line
    assert "damaged" in line


def test_output_that_cannot_be_written(emotrace, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in one_line(emotrace("run", tiny, "--out", tmp_path / "file" / "run"))
    assert "cannot be written" in one_line(emotrace("run", tiny, "--out", "/proc/emotrace"))
    assert "cannot be written" in one_line(emotrace("extract", tiny, "--out", tmp_path / "file" / "v.safetensors"))


HEADER = "id,topic,emotion,person,gender,tense,text\n"
ROWS = "a,t1,neutral,first,unmarked,past,One text here.\nb,t1,happy,first,unmarked,past,{text}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER.replace(",emotion", "") + "a,t1,first,unmarked,past,One.\n", "lacks the column emotion"),
        (HEADER + ROWS.format(text="One text here."), "the same text stands there twice"),
        (HEADER + ROWS.format(text="Other.").replace("b,", "a,", 1), "the same id stands there twice"),
        (HEADER + ROWS.format(text=" "), "the text is empty"),
        (HEADER + ROWS.format(text="Other.").replace("happy", "smug"), "unknown emotion 'smug'"),
        (HEADER, "has no rows"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_passages_file_with_a_fault(emotrace, tiny, tmp_path, content, words):
    file = tmp_path / "passages.csv"
    file.write_text(content)
    assert words in one_line(emotrace("run", tiny, "--passages", file, "--out", tmp_path / "run"))
    assert words in one_line(emotrace("extract", tiny, "--passages", file, "--out", tmp_path / "v"))
    assert "no file" in one_line(emotrace("run", tiny, "--passages", tmp_path / "none.csv", "--out", tmp_path / "run"))


def test_extract_writes_vectors_and_control_vectors(emotrace, tiny, tmp_path):
    code, out, _ = emotrace(
        "extract",
        tiny,
        "--out",
        tmp_path / "v.safetensors",
        "--emotions",
        "sad,calm",
        "--layers",
        "2,5",
        "--gguf",
        tmp_path / "cv",
    )
    assert code == 0
    assert "2 emotions × 2 layers × 32 dimensions" in out
    vectors = EmotionVectors.load(tmp_path / "v.safetensors")
    assert (vectors.emotions, vectors.layers) == (("sad", "calm"), (2, 5))
    assert sorted(file.name for file in (tmp_path / "cv").iterdir()) == ["calm.gguf", "sad.gguf"]


def test_read_prints_every_emotion_once(emotrace, tiny, vectors_file):
    code, out, _ = emotrace(
        "read", "The door opened by itself.", "--model", tiny, "--vectors", vectors_file, "--layer", 3
    )
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()[:20]) == sorted(
        EmotionVectors.load(vectors_file).emotions
    )
    assert "layer 3 of" in out


def test_models_lists_the_registry(emotrace):
    code, out, _ = emotrace("models")
    assert code == 0
    assert "qwen2.5-coder-0.5b-instruct" in out
    assert out.count(" yes") == 9  # our reading of the paper's nine


def test_help_is_quick_and_needs_no_torch():
    lines = (
        "import sys; sys.argv = ['emotrace', '--help']",
        "from emotrace import cli",
        "try: cli.main()",
        "except SystemExit: pass",
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules",
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "localise" in result.stdout or "extract" in result.stdout
    assert time.perf_counter() - start < 5  # 0.3 s on an idle machine


def test_the_lens_of_a_file_of_vectors(emotrace, tiny, vectors_file, tmp_path):
    csv = tmp_path / "lens.csv"
    asked = ["--model", tiny, "--emotion", "sad,calm", "--layers", "2,4", "--top", 3, "--random", 4, "--csv", csv]
    code, out, _ = emotrace("lens", vectors_file, *asked)
    assert code == 0
    table = pd.read_csv(csv)
    assert table.groupby(["emotion", "layer", "side"]).size().tolist() == [3] * 8
    row = table[(table["emotion"] == "calm") & (table["layer"] == 4) & (table["side"] == "top")].iloc[0]
    line = next(line for line in out.splitlines() if line.split()[:2] == ["calm", "4"])
    assert f"{row['z']:+.1f} ({row['null']:+.1f})" in line
    assert "Left out" not in out
    assert "unknown emotion 'smug'" in one_line(emotrace("lens", vectors_file, "--model", tiny, "--emotion", "smug"))
    zero = EmotionVectors.load(vectors_file)
    zero.values[:, :2] = 0
    zero.save(tmp_path / "zero.safetensors")
    code, out, _ = emotrace("lens", tmp_path / "zero.safetensors", "--model", tiny, "--emotion", "sad", "--random", 2)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if line.split()[:1] == ["sad"]] == ["2", "3", "4", "5", "6"]
    assert out.splitlines()[-1] == "Left out, since a vector is zero there: layer 0, 1."


def test_a_what_if_alive_is_the_steered_text_and_a_bar_an_emotion(emotrace, tiny):
    asked = ["whatif", "The kettle had begun to sing, and", "--emotion", "afraid", "--strength", 0.5, "--tokens", 6]
    code, out, _ = emotrace(*asked, "--model", tiny, "--live")
    assert code == 0
    bars = [line for line in out.splitlines() if "│" in line]
    assert len(bars) == 20
    assert [line.split()[1] for line in bars if line.startswith("▸")] == ["afraid"]
    assert "The kettle had begun to sing" in out
    for more in (("--html", "page.html"), ("--control", "2")):
        assert "goes without --html" in one_line(emotrace(*asked, "--model", tiny, "--live", *more))


HOW = ["--revision", "v1", "--dtype", "bfloat16", "--quantization", "torchao-int8", "--trust-remote-code"]


@pytest.mark.parametrize(
    "command",
    [
        ["run", "org/model"],
        ["extract", "org/model"],
        ["read", "A text.", "--model", "org/model"],
        ["whatif", "A prompt.", "--emotion", "sad", "--model", "org/model"],
        ["whatif", "A prompt.", "--emotion", "sad", "--live", "--model", "org/model"],
        ["lens", "v.safetensors", "--model", "org/model"],
        ["transfer", "scenes", "accounts", "--model", "org/model"],
    ],
    ids=lambda command: " ".join(command[:1] + command[4:5]),
)
def test_wherever_a_model_is_named_it_can_be_loaded_some_other_way(emotrace, tmp_path, monkeypatch, command):
    from emotrace import models
    from emotrace.errors import EmotraceError
    from emotrace.study import pipeline

    asked = {}

    def load(name, **how):
        asked.update(how, name=name)
        raise EmotraceError("stopped here")

    for module in (models, pipeline):
        monkeypatch.setattr(module, "load", load)
    monkeypatch.chdir(tmp_path)
    values = np.ones((1, 1, 4), np.float32)
    EmotionVectors(("sad",), (0,), values, *[values[0]] * 3, {"pooling": "mean"}).save("v.safetensors")

    def stopped(*more: object) -> str:
        shutil.rmtree("runs", ignore_errors=True)  # of the run before
        code, _, error = emotrace(*command, *more)
        assert code == 2
        assert "Traceback" not in error
        return error.splitlines()[-1]  # before it may stand what was understood of an instrument

    assert "stopped here" in stopped(*HOW, "--device-map", '{"": "cpu"}')
    expected = {"revision": "v1", "dtype": "bfloat16", "quantization": "torchao-int8", "trust_remote_code": True}
    assert {name: asked[name] for name in (*expected, "device_map", "name")} == {
        **expected,
        "device_map": {"": "cpu"},
        "name": "org/model",
    }
    asked.clear()
    assert "stopped here" in stopped()
    assert not {*expected, "device_map"} & set(asked)  # what is not given is for load to choose
    assert "module to device as JSON" in stopped("--device-map", '{"": ')


def test_vectors_of_the_dtype_that_is_asked_for(emotrace, tiny, tmp_path):
    file = tmp_path / "v.safetensors"
    assert emotrace("extract", tiny, "--layers", 2, "--dtype", "float64", "--device-map", "cpu", "--out", file)[0] == 0
    assert EmotionVectors.load(file).provenance["dtype"] == "float64"
    assert "unknown dtype 'float8'" in one_line(emotrace("extract", tiny, "--dtype", "float8", "--out", file))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["whatif", "hi", "--emotion", "afraid=1,afraid=2"], "'afraid' is given twice"),
        (["check", "moods.csv", "--columns", "text=a,emotion=b,text=c"], "'text' is given twice"),
        (["read", "hi there", "--top", "-3"], "--top is 0 or more, not -3"),
        (["extract", "m", "--out", "v", "--gguf", "g", "--layers", "0,1"], "no layer to export"),
        (["extract", "m", "--out", "v", "--gguf", "taken"], "cannot be written"),
        (["extract", "m", "--out", "folder"], "folder cannot be written: it is a folder"),
    ],
)
def test_what_would_fail_after_the_work_or_mean_something_else_is_refused_at_once(
    emotrace, words, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emotrace.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "taken").touch()
    (tmp_path / "folder").mkdir()
    assert message in one_line(emotrace(*words))


def test_names_in_brackets_are_printed_as_they_are(capsys):
    row = {"train": "t[bold]", "test": "t[copy]", "pooling": "mean", "layer": 3, "metric": "accuracy", "chosen": True}
    table = pd.DataFrame([{**row, "value": 0.5, "low": 0.4, "high": 0.6, "null": 0.1}])
    cli_output.print_table(commands._transferred(table))
    printed = capsys.readouterr().out
    assert "t[bold]" in printed
    assert "t[copy]" in printed


def test_vectors_that_may_not_be_read_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "v.safetensors").write_bytes(b"\0" * 99)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refused)
    with pytest.raises(EmotraceError, match=r"v\.safetensors cannot be read: Permission denied"):
        EmotionVectors.load(tmp_path / "v.safetensors")
