"""Models that tests share. Nothing here reaches for a network: the variable is set before transformers is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_models
import torch

import emotrace
from emotrace.models import Model

PACKAGED = ("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct")
THREADS = torch.get_num_threads()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """One thread for tiny models, here and in processes that a test starts: two would wait for each other."""
    threads = THREADS if item.get_closest_marker("real") else 1
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_folder(family, seed=0, …)``: the folder of a tiny model, written at first use."""
    built: dict[str, Path] = {}

    def folder(family: str, **settings: int) -> Path:
        key = f"{family} {sorted(settings.items())}"
        if key not in built:
            built[key] = tiny_models.build(family, tmp_path_factory.mktemp(family), **settings)
        return built[key]

    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Callable[..., Path]) -> Callable[..., Model]:
    """``tiny(family, seed=0, …)``: a tiny model, loaded once."""
    loaded: dict[Path, Model] = {}

    def load(family: str, **settings: int) -> Model:
        folder = tiny_folder(family, **settings)
        if folder not in loaded:
            loaded[folder] = emotrace.load(str(folder))
        return loaded[folder]

    return load


@pytest.fixture(scope="session")
def packaged() -> Iterator[Callable[[str], Model]]:
    """``packaged(name)``: a packaged model. One is held at a time, since Qwen takes 2.5 GB."""
    held: dict[str, Model] = {}

    def load(name: str) -> Model:
        if name not in held:
            held.clear()
            gc.collect()
            held[name] = emotrace.load(name)
        return held[name]

    yield load
    held.clear()
    gc.collect()


@pytest.fixture(
    scope="session", params=[*tiny_models.FAMILY_OF, *(pytest.param(name, marks=pytest.mark.real) for name in PACKAGED)]
)
def model(request: pytest.FixtureRequest, tiny: Callable[..., Model], packaged: Callable[[str], Model]) -> Model:
    """Every tiny model, then every packaged one. pytest runs all tests of one model before it goes on to the next."""
    return packaged(request.param) if request.param in PACKAGED else tiny(request.param)


@pytest.fixture(scope="session", params=tiny_models.FAMILY_OF)
def tiny_model(request: pytest.FixtureRequest, tiny: Callable[..., Model]) -> Model:
    """Every tiny model."""
    return tiny(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: plain ones, then slow ones, then those on real models (grouped by model as before)."""
    items.sort(key=lambda item: bool(item.get_closest_marker("slow")) + 2 * bool(item.get_closest_marker("real")))
