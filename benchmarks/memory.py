"""Peak memory of reading texts, in a process that does nothing else.

``python benchmarks/memory.py MODEL --texts N --words W --out FOLDER`` prints the peak resident size after loading and
after reading (gigabytes), and how much reading added over the weights; Python and torch are in it. The texts are the
passages, again and again, cut to W words; with a folder the result goes to files there. Without arguments
(``make bench``) the packaged models read all passages, and SmolLM2 10,000 texts, kept and to disk; the table goes to
``benchmarks/results/memory.csv``.
"""

import argparse
import itertools
import re
import subprocess
import sys
import tempfile

import pandas as pd
import timing

import emotrace
from emotrace import activations
from emotrace.instrument import corpus

MODELS = ("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct")
COLUMNS = ("texts", "weights_gb", "after_loading_gb", "after_reading_gb", "over_the_weights_gb", "result_gb")
MANY, WORDS = 10_000, 12


def measure(name: str, count: int, words: int | None = None, out: str | None = None) -> str:
    """One line, in the order of ``COLUMNS``; of the result, what is in memory."""
    passages = [" ".join(text.split()[:words]) for text in corpus.passages()["text"]]
    texts = list(itertools.islice(itertools.cycle(passages), count))
    model = emotrace.load(name)
    weights = sum(p.numel() * p.element_size() for p in model.nn._module.parameters()) / 1e9
    loaded = timing.peak()
    result = activations.read_activations(model, texts, out=out)
    read = timing.peak()
    size = 0 if out else sum(array.nbytes for array in result.values()) / 1e9
    return (
        f"{name}: {len(texts)} texts, weights {weights:.2f} GB, peak after loading {loaded:.2f} GB, "
        f"after reading {read:.2f} GB, over the weights {read - weights:.2f} GB, of which the result {size:.2f} GB"
    )


def row(name: str, count: int, *options: str) -> dict[str, object]:
    """One row of the table, measured in a process of its own."""
    command = [sys.executable, __file__, name, "--texts", str(count), *options]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    values = map(float, re.findall(r"[\d.]+(?= texts| GB)", line))
    return {"model": name, "to_disk": "--out" in options, **dict(zip(COLUMNS, values, strict=True))}


def table() -> pd.DataFrame:
    rows = [row(name, len(corpus.passages())) for name in MODELS]
    with tempfile.TemporaryDirectory() as folder:
        for options in ((), ("--out", folder)):
            rows.append(row(MODELS[0], MANY, "--words", str(WORDS), *options))
    return pd.DataFrame(rows)


if __name__ == "__main__":
    if sys.argv[1:]:
        parser = argparse.ArgumentParser()
        parser.add_argument("model")
        parser.add_argument("--texts", type=int, default=len(corpus.passages()))
        parser.add_argument("--words", type=int)
        parser.add_argument("--out")
        options = parser.parse_args()
        print(measure(options.model, options.texts, options.words, options.out))
    else:
        timing.save(table(), "memory")
