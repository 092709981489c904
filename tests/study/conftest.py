"""Runs that are smaller than a quick one, and runs that can be killed."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from emotrace.study import pipeline
from emotrace.study.settings import Settings

# Every experiment still has several of each: topics, prompts, doses on both sides, control directions.
SIZES = {
    "baseline_texts": 30,
    "bootstrap": 60,
    "permutations": 59,
    "decoder_permutations": 19,
    "calibration_texts": 10,
    "doses": (-1, 0.5, 1, 3),
    "dose_permuted": 3,
    "tokens": 10,
    "scenarios": 10,
    "published_permuted": 2,
    "published_scenarios": 5,
}


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """A quick run has fewer texts and resamples still: for tests of what becomes of work, not of its numbers."""
    quick, patch = Settings.quick, pytest.MonkeyPatch()
    patch.setattr(Settings, "quick", classmethod(lambda cls, seed=0: replace(quick(seed), **SIZES)))
    yield
    patch.undo()


def _quietly(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    pipeline.run(*arguments, **options)


@pytest.fixture(scope="session")
def run_apart() -> Callable[..., BaseProcess]:
    """``run_apart(…)``: ``pipeline.run(…, quick=True)`` in a process of its own, forked, which need not import anew."""

    def start(*arguments: Any, **options: Any) -> BaseProcess:
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=_quietly, args=(arguments, {"quick": True, **options}), daemon=True)
        process.start()
        return process

    return start
