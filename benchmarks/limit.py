"""The machine's limit for reading: the floating-point operations of a model's matrices, at the rate at which the
machine does products of those very matrices with nothing else around them.

What a decoder does beside the products of its weights (attention over states, norms, activation functions, the pooling)
is left out, so that no program can reach the limit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from emotrace.models import Model


def matrices(model: Model) -> list[torch.nn.Linear]:
    """Every linear map of the model without its head, in order: all weights but embeddings and norms."""
    return [part for part in model.nn._module.base_model.modules() if isinstance(part, torch.nn.Linear)]


def operations(maps: Sequence[torch.nn.Linear], tokens: int) -> int:
    """Floating-point operations of reading ``tokens``: a multiplication and an addition for each weight and token."""
    return 2 * sum(part.weight.numel() for part in maps) * tokens


def seconds(maps: Sequence[torch.nn.Linear], sizes: Sequence[int]) -> float:
    """Seconds that the maps' products alone take, over batches of so many tokens each.

    Every weight of the model is multiplied once a batch, as in reading, so that each shape has its share and no matrix
    is found in a cache where reading would not find it.
    """
    inputs = {width: torch.full((max(sizes), width), 0.5) for width in {part.in_features for part in maps}}
    start = time.perf_counter()
    with torch.no_grad():
        for size in sizes:
            for part in maps:
                linear(inputs[part.in_features][:size], part.weight, part.bias)
    return time.perf_counter() - start
