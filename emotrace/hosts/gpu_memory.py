"""How much a pass may take of a GPU's free memory: the default sizes of batches there."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Model(Protocol):
    """What is asked of a model (:class:`emotrace.models.Model`)."""

    nn: Any
    n_layers: int
    d_model: int

    @property
    def device(self) -> Any: ...
    @property
    def vocabulary(self) -> int: ...


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
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def at_most(model: Model, most: int, each: float, *, unknown: int) -> int:
    """How many of ``each`` bytes fit into :data:`SHARE` of what is free: one to ``most``, ``unknown`` where it is.

    Below ``most`` a power of two, so that a little more or less free memory leaves batches, and what a cache holds of
    them, as they are.
    """
    room = free(model)
    if room is None:
        return unknown
    fit = int(SHARE * room / each)
    return most if fit >= most else 1 << max(0, fit.bit_length() - 1)


def token_bytes(model: Model) -> int:
    """What reading one token takes at its highest: a gated feed-forward layer, and the stream in float32.

    An estimate, held for Llama and Gemma by ``tests/test_gpu.py``. A mixture of experts, and attention that writes its
    weights down, take more: a batch that is too large is halved (:func:`emotrace.tokens.in_parts`).
    """
    config = _text_config(model)
    inner = _first(config, ("intermediate_size", "ffn_dim", "n_inner"), 4 * model.d_model)
    return _element(model) * (4 * inner + 6 * model.d_model) + 4 * model.d_model


def row_bytes(model: Model, prompt: int, new: int) -> int:
    """What writing one row takes: its keys and values, copies of its logits, and its prompt's own pass."""
    config = _text_config(model)
    heads = _first(config, ("num_attention_heads", "n_head"), 1)
    width = _first(config, ("head_dim",), model.d_model // heads)
    kept = 2 * model.n_layers * _first(config, ("num_key_value_heads",), heads) * width * _element(model)
    return (prompt + new) * kept + 4 * LOGIT_COPIES * model.vocabulary + prompt * token_bytes(model)


def _text_config(model: Model) -> Any:
    return model.nn._module.config.get_text_config()


def _element(model: Model) -> int:
    size: int = next(model.nn._module.parameters()).element_size()
    return max(2, size)  # weights in 8 or 4 bits: activations have two bytes a number


def _first(config: Any, names: tuple[str, ...], otherwise: int) -> int:
    """The first of the settings that is a number above zero, or a number a layer: then the largest."""
    for name in names:
        value = getattr(config, name, None)
        value = max(value, default=None) if isinstance(value, (list, tuple)) else value
        if isinstance(value, int) and value > 0:
            return value
    return otherwise
