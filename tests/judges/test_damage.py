"""Damage against direct computation, the items' balance, and a model whose loss is known."""

import numpy as np
import pytest
import torch
from joy_model import joy_vectors, plant_joy

import emotrace
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError
from emotrace.in_trace import divergences
from emotrace.instrument import corpus
from emotrace.judges import damage
from emotrace.scoring import divergence
from emotrace.steering import Edit

TEXTS = ["The shop on the corner sells bread, string and lamps.", "It rained.", "A road leads to the sea from there."]
LAYER = 2


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joy")
    joy = plant_joy(folder)
    model = emotrace.load(str(folder))
    return model, joy, joy_vectors(model, joy, ["happy"])


# -- the items --------------------------------------------------------------------------------------------------------


def test_every_pair_of_words_stands_twice_with_the_other_one_right_so_that_a_liking_is_chance():
    items = corpus.checkable()
    assert len(items) == 60
    assert items["kind"].value_counts().to_dict() == {"agreement": 16, "copying": 16, "arithmetic": 14, "fact": 14}
    assert not items["id"].duplicated().any()
    assert not items["prompt"].duplicated().any()
    for kind, part in items.groupby("kind"):
        pairs = sorted(zip(part["right"], part["wrong"], strict=True))
        assert pairs == sorted((wrong, right) for right, wrong in pairs), kind
    kin = {word for words in corpus.emotions()["kin"] for word in str(words).split()}
    assert not kin & {word.lower() for text in items["prompt"] for word in text.replace(".", "").split()}


def test_a_model_that_likes_one_word_of_each_pair_has_exactly_half(planted):
    items = corpus.checkable()
    liked = np.array([right < wrong for right, wrong in zip(items["right"], items["wrong"], strict=True)])
    rows = {row["metric"]: row for row in damage._measures(np.zeros(3), liked, items)}
    assert rows["checkable"]["value"] == 0.5
    assert {row["value"] for name, row in rows.items() if name.startswith("checkable_")} == {0.5}
    assert rows["checkable"]["n"] == 60


def test_items_are_scored_by_the_first_tokens_after_the_prompt(tiny):
    model = tiny("llama")
    items, words = damage.answerable(model)
    right = damage._right(model, items, words, None)
    for index in (0, 20, len(items) - 1):
        row = items.iloc[index]
        prompt = model.tokenizer(row["prompt"])["input_ids"]
        whole = [model.tokenizer(f"{row['prompt']} {word}")["input_ids"] for word in (row["right"], row["wrong"])]
        assert [ids[len(prompt)] for ids in whole] == words[index].tolist()
        with torch.no_grad():
            logits = model.nn._module(input_ids=torch.tensor([prompt])).logits[0, -1]
        assert right[index] == bool(logits[words[index, 0]] > logits[words[index, 1]])
    assert 0.2 < right.mean() < 0.8  # random weights


# -- divergence -------------------------------------------------------------------------------------------------------


def test_divergences_are_those_of_torch():
    logits = torch.randn(6, 4, 11, generator=torch.Generator().manual_seed(0))
    plain, other = logits[:3].log_softmax(-1), logits[3:].log_softmax(-1)
    expected = torch.nn.functional.kl_div(other, plain, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergences(logits), expected)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_divergence_is_that_of_two_passes_edited_from_the_first_token_on_whatever_the_batch(tiny, family):
    model = tiny(family)
    rows = torch.randn(len(TEXTS), model.d_model, generator=torch.Generator().manual_seed(1))
    found = divergence(model, TEXTS, Edit({LAYER: rows}))
    special = 1 if family == "llama" else 0
    for text, row, value in zip(TEXTS, rows, found, strict=True):
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])

        def add(module, given, output, row=row):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[:, special:] += row

        block = model.layers[LAYER - 1]._module
        with torch.no_grad():
            plain = model.nn._module(input_ids=ids).logits[0, special:].log_softmax(-1)
            handle = block.register_forward_hook(add)
            other = model.nn._module(input_ids=ids).logits[0, special:].log_softmax(-1)
            handle.remove()
        expected = (plain.exp() * (plain - other)).sum(-1).mean().item()
        assert expected > 0.01
        assert value == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(divergence(model, TEXTS, Edit({LAYER: torch.zeros_like(rows)})), 0, atol=1e-9)


def test_a_harm_of_nothing_is_refused(planted):
    model, _, vectors = planted
    for texts, emotions in ((["The bus came."], []), ([], None)):
        with pytest.raises(EmotraceError, match="one of each is needed at least"):
            damage.harm(model, vectors, [LAYER], 0.1, texts, emotions)


def test_damage_grows_with_the_strength_and_the_unsteered_model_has_none(planted):
    model, joy, vectors = planted
    strengths = [0.2 * joy.flip, 2 * joy.flip]
    table = damage.damage(model, vectors, strengths, layers=LAYER)
    assert table.groupby(["strength", "emotion"]).ngroups == 3
    kl = table[table["metric"] == "kl"].set_index("strength")
    assert kl.loc[0.0, "value"] == 0
    assert 0 < kl.loc[strengths[0], "value"] < kl.loc[strengths[1], "value"]
    assert (kl["n"] == 12).all()
    texts = list(corpus.passages().query("emotion == 'neutral'")["text"])
    row = vectors.direction("happy", LAYER) * strengths[1] * residual_norms(model)[LAYER]
    rows = torch.from_numpy(np.tile(row.astype(np.float32), (12, 1)))
    assert kl.loc[strengths[1], "value"] == pytest.approx(divergence(model, texts, Edit({LAYER: rows})).mean())
    items = table[table["metric"] == "checkable"]
    assert (items["chance"] == 0.5).all()
    assert (items["low"] < items["value"]).all()
