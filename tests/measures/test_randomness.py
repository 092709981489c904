"""Seeds and generators equal the expressions that the results of older runs were drawn by."""

import zlib

import numpy as np
import pytest

from emotrace.measures.randomness import generator, generator_for, seed_from

NAMES = [("bootstrap",), ("random directions",), ("across geometry", "last", 3), ("组", 1.5, ("a", None))]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("seed", [0, 7])
def test_a_generator_is_that_of_the_seed_and_the_crc_of_the_names(seed, names):
    expected = np.random.default_rng([seed, zlib.crc32(repr(names).encode())])
    assert generator(seed, *names).integers(2**63, size=5).tolist() == expected.integers(2**63, size=5).tolist()


@pytest.mark.parametrize("purpose", ["steering over models", "wrong sad 冬天"])
def test_a_purpose_is_named_by_its_characters(purpose):
    expected = np.random.default_rng([3, zlib.crc32(purpose.encode())])
    assert generator_for(3, purpose).random(5).tolist() == expected.random(5).tolist()


def test_seeds_are_the_crc_of_the_parts():
    assert seed_from(0, "pet", "sad", 1, 1) == zlib.crc32(b"(0, 'pet', 'sad', 1, 1)")
    assert seed_from("one") == zlib.crc32(b"('one',)")


def test_purposes_and_seeds_are_told_apart():
    draws = {generator(seed, name).integers(2**63) for seed in (0, 1) for name in ("a", "b")}
    assert len(draws) == 4
