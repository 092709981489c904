"""Strengths of equal harm, and the layer that an effect chooses, against direct computation and a planted layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from joy_model import JOY, N_LAYERS, joy_vectors, plant_joy

import emotrace
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges import calibration, damage, layer_choice
from emotrace.tokens import Writing

PROMPTS = ["the table of a river", "some bread on an old"]
PLANTED = 3


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joy")
    joy = plant_joy(folder)
    model = emotrace.load(str(folder))
    return model, joy, joy_vectors(model, joy)


@pytest.fixture(scope="module")
def at_one_layer(planted):
    """Vectors that are those of joy at one layer; elsewhere every emotion's lies where nothing reads."""
    _, _, vectors = planted
    values, row = vectors.values.copy(), vectors.emotions.index("happy")
    values[row] = vectors["sad"]
    values[row, PLANTED] = vectors["happy"][PLANTED]
    return replace(vectors, values=values)


@pytest.mark.parametrize(("power", "first"), [(2.0, 0.1), (1.3, 0.02), (3.0, 2.0)])
def test_the_strength_of_a_harm_is_found_on_any_power(power, first):
    tried = []

    def harm_at(strength):
        tried.append(strength)
        return 0.7 * strength**power

    strength, harm = damage.strength_of_harm(harm_at, 0.05, first)
    assert harm == pytest.approx(0.05, rel=0.11)
    assert strength == pytest.approx((0.05 / 0.7) ** (1 / power), rel=0.11)
    assert len(tried) <= 5


def test_a_harm_that_is_never_reached_ends_at_the_range_and_says_how_near_it_came():
    assert damage.strength_of_harm(lambda strength: 1e-6 * strength, 1.0, 1.0) == (damage.HIGHEST, pytest.approx(5e-6))


def test_harm_is_the_mean_of_the_damage_table(planted):
    model, _, vectors = planted
    texts = layer_choice.neutral_texts(12)
    table = damage.damage(model, vectors, 0.3, emotions=["happy", "sad"], layers=2)
    kl = table[(table["metric"] == "kl") & (table["strength"] > 0)]["value"]
    found = damage.harm(model, vectors, [2], 0.3, texts, ["happy", "sad"])
    assert found == pytest.approx(kl.mean(), rel=1e-4)
    assert found > 0.01
    assert layer_choice.neutral_texts(2, 3) == texts[3:5]


def test_the_effect_is_that_of_a_hook_on_the_last_token(planted):
    model, _, vectors = planted
    found = layer_choice.effect(model, vectors, [2], 0.3, PROMPTS, ["happy"])
    module, norms = model.nn._module, residual_norms(model)
    kin = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in JOY]
    words = set(corpus.emotions()["kin"]["happy"]) & set(JOY)
    tokens = [ids[0] for word, ids in zip(JOY, kin, strict=True) if word in words]
    assert set(tokens) <= set(layer_choice.kin_tokens(model, "happy"))
    tokens = layer_choice.kin_tokens(model, "happy")
    row = torch.from_numpy((vectors.direction("happy", 2) * 0.3 * norms[2]).astype(np.float32))

    def add(layer, given, output):
        (output[0] if isinstance(output, tuple) else output)[:, -1] += row

    for column, prompt in enumerate(PROMPTS):
        ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            plain = module(input_ids=ids).logits[0, -1].log_softmax(-1)[tokens].logsumexp(0)
            handle = module.model.layers[1].register_forward_hook(add)
            other = module(input_ids=ids).logits[0, -1].log_softmax(-1)[tokens].logsumexp(0)
            handle.remove()
        assert found[0, column] == pytest.approx(float(other - plain), rel=1e-3)
        assert found[0, column] > 0.5


def test_the_layer_that_is_chosen_is_the_one_that_was_planted_at_equal_harm(planted, at_one_layer):
    model, joy, _ = planted
    layers = layer_choice.candidates(N_LAYERS, N_LAYERS)
    assert layers == [1, 2, 3, 4]
    budget = damage.harm(model, at_one_layer, [PLANTED], 0.5 * joy.flip, layer_choice.neutral_texts(2), ["happy"])
    known = {"prompts": PROMPTS, "texts": layer_choice.neutral_texts(2), "emotions": ["happy"]}
    found = layer_choice.places(model, at_one_layer, layers, budget, 0.1, **known)
    best = layer_choice.best(found)
    assert best.layer == PLANTED
    assert best.strength == pytest.approx(0.5 * joy.flip, rel=0.1)
    assert best.kl == pytest.approx(budget, rel=0.11)
    assert all(place.effects.mean() < best.effects.mean() / 2 for place in found if place.layer != PLANTED)


def test_calibrating_by_effect_takes_that_layer_and_finds_its_window(planted, at_one_layer):
    model, _, _ = planted
    only = replace(
        at_one_layer, emotions=("happy",), values=at_one_layer.values[[at_one_layer.emotions.index("happy")]]
    )
    writing = Writing(max_new_tokens=20, temperature=0.7, seeds=(1, 2))
    found, tried = calibration.calibrate(model, only, layers="effect", texts=4, writing=writing)
    assert found.layers == [PLANTED]
    alone, own = calibration.calibrate(model, only, layers=[PLANTED], texts=4, writing=writing)
    assert alone == found
    assert own.equals(tried)


def test_harm_is_measured_under_emotions_from_the_whole_list():
    chosen = {n: layer_choice.few(list(range(n))) for n in (0, 3, 5, 9, 10, 14, 20)}
    assert chosen == {
        0: [],
        3: [0, 1, 2],
        5: [0, 1, 2, 3, 4],
        9: [0, 1, 3, 5, 7],
        10: [0, 2, 4, 6, 8],
        14: [0, 2, 5, 8, 11],
        20: [0, 4, 8, 12, 16],
    }


def test_emotions_without_kin_words_choose_no_layer(planted):
    model, _, vectors = planted
    with pytest.raises(EmotraceError, match="has no kin words of one token"):
        layer_choice.effect(model, vectors, [2], 0.1, PROMPTS, ["happy", "of one's own"])
    named = replace(vectors, emotions=tuple(f"own {name}" for name in vectors.emotions))
    with pytest.raises(EmotraceError, match="choose the layer by decoding"):
        layer_choice.places(model, named, [2], 0.1, 0.1, prompts=PROMPTS, texts=layer_choice.neutral_texts(2))
