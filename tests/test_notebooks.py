"""The notebooks are complete, small, clean and in the open; the check that runs them sees what it is to see."""

import ast
import base64
import builtins
import copy
import functools
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import notebook_cells
import numpy as np
import pandas as pd
import pytest
import torch
from packaging.requirements import Requirement

import emotrace
from emotrace.activations import residual_norms
from emotrace.extraction import read_texts
from emotrace.instrument import corpus
from emotrace.study import experiments
from emotrace.study.notebook import published

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARTS = ("**question.**", "**the paper's answer.**", "what was found\n", "## limits", "## exercise")
MAX_BYTES, MAX_LINES = 450_000, 28
LIBRARIES = {
    *("dataclasses", "importlib", "itertools", "subprocess", "sys", "warnings"),
    *("emotrace", "IPython", "matplotlib", "nnsight", "numpy", "pandas", "scipy", "sklearn", "torch", "transformers"),
}
OPEN = [f"{number:02d}" for number in (*range(2, 12), 13, 14, 15)]
"""Notebooks that walk through an experiment; 00 and 12 lead in and out, 01 is about texts."""
OVER_MODELS = {"C1", "sequel"}
"""Claims that a run over several models states."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {Requirement(text).name for text in PROJECT["dependencies"]} | {"emotrace"}
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
OF_PYTHON = {*sys.stdlib_module_names, "IPython"}
"""What is there before anything is installed: Python's own, and IPython, which runs the cells."""
CONTEXTS = {"trace", "generate", "session"}
# A path, a user's folder, an object's address, a date with a time, an escape code of a terminal.
NOISE = re.compile(
    r"/(?:home|Users|root|tmp|work|var|opt|usr)/|\\\\Users|0x[0-9a-f]{6,}|\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\x1b\["
)


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "scripts" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_numbers_run_from_zero_without_a_gap():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(16)]


def test_notebook_is_valid_and_has_every_part_in_order(notebook):
    nbformat.validate(notebook)
    prose = "\n".join(f"{cell.source}\n" for cell in notebook.cells if cell.cell_type == "markdown")
    places = [prose.lower().find(part) for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)
    assert prose.startswith("# ")


def test_the_first_code_cell_installs_what_a_hosted_service_lacks(notebook, monkeypatch):
    """The same one everywhere; here it does nothing, and where emotrace is not installed it installs what is needed."""
    (cell,) = tagged(notebook, "install")
    assert cell is code_cells(notebook)[0]
    (same,) = tagged(nbformat.read(NOTEBOOKS[0], as_version=4), "install")
    assert cell.source == same.source
    called = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    exec(cell.source, {})
    assert called == []
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "emotrace" else real(name))
    exec(cell.source, {})
    assert [command[:2] for command in called] == [[sys.executable, "-m"]] * 2
    (*pip, asked), setup = (command[2:] for command in called)
    assert (pip, setup) == (["pip", "install", "-q"], ["emotrace", "setup"])
    brought = {Requirement(text).name for extra in Requirement(asked).extras for text in EXTRAS[extra]} | CORE
    imported = {name.split(".")[0] for cell in code_cells(notebook) for name in imports(cell)}
    assert not {DISTRIBUTIONS.get(name, name) for name in imported - OF_PYTHON} - brought


def test_settings_stand_in_the_second_code_cell(notebook):
    (cell,) = tagged(notebook, "settings")
    assert cell is code_cells(notebook)[1]
    names = [node.targets[0].id for node in ast.parse(cell.source).body]
    assert names[:3] == ["MODEL", "REMOTE", "QUICK"]
    values = dict(zip(names, (ast.literal_eval(node.value) for node in ast.parse(cell.source).body), strict=True))
    assert (values["MODEL"], values["REMOTE"], values["QUICK"]) == ("smollm2-135m-instruct", False, True)


