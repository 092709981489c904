"""Watching: seconds for a text that is streamed with its projections, against plain streaming of transformers.

Contenders take turns in one process, in a new order each time; printed and written to
``benchmarks/results/watching.csv`` are the median of each one's seconds, and the median of its ratio to the contender
named in ``against`` within a turn, with its 95% interval (percentile bootstrap over turns). All write the same tokens
of one prompt, one row, greedy, which is checked. Watching reads the last token too: one step more.

- *plain*: ``model.generate`` with a ``TextStreamer`` that prints into memory.
- *watched*: ``emotrace.watch`` of all emotions, nothing shown.
- *shown*: the same with text and bars drawn for a terminal in memory.
- each of them *steered* by ``emotrace.steered``, plain streaming too.
- *as it comes*: *plain* with torch's own choice of attention and products, as whoever has no emotrace has it.

    python benchmarks/watching.py [MODEL] [TOKENS] [TURNS]
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import timing
import torch
import transformers
from scipy import stats

import emotrace
from emotrace.models import Model
from emotrace.tokens import Writing, end_tokens, prompt_ids
from emotrace.vectors import EmotionVectors
from emotrace.whatif.text_reading import cached_vectors

PROMPT, TURNS = "When she opened the letter, she", 15
EMOTION, STRENGTH = "afraid", 0.1
PLAIN = {"watched": "plain", "shown": "plain", "as it comes": "plain"}
PLAIN |= {f"{name}, steered": "plain, steered" for name in ("watched", "shown")}
"""Contender → what it is compared with."""


def plain(model: Model, ids: torch.Tensor, tokens: int) -> list[int]:
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        written = model.nn._module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=end_tokens(model),
            pad_token_id=end_tokens(model)[0],
            streamer=transformers.TextStreamer(model.tokenizer),
        )
    return written[0, ids.shape[1] :].tolist()


def watched(model: Model, vectors: EmotionVectors, tokens: int, show: bool) -> list[int]:
    with contextlib.redirect_stdout(io.StringIO()):
        table = emotrace.watch(model, PROMPT, vectors=vectors, writing=Writing(tokens, 0), show=show)
    return table[table["written"]].drop_duplicates("token")["id"].tolist()


def ways(model: Model, vectors: EmotionVectors, tokens: int) -> dict[str, Callable[[], list[int]]]:
    """Contender → what writes the text and returns its tokens."""
    ids = torch.tensor([prompt_ids(model, [PROMPT], False, tokens)[PROMPT]], device=model.device)
    unsteered = {
        "plain": lambda: plain(model, ids, tokens),
        "watched": lambda: watched(model, vectors, tokens, False),
        "shown": lambda: watched(model, vectors, tokens, True),
    }

    def steered(write: Callable[[], list[int]]) -> list[int]:
        with emotrace.steered(model, vectors, EMOTION, STRENGTH):
            return write()

    def as_it_comes() -> list[int]:
        with timing.as_it_comes(model):
            return plain(model, ids, tokens)

    of_steered = {f"{name}, steered": (lambda write=write: steered(write)) for name, write in unsteered.items()}
    return {**unsteered, **of_steered, "as it comes": as_it_comes}


def check(contenders: dict[str, Callable[[], list[int]]], tokens: int) -> None:
    """Runs each once, which also makes what is made once (kernels, the neutral passages), and compares their texts."""
    texts = {name: write() for name, write in contenders.items()}
    for name, against in PLAIN.items():
        # In torch's own products a near tie may fall the other way: there the number of tokens is what counts.
        same = name == "as it comes" or texts[name] == texts[against]
        if not same or len(texts[name]) != tokens or len(texts[against]) != tokens:
            sys.exit(f"{name} and {against} do not write the same {tokens} tokens: take another number, or model")


def measure(name: str, tokens: int, turns: int = TURNS) -> pd.DataFrame:
    """One row a contender: seconds, and the ratio of its time to that of plain streaming."""
    model = emotrace.load(name)
    contenders = ways(model, cached_vectors(model), tokens)
    check(contenders, tokens)
    rng, seconds = np.random.default_rng(0), {contender: [] for contender in contenders}
    for _ in range(turns):
        order = {contender: contenders[contender] for contender in rng.permutation(list(contenders))}
        for contender, (once,) in timing.taking_turns(order, 1)[0].items():
            seconds[contender].append(once)
    rows = []
    for contender, times in seconds.items():
        against = PLAIN.get(contender, contender)
        ratios = np.array(times) / np.array(seconds[against])
        low, high = _interval(ratios)
        row = {"model": name, "contender": contender, "tokens": tokens, **timing.spread(times, "seconds")}
        row |= {"against": against, "ratio": np.median(ratios), "ratio_low": low, "ratio_high": high, "turns": turns}
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(ratios: np.ndarray) -> tuple[float, float]:
    if len(ratios) < 2 or np.ptp(ratios) == 0:
        return ratios[0], ratios[0]
    found = stats.bootstrap((ratios,), np.median, method="percentile", rng=np.random.default_rng(0))
    return found.confidence_interval.low, found.confidence_interval.high


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    table = measure(given.get(0, "smollm2-135m-instruct"), int(given.get(1, 60)), int(given.get(2, TURNS)))
    timing.save(table, "watching")
