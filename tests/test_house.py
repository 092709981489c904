"""The rules of the house that no linter knows: what may stand where, and how long it may get.

The order of imports is a contract of import-linter (``pyproject.toml``, ``make lint``).
"""

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "emotrace"
MODULES = sorted(PACKAGE.rglob("*.py"))
CORE = ["errors", "files", "in_trace", "vectors", "models", "tokens"]
CORE += ["activations", "steering", "steered_texts", "scoring", "readings", "estimation", "extraction", "stories"]
TRACING = {"activations.py", "steering.py", "scoring.py"}
TRACES = {"trace", "generate", "session"}

# Ceilings against growth, not goals: the core is what a reader is asked to read.
MAX_PACKAGE_LINES = 32_000
MAX_CORE_LINES = 3_520
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_FUNCTION_LINES_WITH_DOCSTRING = 90


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def opened_traces(path: Path) -> list[int]:
    """The lines on which ``with`` opens a context of nnsight."""
    return [
        item.context_expr.lineno
        for node in nodes(path)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.context_expr, ast.Call)
        and isinstance(item.context_expr.func, ast.Attribute)
        and item.context_expr.func.attr in TRACES
    ]


def importers(library: str) -> set[str]:
    """The modules that import ``library``, at their top or within a function, for more than its types."""

    def imported(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        return [node.module or ""] if isinstance(node, ast.ImportFrom) else []

    def for_types(path: Path) -> set[str]:
        guards = (node for node in nodes(path) if isinstance(node, ast.If))
        return {
            ast.unparse(statement)
            for guard in guards
            if ast.unparse(guard.test) == "TYPE_CHECKING"
            for statement in guard.body
        }

    return {
        name(path)
        for path in MODULES
        for node in nodes(path)
        for module in imported(node)
        if module.split(".")[0] == library and ast.unparse(node) not in for_types(path)
    }


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Each function's name, its lines, and its lines without its docstring."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            whole = node.end_lineno - node.lineno + 1
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            yield f"{name(path)}:{node.lineno} {node.name}", whole, whole - docstring


def test_nnsight_contexts_are_opened_in_three_files_alone():
    opened = {name(path): opened_traces(path) for path in MODULES}
    assert {module: rows for module, rows in opened.items() if rows and module not in TRACING} == {}
    assert {module for module, rows in opened.items() if rows} == TRACING


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("matplotlib", ["study/figures.py", "study/*/figures.py", "study/style.py"]),
        ("adjustText", ["study/figures.py", "study/*/figures.py", "study/style.py"]),
        ("jinja2", ["whatif/html.py", "study/report.py"]),
    ],
)
def test_a_library_is_imported_where_its_work_is_done_alone(library, allowed):
    modules = importers(library)
    assert modules
    assert {module for module in modules if not any(fnmatch.fnmatch(module, pattern) for pattern in allowed)} == set()


@pytest.mark.parametrize("folder", ["emotrace", "tests", "scripts", "benchmarks"])
def test_no_line_is_kept_from_the_formatter(folder):
    mark = "fmt: " + "skip"
    marked = [path for path in sorted((ROOT / folder).rglob("*.py")) if mark in path.read_text()]
    assert [str(path.relative_to(ROOT)) for path in marked] == []


def test_no_file_is_too_long():
    assert {name(path): lines(path) for path in MODULES if lines(path) > MAX_FILE_LINES} == {}


def test_the_core_stays_small():
    sizes = {module: lines(PACKAGE / f"{module}.py") for module in CORE}
    assert sum(sizes.values()) <= MAX_CORE_LINES, sizes


def test_the_package_stays_small():
    assert sum(map(lines, MODULES)) <= MAX_PACKAGE_LINES


def test_no_function_is_too_long():
    assert [
        (function, whole, bare)
        for path in MODULES
        for function, whole, bare in functions(path)
        if bare > MAX_FUNCTION_LINES or whole > MAX_FUNCTION_LINES_WITH_DOCSTRING
    ] == []