def contexts(cell):
    """The nnsight contexts that a cell opens on a model's handle: ``with model.trace(…)``, as their ``with``."""
    return [
        node
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(call := item.context_expr, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in CONTEXTS
        and isinstance(call.func.value, ast.Name)
    ]


def called(cell):
    """The dotted names of what a cell calls."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)}


def test_experiments_are_in_the_open(notebook, path):
    """nnsight by hand, then the core, and a line that fails where the two differ, before any figure of the report."""
    if path.name[:2] not in OPEN:
        pytest.skip("walks through no experiment")
    cells = code_cells(notebook)
    traced = [number for number, cell in enumerate(cells) if contexts(cell)]
    compared = [number for number, cell in enumerate(cells) if "torch.testing.assert_close" in called(cell)]
    drawn = [number for number, cell in enumerate(cells) if called(cell) & {"lab.show", "claims_table"}]
    assert traced
    assert [number for number in compared if number >= traced[0]]
    assert traced[0] < min(drawn, default=len(cells))


def test_steering_is_written_out(runner):
    """In notebook 07 the vector is added within ``generate``, and what is added is unit × strength × norm."""
    notebook = nbformat.read(ROOT / "notebooks" / "07_steering.ipynb", as_version=4)
    edits = [
        ast.unparse(node)
        for cell in code_cells(notebook)
        for block in contexts(cell)
        if any(ast.unparse(item.context_expr).startswith("model.generate(") for item in block.items)
        for node in ast.walk(block)
        if isinstance(node, ast.AugAssign)
    ]
    assert edits == ["hidden[:, -1] += sign * push.to(hidden)"]
    assert any("unit.to_numpy() * strength * norms[layer]" in cell.source for cell in code_cells(notebook))


@pytest.mark.filterwarnings("ignore:.*was never reached")
def test_the_steering_of_notebook_07_is_that_of_a_plain_hook(tiny_folder, tmp_path, monkeypatch):
    """Its cell, on a model of another class, beside torch alone: as a reader would take it elsewhere."""
    notebook = nbformat.read(ROOT / "notebooks" / "07_steering.ipynb", as_version=4)
    (cell,) = [cell for cell in code_cells(notebook) if "model.generate(" in cell.source]
    body = textwrap.indent(cell.source, "    ")  # in a file, where nnsight finds the source
    (tmp_path / "taken_over.py").write_text(
        f"import torch\n\ndef steer(model, layer, push, strength, PROMPT):\n{body}\n    return written\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model, layer = emotrace.load(str(tiny_folder("gpt2"))), 2
    push = 5 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    written = importlib.import_module("taken_over").steer(model, layer, push, 1.0, "She laughed")

    def hook(module, inputs, output, sign):
        output = output.clone()
        output[:, -1] += sign * push
        return output

    prompt = torch.tensor([model.tokenizer("She laughed")["input_ids"]])
    for sign, ids in written.items():
        block = model.layers[layer - 1]._module
        handle = block.register_forward_hook(functools.partial(hook, sign=sign))
        alone = model.nn._module.generate(prompt, max_new_tokens=24, do_sample=False, pad_token_id=0)
        handle.remove()
        assert ids == alone[0, prompt.shape[1] :].tolist()
    assert len({tuple(ids) for ids in written.values()}) == 3


@pytest.mark.filterwarnings("ignore:.*was never reached")
@pytest.mark.parametrize("family", ["gpt2", "gemma"])
def test_what_notebook_07_teaches_steers_a_model_with_nnsight_alone(family, tiny_folder, tmp_path, runner):
    """The last code of its exercise, on a model of another class, writes the tokens of ``emotrace.steer``."""
    notebook = nbformat.read(ROOT / "notebooks" / "07_steering.ipynb", as_version=4)
    cell = runner.with_exercises(notebook).cells[-1]
    assert "emotrace" not in cell.source
    if family == "gpt2":
        cell.source = cell.source.replace("other.model.layers", "other.transformer.h")
    model, passages = emotrace.load(str(tiny_folder(family))), corpus.quick_subset(corpus.passages(), 1)
    names = {"np": np, "pd": pd, "torch": torch, "model": model, "passages": passages, "layer": 2, "strength": 2.0}
    names |= {"EMOTION": "proud", "PROMPT": "She laughed"}
    names["greedy"] = {"max_new_tokens": 8, "do_sample": False, "repetition_penalty": 1.0}
    (tmp_path / "alone.py").write_text(cell.source)  # in a file, where nnsight finds the source
    exec(compile(cell.source, str(tmp_path / "alone.py"), "exec"), names)
    vectors = read_texts(model, passages).vectors("mean")
    strengths = [2 * names["size"] / residual_norms(model)[2], 0]
    writing = emotrace.Writing(max_new_tokens=8)
    core = emotrace.steer(model, "She laughed", vectors, strengths, emotions=["proud"], layers=[2], writing=writing)
    steered, plain = (list(tokens) for tokens in core["tokens"])
    assert names["ids"][0, names["prompt"].shape[1] :].tolist()[: len(steered)] == steered
    assert steered != plain


STEERED = "layer, strength = 2, 0.3"
STORIES = """
from emotrace.instrument.stories import stored
stories = stored("qwen2.5-coder-0.5b-instruct").query("topic in ['cooking', 'garden'] and emotion < 'd'")
"""
IN_SIMULATION = {
    "00": (1, 0, ""),
    "01": (1, 2, ""),
    "02": (2, 2, ""),
    "03": (1, 2, ""),
    "04": (1, 1, STORIES),
    "05": (1, 1, ""),
    "06": (1, 0, ""),
    "08": (1, 1, STEERED),
    "09": (2, 2, STEERED),
    "10": (1, 1, STEERED),
    "13": (1, 4, ""),
    "14": (2, 9, ""),
    "15": (1, 3, ""),
}
"""Notebook → its nnsight contexts that need no run folder, lines that compare them and more with the core, and what
stands for the run folder. 12 has no context of its own; 14 is about a model in this process's memory, and stays there.
"""
CHANGED = {"EMOTION": "calm", "TOPIC": "garden", "LAYER": 1, "INSTRUMENT": "accounts", "POOLING": "mean"}
CHANGED_TOO = {"13": {"EMOTION": "envious"}, "06": {"POOLING": "last"}}
"""What a reader may change in the cell of settings."""


@pytest.mark.parametrize("number", IN_SIMULATION)
def test_blocks_survive_the_journey_to_a_server(number, tiny_folder, tmp_path, monkeypatch, capsys):
    """``REMOTE = "local"``: serialised, and run without this package's modules; 02, 07 and 11 also on a real server.

    On another model, emotion, layer, instrument and pooling than those of the committed outputs.
    """
    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path))
    plt.switch_backend("agg")
    (path,) = [path for path in NOTEBOOKS if path.name.startswith(number)]
    traced, checks, given = IN_SIMULATION[number]
    asked = {"MODEL": str(tiny_folder("qwen")), "REMOTE": "local", **CHANGED, **CHANGED_TOO.get(number, {})}
    (first,) = tagged(nbformat.read(path, as_version=4), "settings")
    settings = {name: value for name, value in asked.items() if f"{name} = " in first.source}
    cells = notebook_cells.on_its_own(path, settings, given).cells
    names = {}
    for place, cell in enumerate(cells):
        file = tmp_path / f"cell_{number}_{place}.py"  # nnsight reads the source of a block from its file
        file.write_text(cell.source)
        exec(compile(cell.source, str(file), "exec"), names)
    assert number == "14" or names["model"].remote.where == "local"
    compared = sum(cell.source.count("assert_close(") for cell in cells)
    assert (sum(len(contexts(cell)) for cell in cells), compared) == (traced, checks)


def test_notebook_13_takes_a_file_without_topics(tiny_folder, tmp_path, monkeypatch, capsys):
    """Sixty rows of other emotions, in the one cell that loads the texts; of these no neighbour was guessed."""
    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path))
    plt.switch_backend("agg")
    table = corpus.passages().query("emotion in ['happy', 'sad', 'calm', 'angry', 'neutral']")
    table = table[["emotion", "text"]].replace({"happy": "merry", "sad": "blue", "calm": "placid", "angry": "cross"})
    table.to_csv(tmp_path / "mine.csv", index=False)
    settings = {"MODEL": str(tiny_folder("llama")), "EMOTION": "placid"}
    names = {}
    for place, cell in enumerate(
        notebook_cells.on_its_own(ROOT / "notebooks" / "13_own_emotions.ipynb", settings).cells
    ):
        source = re.sub(
            r"load_instrument\(table, .*\)", f"load_instrument({str(tmp_path / 'mine.csv')!r})", cell.source
        )
        (file := tmp_path / f"cell_{place}.py").write_text(source)
        exec(compile(source, str(file), "exec"), names)
    assert (len(names["table"]), len(names["passages"]), names["moods"].has_topics) == (40, 60, False)
    assert set(names["names"]) == {"merry", "blue", "placid", "cross"}
    said = capsys.readouterr().out
    assert f"n = {len(set(names['scenes']))} topics" in said
    assert np.isnan(names["p_match"])


def test_a_facade_loads_what_was_measured_and_nothing_else(notebook):
    asked = {
        node.attr
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lab"
    }
    assert asked <= {"table", "tables", "texts", "claims", "claim", "show"}


def test_an_exercise_brings_code_that_goes_on_from_the_notebook(notebook, runner):
    more = runner.with_exercises(notebook).cells[len(notebook.cells) :]
    assert more
    given = {node.id for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell.source)) if named(node)}
    given |= {name for cell in code_cells(notebook) for name in defined(ast.parse(cell.source))}
    for cell in more:
        tree = ast.parse(cell.source)
        own = {node.id for node in ast.walk(tree) if named(node)}
        own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | set(defined(tree))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - own - set(dir(builtins))
        assert used <= given, used - given


def named(node):
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def defined(tree):
    """Names that imports and functions bring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def test_findings_are_measured_not_typed(notebook, runner):
    (cell,) = tagged(notebook, "findings")
    assert "headline(" in cell.source
    found = runner.headlines(notebook)
    assert found
    assert all(each["tolerance"] >= 0 and each["n"] > 0 for each in found.values())
    assert len(found) == sum(runner.HEADLINE in output.get("data", {}) for output in runner.outputs(notebook))


def test_every_cell_was_run_in_order_and_shows_no_fault(notebook, runner):
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert runner.faults(notebook, notebook) == []
    assert not [output for output in runner.outputs(notebook) if runner._passing(output)]


def test_figures_are_those_asked_for_and_real_pictures(notebook, runner):
    asked = notebook.metadata["emotrace"]["figures"]
    source = "\n".join(cell.source for cell in code_cells(notebook))
    shown = [name for call in re.findall(r"lab\.show\(([^)]*)\)", source) for name in re.findall(r'"(\w+)"', call)]
    assert set(shown) <= set(experiments.PICTURES)
    drawn = set(re.findall(r'show_figure\(\s*figure,\s*"(\w+)"', source))
    assert runner.figures(notebook) == set(asked) == {*shown, *drawn}
    for output in runner.outputs(notebook):
        if "image/png" in output.get("data", {}):
            content = base64.b64decode(output.data["image/png"])
            assert content.startswith(b"\x89PNG")
            assert len(content) > 5_000


def test_notebook_is_small(path):
    assert path.stat().st_size < MAX_BYTES


def test_outputs_hold_no_path_address_or_time(notebook, runner):
    text = json.dumps([copy.deepcopy(output) for output in runner.outputs(notebook) if strip(output)])
    assert not NOISE.findall(text)


def strip(output):
    """The pictures are bytes, in which anything may stand."""
    output.get("data", {}).pop("image/png", None)
    return True


def test_a_cell_is_a_screen_and_readable(notebook):
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= MAX_LINES, cell.source
        assert max(map(len, lines)) <= 120, cell.source
        tree = ast.parse(cell.source)
        kinds = (ast.ClassDef, ast.While, ast.Try, ast.AsyncFunctionDef)
        assert not [node for node in ast.walk(tree) if isinstance(node, kinds)]
        assert {name.split(".")[0] for name in imports(cell)} <= LIBRARIES


def imports(cell):
    """The modules that a cell imports."""
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_claims_and_tables_are_asked_for_by_names_that_exist(notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook))
    asked = [id for call in re.findall(r"published\(([^)]*)\)", source) for id in re.findall(r'"([^"]+)"', call)]
    for id in asked:
        assert any(f"{known}.".startswith(f"{id}.") for known in experiments.CLAIMS) or id in OVER_MODELS, id
    for method, id in re.findall(r"""lab\.(claims?)\(f?["']([^"'{]+)["']""", source):
        known = [known for known in experiments.CLAIMS if f"{known}.".startswith(f"{id}.")]
        assert known == [id] if method == "claim" else known
    for table in re.findall(r"""lab\.table\(["']([^"']+)["']""", source):
        assert table in experiments.TABLES


