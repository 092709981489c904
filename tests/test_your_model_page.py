"""The code of a page of docs runs, from its first block to its last, on a tiny model in place of the one it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import emotrace

DOCS = Path(__file__).parents[1] / "docs"
NAMED = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("page", ["your_model.md"])
def test_every_block_of_a_page_runs(page, tiny_folder, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert len(blocks) >= 7
    assert any(NAMED in block for block in blocks)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        code = compile(block.replace(NAMED, str(tiny_folder("llama"))), f"{page}, block {number}", "exec")
        exec(code, names)
    assert set(names["trace"]["emotion"]) == {"afraid", "happy", "sad"}
    model, vectors, prompt = names["model"], names["vectors"], names["trace"].attrs["prompt"]
    written = emotrace.steer(model, prompt, vectors, 0.2, emotions="afraid", writing=emotrace.Writing(60))
    assert names["trace"].attrs["text"] == written["text"].iloc[0]
    printed = capsys.readouterr().out
    assert "memory:" in printed
    assert names["trace"].attrs["text"] in printed
