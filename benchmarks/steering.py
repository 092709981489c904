"""The dose-response sweep (20 emotions × 6 strengths × 4 prompts × 40 tokens): tokens per second against usual ways.

Run by ``make bench``; ``python benchmarks/steering.py MODEL`` for another model. All take turns in one process, several
times; medians, spread and ratios go to ``benchmarks/results/steering.csv``. The ratios are the result.

- *emotrace*: the whole sweep in batches of 256 rows, each row its own vector and strength, greedy.
- *unsteered, batched*: plain ``generate`` of transformers on the same prompts in the same batches.
- *unsteered, batched, torch as it comes*: the same without the choices of ``emotrace.hosts.cpu_matmul`` and
  ``emotrace.hosts.cpu_attention``; every other side has them.
- *one at a time*: a forward hook and ``generate`` of transformers, one text a call, on a sample of the sweep's rows.
- *no cache*: the same hook, each token from a forward pass over the whole text so far (what several published tools
  do), on a few rows.

First all steered sides are checked to write the same tokens.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import timing
import torch

import emotrace
from emotrace import activations, steered_texts, steering, tokens
from emotrace.instrument import corpus
from emotrace.tokens import Writing
from emotrace.whatif import text_reading as reading

STRENGTHS, TOKENS, REPETITIONS = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3), 40, 3
RESULTS = Path(__file__).parent / "results"


class Sides:
    """The rows of the sweep and the ways to write them; each returns the token ids of the rows it was given."""

    def __init__(self, name: str, strengths: Sequence[float] = STRENGTHS) -> None:
        self.model = emotrace.load(name)
        self.module = self.model.nn._module
        self.vectors = reading.cached_vectors(self.model)
        self.layer = self.model.n_layers // 2
        self.norms = activations.residual_norms(self.model)
        prompts = corpus.prompts("dose")
        self.rows = [
            steered_texts.Row(prompt, self.vectors, emotion, strength)
            for prompt, emotion, strength in itertools.product(prompts, self.vectors.emotions, strengths)
        ]
        self.ids = {prompt: list(tokens.encode(self.model, [prompt])[0].ids) for prompt in prompts}
        ends = tokens.end_tokens(self.model)
        self.settings = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": ends, "pad_token_id": ends[0]}
        self.ends = ends

    def emotrace(self, rows: list) -> list[list[int]]:
        return list(steered_texts.write(self.model, rows, [self.layer], Writing(TOKENS, 0))["tokens"])

    def unsteered(self, rows: list) -> list[list[int]]:
        written = []
        ordered = sorted(rows, key=lambda row: -len(self.ids[row[0]]))
        for start in range(0, len(ordered), steered_texts.BATCH_ROWS):
            ids, mask = tokens.pad_left([self.ids[row[0]] for row in ordered[start : start + steered_texts.BATCH_ROWS]])
            with torch.no_grad():
                texts = self.module.generate(input_ids=ids, attention_mask=mask, **self.settings)
            written += [tokens.until_end(text[ids.shape[1] :].tolist(), self.ends) for text in texts]
        return written

    def unsteered_as_it_comes(self, rows: list) -> list[list[int]]:
        with timing.as_it_comes(self.model):
            return self.unsteered(rows)

    def one_at_a_time(self, rows: list) -> list[list[int]]:
        return [self._hooked(row, self._generate) for row in rows]

    def no_cache(self, rows: list) -> list[list[int]]:
        return [self._hooked(row, self._step_by_step) for row in rows]

    def _hooked(self, row: tuple, write: Callable[[list[int]], list[int]]) -> list[int]:
        prompt, vectors, emotion, strength, _ = row
        edit = steering.directions(vectors, [(emotion, strength)], [self.layer], self.norms)[self.layer][0]
        first = len(self.ids[prompt]) - 1

        def hook(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            start = min(first, output.shape[1] - 1)  # from the prompt's last token on; a cached step has one token
            output[:, start:] += edit
            return output

        handle = self.model.layers[self.layer - 1]._module.register_forward_hook(hook)
        try:
            with torch.no_grad():
                return write(self.ids[prompt])
        finally:
            handle.remove()

    def _generate(self, prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        text = self.module.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **self.settings)[0]
        return tokens.until_end(text[len(prompt) :].tolist(), self.ends)

    def _step_by_step(self, prompt: list[int]) -> list[int]:
        ids = list(prompt)
        while len(ids) < len(prompt) + TOKENS:
            ids.append(int(self.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] in self.ends:
                break
        return tokens.until_end(ids[len(prompt) :], self.ends)


def agree(sides: Sides, sample: int) -> tuple[int, int]:
    """How many of ``sample`` texts, written in the sweep's batches, have the tokens of a hook, one text at a time."""
    indices = range(0, len(sides.rows), max(1, len(sides.rows) // sample))
    batched = sides.emotrace(sides.rows)
    alone = sides.one_at_a_time([sides.rows[index] for index in indices])
    same = [batched[index] == text for index, text in zip(indices, alone, strict=True)]
    return sum(same), len(same)


def measure(sides: Sides, repetitions: int = REPETITIONS, sample: int = 12, few: int = 3) -> pd.DataFrame:
    """Tokens per second of each way, and emotrace's ratio to it: median, lowest and highest of the repetitions."""
    sampled = sides.rows[:: max(1, len(sides.rows) // sample)][:sample]
    ways: dict[str, tuple[Callable[[list], list[list[int]]], list]] = {
        "emotrace": (sides.emotrace, sides.rows),
        "unsteered, batched": (sides.unsteered, sides.rows),
        "unsteered, batched, torch as it comes": (sides.unsteered_as_it_comes, sides.rows),
        "one at a time": (sides.one_at_a_time, sampled),
        "no cache": (sides.no_cache, sampled[:few]),
    }
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repetitions):
        for way, (write, rows) in ways.items():
            start = time.perf_counter()
            n_tokens = sum(len(text) for text in write(rows))
            speeds[way].append(n_tokens / (time.perf_counter() - start))
    rows = []
    for way, values in speeds.items():
        ratios = [own / other for own, other in zip(speeds["emotrace"], values, strict=True)]
        rows.append(
            {
                "model": sides.model.name,
                "way": way,
                "tokens_per_second": statistics.median(values),
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                "rows": len(ways[way][1]),
                "repetitions": repetitions,
            }
        )
    return pd.DataFrame(rows)


def main(name: str) -> None:
    sides = Sides(name)
    same, checked = agree(sides, 12)
    print(f"{name}: {same} of {checked} sampled texts have the tokens of a hook, one text at a time")
    table = measure(sides)
    print(table.to_string(index=False, float_format="%.2f"))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "steering.csv"
    old = pd.read_csv(path) if path.exists() else table[:0]
    pd.concat([old[old["model"] != name], table]).to_csv(path, index=False, float_format="%.4g")


if __name__ == "__main__":
    for model_name in sys.argv[1:] or ["smollm2-135m-instruct"]:
        main(model_name)