def test_links_between_files_lead_somewhere(notebook, path):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)#]+)", prose):
        assert (path.parent / target).exists(), target


# -- the check itself --------------------------------------------------------------------------------------------------

CELL = """from emotrace.study.notebook import headline, show_figure
from emotrace.study.style import plt
show_figure(plt.figure(), "localisation", "a caption")
headline("depth", {"value": %s, "n": 6}, 0.05, "Best at {}.")"""


def made(source, figures=("localisation",)):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "emotrace": {"figures": list(figures)},
    }
    return notebook


@pytest.fixture(scope="module")
def executed(runner, tmp_path_factory):
    """Executes one cell in a kernel, each source once."""
    seen = {}

    def execute(source, figures=("localisation",)):
        if (source, figures) not in seen:
            seen[source, figures] = runner.execute(made(source, figures), tmp_path_factory.mktemp("runs"), 60)
        return copy.deepcopy(seen[source, figures])

    return execute


def test_an_unchanged_notebook_has_no_fault(runner, executed):
    notebook = executed(CELL % 0.6)
    assert runner.figures(notebook) == {"localisation"}
    depth = {"name": "depth", "value": 0.6, "low": None, "high": None, "n": 6, "tolerance": 0.05}
    assert runner.headlines(notebook)["depth"] == depth
    assert runner.faults(notebook, notebook) == []


