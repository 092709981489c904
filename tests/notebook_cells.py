"""A notebook without what rests on a whole run: for tests that run the rest of it elsewhere."""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parents[1]
FROM_A_RUN = re.compile(r"\blab\.(table|tables|texts|claims?|show)\(")
"""Cells that show what a whole run measured; without it they, and what rests on them, are left out."""
SMALLER = {"6 if QUICK else 12": "2", "4 if QUICK else 8": "2", "TOKENS = 24": "TOKENS = 8"}


def named(source: str, kind: type[ast.expr_context]) -> set[str]:
    """The names that a cell reads (``ast.Load``) or gives (``ast.Store``)."""
    return {
        node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and isinstance(node.ctx, kind)
    }


def on_its_own(path: Path, settings: dict[str, Any], given: str = "") -> Any:
    """The notebook's code cells on fewer texts, with other settings, without the cells that need a whole run.

    Args:
        path: of the notebook.
        settings: name → value, in place of those of its cell of settings.
        given: what cells that are left out would have given, as code.
    """
    notebook = nbformat.read(path, as_version=4)
    kept, missing = [], set[str]()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for long, short in SMALLER.items():
            cell.source = cell.source.replace(long, short)
        if "settings" in cell.metadata.get("tags", []):
            cell.source = "\n".join([cell.source, *(f"{name} = {value!r}" for name, value in settings.items()), given])
        if FROM_A_RUN.search(cell.source) or named(cell.source, ast.Load) & missing:
            missing |= named(cell.source, ast.Store) - {name for one in kept for name in named(one.source, ast.Store)}
            continue
        missing -= named(cell.source, ast.Store)
        kept.append(cell)
    notebook.cells = kept
    return notebook
