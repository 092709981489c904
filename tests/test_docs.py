"""README and guides: short, without dead links, and everything in them runs.

Python blocks run in order, on a tiny model in place of the packaged one; commands too. A block that cannot says why in
a comment above it: ``<!-- not executed: WHY -->``.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import emotrace
from emotrace import cli, doctor, models
from emotrace.hosts import packages
from emotrace.study import experiments, folder, pipeline

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- not executed: [^>]+ -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text())
    return [text for skipped, name, text in found if name == language and not skipped]


def named(pages: list[Path]) -> list:
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages]


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", named(PAGES))
def test_no_link_is_dead(page):
    addresses = [address for address in LINK.findall(page.read_text()) if not re.match(r"[a-z]+:", address)]
    assert [address for address in addresses if not (page.parent / address).exists()] == []


def test_the_sites_pages_are_all_there_or_still_to_come():
    listed = set(re.findall(r"[\w/.-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    missing = {name for name in listed if not (ROOT / "docs" / name).exists()}
    assert missing <= {"your_texts.md", "your_model.md"}
    guides = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert guides <= listed


@pytest.fixture(scope="module")
def stand_in(tiny):
    """A tiny instruct model in place of the packaged one."""
    return tiny("llama", n_layers=6)


@pytest.fixture
def offline(stand_in, tmp_path, monkeypatch):
    """``load`` gives the tiny model, whatever its name; everything is written to a folder of its own."""
    for module in (models, pipeline):
        monkeypatch.setattr(module, "load", lambda name, **_: stand_in)
    monkeypatch.setattr(emotrace, "load", models.load, raising=False)
    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(stand_in, "name", stand_in.name)  # a run gives its model its own name; other tests share it
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN_TEST = {"your_model.md"}
"""Pages whose code has a test of its own."""


@pytest.mark.parametrize(
    "page", named([page for page in PAGES if blocks(page, "python") and page.name not in OWN_TEST])
)
def test_python_blocks_run(page, offline, stand_in):
    tokenizer = stand_in.nn.tokenizer
    names = {"hf_model": stand_in.nn._module, "tokenizer": tokenizer, "emotrace": emotrace}
    names["batch"] = tokenizer("The door opened", return_tensors="pt")
    for text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), names)


def commands(page: Path) -> list[str]:
    lines = [line for text in blocks(page, "") for line in text.splitlines()]
    lines = [line.removeprefix(".venv/bin/") for line in lines]
    return [line for line in lines if line.startswith(("emotrace ", "make ", "pip install "))]


@pytest.mark.parametrize("page", named([page for page in PAGES if commands(page)]))
def test_commands_run(page, offline, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda *_: [])
    monkeypatch.setattr(packages, "install", lambda name: None)
    if page != README:  # its run is a real one; those of the guides are parsed, and their experiments looked up
        monkeypatch.setattr(pipeline, "run", planned)
        monkeypatch.setattr(folder, "read_manifest", lambda _: {})
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[0] == "pip":
            check_install(words[2:])
        elif words[0] == "make":
            check_make(words[1])
        else:
            monkeypatch.setattr(sys, "argv", shortened(words))
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code, line


def planned(names: list[str], out: Path, *, chosen: str, **_: object) -> Path:
    assert all(experiments.by_name(name) for name in chosen.split(",") if name != "all")
    return out / "report.html"


def shortened(words: list[str]) -> list[str]:
    """Of a run the smallest experiment, with the fewest texts; no story is written for vectors."""
    if "generation" in words:
        return [word.replace("generation", "comprehension") for word in words]
    if words[1] != "run":
        return words
    few = [word for word in words if word not in ("--quick", "--remote")] + ["--quick"]
    return few if "--experiments" in few else [*few, "--experiments", "anisotropy"]


def check_install(requirements: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in requirements:
        name, _, extra = requirement.partition("[")
        assert name in ("emotrace", ".")
        assert not extra or extra.removesuffix("]") in extras


def check_make(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make")
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stderr
