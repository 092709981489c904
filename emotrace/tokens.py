"""How text is written, steered or not: padding on the left, one seed a row, an end that is never forced."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessorList

from emotrace.errors import EmotraceError
from emotrace.in_trace import SeededSampling

if TYPE_CHECKING:
    from emotrace.models import Model


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


def generation_settings(
    model: Model, max_new_tokens: int, temperature: float, seeds: Sequence[int] | None
) -> dict[str, GenerationConfig | LogitsProcessorList]:
    """What ``generate`` of nnsight takes to write greedily (temperature 0), or sampled with one seed a row."""
    ends = end_tokens(model)
    return {
        "generation_config": GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        ),
        "logits_processor": LogitsProcessorList([SeededSampling(seeds, temperature)] if temperature > 0 else []),
    }
