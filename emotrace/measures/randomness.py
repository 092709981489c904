"""Random numbers by purpose: each draw has a generator of its own, so that no result depends on the order of work."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, *names: object) -> np.random.Generator:
    """The generator for one purpose, told from others by ``names`` (their ``repr``); independent of every other."""
    return np.random.default_rng([seed, seed_from(*names)])


def generator_for(seed: int, purpose: str) -> np.random.Generator:
    """:func:`generator` for a purpose named by one text, by its characters instead of its ``repr``."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def seed_from(*parts: object) -> int:
    """A seed of 32 bits that depends on ``parts`` (their ``repr``) and on nothing else."""
    return zlib.crc32(repr(parts).encode())
