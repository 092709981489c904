"""Which library multiplies float32 matrices on this CPU: Intel's MKL, torch's default, or oneDNN.

MKL keeps off AVX-512 on processors that are not Intel's. oneDNN uses it, at the same precision, and is 2.2 times as
fast on an AMD EPYC. torch hands float32 products to oneDNN only where bfloat16 is allowed inside them
(``fp32_precision = "bf16"``). What oneDNN makes of that depends on the processor; without AMX it multiplies in full
float32. So nothing is believed: the setting stays only if a product is as exact as float32 can be.

The choice depends on the processor alone, never on a timing, so that a resumed run computes as it did before.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

# The rounding error of a float32 product of this size is 2e-7 to 4e-7; were its factors rounded to bfloat16, 3e-3.
EXACT = 1e-6


@cache
def choose() -> str:
    """Switches this process to the quicker library, once. Its name: ``oneDNN``, or ``MKL`` for torch's default."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    default = getattr(matmul, "fp32_precision", None)
    if default is None or not torch.backends.mkldnn.is_available() or not _amd_with_avx512():
        return "MKL"
    matmul.fp32_precision = "bf16"
    if error() <= EXACT:
        return "oneDNN"
    matmul.fp32_precision = default
    return "MKL"


def error() -> float:
    """Relative error, in the Frobenius norm, of a float32 product as this process computes it."""
    generator = torch.Generator().manual_seed(0)  # its own: the user's random state stays as it was
    left, right = torch.randn(256, 1024, generator=generator), torch.randn(1024, 1024, generator=generator)
    exact = left.double() @ right.double()
    return float(((left @ right).double() - exact).norm() / exact.norm())


def _amd_with_avx512() -> bool:
    processor = platform.processor()  # on Windows it names the vendor; on Linux it is mostly empty
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        processor += cpuinfo.read_text(errors="replace")[:4096]
    return "AuthenticAMD" in processor and torch.backends.cpu.get_cpu_capability() == "AVX512"
