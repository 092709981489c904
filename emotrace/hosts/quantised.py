"""Weights in fewer bits, made while a checkpoint is loaded, by the libraries that transformers knows."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

from emotrace.errors import EmotraceError, shown, unknown

KINDS = {"bitsandbytes-8bit": "bitsandbytes", "bitsandbytes-4bit": "bitsandbytes", "torchao-int8": "torchao"}
"""Those that have a name here, and the library of each. Any other is a configuration of transformers."""
LIBRARIES = {
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
}
"""What transformers loads the weights of a method with, where it does not do it itself."""


def configuration(quantization: Any) -> Any:
    """What transformers takes for ``quantization``: one of ``KINDS``, or a configuration as it is; None for None.

    Raises:
        EmotraceError: an unknown name, or a library that is not installed.
    """
    import transformers
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if isinstance(quantization, QuantizationConfigMixin):
        check_installed(_method(quantization))
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


def check_checkpoint(packed: Any) -> None:
    """Refuses a checkpoint that is quantised in a way that cannot be read here; ``packed`` is what its configuration
    says of it.

    Raises:
        EmotraceError: a method that transformers does not know, or whose library is not installed.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    method = _method(packed)
    if not AutoHfQuantizer.supports_quant_method(packed):  # transformers would leave it out
        raise EmotraceError(f"its quantisation {method!r} is not one that transformers reads")
    check_installed(method)


def check_installed(method: str) -> None:
    """Refuses a method whose libraries are not installed: transformers names one of them at a time, or a GPU.

    Raises:
        EmotraceError: all that are missing.
    """
    missing = [name for name in LIBRARIES.get(method, ()) if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing).replace("_", "-")
        raise EmotraceError(
            f"weights quantised by {method} need {names}, not installed here: pip install {names.replace(' and', '')}"
        )


def _method(packed: Any) -> str:
    method = packed.get("quant_method") if isinstance(packed, dict) else packed.quant_method
    return str(getattr(method, "value", method))


def tensors_of(module: Any) -> dict[str, Any]:
    """A model's tensors by name, as ``state_dict`` has them, and in a form that running the model does not change.

    A 4-bit layer of bitsandbytes packs its weights anew in its first pass on some CPUs, and its ``state_dict`` packs
    them back with a loss, in place: the model would not be the same afterwards. So such layers are run once, on zeros,
    and read as they lie.
    """
    import torch

    packed = {name: part for name, part in module.named_modules() if _quant_state(part) is not None}
    if not packed:
        return dict(module.state_dict())
    with torch.no_grad():
        for part in packed.values():
            part(torch.zeros(1, part.in_features, dtype=module.dtype, device=part.weight.device))
    found = dict([*module.named_parameters(), *module.named_buffers()])
    for name, part in packed.items():
        parts = _quant_state(part).as_dict(packed=True)
        found |= {f"{name}.weight.{key}": tensor for key, tensor in parts.items()}
    return found


def _quant_state(part: Any) -> Any:
    """What bitsandbytes keeps beside a 4-bit weight; None of any other layer."""
    return getattr(getattr(part, "weight", None), "quant_state", None)


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
