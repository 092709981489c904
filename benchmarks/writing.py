"""Writing stories: tokens per second against plain ``generate`` of transformers on the same batch.

Ours and the other take turns in one process, each several times; medians, spread and the ratio within a repetition are
printed and written to ``benchmarks/results/writing.csv``. Absolute times depend on the machine and on what else it
does: the ratio is the result. A batch goes on until its last row ends; with so many rows some always reach the last
step, so that all sides take the same number of steps whatever they draw (steps per second = rows × steps / seconds).

- *emotrace*: ``steering.generate`` without an edit, one seed a row, as ``stories.write_stories`` calls it.
- *transformers*: ``model.generate(do_sample=True)`` on the same padded batch, one seed for all rows, torch as it comes
  (without the choices of ``emotrace.hosts.cpu_matmul`` and ``emotrace.hosts.cpu_attention``).
- *while writing*: ``activations.read_while_writing``, every layer captured at every token.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import timing
import torch

import emotrace
from emotrace import activations, steering, stories, tokens
from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.tokens import Writing

REPETITIONS, ROWS, STEPS, TEMPERATURE = 3, 32, 40, 0.8
RESULTS = Path(__file__).parent / "results"


def prompts(model: Model) -> list[tuple[int, ...]]:
    cells = [(topic, emotion) for topic in corpus.topics().index for emotion in corpus.emotion_names()]
    return [stories.request_ids(model, *cell) for cell in cells[:: len(cells) // ROWS][:ROWS]]


def ours(model: Model, ids: list[tuple[int, ...]]) -> int:
    seeds = range(len(ids))
    rows = steering.generate(model, ids, None, Writing(STEPS, TEMPERATURE), seeds)
    return sum(map(len, rows))


def plain(model: Model, ids: list[tuple[int, ...]]) -> int:
    padded, mask = tokens.pad_left(ids)
    torch.manual_seed(0)
    with torch.no_grad(), timing.as_it_comes(model):
        written = model.nn._module.generate(
            padded,
            attention_mask=mask,
            max_new_tokens=STEPS,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            eos_token_id=tokens.end_tokens(model),
            pad_token_id=tokens.end_tokens(model)[0],
        )
    return sum(len(tokens.until_end(row[padded.shape[1] :].tolist(), tokens.end_tokens(model))) for row in written)


def while_writing(model: Model, ids: list[tuple[int, ...]]) -> int:
    seeds = list(range(len(ids)))
    rows = activations.read_while_writing(model, ids, Writing(STEPS, TEMPERATURE), seeds)
    return sum(len(row.ids) for row in rows)


def measure(name: str, repetitions: int = REPETITIONS) -> pd.DataFrame:
    """One row a contender: steps × rows per second (median, slowest, fastest) and the ratio of ours to it."""
    model = emotrace.load(name)
    ids = prompts(model)
    contenders: dict[str, Callable[..., int]] = {
        "emotrace": ours,
        "transformers": plain,
        "while writing": while_writing,
    }
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    written: dict[str, int] = {}
    for repetition in range(repetitions + 1):
        for contender, run in contenders.items():
            start = time.perf_counter()
            written[contender] = run(model, ids)
            if repetition:  # the first of each warms up
                seconds[contender].append(time.perf_counter() - start)
    rows = []
    for contender, times in seconds.items():
        # Ratios within a repetition, where the machine was in the same state.
        ratios = [other / own for other, own in zip(times, seconds["emotrace"], strict=True)]
        rows.append(
            {
                "model": name,
                "contender": contender,
                "rows": len(ids),
                "steps": STEPS,
                "tokens": written[contender],
                "steps_per_second": len(ids) * STEPS / statistics.median(times),
                "slowest": len(ids) * STEPS / max(times),
                "fastest": len(ids) * STEPS / min(times),
                "ours_to_it": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    names = sys.argv[1:] or ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"]
    table = pd.concat([measure(name) for name in names])
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "writing.csv", index=False, float_format="%.4g")
    print(f"{psutil.cpu_count()} cores, {torch.get_num_threads()} torch threads, torch {torch.__version__}")
    print(table.to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main()
