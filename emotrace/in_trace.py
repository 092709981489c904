"""What runs inside a trace, next to the model: torch alone, so that it also runs on a server that has no emotrace.

A remote trace travels as source, with the variables that its block names. Functions and classes of this module go with
it by value (``nnsight.register``, see :mod:`emotrace.hosts.remote`); whatever else a block names is a tensor, a number or one of
nnsight's envoys. So nothing may be imported here but what every server has: torch and transformers.
"""

from __future__ import annotations

import torch
from transformers import LogitsProcessor


def edited(
    hidden: torch.Tensor,
    direction: torch.Tensor,
    mask: torch.Tensor,
    *,
    ablate: bool = False,
    on_the_fly: bool = False,
    positions: str = "generated",
) -> torch.Tensor:
    """A layer's output with one row's own vector added to each row (see :class:`emotrace.steering.Edit`).

    Args:
        hidden: the residual stream, ``[row, token, d_model]``.
        direction: float32 ``[row, d_model]``.
        mask: ``[row, token]``, 0 on padding.
        ablate: project the (unit) direction out instead of adding it.
        on_the_fly: the direction is in units of the mean norm of the row's own activations.
        positions: ``all`` tokens, or ``generated``: the last one of the prompt, then each that is written.
    """
    if positions == "generated" and hidden.shape[1] > 1:
        last = edited(hidden[:, -1:], direction, mask[:, -1:], ablate=ablate, on_the_fly=on_the_fly)
        return torch.cat([hidden[:, :-1], last], dim=1)
    added = direction.to(hidden.device, hidden.dtype)[:, None, :]
    if ablate:
        return hidden - (hidden * added).sum(dim=-1, keepdim=True) * added
    if not on_the_fly:
        return hidden + added
    weights = mask.to(hidden.device, torch.float32)
    norms = (hidden.float().norm(dim=-1) * weights).sum(dim=-1) / weights.sum(dim=-1)
    return hidden + norms.to(hidden.dtype)[:, None, None] * added


def masked_add(hidden: torch.Tensor, edits: torch.Tensor | None, where: torch.Tensor) -> torch.Tensor:
    """``edits [row, d_model]`` added to the residual stream at the tokens where ``where [row, token]`` is 1."""
    if edits is None:
        return hidden
    return hidden + (where[:, :, None] * edits[:, None]).to(hidden.device, hidden.dtype)


def pooled(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The residual stream ``[row, token, d_model]`` under ``weights [row, pooling, token]``, in float32 whatever the
    model's dtype: ``[row, pooling, d_model]``."""
    return (weights.to(hidden.device) @ hidden.float()).cpu()


def chosen_log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probability of each target: logits ``[row, token, vocabulary]``, targets ``[row, token]`` → ``[row, token]``."""
    logits = logits.float()
    chosen = logits.gather(-1, targets.to(logits.device)[..., None])[..., 0]
    return (chosen - logits.logsumexp(dim=-1)).cpu()


def group_masses(logits: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The probability of each group of tokens: logits ``[…, vocabulary]``, membership ``[vocabulary, group]`` → ``[…, group]``."""
    return (logits.float().softmax(dim=-1) @ groups.to(logits.device)).double().cpu()


def group_log_probabilities(logits: torch.Tensor, groups: list[list[int]]) -> torch.Tensor:
    """The log-probability that the next token is one of each group, NaN for an empty one: float32 ``[row, group]``."""
    logs = logits.float().log_softmax(dim=-1)
    nothing = torch.full_like(logs[:, 0], torch.nan)
    return torch.stack([logs[:, ids].logsumexp(dim=-1) if ids else nothing for ids in groups], dim=1).cpu()


class SeededSampling(LogitsProcessor):
    """Turns greedy decoding into sampling with one seed a row, so that a row's text does not depend on its batch.

    One uniform number a row and step picks the token at which the cumulated softmax of logits / temperature passes it.
    """

    def __init__(self, seeds: list[int], temperature: float) -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.temperature = temperature
        self.generators: list[torch.Generator] | None = None  # made where the text is written: seeds travel, they don't

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.generators is None:
            self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        uniform = torch.cat([torch.rand(1, generator=each) for each in self.generators])[:, None].to(scores.device)
        # In place, a vocabulary of 262,144 being most of a step's work; dividing by the sum is left out, as the last
        # entry of the cumulated weights holds it.
        weights = scores.float()
        weights = weights.sub_(weights.amax(dim=-1, keepdim=True)).div_(self.temperature).exp_().cumsum_(dim=-1)
        token = torch.searchsorted(weights, uniform * weights[:, -1:], right=True).clamp_(max=scores.shape[-1] - 1)
        return scores.fill_(-torch.inf).scatter_(1, token, 0.0)
