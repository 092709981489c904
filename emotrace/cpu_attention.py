"""Which of torch's kernels computes attention on a CPU: the flash kernel, torch's own choice, or plain products.

The flash kernel goes through the keys in blocks and never holds all scores, which pays for long texts. For a single query,
which is what every step of writing has, it has nothing to share and takes up to 40% of the step; for texts of up to
some 128 tokens plain products (a batched product, a softmax, a batched product) are quicker too. Measurements:
docs/performance.md. Both compute the same to the last bits of float32.

The choice goes by the number of queries of a call, never by a timing, so that a resumed run computes as it did before.
It belongs to the model that it is given, not to the process; remote models and GPUs keep their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "emotrace_sdpa"  # transformers lets a model that supports sdpa have what is called so
LONGEST = 128  # queries; plain products are even at 192 and half as fast at 1,024


def choose(module: PreTrainedModel) -> None:
    """Lets this model choose, if its attention is transformers' usual one (``sdpa``)."""
    if module.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    module.set_attn_implementation(NAME)


@contextlib.contextmanager
def torchs_own(module: PreTrainedModel) -> Iterator[None]:
    """Within, the model's attention is torch's own choice: for comparisons with code that knows nothing of this."""
    if module.config._attn_implementation != NAME:
        yield
        return
    module.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        module.set_attn_implementation(NAME)


def attention(module: torch.nn.Module, query: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, None]:
    """transformers' ``sdpa_attention_forward``, with the kernel chosen; ``query [row, head, token, d]``."""
    if query.shape[-2] > LONGEST or query.dtype != torch.float32 or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, *rest, **more)
    with sdpa_kernel(SDPBackend.MATH):
        return sdpa_attention_forward(module, query, *rest, **more)
