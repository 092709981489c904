"""How text is written, steered or not: padding on the left, one seed a row, an end that is never forced."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

from .errors import EmotraceError

if TYPE_CHECKING:
    from .models import Model


class SeededSampling(LogitsProcessor):
    """Turns greedy decoding into sampling with one seed a row, so that a row's text does not depend on its batch.

    One uniform number a row and step picks the token at which the cumulated softmax of logits / temperature passes it.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.cat([torch.rand(1, generator=each) for each in self.generators])[:, None].to(scores.device)
        # In place, a vocabulary of 262,144 being most of a step's work; dividing by the sum is left out, as the last
        # entry of the cumulated weights holds it.
        weights = scores.float()
        weights = weights.sub_(weights.amax(dim=-1, keepdim=True)).div_(self.temperature).exp_().cumsum_(dim=-1)
        token = torch.searchsorted(weights, uniform * weights[:, -1:], right=True).clamp_(max=scores.shape[-1] - 1)
        return scores.fill_(-torch.inf).scatter_(1, token, 0.0)


def pad_left(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Generation writes to the right of every row, so rows are padded on the left; the mask tells padding apart."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def end_tokens(model: Model) -> list[int]:
    """The ids that end a text: of the model's generation settings and of its tokenizer."""
    configured = model.nn._module.generation_config.eos_token_id
    ends = {model.tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    if not ends:
        raise EmotraceError(f"{model.name} has no end-of-text token")
    return sorted(ends)


def until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first that ends a text."""
    return list(itertools.takewhile(lambda token: token not in ends, tokens))
