"""The same model with its weights stored at another precision, for a while: half floats, and blocks of 8 and 4 bits.

``int8`` and ``int4`` are llama.cpp's Q8_0 and Q4_0 (blocks of 32 weights that share a scale), there and back through
the ``gguf`` package: the model computes with what such a file holds. Norms and biases stay as they are, as there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

CASTS = ("float32", "bfloat16", "float16")
BLOCKS = {"int8": "Q8_0", "int4": "Q4_0"}
PRECISIONS = (*CASTS, *BLOCKS)
ARITHMETIC = {"bfloat16 arithmetic": "bfloat16", "float16 arithmetic": "float16"}
"""Activations at that precision too: slow on a CPU, and what can overflow."""


def rounded(weights: np.ndarray, precision: str) -> np.ndarray:
    """Weights ``[…, column]`` as a block format holds them; unchanged where no whole number of blocks fits a row."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[BLOCKS[precision]]
    if weights.ndim < 2 or weights.shape[-1] % 32:
        return weights
    return quants.dequantize(quants.quantize(np.ascontiguousarray(weights, np.float32), kind), kind)


@contextlib.contextmanager
def stored_as(module: torch.nn.Module, precision: str) -> Iterator[None]:
    """Within it, the module's weights are those of this precision; after it the very same tensors as before.

    Weights alone are rounded, and the model computes as it did before; in those of ``ARITHMETIC`` it computes at that
    precision as well. Buffers (rotary frequencies, masks) stay, as they do when a checkpoint is loaded so.
    """
    import torch

    kept = [(parameter, parameter.data) for parameter in module.parameters()]  # a tied one stands here once
    try:
        for parameter, weights in kept:
            if precision in CASTS:
                parameter.data = weights.to(getattr(torch, precision)).to(weights.dtype)
            elif precision in ARITHMETIC:
                parameter.data = weights.to(getattr(torch, ARITHMETIC[precision]))
            else:
                blocks = torch.from_numpy(rounded(weights.float().cpu().numpy(), precision))
                parameter.data = blocks.to(weights.device, weights.dtype)
        yield
    finally:
        for parameter, weights in kept:
            parameter.data = weights
