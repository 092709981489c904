"""How torch's threads wait (passively, unless the user says otherwise or torch came first), and how many there are."""

import json
import os
import subprocess
import sys

import pytest
import torch

from emotrace import doctor
from emotrace.hosts import threads

NAMES = (*threads.USERS_POLICY, *threads.USERS_COUNT)
UNSET = {name: value for name, value in os.environ.items() if name not in NAMES}


def environment(code: str = "", **chosen: str) -> tuple[dict[str, str], str]:
    """The OpenMP settings and the wait policy of a fresh process that runs ``code`` and then imports emotrace."""
    report = (
        f"{code}\nimport json, os, emotrace\nfrom emotrace.hosts import threads\n"
        f"settings = {{name: os.environ[name] for name in {NAMES!r} if name in os.environ}}\n"
        "print(json.dumps([settings, threads.wait_policy()]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", report], env=UNSET | chosen, check=True, capture_output=True, text=True
    ).stdout
    settings, policy = json.loads(printed)
    return settings, policy


def test_threads_wait_passively_where_nobody_has_chosen():
    assert environment() == (threads.PASSIVE, "passively")


def test_a_number_of_threads_is_not_a_choice_of_how_they_wait():
    assert environment(OMP_NUM_THREADS="2") == (threads.PASSIVE | {"OMP_NUM_THREADS": "2"}, "passively")


@pytest.mark.parametrize(
    "chosen",
    [
        {"OMP_WAIT_POLICY": "ACTIVE"},
        {"GOMP_SPINCOUNT": "50"},
        {"KMP_BLOCKTIME": "200"},
        {"KMP_LIBRARY": "turnaround"},
        {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "1"},
    ],
)
def test_a_users_own_choice_is_left_alone(chosen):
    settings, policy = environment(**chosen)
    assert settings == chosen
    assert all(f"{name}={value}" in policy for name, value in chosen.items())


def test_a_process_started_from_one_says_the_same():
    assert environment(**threads.PASSIVE) == environment("import torch", **threads.PASSIVE) == environment()


def test_nothing_is_set_once_torch_is_loaded():
    assert environment("import torch") == ({}, threads.TOO_LATE)


def test_openmp_takes_it():
    settings = UNSET | {"OMP_DISPLAY_ENV": "VERBOSE"}
    shown = subprocess.run(
        [sys.executable, "-c", "import emotrace, torch"], env=settings, check=True, capture_output=True, text=True
    ).stderr
    assert "OMP_WAIT_POLICY='PASSIVE'" in shown.replace(" ", "")


# -- the quota ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_cgroup(tmp_path, files, quota):
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert threads.cpu_quota(str(tmp_path)) == quota


@pytest.fixture
def pool(monkeypatch):
    """``pool(count, quota, **environment)``: a process with so many torch threads; what it has after fitting."""
    before = torch.get_num_threads()
    for name in threads.USERS_COUNT:
        monkeypatch.delenv(name, raising=False)

    def fitted(count, quota, **chosen):
        for name, value in chosen.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
        torch.set_num_threads(count)
        threads.fit_to_quota()
        return torch.get_num_threads()

    yield fitted
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "quota", "expected"), [(4, 2.0, 2), (4, 2.9, 2), (4, 0.5, 1), (2, 2.0, 2), (1, 8.0, 1), (4, None, 4)]
)
def test_there_are_no_more_threads_than_the_quota_feeds(pool, count, quota, expected):
    assert pool(count, quota) == expected


@pytest.mark.parametrize("name", threads.USERS_COUNT)
def test_a_users_own_number_of_threads_is_left_alone(pool, name):
    assert pool(4, 2.0, **{name: "4"}) == 4


# -- the doctor --------------------------------------------------------------------------------------------------------


def first_check() -> doctor.Check:
    return next(doctor.examine("no/model", "http://127.0.0.1:9"))


def test_the_doctor_begins_with_the_threads(pool, monkeypatch):
    monkeypatch.setattr(threads, "wait_policy", lambda: "passively")
    pool(3, None)
    check = first_check()
    assert str(check) == "ok   threads       torch has 3, waiting passively; no CPU quota"
    pool(4, 2.0)
    assert first_check().finding == "torch has 2, waiting passively; a quota of 2 CPUs"


def test_the_doctor_finds_more_threads_than_the_quota_feeds(pool):
    pool(4, 1.5, OMP_NUM_THREADS="4")
    assert first_check().good is None  # slow is not wrong
    assert "OMP_NUM_THREADS" in first_check().advice


def test_the_doctor_says_when_emotrace_came_too_late(pool, monkeypatch):
    monkeypatch.setattr(threads, "wait_policy", lambda: threads.TOO_LATE)
    pool(2, None)
    check = first_check()
    assert check.good is None
    assert "torch was imported before emotrace" in check.finding
    assert "import emotrace before torch" in check.advice
