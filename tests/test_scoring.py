"""Scores of groups of tokens, and where the edit of a divergence begins."""

import numpy as np
import pytest
import torch

from emotrace.scoring import divergence, score
from emotrace.steering import Edit

TEXT = "She walked along the river."


def test_a_token_that_a_group_names_twice_counts_once(tiny):
    model = tiny("llama")
    logs = score(model, [TEXT], None)["log_probabilities"][0]
    found = score(model, [TEXT], None, groups=[[5, 5, 5], [5], [], [7, 5, 7]])["log_probabilities"][0]
    np.testing.assert_allclose(found, [logs[5], logs[5], np.nan, np.logaddexp(logs[5], logs[7])], rtol=1e-5)


@pytest.mark.parametrize(("positions", "first"), [("generated", 1), ("all", 0)])
def test_a_divergence_at_all_positions_edits_the_beginning_of_text_too(tiny, positions, first):
    model, layer = tiny("llama"), 2
    rows = torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(0))
    (found,) = divergence(model, [TEXT], Edit({layer: rows}, positions=positions))
    ids, network = torch.tensor([model.tokenizer(TEXT)["input_ids"]]), model.nn._module

    def add(module, given, output):
        (output[0] if isinstance(output, tuple) else output)[:, first:] += rows

    with torch.no_grad():
        plain = network(ids).logits.log_softmax(-1)
        hook = network.model.layers[layer - 1].register_forward_hook(add)
        other = network(ids).logits.log_softmax(-1)
        hook.remove()
    assert found == pytest.approx((plain.exp() * (plain - other)).sum(-1)[0, 1:].mean().item(), rel=1e-4)
