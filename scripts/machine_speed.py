"""Prints how many GFLOP/s this machine's cores do in float32 products, as emotrace chooses them.

CI asks: machines that run it differ seven times, and the slow kind leaves the longest tests and notebooks out.
"""

import time

import torch

from emotrace.hosts import cpu_matmul

ROWS, INNER, COLUMNS = 512, 896, 4864
SECONDS = 1.0


def gflops() -> float:
    """The best of many products of a prompt's activations with an MLP's weights, for a second."""
    cpu_matmul.choose()
    left, right = torch.randn(ROWS, INNER), torch.randn(INNER, COLUMNS)
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * ROWS * INNER * COLUMNS / best / 1e9


if __name__ == "__main__":
    print(round(gflops()))
