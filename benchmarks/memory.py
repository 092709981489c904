"""Peak memory of reading all passages, in a process that does nothing else.

``python benchmarks/memory.py MODEL [TIMES]`` prints the peak resident size after loading and after reading (gigabytes), and how much
reading added over the weights; ``TIMES`` repeats the passages, to show that the peak grows by the result alone. Without
arguments (``make bench``) the packaged models are measured and the table goes to ``benchmarks/results/memory.csv``.
"""

import re
import subprocess
import sys

import pandas as pd
import timing

import emotrace
from emotrace import activations, corpus

MODELS = ("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct")
COLUMNS = ("texts", "weights_gb", "after_loading_gb", "after_reading_gb", "over_the_weights_gb", "result_gb")


def measure(name: str, times: int) -> str:
    """One line, in the order of ``COLUMNS``."""
    model = emotrace.load(name)
    weights = sum(p.numel() * p.element_size() for p in model.nn._module.parameters()) / 1e9
    loaded = timing.peak()
    texts = list(corpus.passages()["text"]) * times
    result = activations.read_activations(model, texts)
    size = sum(array.nbytes for array in result.values()) / 1e9
    return (
        f"{name}: {len(texts)} texts, weights {weights:.2f} GB, peak after loading {loaded:.2f} GB, after reading {timing.peak():.2f} GB, "
        f"over the weights {timing.peak() - weights:.2f} GB, of which the result {size:.2f} GB"
    )


def table() -> pd.DataFrame:
    """One row a packaged model, each measured in a process of its own."""
    rows = []
    for name in MODELS:
        line = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        values = map(float, re.findall(r"[\d.]+(?= texts| GB)", line))
        rows.append({"model": name, **dict(zip(COLUMNS, values, strict=True))})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
    else:
        timing.save(table(), "memory")
