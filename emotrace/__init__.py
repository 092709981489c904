"""Emotion representations in open-weight language models: extract, compare, steer, read.

The public names below are loaded at first use, so that ``import emotrace`` costs nothing.
"""

from importlib import import_module
from typing import Any

from emotrace.hosts.threads import wait_passively

wait_passively()  # before anything loads torch

__version__ = "0.2.0"

_PUBLIC = {
    "load": "models",
    "attach": "in_memory",
    "extract": "extraction",
    "load_instrument": "instrument.loading",
    "transfer": "transfers",
    "compare": "comparison",
    "EmotionVectors": "vectors",
    "steer": "steered_texts",
    "steered": "steering_hooks",
    "lens": "logit_lens",
    "Writing": "tokens",
    "what_if": "whatif.compare",
    "what_if_slider": "whatif.slider",
    "read_emotions": "whatif.token_reading",
    "watch": "whatif.watching",
    "Lab": "study.lab",
    "EmotraceError": "errors",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'emotrace' has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
