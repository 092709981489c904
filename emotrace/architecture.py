"""Where a model keeps its decoder layers: found by what its modules are, and checked by a forward pass.

No list of families. transformers says which part is the decoder, the token embedding and the unembedding; the layers
are the decoder's one list of as many blocks as the configuration has layers. A short forward pass then shows that there
is a residual stream in this project's sense: every block runs once, in order, takes what the one before it gave, gives
``[row, token, d_model]``, and no token sees a later one. A class that fails is refused with what was found.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import DynamicCache

from emotrace.errors import EmotraceError, first_line

# Two texts that differ in their last token alone.
PROBE = ((3, 4, 5, 6, 7, 8), (3, 4, 5, 6, 7, 2))


class Architecture(NamedTuple):
    """Where a model class of transformers keeps its parts, as dotted paths from the language-model class.

    Attributes:
        family: a label for tables, the beginning of the configuration's ``model_type``: ``gemma`` of ``gemma3_text``.
        layers, embedding, unembedding: the decoder layers, the token embedding, the unembedding.
        final_norm: the norm after the last layer; empty where there is none.
        keeps_logits: the class can make the logits of the last tokens alone.
        shares_prefixes: what rows have in common can be read once, its keys and values copied to each row.
        window: the longest text that is read alike with a cache and without, where the class keeps a window in its
            cache alone; None: any.
    """

    family: str
    layers: str
    embedding: str
    final_norm: str
    unembedding: str
    keeps_logits: bool
    shares_prefixes: bool
    window: int | None = None


def examine(module: Any) -> Architecture:
    """The architecture of a causal language model of transformers.

    Raises:
        EmotraceError: one line on what it has in place of a residual stream through decoder layers.
    """
    text, head = module.config.get_text_config(), module.get_output_embeddings()
    accepted = inspect.signature(module.forward).parameters
    if head is None:
        raise EmotraceError("it has no unembedding, so it is no language model")
    if not {"past_key_values", "cache_params"} & set(accepted):
        raise EmotraceError("it writes without a cache, so that no edit could begin at a token")
    layers = _layers(module, text.num_hidden_layers)
    norm, window = _norm_after(module, layers), None
    # A model of a server is on the meta device: there are no values to check. One that is spread over devices has hooks
    # which fetch them.
    if not head.weight.is_meta or getattr(module, "hf_device_map", None):
        try:
            last = _probe_stream(module, layers, norm, text.hidden_size)
            noise = _probe_padding(module, last)
            window = _probe_cache(module, last, noise)
        except EmotraceError:
            raise
        except Exception as error:  # a class may be anyone's code
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise EmotraceError(f"a short text does not go through it ({cause})") from error
    paths = {id(part): path for path, part in module.named_modules(remove_duplicate=False)}
    return Architecture(
        re.sub(r"(?<!gpt)[\d_-].*", "", module.config.model_type) or module.config.model_type,
        paths[id(layers)],
        paths[id(module.get_input_embeddings())],
        paths[id(norm)] if norm is not None else "",
        paths[id(head)],
        "logits_to_keep" in accepted,
        {"position_ids", "past_key_values"} <= set(accepted)
        and all(_selects_rows(layer) for layer in DynamicCache(config=module.config).layers),
        window,
    )


def _layers(module: Any, count: int) -> nn.ModuleList:
    """The decoder's one list of ``count`` blocks; of nested lists the outermost."""
    outer: dict[str, nn.ModuleList] = {}
    for root in (module.get_decoder(), module.base_model):
        for path, part in root.named_modules() if root is not None and not outer else ():
            fits = isinstance(part, nn.ModuleList) and len(part) == count
            if fits and not any(path.startswith(f"{other}.") for other in outer):
                outer[path] = part
    if len(outer) != 1:
        known = f": {', '.join(outer)}" if outer else ""
        raise EmotraceError(f"its decoder has {len(outer)} lists of {count} layers, not one{known}")
    return next(iter(outer.values()))


def _selects_rows(layer: Any) -> bool:
    """Whether a layer's cache is keys and values alone, made afresh for each token."""
    return hasattr(layer, "batch_select_indices") and hasattr(layer, "keys") and not hasattr(layer, "conv_states")


def _norm_after(module: Any, layers: nn.ModuleList) -> nn.Module | None:
    """The norm that stands beside the decoder layers in the module that holds them; the first after them, if any."""
    parent = next(part for part in module.modules() if any(child is layers for child in part.children()))
    parts = list(parent.named_children())
    start = next(index for index, (_, part) in enumerate(parts) if part is layers)
    after_them = parts[start:] + parts[:start]
    return next((part for name, part in after_them if "norm" in f"{name} {type(part).__name__}".lower()), None)


