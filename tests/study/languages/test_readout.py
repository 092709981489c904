"""What an edit brings up, against plain hooks on the model's own head; texts read again, against their own pass."""

import numpy as np
import pytest
import torch
from bare_steering import bare_steering
from planted_chinese import NAMES, PROMPTS, SMALL, permuted_labels

from emotrace import scoring, steering
from emotrace.activations import read_tokens, residual_norms
from emotrace.logit_lens import Directions, direct_readout, last_states
from emotrace.study.folder import select
from emotrace.study.languages import lexicon, readout, writing_systems
from emotrace.study.languages.measure import readout_table
from emotrace.study.languages.writing_systems import HAN
from emotrace.tokens import Writing, encode


def test_the_direct_readout_is_the_logit_difference_of_the_models_own_head(planted):
    model, vectors = planted
    found = direct_readout(Directions(model, vectors, 2), last_states(model, PROMPTS), strength=0.3)
    body, unit = model.nn._module, vectors.values[:, 2] / np.linalg.norm(vectors.values[:, 2], axis=1, keepdims=True)
    edits = torch.from_numpy(0.3 * residual_norms(model)[2] * unit).float()
    expected = 0
    for prompt in PROMPTS:
        ids = torch.tensor([encode(model, [prompt])[0].ids])
        with torch.no_grad():
            # The last of transformers' hidden states is after the norm: ours is before it.
            state = read_tokens(model, [prompt], layers=[model.n_layers])[0][-1, 0]
            steered = body.lm_head(body.model.norm(torch.from_numpy(state) + edits))
            expected = expected + (steered - body(ids).logits[0, -1]).numpy() / len(PROMPTS)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_planted_words_are_the_top_tokens_and_no_others(planted):
    model, vectors = planted
    table = readout_table(bare_steering(model, vectors, 2), permuted_labels(vectors), PROMPTS, SMALL, top=14)
    emotions = lexicon.lexicon().set_index("word")["emotion"]
    for among in ("all", HAN):
        rows = table[(table["among"] == among) & table["emotion"].isin(NAMES)]
        assert (rows["token"].map(emotions) == rows["emotion"]).all()
        assert list(select(rows, emotion="sad")["rank"]) == list(range(1, 15))
    assert (table[table["among"] == HAN]["script"] == HAN).all()
    assert set(table["emotion"]) - set(NAMES) == {
        *(f"permuted-{i}" for i in range(1, 9)),
        *(f"random-{i}" for i in range(1, 5)),
    }
    assert (table.groupby(["emotion", "among"])["logit_change"].diff().dropna() <= 0).all()


def test_the_steered_readout_is_the_change_under_a_hook(planted):
    model, vectors = planted
    groups = writing_systems.vocabulary(model).groups()
    both = Directions(model, readout.with_controls(vectors, permuted_labels(vectors), SMALL), 2)
    change, masses = readout.steered_readout(both, PROMPTS, 0.4, "all", groups)
    assert change.shape == (20 + 8 + 4, len(groups))
    assert masses.shape == (20 + 8 + 4 + 1, 3, 3)
    edit = steering.directions(vectors, [("angry", 0.4)], [2], residual_norms(model))[2]
    expected = []
    for index, prompt in enumerate(PROMPTS):
        ids = torch.tensor([encode(model, [prompt])[0].ids])
        with torch.no_grad():
            plain = model.nn._module(ids).logits[0, -1].log_softmax(-1)
            handle = model.nn._module.model.layers[1].register_forward_hook(
                lambda module, inputs, output: output + edit
            )
            steered = model.nn._module(ids).logits[0, -1].log_softmax(-1)
            handle.remove()
        np.testing.assert_allclose(masses[NAMES.index("angry"), index], steered.exp().numpy() @ groups, rtol=1e-4)
        np.testing.assert_allclose(masses[-1, index], plain.exp().numpy() @ groups, rtol=1e-4)
        expected.append((steered - plain).numpy())
    np.testing.assert_allclose(change[NAMES.index("angry")], np.mean(expected, axis=0), atol=1e-4)


def test_a_rank_counts_the_tokens_above():
    change = np.array([[3.0, 1.0, 2.0, 5.0], [0.0, 9.0, 1.0, 2.0]])
    assert list(readout.ranks(change, 2)) == [3, 3]
    assert list(readout.ranks(change, 2, np.array([1, 2]))) == [1, 2]


# -- text written under the edit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_reading_again_gives_the_distributions_the_text_was_drawn_from(planted, positions):
    model, vectors = planted
    everything = np.eye(model.nn._module.lm_head.weight.shape[0], dtype=np.float32)
    rows = [("sad", 0.5), ("calm", -0.4), ("proud", 0.2)]
    edits = steering.directions(vectors, rows, [2], residual_norms(model))
    ids = [text.ids for text in encode(model, PROMPTS)]
    for edit in (None, steering.Edit(edits, positions=positions)):
        texts = steering.generate(model, ids, edit, Writing(max_new_tokens=7))
        texts[1] = texts[1][:3]  # rows of unequal length
        steps = scoring.reread(model, ids, texts, edit, everything)
        scored = scoring.score(model, PROMPTS, edit, read_layers=[2])["log_probabilities"]
        for row, text in enumerate(texts):
            assert steps[row].shape == (len(text), len(everything))
            np.testing.assert_allclose(steps[row].sum(axis=1), 1, atol=1e-4)
            np.testing.assert_allclose(steps[row][0], np.exp(scored[row]), atol=1e-5)
            assert list(steps[row].argmax(axis=1)) == text  # greedy: the likeliest token was written


def test_reading_again_does_not_depend_on_the_batch_and_takes_an_empty_text(planted, monkeypatch):
    model, vectors = planted
    groups = writing_systems.vocabulary(model).groups()
    edit = steering.Edit(steering.directions(vectors, [("sad", 0.5)] * 3, [2], residual_norms(model)))
    ids, texts = [text.ids for text in encode(model, PROMPTS)], [[5, 6, 7, 8], [], [9, 10]]
    together = scoring.reread(model, ids, texts, edit, groups)
    assert [len(steps) for steps in together] == [4, 1, 2]
    monkeypatch.setattr(scoring, "REREAD_TOKENS", 1)
    for one, all_three in zip(scoring.reread(model, ids, texts, edit, groups), together, strict=True):
        np.testing.assert_allclose(one, all_three, rtol=1e-3, atol=1e-7)


def test_what_a_text_holds_is_counted(planted):
    model, _ = planted
    ids = model.tokenizer("She was sad and 绝望, 高兴", add_special_tokens=False)["input_ids"]
    found = readout._measured(model, ids)
    assert (found["letters"], found["han"], found["other_script"]) == (16, 4, 0)
    assert found["chinese"] == ["desperate", "happy"]
    assert found["english"] == ["sad"]
