"""What a user has set for all of torch, and what a model's numbers must not depend on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def as_shipped() -> Iterator[None]:
    """Within it torch makes float32 tensors on the CPU by default and casts nothing by itself, as if nobody had set it.

    ``torch.set_default_dtype``, ``torch.set_default_device`` and ``torch.autocast`` of the user's would otherwise reach
    into a model's forward pass and into the draws of its texts.
    """
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with contextlib.ExitStack() as settings:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                settings.enter_context(torch.autocast(kind, enabled=False))
        if device.type != "cpu":
            settings.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            settings.callback(torch.set_default_dtype, dtype)
        yield