def _probe_stream(module: Any, layers: nn.ModuleList, norm: nn.Module | None, width: int) -> torch.Tensor:
    """Checks the residual stream in one forward pass; returns the last hidden state, ``[row, token, d_model]``."""
    inputs: list[Any] = []
    outputs: list[Any] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs.append(args[0] if args else next(iter(kwargs.values())))
        outputs.append(output[0] if isinstance(output, (tuple, list)) else output)

    hooks = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    weight = module.get_input_embeddings().weight
    ids = torch.tensor(PROBE, device="cpu" if weight.is_meta else weight.device)
    try:
        with torch.no_grad():
            states = module(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    finally:
        for hook in hooks:
            hook.remove()
    _check(layers, inputs, outputs, states, norm, width, _exact(module))
    last: torch.Tensor = states[-1]
    return last


def _probe_padding(module: Any, last: torch.Tensor) -> float:
    """Checks that a text with padding on its left, as rows of a batch have it, is read as it is by itself.

    Returns:
        How far rounding alone takes a text in another batch from itself, without padding.
    """
    ids = torch.tensor([[0, 0, *PROBE[0]], [*PROBE[0], *PROBE[1][-2:]]], device=last.device)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(module.forward).parameters:  # nnsight gives them where a class takes them
        batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = module(**batch, output_hidden_states=True, use_cache=False).hidden_states[-1]
    noise = _apart(padded[1, : len(PROBE[0])], last[0])
    # Through many layers a narrow dtype rounds more than it does in one: seen 0.03 in bfloat16 on a GPU, 0.13 on a CPU
    # that has no products of that type; SmolLM2 that does not heed the mask is 0.85 apart.
    if _apart(padded[0, 2:], last[0]) > (1e-4 if _fine(padded) and _exact(module) else _tolerance(noise)):
        raise EmotraceError("a text with padding before it is not read as the text by itself")
    return noise


def _tolerance(noise: float) -> float:
    """How far a narrow dtype may take a text from itself: twice what was seen, never as far as a fault does."""
    return min(max(0.1, 2 * noise), 0.4)


def _probe_cache(module: Any, last: torch.Tensor, noise: float) -> int | None:
    """Checks that a text read in two parts with a cache, as in writing, is read as at once, but for ``noise``; the
    window if it is not past one of the configuration's (the probe is short: it is set to less for a moment)."""
    config = module.config.get_text_config()
    # Nemotron-H steps 3e-4 otherwise than it reads: only in reading are its time steps held above a least one.
    tolerance = 0.01 if _fine(last) and _exact(module) else _tolerance(noise)
    if _apart(_in_two_parts(module, last.device), last[0, -1]) > tolerance:
        raise EmotraceError(
            "a text that is read in two parts with a cache is not read as at once: what it writes is not"
        )
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or window <= len(PROBE[0]):
        return None
    config.sliding_window = len(PROBE[0]) // 2
    try:
        with torch.no_grad():
            ids = torch.tensor(PROBE[:1], device=last.device)
            whole = module(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-1]
        return window if _apart(_in_two_parts(module, last.device), whole[0, -1]) > tolerance else None
    finally:
        config.sliding_window = window


def _in_two_parts(module: Any, device: torch.device) -> torch.Tensor:
    """The last hidden state of the probe's last token, read after the others are in a cache: ``[d_model]``."""
    ids = torch.tensor(PROBE[:1], device=device)
    mask, positions = torch.ones_like(ids), torch.arange(ids.shape[1], device=device)[None]
    placed = "position_ids" in inspect.signature(module.forward).parameters
    with torch.no_grad():
        first = module(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True)
        name = "past_key_values" if "past_key_values" in first else "cache_params"
        given = {name: first[name], "attention_mask": mask, **({"position_ids": positions[:, -1:]} if placed else {})}
        second = module(input_ids=ids[:, -1:], use_cache=True, output_hidden_states=True, **given)
    state: torch.Tensor = second.hidden_states[-1][0, -1]
    return state


def _exact(module: Any) -> bool:
    """Whether a token's values do not depend on what else is in the batch: where products are made in 8 bits, a column
    that is large in one row is left out of the rounding of all."""
    return not getattr(module.config, "quantization_config", None)


def _fine(tensor: torch.Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.float64)


def _apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """The norm of the difference over that of the second."""
    first, second = first.float().cpu(), second.float().cpu()
    return float((first - second).norm() / second.norm())


def _close(first: torch.Tensor, second: torch.Tensor, exact: bool = True) -> bool:
    """Equal up to rounding. NaN equals itself: what is not finite is another error's business."""
    tolerance = 1e-4 if _fine(first) else 0.02
    near = torch.allclose(first.cpu(), second.cpu(), rtol=tolerance, atol=tolerance, equal_nan=True)
    return near or (not exact and _apart(first, second) < 0.1)


def _check(
    layers: nn.ModuleList,
    inputs: list[Any],
    outputs: list[Any],
    states: Any,
    norm: nn.Module | None,
    width: int,
    exact: bool,
) -> None:
    """Raises an EmotraceError where layers and hidden states make no residual stream."""
    if len(inputs) != len(layers):
        raise EmotraceError(f"{len(layers)} layers ran {len(inputs)} times in one forward pass")
    if states is None or len(states) != len(layers) + 1:
        raise EmotraceError(f"{len(states or ())} hidden states come out of {len(layers)} layers")
    shape = (*torch.tensor(PROBE).shape, width)
    for index, stream in enumerate([*inputs, *outputs]):
        if not isinstance(stream, torch.Tensor) or stream.shape != shape:
            place = "enters" if index < len(layers) else "leaves"
            what = list(getattr(stream, "shape", ())) or type(stream).__name__
            raise EmotraceError(f"what {place} layer {index % len(layers) + 1} is {what}, not [row, token, d_model]")
    for index, (entering, state) in enumerate(zip(inputs, states, strict=False)):
        if not _close(entering, state) or (index and not _close(outputs[index - 1], entering)):
            raise EmotraceError(f"what enters layer {index + 1} is not the hidden state before it: no residual stream")
        if not _close(entering[0, :-1], entering[1, :-1], exact):
            raise EmotraceError(f"earlier tokens see the last one from layer {index} on: it is not causal")
    last = outputs[-1]
    if not _close(states[-1], last) and (norm is None or not _close(states[-1], norm(last))):
        raise EmotraceError("its last hidden state is neither what leaves the last layer nor the norm of that")
