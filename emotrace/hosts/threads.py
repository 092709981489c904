"""How torch's threads wait for one another on a CPU, and how many there are.

Between two operations an idle OpenMP thread spins by default, for milliseconds, to be quick for the next one. Where
other processes want the same cores, the spinning takes time from them and from its own program. Here, threads sleep.

And Python's threads, which transformers does not expect while it loads a model (:func:`one_at_a_time`).

Imports the standard library alone, for ``import emotrace`` runs :func:`wait_passively`.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

USERS_POLICY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
USERS_COUNT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# GNU's OpenMP, which torch's wheels for CPUs bring, reads the first two; Intel's and LLVM's the last, in milliseconds.
# A thousand turns (microseconds) before sleep take little from others, and save a machine of its own the waking up.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
TOO_LATE = "by OpenMP's default, for torch was imported before emotrace"

_policy = ""
_loading = threading.RLock()


def one_at_a_time(load: Callable[P, T]) -> Callable[P, T]:
    """A function that loads a model, which waits while another thread loads one.

    While transformers loads, it changes torch's defaults for the whole process: another model loaded at the same time
    misses tensors.
    """

    @functools.wraps(load)
    def in_turn(*args: P.args, **options: P.kwargs) -> T:
        from emotrace.hosts.torch_settings import as_shipped  # torch's own import waits until a model is loaded

        with _loading, as_shipped():
            return load(*args, **options)

    return in_turn


def wait_passively() -> None:
    """Lets OpenMP threads sleep while they wait, unless the user has chosen how they wait, or torch is loaded already.

    OpenMP reads its environment once, when its library is loaded. Processes started from this one inherit it.
    """
    global _policy
    chosen = {name: os.environ[name] for name in USERS_POLICY if name in os.environ}
    if not chosen and "torch" in sys.modules:
        _policy = TOO_LATE
    elif chosen and chosen != PASSIVE:
        _policy = f"as the environment says ({', '.join(map('='.join, chosen.items()))})"
    else:  # nobody has chosen, or the process that started this one has done the same
        os.environ.update(PASSIVE)
        _policy = "passively"


def wait_policy() -> str:
    """How the threads of this process wait, in a few words."""
    return _policy


def cpu_quota(root: str = "/sys/fs/cgroup") -> float | None:
    """How many CPUs' time this container's cgroup (version 2, or 1) may use; None where nothing limits it."""
    try:
        limit, period = _words(f"{root}/cpu.max")
    except (OSError, ValueError):
        try:
            (limit,), (period,) = _words(f"{root}/cpu/cpu.cfs_quota_us"), _words(f"{root}/cpu/cpu.cfs_period_us")
        except (OSError, ValueError):
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)


def _words(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()


def fit_to_quota() -> None:
    """Lowers the number of torch's threads to the CPU quota, unless the user has set a number in the environment.

    With more threads than that, the quota is used up early and all of them stand still until its period (0.1 s) ends.
    """
    import torch

    quota = cpu_quota()
    if quota is not None and torch.get_num_threads() > quota and not any(name in os.environ for name in USERS_COUNT):
        torch.set_num_threads(max(1, int(quota)))


def cores() -> int:
    """How many cores this process may keep busy: those that the environment, its affinity and its quota leave it."""
    chosen = [int(os.environ[name]) for name in USERS_COUNT if os.environ.get(name, "").isdigit()]
    if chosen:
        return max(1, chosen[0])
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return here if quota is None else max(1, min(here, int(quota)))


class Turn:
    """A re-entrant lock that any thread may give back: a generator may end in another thread than it began in."""

    def __init__(self) -> None:
        self._changed, self._depth = threading.Condition(), 0
        self._owner: int | None = None

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._owner in (None, me))
            self._owner, self._depth = me, self._depth + 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._changed.notify()
