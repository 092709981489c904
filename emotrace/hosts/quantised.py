"""Weights in fewer bits, made while a checkpoint is loaded, by the libraries that transformers knows."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

from emotrace.errors import EmotraceError, shown, unknown

KINDS = {"bitsandbytes-8bit": "bitsandbytes", "bitsandbytes-4bit": "bitsandbytes", "torchao-int8": "torchao"}
"""Those that have a name here, and the library of each. Any other is a configuration of transformers."""


def configuration(quantization: Any) -> Any:
    """What transformers takes for ``quantization``: one of ``KINDS``, or a configuration as it is; None for None.

    Raises:
        EmotraceError: an unknown name, or a library that is not installed.
    """
    import transformers
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if quantization is None or isinstance(quantization, QuantizationConfigMixin):
        return quantization
    if not isinstance(quantization, str):
        known = f"{', '.join(KINDS)}, or a quantization configuration of transformers"
        raise EmotraceError(f"a quantization is one of {known}, not {shown(quantization)}")
    if quantization not in KINDS:
        raise unknown("quantization", quantization, KINDS)
    library = KINDS[quantization]
    if importlib.util.find_spec(library) is None:
        raise EmotraceError(f"{quantization} needs {library}, which is not installed: pip install {library}")
    if library == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        return transformers.TorchAoConfig(Int8WeightOnlyConfig())
    if quantization == "bitsandbytes-8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def method_of(module: Any) -> str:
    """How a model's weights are quantised, as its configuration says: ``none`` if they are not."""
    packed = getattr(module.config, "quantization_config", None)
    method = getattr(packed, "quant_method", "unknown")
    return str(getattr(method, "value", method)) if packed else "none"


def plain_tensors(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Named tensors, those that wrap others (torchao's) as the ones within."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    for name, tensor in named:
        if is_traceable_wrapper_subclass(tensor):
            inner, _ = tensor.__tensor_flatten__()
            yield from plain_tensors((f"{name}.{part}", getattr(tensor, part)) for part in inner)
        else:
            yield name, tensor.detach()


def digest(configuration: Any) -> str:
    """What tells one way to quantise from another: the method, and a digest of all its settings."""
    method = getattr(configuration.quant_method, "value", configuration.quant_method)
    return f"{method}-{hashlib.sha256(configuration.to_json_string(use_diff=False).encode()).hexdigest()[:12]}"
