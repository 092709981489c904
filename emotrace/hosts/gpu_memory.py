"""How much a pass may take of a GPU's free memory: the default sizes of batches there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from emotrace.models import Model

# What one pass may take of what is free: the rest is for what was not counted.
SHARE = 0.5
# Float32 copies of a row's logits that a step of writing, or a reading of probabilities, holds at once.
LOGIT_COPIES = 4


def on_gpu(model: Model) -> bool:
    """Whether the model is in this process and not on the CPU."""
    return torch.device(model.device).type != "cpu"


def free(model: Model) -> int | None:
    """Bytes free on the device of the model's first weights, with what torch holds there unused; None: not known."""
    device = torch.device(model.device)
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def at_most(model: Model, most: int, each: float) -> int:
    """``most``, or how many of ``each`` bytes fit into :data:`SHARE` of what is free: one at least."""
    room = free(model)
    return most if room is None else max(1, min(most, int(SHARE * room / each)))


def token_bytes(model: Model) -> int:
    """What reading one token takes at its highest: a gated feed-forward layer of the widest kind, and the stream in
    float32. An upper bound: Llama 3.2 1B takes two thirds of it (``benchmarks/gpu.py``)."""
    config = _text_config(model)
    inner = _first(config, ("intermediate_size", "ffn_dim", "n_inner"), 4 * model.d_model)
    return _element(model) * (4 * inner + 6 * model.d_model) + 4 * model.d_model


def row_bytes(model: Model, tokens: int) -> int:
    """What writing one row of so many tokens, prompt and all, takes: its keys and values and copies of its logits."""
    config = _text_config(model)
    heads = _first(config, ("num_attention_heads", "n_head"), 1)
    width = _first(config, ("head_dim",), model.d_model // heads)
    kept = 2 * model.n_layers * _first(config, ("num_key_value_heads",), heads) * width
    return tokens * kept * _element(model) + 4 * LOGIT_COPIES * model.vocabulary


def _text_config(model: Model) -> Any:
    return model.nn._module.config.get_text_config()


def _element(model: Model) -> int:
    size: int = next(model.nn._module.parameters()).element_size()
    return max(2, size)  # weights in 8 or 4 bits: activations have two bytes a number


def _first(config: Any, names: tuple[str, ...], otherwise: int) -> int:
    return next((int(value) for name in names if (value := getattr(config, name, None))), otherwise)
