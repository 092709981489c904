"""Reading texts: tokens per second and peak memory, against peers, the bare body and the machine's limit.

Run by ``make bench``; ``python benchmarks/extraction.py MODEL`` for one model. All contenders take turns in one
process, each several times; medians, spread and ratios within a repetition go to ``benchmarks/results/extraction.csv``.
Absolute times depend on the machine: the ratios are the result. Before anything is timed, each contender's numbers are
compared with ours. There are two sets of texts: *passages*, 45–57 words each, and *mixed*, passages joined and cut to
7–330 words, evenly on a log scale.

- *emotrace*: both poolings at all layers, pooled in the trace, batches sorted by length.
- *bare body*: the transformer without its head on the very same batches, nothing kept: the limit of the batching.
- *machine's limit*: the products of the model's weights alone (``benchmarks/limit.py``).
- *emotrace, torch as it comes*: ours without the choices of ``emotrace.hosts.cpu_matmul`` and
  ``emotrace.hosts.cpu_attention``; every other contender has them as well.
- one text at a time, one nnsight trace a text, repeng, steering-vectors: ``benchmarks/peers.py``. Those that take one
  text at a time run on every third, evenly over the lengths, since their speed does not depend on how many there are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from zlib import crc32

import limit
import numpy as np
import pandas as pd
import peers
import timing
import torch

import emotrace
from emotrace import activations, tokens
from emotrace.instrument import corpus
from emotrace.models import Model

REPETITIONS, MODELS = 3, ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
# Relative to the vectors' norms: float32 rounding through thirty layers is 1e-6, another token or layer above 1e-2.
TOLERANCE = 1e-4


class Contender(NamedTuple):
    """How it reads, on every how many of the texts, and whether what it returns can be compared with ours."""

    read: Callable[[Model, Sequence[str]], object]
    every: int = 1
    compared: bool = True


def ours(model: Model, texts: Sequence[str]) -> dict[str, np.ndarray]:
    return activations.read_activations(model, texts)


def with_torch_as_it_comes(model: Model, texts: Sequence[str]) -> dict[str, np.ndarray]:
    with timing.as_it_comes(model):
        return ours(model, texts)


def bare_body(model: Model, texts: Sequence[str]) -> None:
    body = model.nn._module.base_model
    with torch.no_grad():
        for batch in batches(model, texts):
            body(input_ids=tokens.pad_right([item.ids for item in batch]), use_cache=False)


def products(model: Model, texts: Sequence[str]) -> float:
    """Seconds of the products of the weights alone, over batches of ours without their padding."""
    sizes = [sum(len(item.ids) for item in batch) for batch in batches(model, texts)]
    return limit.seconds(limit.matrices(model), sizes)


def batches(model: Model, texts: Sequence[str]) -> list[list[tokens.Tokens]]:
    items = tokens.encode(model, texts)
    rows = tokens.batches([len(item.ids) for item in items], activations.BATCH_TOKENS)
    return [[items[row] for row in batch] for batch in rows]


CONTENDERS = {
    "emotrace": Contender(ours),
    "bare body": Contender(bare_body, compared=False),
    "machine's limit": Contender(products, compared=False),
    "emotrace, torch as it comes": Contender(with_torch_as_it_comes),
    "one at a time": Contender(peers.one_at_a_time, every=3),
    "one nnsight trace a text": Contender(peers.one_trace_a_text, every=3),
    "repeng, batches of 32": Contender(peers.repeng),
    "steering-vectors, one at a time": Contender(peers.steering_vectors, every=3),
    "steering-vectors, batches of 32": Contender(partial(peers.steering_vectors, batch_size=32)),
}
PEERS = tuple(name for name in CONTENDERS if name.startswith(("one ", "repeng", "steering-vectors")))


def mixed(count: int, seed: int = 0) -> list[str]:
    """Passages joined in a random order and cut to 7 … 330 words, evenly on a log scale: about 8 to 400 tokens."""
    generator = np.random.default_rng([seed, crc32(repr("mixed lengths").encode())])
    passages = [text.split() for text in corpus.passages()["text"]]
    texts = []
    for words in np.exp(generator.uniform(np.log(7), np.log(331), count)).astype(int):
        order = generator.permutation(len(passages))
        texts.append(" ".join([word for row in order[:8] for word in passages[row]][:words]))
    return texts


def disagreement(model: Model, texts: Sequence[str], contender: str) -> float:
    """The largest difference from ours over texts, layers and the poolings it has, relative to the vector's norm."""
    own, other = ours(model, texts), CONTENDERS[contender].read(model, texts)
    gaps = [
        np.linalg.norm(other[pooling] - own[pooling], axis=-1) / np.linalg.norm(own[pooling], axis=-1)
        for pooling in other
    ]
    return float(np.nanmax(gaps))


def measure(
    name: str,
    texts: Sequence[str],
    kind: str = "passages",
    repetitions: int = REPETITIONS,
    contenders: Sequence[str] = tuple(CONTENDERS),
) -> pd.DataFrame:
    """One row a contender: tokens per second (median, lowest, highest), the ratio of ours to it, peak memory."""
    model = emotrace.load(name)
    lengths = [len(item.ids) for item in tokens.encode(model, texts)]
    by_length = np.argsort(lengths, kind="stable")
    sample = [texts[row] for row in by_length[:: max(1, len(texts) // 7)]]
    compared = [contender for contender in contenders if CONTENDERS[contender].compared]
    gaps = {contender: disagreement(model, sample, contender) for contender in compared}
    if max(gaps.values()) > TOLERANCE:
        sys.exit(f"{name}: others compute something else, nothing was timed (relative differences {gaps})")
    read_rows, runs = {}, {}
    for contender in contenders:
        every = CONTENDERS[contender].every
        read_rows[contender] = sorted(by_length[every // 2 :: every])
        runs[contender] = partial(CONTENDERS[contender].read, model, [texts[row] for row in read_rows[contender]])
    seconds, peaks = timing.taking_turns(runs, repetitions)
    n_tokens = {contender: sum(lengths[row] for row in rows) for contender, rows in read_rows.items()}
    speeds = {contender: [n_tokens[contender] / time for time in times] for contender, times in seconds.items()}
    weights = sum(p.numel() * p.element_size() for p in model.nn._module.parameters())
    rows = []
    for contender, own_speeds in speeds.items():
        # Ratios within a repetition, where the machine was in the same state.
        ratios = [emotrace_speed / speed for emotrace_speed, speed in zip(speeds["emotrace"], own_speeds, strict=True)]
        rows.append(
            {
                "model": name,
                "texts": kind,
                "contender": contender,
                "n": len(read_rows[contender]),
                "tokens": n_tokens[contender],
                **timing.spread(own_speeds, "tokens_per_second"),
                **timing.spread(ratios, "ratio"),
                "repetitions": repetitions,
                "peak_over_weights_gb": (peaks[contender] - weights) / 1e9,
                "disagreement": gaps.get(contender, np.nan),
            }
        )
    return pd.DataFrame(rows)


def main(names: Sequence[str]) -> None:
    passages = list(corpus.passages()["text"])[::4]
    tables = []
    for name in names:
        for kind, texts in (("passages", passages), ("mixed", mixed(48))):
            tables.append(measure(name, texts, kind))
            timing.save(pd.concat(tables), "extraction")


if __name__ == "__main__":
    main(sys.argv[1:] or MODELS)