def test_a_number_may_move_within_its_tolerance_and_no_further(runner, executed):
    notebook, other = executed(CELL % 0.6), executed(CELL % 0.6)
    (output,) = [each for each in runner.outputs(other) if runner.HEADLINE in each.get("data", {})]
    for value, moved in ((0.64, False), (0.56, False), (0.66, True), (0.54, True), (None, True)):
        output.data[runner.HEADLINE]["value"] = value
        faults = runner.faults(notebook, other)
        assert bool(faults) == moved, value
        assert all("depth" in line for line in faults)


def test_a_number_lost_or_new_is_a_fault(runner, executed):
    notebook, without = executed(CELL % 0.6), executed(CELL % 0.6)
    (cell,) = without.cells
    cell.outputs = [each for each in cell.outputs if runner.HEADLINE not in each.get("data", {})]
    assert runner.faults(notebook, without) == ["the number depth is not there any more"]
    assert runner.faults(without, notebook) == ["the number depth is new: --update commits it"]


def test_a_missing_figure_is_a_fault(runner, executed):
    notebook = executed(CELL % 0.6, ("localisation", "dose_response"))
    assert runner.faults(notebook, notebook) == ["the figure dose_response is missing"]


def test_an_error_is_a_fault_and_is_not_written_back(runner, tmp_path, capsys):
    path = tmp_path / "99_broken.ipynb"
    nbformat.write(made("1 / 0", ()), path)
    before = path.read_bytes()
    assert runner.check(path, tmp_path, update=True) == ["error: ZeroDivisionError: division by zero"]
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_cell_that_never_ends_is_a_fault(runner, tmp_path):
    notebook = runner.execute(made("import time; time.sleep(60)", ()), tmp_path, 2)
    assert [line.partition(":")[2].split(":")[0].strip() for line in runner.faults(notebook, notebook)] == [
        "TimeoutError"
    ]


