"""Peak memory of reading all passages, in a process that does nothing else: ``python benchmarks/memory.py MODEL [TIMES]``.

Prints the peak resident size after loading and after reading (gigabytes), and how much reading added over the weights.
``TIMES`` repeats the passages, to show that the peak grows by the result alone.
"""

import sys

from timing import peak

import emotrace
from emotrace import activations, corpus


def main() -> None:
    name, times = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    model = emotrace.load(name)
    weights = sum(p.numel() * p.element_size() for p in model.nn._module.parameters()) / 1e9
    loaded = peak()
    texts = list(corpus.passages()["text"]) * times
    result = activations.read_activations(model, texts)
    size = sum(array.nbytes for array in result.values()) / 1e9
    print(
        f"{name}: {len(texts)} texts, weights {weights:.2f} GB, peak after loading {loaded:.2f} GB, after reading {peak():.2f} GB, "
        f"over the weights {peak() - weights:.2f} GB, of which the result {size:.2f} GB"
    )


if __name__ == "__main__":
    main()
