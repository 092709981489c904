"""``emotrace doctor``: how do torch's threads wait here, is the server there, do the versions fit, are the key and the
model good? And if not, what to do."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from emotrace.errors import EmotraceError
from emotrace.hosts import remote, threads
from emotrace.hosts.patience import api_key

# A trace is code: it is pickled here and run there. These decide whether it arrives as it was meant.
PACKAGES = ("nnsight", "torch", "transformers")


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        subject: what was looked at.
        good: True, False, or None where it can't be told.
        finding: what was seen, in a few words; never the API key.
        advice: what to do, if it is not good.
    """

    subject: str
    good: bool | None
    finding: str
    advice: str = ""

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "BAD ", None: "?   "}[self.good]
        advice = f"\n{'':19}→ {self.advice}" if self.advice else ""
        return f"{mark} {self.subject:<13} {self.finding}{advice}"


def examine(model: str, where: str) -> Iterator[Check]:
    """Every check in turn; those that need the server are left out once it cannot be reached.

    Args:
        model: a name of ``data/models.csv``, or a hub id.
        where: the server's address.
    """
    yield _threads()
    try:
        api_key()
    except EmotraceError as error:  # no request can be made with it
        yield Check("API key", False, str(error), "copy it again from the server's site")
        return
    try:
        _ask(where, "/ping")
    except EmotraceError as error:
        yield Check("server", False, str(error), "check the address (NDIF_HOST) and your network")
        return
    yield Check("server", True, f"{where} answers")
    yield from _versions(where)
    yield _key(where)
    yield _deployed(model, where)
    yield _trace(model, where)


def _ask(where: str, path: str) -> dict[str, Any]:
    """One attempt: what is wrong is to be told, not waited out."""
    return remote.ask(where, path, attempts=1)


def _threads() -> Check:
    """The threads of a model on this machine's CPU. Never bad: they only make it slower."""
    import torch

    threads.fit_to_quota()
    count, quota, policy = torch.get_num_threads(), threads.cpu_quota(), threads.wait_policy()
    limit = "no CPU quota" if quota is None else f"a quota of {quota:g} CPUs"
    finding = f"torch has {count}, waiting {policy}; {limit}"
    if quota is not None and count > max(1, quota):
        return Check("threads", None, finding, "set OMP_NUM_THREADS to the quota, or leave it out")
    if policy == threads.TOO_LATE:
        return Check("threads", None, finding, "import emotrace before torch, or set OMP_WAIT_POLICY=PASSIVE")
    return Check("threads", True, finding)


def _versions(where: str) -> Iterator[Check]:
    try:
        there = _ask(where, "/env")
    except EmotraceError as error:
        yield Check("versions", None, str(error))
        return
    python = str(there.get("python_version", "")).split(" ")[0]
    advice = "source and pickles cross minor versions mostly, not always"
    yield _compared("Python", platform.python_version(), python, advice)
    for name in PACKAGES:
        on_server = str(there.get("packages", {}).get(name, ""))
        yield _compared(name, version(name), on_server, f"pip install '{name}=={on_server.split('+')[0]}' here")


def _compared(name: str, here: str, there: str, advice: str) -> Check:
    """Equal to the minor version: good."""
    if not there:
        return Check(name, None, f"{here} here, unknown there")
    same = _minor(here) == _minor(there)
    return Check(name, same, f"{here} here, {there} there", "" if same else advice)


def _minor(full: str) -> list[str]:
    return full.split("+")[0].split(".")[:2]


def _key(where: str) -> Check:
    if not api_key():
        advice = "hosted NDIF wants one: NDIF_API_KEY=…; a server of your own may not"
        return Check("API key", None, "none is set", advice)
    try:
        owner = _ask(where, "/whoami").get("email")
    except EmotraceError as error:
        return Check("API key", False, str(error), "get a key at the server's site and set NDIF_API_KEY")
    if owner:
        return Check("API key", True, "known to the server")
    return Check("API key", None, "set; the server does not say whose it is")


def _deployed(model: str, where: str) -> Check:
    hub_id = remote.hub_id(model)
    deployments = _ask(where, "/status").get("deployments", {}).values()
    copies = [deployed for deployed in deployments if deployed.get("repo_id") == hub_id]
    if not copies:
        names = sorted({deployed["repo_id"] for deployed in deployments if deployed.get("repo_id")})
        listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "") or "none"
        return Check("model", False, f"{hub_id} is not deployed", f"deployed are: {listed}")
    states = sorted({f"{copy.get('application_state')} ({copy.get('dtype')})" for copy in copies})
    running = any(copy.get("application_state") == "RUNNING" for copy in copies)
    return Check("model", running, f"{hub_id}: {', '.join(states)}", "wait for it")


def _trace(model: str, where: str) -> Check:
    """The proof: one short text, read on the server."""
    from emotrace.activations import read_activations
    from emotrace.models import load

    try:
        loaded = load(model, remote=where)
        start = time.perf_counter()
        activations = read_activations(loaded, ["It rained all day."], poolings=("mean",))["mean"]
        seconds = time.perf_counter() - start
    except EmotraceError as error:
        return Check("a trace", False, str(error), "mend what is wrong above first")
    finding = f"{activations.shape[1]} layers of one text in {seconds:.2f} s"
    if loaded.remote:
        finding += f", {loaded.remote.traffic.sent} bytes sent, {loaded.remote.traffic.received} received"
    return Check("a trace", True, finding)
