"""NaN and infinity in what a model computes stop the work, with the model, its dtype and the first such layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from emotrace.errors import EmotraceError
from emotrace.in_trace import NOT_FINITE


class Named(Protocol):
    """What the message says of a model (:class:`emotrace.models.Model`)."""

    name: str
    provenance: dict[str, str]


def finite(model: Named, values: np.ndarray, layers: Sequence[int]) -> np.ndarray:
    """Activations ``[…, layer, d_model]`` unchanged, if every one is a number.

    Raises:
        EmotraceError: NaN or infinity; model, first layer and dtype are named.
    """
    wrong = ~np.isfinite(values).all(axis=tuple(axis for axis in range(values.ndim) if axis != values.ndim - 2))
    if wrong.any():
        raise not_finite(model, f"activations from layer {layers[int(wrong.argmax())]} on that are NaN or infinite")
    return values


def finite_logits(model: Named, values: np.ndarray) -> np.ndarray:
    """What was made of logits, unchanged if every one is a number.

    Raises:
        EmotraceError: NaN or infinity; model and dtype are named.
    """
    if not np.isfinite(values).all():
        raise not_finite(model)
    return values


def not_finite(model: Named, what: str = NOT_FINITE) -> EmotraceError:
    """The error that says in which model and dtype there is ``what``."""
    dtype = model.provenance["dtype"]
    cause = "float16 overflows: take bfloat16 or float32" if dtype == "float16" else "are its weights whole?"
    return EmotraceError(f"{model.name} in {dtype} gives {what} ({cause})")
