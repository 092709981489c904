"""What a user has set for all of torch changes no number and no text."""

import contextlib

import numpy as np
import pytest
import torch

import emotrace
from emotrace import activations, scoring, steering
from emotrace.tokens import Writing

TEXTS, IDS = ["The rain fell on the roof all night.", "She laughed."], [[5, 6, 7], [8, 9, 10, 11]]


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device": lambda: torch.device("meta"),  # stands for a GPU: what is made there has no values here
    "inference mode": torch.inference_mode,
}


def everything(folder):
    """All numbers and texts, from loading on."""
    model = emotrace.load(str(folder))
    vectors = emotrace.extract(model, pooling="mean", emotions=["happy", "sad"])
    edit = steering.Edit({2: np.ones((2, model.d_model))})
    scored = scoring.score(model, TEXTS, edit)
    written = steering.generate(model, IDS, edit, Writing(8, 0.9), [1, 2])
    read = activations.read_while_writing(model, IDS, Writing(5, 0.7), [1, 2])
    texts = emotrace.steer(model, TEXTS, vectors, [0.2, -0.2], layers=2, writing=Writing(6, 0.8, seeds=(1, 2)))
    numbers = [vectors.values, *activations.read_tokens(model, TEXTS), activations.residual_norms(model, TEXTS)]
    numbers += [scored["stream"], scored["log_probabilities"], scoring.unembed(model, np.ones((2, model.d_model)))]
    numbers += scoring.log_likelihoods(model, IDS, IDS) + [row.stream for row in read]
    numbers += scoring.reread(model, IDS, IDS, edit, np.eye(model.vocabulary, 2))
    return numbers, [written, [row.ids for row in read], list(texts["text"])]


@pytest.fixture(scope="module")
def right(tiny_folder):
    return everything(tiny_folder("llama"))


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_set_for_all_of_torch_changes_nothing(tiny_folder, right, name):
    with SETTINGS[name]():
        numbers, texts = everything(tiny_folder("llama"))
    assert texts == right[1]
    for ours, theirs in zip(numbers, right[0], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert torch.get_default_dtype() == torch.float32
