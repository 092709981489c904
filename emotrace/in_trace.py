"""What runs inside a trace, next to the model: torch alone, so that it also runs on a server that has no emotrace.

A remote trace travels as source, with the variables that its block names. Functions and classes of this module go with
it by value (``nnsight.register``, see :mod:`emotrace.hosts.remote`). Whatever else a block names is a tensor, a number
or one of nnsight's envoys. So nothing may be imported here but what every server has: torch and transformers.

What travels is the block without its comments, each statement on one line. nnsight 0.8.1 finds nested blocks by their
line (``invoke`` within ``generate``, ``trace`` within ``session``): write such blocks without comments and line breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor


def residual(layers: Sequence[Any], index: int) -> torch.Tensor:
    """The residual stream at a layer index, ``[row, token, d_model]``: 0 is the embedding output, i the output of
    decoder layer i. ``layers`` are the envoys of the decoder layers."""
    hidden = layers[0].input if index == 0 else layers[index - 1].output
    stream: torch.Tensor = hidden[0] if isinstance(hidden, (tuple, list)) else hidden  # some classes give more with it
    return stream


class RemoteHandle:
    """What :class:`emotrace.models.Model` is within a trace that travels: its envoys, and the contexts of a session."""

    nn: Any

    @property
    def trace(self) -> Any:
        return self.nn.trace

    @property
    def generate(self) -> Any:
        return self.nn.generate


def edited(
    hidden: torch.Tensor,
    direction: torch.Tensor,
    where: torch.Tensor | None = None,
    averaged: torch.Tensor | None = None,
    *,
    ablate: bool = False,
    on_the_fly: bool = False,
) -> torch.Tensor:
    """A layer's output with one row's own vector added to each row (see :class:`emotrace.steering.Edit`).

    Args:
        hidden: the residual stream, ``[row, token, d_model]``.
        direction: float32 ``[row, d_model]``.
        where: ``[row, token]``, 1 at the tokens that are edited; default: all.
        averaged: ``[row, token]``, 1 at the tokens whose mean norm is the unit of each of them; default: none.
        ablate: project the (unit) direction out instead of adding it.
        on_the_fly: the direction is in units of each token's own norm, or of the mean over ``averaged``.
    """
    # In float32 at least, and rounded once: a direction in bfloat16 is no unit vector, and is not projected out whole.
    stream = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    change = direction.to(stream)[:, None, :]
    if ablate:
        change = -(stream * change).sum(dim=-1, keepdim=True) * change
    elif on_the_fly:
        norms = stream.norm(dim=-1)
        if averaged is not None:
            weights = averaged.to(norms)
            mean = (norms * weights).sum(dim=-1, keepdim=True) / weights.sum(dim=-1, keepdim=True)
            norms = torch.where(weights > 0, mean, norms)
        change = norms[:, :, None] * change
    return (stream + (change if where is None else where.to(stream)[:, :, None] * change)).to(hidden.dtype)


def make_input_contiguous(module: Any) -> None:
    """The last tokens of several rows are no contiguous tensor: torch would then go through a whole unembedding once a
    row instead of once a batch."""
    module.input = module.input.contiguous()


def one_copy_a_row(cache: Any, owner: torch.Tensor) -> None:
    """Keys and values of different prompts, copied to the rows: row i has those of prompt ``owner[i]``."""
    for layer in cache.layers:  # each on the device of its decoder layer
        layer.batch_select_indices(owner.to(layer.keys.device))


def pooled(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The residual stream ``[row, token, d_model]`` under ``weights [row, pooling, token]``, in float32 whatever the
    model's dtype: ``[row, pooling, d_model]``."""
    return weights.to(hidden.device) @ hidden.float()


def gathered(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors of one shape, whatever device each layer is on, stacked on the first one's. Nothing waits for a GPU."""
    return torch.stack([part.to(parts[0].device) for part in parts])


def chosen_log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probability of each target.

    Args:
        logits: ``[row, token, vocabulary]``.
        targets: ``[row, token]``.

    Returns:
        float32 ``[row, token]``.
    """
    logits = logits.float()
    chosen = logits.gather(-1, targets.to(logits.device)[..., None])[..., 0]
    return (chosen - logits.logsumexp(dim=-1)).cpu()


def divergences(logits: torch.Tensor) -> torch.Tensor:
    """How far the second half of a batch predicts from the first, row by row: KL(first ‖ second) at each token, nats.

    From logits ``[2 × row, token, vocabulary]``: float32 ``[row, token]``.
    """
    plain, other = logits.float().log_softmax(dim=-1).chunk(2)
    return (plain.exp() * (plain - other)).sum(dim=-1).cpu()


def group_masses(logits: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The probability of each group of tokens, float64 ``[…, group]``, from logits ``[…, vocabulary]`` and the
    membership ``[vocabulary, group]``."""
    return (logits.float().softmax(dim=-1) @ groups.to(logits.device)).cpu().double()


def group_log_probabilities(logits: torch.Tensor, groups: list[list[int]]) -> torch.Tensor:
    """The log-probability that the next token is one of each group, NaN for an empty one: float32 ``[row, group]``."""
    logs = logits.float().log_softmax(dim=-1)
    nothing = torch.full_like(logs[:, 0], torch.nan)
    return torch.stack([logs[:, ids].logsumexp(dim=-1) if ids else nothing for ids in groups], dim=1).cpu()


class RawGeneration(GenerationConfig):
    """Settings of a generation that no ``generation_config.json`` adds to.

    transformers fills what is unset from the model's own settings: penalties, bans, biases, beams, lengths, kinds of
    output. It does so by one call of ``update``, here or on a server whose model we cannot change. With nothing filled
    in but transformers' defaults, text is what the raw logits say.
    """

    def update(
        self, defaults_only: bool = False, allow_custom_entries: bool = False, **settings: Any
    ) -> dict[str, Any]:
        # Only the model's own settings may bring entries of any name.
        own = settings if not allow_custom_entries else {}
        unused: dict[str, Any] = GenerationConfig.update(self, defaults_only=defaults_only, **own)
        return unused


NOT_FINITE = "logits that are NaN or infinite"


def highest(logits: torch.Tensor) -> torch.Tensor:
    """The highest of each row, ``[row, 1]``.

    Raises:
        FloatingPointError: it is no number: any token would do as the likeliest.
    """
    top = logits.amax(dim=-1, keepdim=True)
    if not top.isfinite().all():
        raise FloatingPointError(NOT_FINITE)
    return top


class Greedy(LogitsProcessor):
    """Leaves greedy decoding as it is, where there is a likeliest token."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        highest(scores)
        return scores


class SeededSampling(LogitsProcessor):
    """Turns greedy decoding into sampling with one seed a row, so that a row's text does not depend on its batch.

    One uniform number a row and step picks the token at which the cumulated softmax of logits / temperature passes it.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.temperature = temperature
        # Made where the text is written: seeds travel, generators do not.
        self.generators: list[torch.Generator] | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.generators is None:
            self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in self.seeds]
        uniform = torch.cat(
            [torch.rand(1, generator=row, dtype=torch.float32, device="cpu") for row in self.generators]
        )[:, None].to(scores.device)
        # In place, a vocabulary of 262,144 being most of a step's work; dividing by the sum is left out, as the last
        # entry of the cumulated weights holds it.
        weights = scores.float()
        weights = weights.sub_(highest(weights)).div_(self.temperature).exp_().cumsum_(dim=-1)
        token = torch.searchsorted(weights, uniform * weights[:, -1:], right=True).clamp_(max=scores.shape[-1] - 1)
        return scores.fill_(-torch.inf).scatter_(1, token, 0.0)