def test_a_kernel_that_dies_is_a_fault(runner, tmp_path):
    notebook = runner.execute(made("import os; os._exit(1)", ()), tmp_path, 60)
    assert runner.faults(notebook, notebook) == [
        "error: DeadKernelError: the kernel died, of too little memory perhaps"
    ]


def test_update_writes_outputs_without_what_passes(runner, tmp_path):
    path = tmp_path / "00_made.ipynb"
    noise = (
        "\nimport sys; print('a warning', file=sys.stderr)"
        "\nfrom emotrace.study.notebook import Progress\nbar = Progress(); bar('reading', 1, 2); bar.close()"
    )
    nbformat.write(made(CELL % 0.6 + noise), path)
    assert runner.check(path, tmp_path, update=True) == []
    written = nbformat.read(path, as_version=4)
    assert runner.figures(written) == {"localisation"}
    assert not [output for output in runner.outputs(written) if output.output_type == "stream"]
    assert '"progress": true' not in path.read_text()
    assert "iopub" not in path.read_text()  # times of execution
    # The same again: nothing differs from run to run.
    before = path.read_text()
    assert runner.check(path, tmp_path, update=True) == []
    assert path.read_text() == before


def test_exercises_are_run_after_the_notebook_and_not_written_back(runner, tmp_path):
    path = tmp_path / "00_made.ipynb"
    notebook = made("three = 3", ())
    notebook.cells.append(nbformat.v4.new_markdown_cell("## Limits\n\n```python\nnever\n```"))
    notebook.cells.append(nbformat.v4.new_markdown_cell("\n## Exercise\n\nTry\n\n```python\nthree / 0\n```"))
    nbformat.write(notebook, path)
    before = path.read_text()
    assert runner.check(path, tmp_path, update=True, exercises=True) == ["error: ZeroDivisionError: division by zero"]
    assert path.read_text() == before
    path.write_text(before.replace("three / 0", "three / 3"))
    assert runner.check(path, tmp_path, update=True, exercises=True) == []
    assert len(nbformat.read(path, as_version=4).cells) == 3


