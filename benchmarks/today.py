"""Today's peers, each in an environment of its own: reading activations for vectors, and a steered text.

``make bench BENCH=today`` installs them (``benchmarks/workers/NAME.txt``, versions pinned) and runs this:

    python benchmarks/today.py [TURNS] [PASSAGES]

emotrace and a peer take turns, each in its own process with as many threads; ratios are taken within a turn. Every turn
goes to ``benchmarks/results/today.csv`` as soon as it is done, and a second call goes on from there. Before a peer is
timed, what it gives is compared with ours: activations of the same tokens to 1e-4 of a vector's norm, steered texts
word for word. A peer that cannot be installed or started stands in the table with the reason.

- *read*: every layer at the last token, of passages that each peer puts into the chat template in its own way (the very
  tokens that it reads are read by emotrace).
- *write*: eight prompts in the chat template, continued greedily by 40 tokens with one vector added at one layer, to
  every token.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timing
import torch

import emotrace
from emotrace import activations, steering, tokens
from emotrace.hosts.sources import DEFAULT_MODEL, resolve
from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.tokens import Tokens, Writing

HERE = Path(__file__).parent
PEERS = {"steerkit": ("read", "write"), "saklas": ("read",), "hidden_directions": ("read", "write")}
TURNS, EVERY, LAYER, STRENGTH, LENGTH = 3, 8, 15, 0.15, 40
TOLERANCE = 1e-4
PROMPTS = ("Tell me about your day.", "What should I cook?", "Describe a forest.", "Who is at the door?")
PROMPTS += ("What is it like to wait?", "Tell me about the sea.", "Is it late?", "What did the letter say?")


class Worker:
    """A peer's process."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self.process, self.scratch = process, scratch

    def ask(self, job: str, **what: Any) -> tuple[float, Any]:
        """Seconds of a job, and what came of it.

        Raises:
            RuntimeError: the peer has ended; the last line that it said.
        """
        file = self.scratch / "array.npy"
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"job": job, "with": what, "file": str(file)}), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            said = (self.scratch / "errors").read_text().strip().splitlines()
            raise RuntimeError(said[-1] if said else "it ended without a word")
        answer = json.loads(line)
        return answer["seconds"], answer["found"] if "found" in answer else np.load(file)


def python_of(peer: str) -> Path:
    return HERE.parent / ".venv-peers" / peer / "bin" / "python"


@contextlib.contextmanager
def worker(peer: str, folder: Path) -> Iterator[Worker]:
    """The peer, at work in its own environment."""
    command = [str(python_of(peer)), str(HERE / "workers" / "serve.py"), peer, str(folder)]
    with tempfile.TemporaryDirectory() as scratch:
        errors = (Path(scratch) / "errors").open("w")
        with errors, subprocess.Popen(command, stdin=-1, stdout=-1, stderr=errors, text=True) as process:
            try:
                yield Worker(process, Path(scratch))
            finally:
                process.kill()


def read(model: Model, rows: list[tuple[list[int], int]]) -> np.ndarray:
    """``[text, layer, d_model]`` of layers 1 … L at one token of each text."""
    texts = [Tokens(tuple(ids), 0, end + 1) for ids, end in rows]
    return activations.read_activations(model, texts, poolings=("last",))["last"][:, 1:]


def push(model: Model) -> np.ndarray:
    """A random direction of the length of a steering edit."""
    direction = np.random.default_rng(0).normal(size=model.d_model)
    return direction / np.linalg.norm(direction) * STRENGTH * activations.residual_norms(model)[LAYER]


def write(model: Model, vector: np.ndarray) -> list[str]:
    prompts = [list(tokens.chat_ids(model, prompt)) for prompt in PROMPTS]
    rows = torch.tensor(np.tile(vector, (len(PROMPTS), 1)), dtype=torch.float32)
    edit = steering.Edit({LAYER: rows}, positions="all")
    written = steering.generate(model, prompts, edit, Writing(LENGTH, chat=True))
    return [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]


def disagreement(job: str, ours: Any, theirs: Any) -> float:
    """Of activations the largest difference relative to the vector's norm, of texts the share that differ."""
    if job == "write":
        return float(np.mean([mine.strip() != other.strip() for mine, other in zip(ours, theirs, strict=True)]))
    gaps = np.linalg.norm(theirs - ours, axis=-1) / np.linalg.norm(ours, axis=-1)
    return float(np.nanmax(gaps))


def turns(model: Model, peer: Worker, name: str, job: str, texts: list[str], done: int, count: int) -> Iterator[dict]:
    """The turns of one peer and job that are still to come, a row each."""
    vector = push(model)
    if job == "read":
        rows = peer.ask("rows", texts=texts)[1]
        mine, asked = lambda: read(model, rows), {"texts": texts}
    else:
        mine = lambda: write(model, vector)  # noqa: E731
        asked = {"prompts": PROMPTS, "push": vector.tolist(), "layer": LAYER, "tokens": LENGTH}
    gap = disagreement(job, mine(), peer.ask(job, **asked)[1])  # warms both up as well
    if job == "read" and gap > TOLERANCE:
        raise RuntimeError(f"it computes something else (relative difference {gap:.2g})")
    for turn in range(done, count):
        start = time.perf_counter()
        mine()
        seconds = time.perf_counter() - start
        theirs, _ = peer.ask(job, **asked)
        row = {"peer": name, "job": job, "turn": turn, "emotrace": seconds, "peer_seconds": theirs}
        yield row | {"ratio": theirs / seconds, "disagreement": gap, "n": len(texts), "reason": ""}


def measured(file: Path) -> pd.DataFrame:
    """What earlier calls have measured; a reason for nothing is tried again."""
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["peer", "job", "turn", "n", "reason"])
    return table[table["reason"].isna()]


def main(count: int = TURNS, passages: int | None = None) -> None:
    file = timing.RESULTS / "today.csv"
    table, texts = measured(file), list(corpus.passages()["text"])[::EVERY][:passages]
    texts = texts[: len(texts) // 2 * 2]  # steerkit reads pairs
    model, (folder, _) = emotrace.load(DEFAULT_MODEL), resolve(DEFAULT_MODEL, print)
    rows = table.to_dict("records")

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        timing.RESULTS.mkdir(exist_ok=True)
        pd.DataFrame(rows).to_csv(file, index=False, float_format="%.4g")

    for name, jobs in PEERS.items():
        for job in jobs:
            done = int(((table["peer"] == name) & (table["job"] == job) & (table["n"] == len(texts))).sum())
            if done >= count:
                continue
            try:
                with worker(name, Path(folder)) as peer:
                    for row in turns(model, peer, name, job, texts, done, count):
                        keep(row)
            except (OSError, RuntimeError) as error:
                keep({"peer": name, "job": job, "n": len(texts), "reason": str(error)[:120]})
    found = pd.DataFrame(rows)
    spread = found.groupby(["peer", "job", "n"])["ratio"].agg(["median", "min", "max", "count"])
    kept = found.groupby(["peer", "job", "n"])[["disagreement", "reason"]].last()
    print(timing.machine())
    print(spread.join(kept).to_string(float_format="%.3g"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
