"""Watching: seconds for a text that is streamed with its projections, against plain streaming of transformers.

Contenders take turns in one process; medians, spread and the ratio within a repetition are printed and written to
``benchmarks/results/watching.csv``. All write the same tokens of one prompt, one row, greedy. Watching
reads the last token too, unless the text ends: one step more.

- *plain*: ``model.generate`` with a ``TextStreamer`` that prints into memory.
- *watched*: ``emotrace.watch`` of all emotions, nothing shown.
- *shown*: the same with text and bars drawn for a terminal in memory.

    python benchmarks/watching.py [MODEL] [TOKENS]
"""

from __future__ import annotations

import contextlib
import io
import sys

import numpy as np
import pandas as pd
import timing
import torch
import transformers

import emotrace
from emotrace.models import Model
from emotrace.tokens import Writing, end_tokens, prompt_ids
from emotrace.vectors import EmotionVectors
from emotrace.whatif.text_reading import cached_vectors

PROMPT, REPETITIONS = "When she opened the letter, she", 7


def plain(model: Model, ids: torch.Tensor, tokens: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        model.nn._module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=end_tokens(model),
            pad_token_id=end_tokens(model)[0],
            streamer=transformers.TextStreamer(model.tokenizer),
        )


def watched(model: Model, vectors: EmotionVectors, tokens: int, show: bool) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        emotrace.watch(model, PROMPT, vectors=vectors, writing=Writing(tokens), show=show)


def measure(name: str, tokens: int) -> pd.DataFrame:
    """One row a contender: seconds, tokens per second, the ratio of its time to plain streaming's."""
    model = emotrace.load(name)
    vectors, ids = cached_vectors(model), torch.tensor([prompt_ids(model, [PROMPT], False, tokens)[PROMPT]])
    contenders = {
        "plain": lambda: plain(model, ids, tokens),
        "watched": lambda: watched(model, vectors, tokens, False),
        "shown": lambda: watched(model, vectors, tokens, True),
    }
    timing.taking_turns(contenders, 1)  # what is made once: kernels, the neutral passages
    seconds, _ = timing.taking_turns(contenders, REPETITIONS)
    rows = []
    for contender, times in seconds.items():
        ratios = np.array(times) / np.array(seconds["plain"])
        row = {"model": name, "contender": contender, "tokens": tokens, **timing.spread(times, "seconds")}
        rows.append({**row, **timing.spread(ratios.tolist(), "ratio")})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    timing.save(measure(*(sys.argv[1:2] or ["smollm2-135m-instruct"]), int((sys.argv[2:3] or ["60"])[0])), "watching")