def test_what_is_printed_bit_by_bit_becomes_one_output(runner):
    bits = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("She ", "ran.\n")]
    shown = nbformat.v4.new_output("display_data", data={"text/plain": "a figure"})
    notebook = made("pass")
    notebook.cells[0].outputs = [*bits, shown, nbformat.v4.new_output("stream", name="stdout", text="done")]
    texts = [output.get("text") for output in runner.clean(notebook).cells[0].outputs]
    assert texts == ["She ran.\n", None, "done"]


def test_progress_is_seen_while_it_lasts(runner, tmp_path):
    source = "from emotrace.study.notebook import Progress\nbar = Progress(); bar('reading', 1, 2)"
    (output,) = runner.outputs(runner.execute(made(source, ()), tmp_path, 60))
    assert output.data["text/plain"] == "reading: 1 of 2 …"
    assert runner._passing(output)


def test_main_fails_and_names_the_notebook(runner, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = runner.execute(made(CELL % 0.6), tmp_path, 60)
    nbformat.write(notebook, folder / "00_good.ipynb")
    (output,) = [each for each in runner.outputs(notebook) if runner.HEADLINE in each.get("data", {})]
    output.data[runner.HEADLINE]["value"] = 0.7  # what was committed
    nbformat.write(notebook, folder / "01_moved.ipynb")
    monkeypatch.setattr(runner, "FOLDER", folder)
    monkeypatch.setattr(sys, "argv", ["run_notebooks.py"])
    assert runner.main() == 1
    said = capsys.readouterr().out
    assert re.search(r"00_good +ok ", said)
    assert re.search(r"01_moved +FAIL ", said)
    assert "moved from 0.7 to 0.6, by more than 0.05" in said


QUOTING = [path for path in NOTEBOOKS if "published(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", QUOTING, ids=[path.stem for path in QUOTING])
def test_what_a_notebook_quotes_of_the_published_run_is_what_is_published(path):
    """Rules may change after a run, and its claims with them: no measured number moves, so nothing else tells."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "published(" in cell.source]
    quoting = [cell for cell in cells if cell.cell_type == "code" and "import" not in cell.source]
    assert quoting
    for cell in quoting:
        *before, call = ast.parse(cell.source).body
        known = {"published": published}
        exec(compile(ast.Module(before, []), path.name, "exec"), known)
        table = eval(compile(ast.Expression(call.value), path.name, "eval"), known)
        assert cell.outputs[0]["data"]["text/html"] == table._repr_html_()
