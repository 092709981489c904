"""A low-rank change of the sentence encoder's weights (LoRA, Hu et al. 2021), merged into them at loading.

Of a weight matrix ``W [out, in]`` the adapter holds ``down [rank, in]`` and ``up [out, rank]``; the merged matrix is
``W + up @ down``. Once merged, the encoder runs exactly as fast as without it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import transformers

from emotrace.errors import EmotraceError, first_line

# The linear maps of one layer of a BERT encoder, below ``encoder.layer.<number>.``.
MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
DOWN, UP = ".down", ".up"


def merge(module: torch.nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Adds ``up @ down`` to each weight that ``tensors`` names (``<linear map>.down``, ``<linear map>.up``), in place.

    The products are formed in float32 whatever the storage, so that a file gives the same weights everywhere.

    Raises:
        EmotraceError: a map that the module lacks, one half without the other, or shapes that do not fit.
    """
    for name in sorted({key.removesuffix(DOWN).removesuffix(UP) for key in tensors}):
        try:
            linear = module.get_submodule(name)
            down, up = (torch.from_numpy(tensors[name + half].astype(np.float32)) for half in (DOWN, UP))
            change = up @ down
        except (AttributeError, KeyError, RuntimeError) as error:
            raise EmotraceError(f"the adapter's {name} does not fit the encoder ({first_line(error)})") from None
        if not isinstance(linear, torch.nn.Linear) or change.shape != linear.weight.shape:
            raise EmotraceError(f"the adapter's {name} does not fit the encoder (it is {tuple(change.shape)})")
        with torch.no_grad():
            linear.weight += change.to(linear.weight.device)


def linear_maps(module: transformers.PreTrainedModel, layers: int) -> list[str]:
    """The names of the linear maps of the last ``layers`` layers."""
    total = int(module.config.num_hidden_layers)
    return [f"encoder.layer.{layer}.{matrix}" for layer in range(total - layers, total) for matrix in MATRICES]
