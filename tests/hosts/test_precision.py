"""Weights at other precisions: rounded as the formats say, and the very same tensors afterwards."""

import contextlib

import numpy as np
import pytest
import torch

from emotrace.activations import read_activations
from emotrace.hosts.precision import ARITHMETIC, CASTS, PRECISIONS, rounded, stored_as

TEXTS = ["A sentence of some length about nothing at all.", "Another one, which is a little shorter."]


@pytest.mark.parametrize(("precision", "levels"), [("int8", 127), ("int4", 8)])
def test_blocks_of_32_share_a_half_precision_scale_and_hold_so_many_levels(precision, levels):
    weights = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    found = rounded(weights, precision)
    for block, original in zip(found.reshape(-1, 32), weights.reshape(-1, 32), strict=True):
        largest = np.abs(original).max()
        assert len(np.unique(block)) <= min(32, 2 * levels)
        assert 0 < np.abs(block - original).max() <= 1.02 * largest / levels
    np.testing.assert_allclose(rounded(found, precision), found, rtol=1e-3, atol=1e-6)
    assert np.abs(rounded(weights, "int4") - weights).mean() > 5 * np.abs(rounded(weights, "int8") - weights).mean()


def test_a_norm_and_rows_that_no_block_fits_stay_as_they_are():
    for shape in ((64,), (4, 20)):
        weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        assert rounded(weights, "int4") is weights


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("precision", [*PRECISIONS, *ARITHMETIC])
def test_the_model_reads_at_that_precision_and_is_untouched_afterwards(tiny, family, precision):
    model = tiny(family)
    module = model.nn._module
    before = read_activations(model, TEXTS)["mean"]
    kept = {name: (value, value.data_ptr(), value.dtype) for name, value in module.state_dict(keep_vars=True).items()}
    with stored_as(module, precision):
        within = read_activations(model, TEXTS)["mean"]
        inside = {name: value.detach().clone() for name, value in module.named_parameters()}
    with contextlib.suppress(KeyError), stored_as(module, precision):
        raise KeyError("an error within")
    for name, value in module.state_dict(keep_vars=True).items():
        assert (value, value.data_ptr(), value.dtype) == kept[name], name
    np.testing.assert_array_equal(read_activations(model, TEXTS)["mean"], before)
    for name, value in inside.items():
        original = kept[name][0].detach()
        if precision in CASTS:
            assert value.dtype == torch.float32
            expected = original.to(getattr(torch, precision)).float()
        elif precision in ARITHMETIC:
            assert value.dtype == getattr(torch, ARITHMETIC[precision])
            expected = original.to(value.dtype)
        else:
            expected = torch.from_numpy(rounded(original.numpy(), precision))
        assert torch.equal(value, expected), name
    error = np.abs(within - before).mean() / np.abs(before).mean()
    casts = {"float32": (0, 0), "bfloat16": (1e-4, 0.05), "float16": (1e-5, 0.01)}
    low, high = casts.get(ARITHMETIC.get(precision, precision), (1e-4, 1))
    assert low <= error <= high
    assert not np.array_equal(within, before) or precision == "float32"
