"""Attention on a CPU: torch's flash kernel, or plain batched products where they are quicker.

The flash kernel goes through the keys in blocks and never holds all scores, which pays for long texts. It is slower
than a product, a softmax and a product for texts of up to some 256 tokens and for the single query a row that every
step of writing has, above all where rows are padded. Here, heads that share keys and values are queries of one product,
so that neither is ever copied for them. Both compute the same to the last bits of float32. Measurements:
docs/performance.md.

The choice goes by the number of queries of a call, never by a timing, so that a resumed run computes as it did before.
It belongs to the model that it is given, not to the process. Remote models and GPUs keep their own attention.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "emotrace_sdpa"  # transformers lets a model that supports sdpa have what is called so
LONGEST = 256  # queries; above, plain products are no quicker, and half as fast at 1,024
_OTHER_KINDS = ("position_bias", "softcap", "cache", "output_attentions")


def choose(module: PreTrainedModel) -> None:
    """Lets this model choose, if its attention is transformers' usual one (``sdpa``)."""
    if module.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    module.set_attn_implementation(NAME)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """In place of transformers' ``sdpa_attention_forward``.

    Takes the query as ``[row, head, token, d]`` and returns ``[row, token, head, d]``.
    """
    queries, tokens = query.shape[-2], key.shape[-2]
    simple = (mask is None or mask.dtype == torch.bool) and all(options.get(kind) is None for kind in _OTHER_KINDS)
    on_a_cpu = query.dtype == torch.float32 and query.device.type == "cpu"
    if queries > LONGEST or dropout or not simple or not on_a_cpu:
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, is_causal, **options)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if mask is None and queries > 1 and causal:
        mask = torch.ones(queries, tokens, dtype=torch.bool).tril()[None, None]
    return by_products(query, key, value, mask, scaling or query.shape[-1] ** -0.5).transpose(1, 2), None


def by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """``softmax(query · keyᵀ · scaling) · value``.

    Args:
        query: ``[row, head, query, d]``.
        key: ``[row, head group, token, d]``; as many heads as groups, or a multiple.
        value: the same shape.
        mask: bool ``[row or 1, 1, query, token]``, True where a query sees a token; None: everything.
        scaling: of the scores.

    Returns:
        ``[row, head, query, d]``. A query that sees nothing, which is padding, gets something finite.
    """
    rows, heads, queries, width = query.shape
    groups, tokens = key.shape[1:3]
    packed = (query * scaling).reshape(rows, groups, heads // groups * queries, width)
    scores = packed @ key.transpose(-1, -2)
    if mask is not None:
        by_head = scores.view(rows, groups, heads // groups, queries, tokens)
        by_head.masked_fill_(~mask[:, :, None], torch.finfo(scores.dtype).min)
    return (scores.softmax(dim=-1) @ value).reshape(query.shape)
