"""``emotrace doctor``: is the server there, do the versions fit, are the key and the model good, and if not, what to do."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from emotrace.errors import EmotraceError
from emotrace.hosts import remote

# A trace is code: it is pickled here and run there. These decide whether it arrives as it was meant.
PACKAGES = ("nnsight", "torch", "transformers")


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        what: what was looked at.
        good: True, False, or None where it can't be told.
        found: what was seen, in a few words; never the API key.
        advice: what to do, if it is not good.
    """

    what: str
    good: bool | None
    found: str
    advice: str = ""


def examine(model: str, where: str) -> Iterator[Check]:
    """Every check in turn; those that need the server are left out once it cannot be reached.

    Args:
        model: a name of ``data/models.csv``, or a hub id.
        where: the server's address.
    """
    try:
        remote.ask(where, "/ping")
    except EmotraceError as error:
        yield Check("server", False, str(error), "check the address (NDIF_HOST) and your network")
        return
    yield Check("server", True, f"{where} answers")
    yield from _versions(where)
    yield _key(where)
    yield _deployed(model, where)
    yield _trace(model, where)


def _versions(where: str) -> Iterator[Check]:
    try:
        there = remote.ask(where, "/env")
    except EmotraceError as error:
        yield Check("versions", None, str(error))
        return
    python = str(there.get("python_version", "")).split(" ")[0]
    yield _compared(
        "Python", platform.python_version(), python, "source and pickles cross minor versions mostly, not always"
    )
    for name in PACKAGES:
        yield _compared(
            name, version(name), str(there.get("packages", {}).get(name, "")), f"pip install '{name}=={{}}' here"
        )


def _compared(name: str, here: str, there: str, advice: str) -> Check:
    """Equal to the minor version: good."""
    if not there:
        return Check(name, None, f"{here} here, unknown there")
    same = _minor(here) == _minor(there)
    return Check(name, same, f"{here} here, {there} there", "" if same else advice.format(there.split("+")[0]))


def _minor(full: str) -> list[str]:
    return full.split("+")[0].split(".")[:2]


def _key(where: str) -> Check:
    if not remote.api_key():
        return Check(
            "API key", None, "none is set", "hosted NDIF wants one: NDIF_API_KEY=…; a server of your own may not"
        )
    try:
        who = remote.ask(where, "/whoami")
    except EmotraceError as error:
        return Check("API key", False, str(error), "get a key at the server's site and set NDIF_API_KEY")
    known = bool(who.get("email"))
    return Check(
        "API key",
        True if known else None,
        "known to the server" if known else "set; the server does not say whose it is",
    )


def _deployed(model: str, where: str) -> Check:
    hub_id = remote.hub_id(model)
    models = remote.ask(where, "/status").get("deployments", {}).values()
    mine = [each for each in models if each.get("repo_id") == hub_id]
    if not mine:
        names = sorted({each["repo_id"] for each in models if each.get("repo_id")})
        listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "") or "none"
        return Check("model", False, f"{hub_id} is not deployed", f"deployed are: {listed}")
    states = ", ".join(sorted({f"{each.get('application_state')} ({each.get('dtype')})" for each in mine}))
    return Check(
        "model", any(each.get("application_state") == "RUNNING" for each in mine), f"{hub_id}: {states}", "wait for it"
    )


def _trace(model: str, where: str) -> Check:
    """The proof: one short text, read on the server."""
    import time

    from emotrace.activations import read_activations
    from emotrace.models import load

    try:
        loaded = load(model, remote=where)
        start = time.perf_counter()
        found: Any = read_activations(loaded, ["It rained all day."], poolings=("mean",))["mean"]
        taken = time.perf_counter() - start
    except EmotraceError as error:
        return Check("a trace", False, str(error), "mend what is wrong above first")
    traffic = loaded.remote.traffic
    return Check(
        "a trace", True,
        f"{found.shape[1]} layers of one text in {taken:.2f} s, {traffic.sent} bytes sent, {traffic.received} received",
    )  # fmt: skip
