"""Notebooks with ``REMOTE = True``: what a reader runs in them runs on a real server, and agrees with itself there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import notebook_cells
import pytest
import server as servers

NOTEBOOKS = notebook_cells.ROOT / "notebooks"
CASES = [
    ("02_comprehension", 2, 2, "", "model"),
    ("07_steering", 4, 4, "layer, strength = 15, 0.3", "model"),
    ("11_remote", 2, 2, "", "there"),
]


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebooks", NOTEBOOKS.parent / "scripts" / "run_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "traces", "checks", "given", "handle"), CASES, ids=[case[0] for case in CASES])
def test_a_notebook_runs_on_a_server(
    name: str,
    traces: int,
    checks: int,
    given: str,
    handle: str,
    runner: ModuleType,
    server: servers.Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notebook = notebook_cells.on_its_own(NOTEBOOKS / f"{name}.ipynb", {"REMOTE": True}, given)
    source = "\n".join(cell.source for cell in notebook.cells)
    assert len(re.findall(r"\bmodel\.(?:trace|generate)\(", source)) == traces
    assert source.count("assert_close(") == checks  # by hand on the server and by the core on the server
    asked = f"print({handle}.remote.where, {handle}.remote.traffic.requests)"
    notebook.cells.append(nbformat.v4.new_code_cell(asked))
    monkeypatch.setenv("NDIF_HOST", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(server.folder / "hub"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    executed = runner.execute(notebook, tmp_path, 600)
    errors = [output for output in runner.outputs(executed) if output.output_type == "error"]
    assert [f"{output.ename}: {output.evalue}" for output in errors] == []
    where, requests = executed.cells[-1].outputs[0].text.split()
    assert where == server.url
    assert int(requests) > traces  # a request for each by hand, and the core's, whose small batches travel together
    found = {name: number["value"] for name, number in runner.headlines(executed).items()}
    if name == "11_remote":  # here and there: other kernels round otherwise, and a steered text may part at a tie
        assert found["apart"] < 1e-5
        assert found["same_texts"] >= 2
    else:
        assert found == {}
