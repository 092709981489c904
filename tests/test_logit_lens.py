"""The lens of a vector: planted words come out, random directions do not reach them, and the numbers are plain ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_tokens, residual_norms
from emotrace.instrument import corpus
from emotrace.logit_lens import Directions, by_layer, direct_readout, last_states
from emotrace.steering import random_like
from emotrace.vectors import EmotionVectors

NAMES = ("happy", "sad", "angry", "calm")
PROMPTS = ["The door opened and", "On Monday he"]


def words_of(name: str) -> list[str]:
    return [f" {word}" for word in corpus.emotions()["kin"][name][:3]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A llama that knows three kin words an emotion as one token each, whose unembedding is the emotion's direction."""
    words = tiny_models.tokenizer("llama", tuple(word for name in NAMES for word in words_of(name)))
    network = tiny_models._random("llama", words, seed=0, n_layers=4, d_model=64)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0][: len(NAMES)].astype(np.float32)
    with torch.no_grad():
        for name, direction in zip(NAMES, basis, strict=True):
            for word in words_of(name):
                network.lm_head.weight[words.convert_tokens_to_ids(word)] = 3 * torch.from_numpy(direction)
    folder = tmp_path_factory.mktemp("words")
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    model = emotrace.load(str(folder))
    values, zero = np.repeat(basis[:, None], 5, axis=1), np.zeros((5, 64), np.float32)
    made = {**model.provenance, "model": model.name, "pooling": "mean", "centring": "grand"}
    return model, EmotionVectors(NAMES, tuple(range(5)), values, zero, zero, zero, made)


def test_planted_words_are_on_top_and_beyond_the_random_directions(planted):
    model, vectors = planted
    table = emotrace.lens(model, vectors, top=3, random=9, prompts=PROMPTS)
    assert len(table) == 4 * 5 * 2 * 3
    top = table[table["side"] == "top"]
    for name, rows in top.groupby("emotion"):
        assert {token.strip() for token in rows["token"]} == {word.strip() for word in words_of(name)}
        assert (rows["p"] == 1 / 10).all()
        assert (rows["z"] > 2 * rows["null"]).all()
        assert (rows["own_words_p"] == 1 / 10).all()
        assert (rows["n_words"] == 3).all()
    lines = by_layer(table)
    assert len(lines) == 4 * 5
    assert all(word.strip() in lines[lines["emotion"] == "sad"]["raised"].iloc[0] for word in words_of("sad"))


def test_vectors_of_permuted_labels_stand_beside_on_the_same_path(planted):
    model, vectors = planted
    how = {"top": 2, "random": 5, "layers": [1, 3], "prompts": PROMPTS}
    alone = emotrace.lens(model, vectors, **how)
    assert alone[["permuted", "permuted_p", "own_words_permuted", "own_words_permuted_p"]].isna().all(axis=None)
    sad = replace(vectors, emotions=("permuted-1", "permuted-2"), values=np.repeat(vectors.values[1:2], 2, axis=0))
    both = emotrace.lens(model, vectors, permuted=sad, **how)
    rest = [name for name in alone if "permuted" not in name]
    pd.testing.assert_frame_equal(both[rest], alone[rest])  # the first control is what it was
    place = ["layer", "side", "rank"]
    of = {name: rows.set_index(place) for name, rows in both.groupby("emotion")}
    for name, rows in of.items():
        np.testing.assert_allclose(rows["permuted"], of["sad"]["z"], rtol=1e-6)
        beaten = rows["z"].abs() > of["sad"]["z"].abs()
        assert (rows["permuted_p"][beaten] == 1 / 3).all()
        assert (rows["permuted_p"][~beaten] == 1).all()
        if name != "sad":  # which raises sad's words, so not its own
            assert (rows["own_words_permuted"] < 0).all()
            assert (rows["own_words_permuted_p"] == 1 / 3).all()
    np.testing.assert_allclose(of["sad"]["own_words_permuted"], of["sad"]["own_words"], rtol=1e-6)
    lines = by_layer(both).set_index(["emotion", "layer"])
    row = of["calm"].loc[(3, "top", 1)]
    assert f"({row['null']:+.1f}; {row['permuted']:+.1f})" in lines.loc[("calm", "3"), "raised"]
    with pytest.raises(EmotraceError, match="these vectors belong to"):
        emotrace.lens(model, vectors, permuted=replace(sad, provenance={**sad.provenance, "weights_id": "other"}))


NUMBERS = ["change", "z", "null", "p"]


def test_by_default_layers_without_a_direction_are_left_out_and_named(planted):
    model, vectors = planted
    how = {"top": 2, "random": 3, "prompts": PROMPTS}
    values, centre = vectors.values.copy(), vectors.grand_mean.copy()
    values[:, 0], values[1, 3] = 0, 0  # all emotions at one layer, sad alone at another
    values[:, 2], centre[2] = 1e-6 * values[:, 2], 10  # what rounding leaves of a common token
    some, every = replace(vectors, values=values, grand_mean=centre), emotrace.lens(model, vectors, **how)
    for asked in ({}, {"layers": None}, {"layers": "all"}):
        table = emotrace.lens(model, some, **how, **asked)
        assert table.attrs["left_out"] == [0, 2, 3]
        pd.testing.assert_frame_equal(
            table.reset_index(drop=True), every[every["layer"].isin([1, 4])].reset_index(drop=True), check_exact=False
        )
    assert every.attrs["left_out"] == []
    happy = emotrace.lens(model, some, "happy", **how)
    assert happy.attrs["left_out"] == [0, 2]
    for layers, name in (([0, 1], "happy at layer 0"), ([2], "happy at layer 2"), ([3], "sad at layer 3")):
        with pytest.raises(EmotraceError, match=f"the vector of {name} is zero and has no direction"):
            emotrace.lens(model, some, layers=layers, **how)
    with pytest.raises(EmotraceError, match="the vector of happy at layer 0 is zero"):
        emotrace.lens(model, replace(vectors, values=0 * values), **how)


def test_the_defaults_of_extract_go_with_those_of_the_lens(tiny):
    model = tiny("llama")
    vectors = emotrace.extract(model)  # of the last token, at all layers
    table = emotrace.lens(model, vectors, "afraid", top=1, random=2, prompts=PROMPTS)
    assert (table.attrs["left_out"], set(table["layer"])) == ([0], {1, 2, 3, 4})


def test_vectors_that_are_random_themselves_stand_beside_others(planted):
    model, vectors = planted
    how = {"top": 2, "random": 5, "layers": 2, "prompts": PROMPTS}
    own = random_like(vectors, 2, seed=1)  # random-1, random-2, as the control's are called
    found, renamed = (emotrace.lens(model, one, **how) for one in (own, replace(own, emotions=("one", "other"))))
    pd.testing.assert_frame_equal(found[NUMBERS], renamed[NUMBERS])


def test_an_emotion_that_is_named_twice_is_read_once(planted):
    once, twice = (emotrace.lens(*planted, names, layers=1, prompts=PROMPTS) for names in ("sad", ["sad", "sad"]))
    pd.testing.assert_frame_equal(once, twice)


def test_a_layer_beyond_the_model_is_one_line(planted):
    model, vectors = planted
    with pytest.raises(EmotraceError, match="layer 9 is out of range"):
        emotrace.lens(model, replace(vectors, layers=(0, 1, 2, 3, 9)), prompts=PROMPTS)


@pytest.mark.parametrize(("dtype", "stretched"), [("bfloat16", True), ("float16", True), ("float32", False)])
def test_half_precision_reads_an_early_layer_as_float32_does(dtype, stretched):
    """The last state has 70 times an early layer's norm: in bfloat16 an edit of a tenth of that is lost in rounding."""
    found = {}
    for kind in ("float32", dtype):
        words = tiny_models.tokenizer("llama")
        network = tiny_models._random("llama", words, seed=0, n_layers=6, d_model=64)
        with torch.no_grad():
            for layer in network.model.layers:
                layer.mlp.down_proj.weight *= 0.02
                layer.self_attn.o_proj.weight *= 0.02
            network.model.layers[-1].mlp.down_proj.weight *= 240
        model = emotrace.attach(network.to(getattr(torch, kind)), words, name="stretched")
        model.norms, states = residual_norms(model, PROMPTS), last_states(model, PROMPTS)
        assert states.norm(dim=1).min() > 60 * model.norms[3]
        rng, zero = np.random.default_rng(0), np.zeros((1, 64), np.float32)
        values = rng.normal(size=(3, 1, 64)).astype(np.float32)
        about = {**model.provenance, "model": model.name}
        edits = Directions(model, EmotionVectors(("a", "b", "c"), (3,), values, zero, zero, zero, about), 3)
        found[kind] = direct_readout(edits, states)
    for exact, read in zip(found["float32"], found[dtype], strict=True):
        assert np.corrcoef(exact, read)[0, 1] > 0.998
        assert exact @ read / (exact @ exact) == pytest.approx(1, abs=0.03)
        assert len(set(np.argsort(exact)[-10:]) & set(np.argsort(read)[-10:])) >= 8
    assert np.array_equal(found["float32"], found[dtype]) != stretched


def test_words_of_another_emotion_are_not_ones_own(planted):
    model, vectors = planted
    swapped = EmotionVectors(
        NAMES, vectors.layers, vectors.values[[1, 0, 3, 2]], *[vectors.neutral_mean] * 3, vectors.provenance
    )
    table = emotrace.lens(model, swapped, top=1, random=19, layers=2, prompts=PROMPTS)
    assert (table["own_words"] < 0).all()
    assert (table["own_words_p"] > 0.5).all()


def test_every_number_is_that_of_a_plain_loop(planted):
    model, vectors = planted
    layer, body = 2, model.nn._module
    table = emotrace.lens(model, vectors, "sad", top=2, layers=[layer], random=3, seed=5, prompts=PROMPTS)
    sad = EmotionVectors(("sad",), vectors.layers, vectors.values[1:2], *[vectors.neutral_mean] * 3, {})
    rows = np.concatenate([sad.values[:, layer], random_like(sad, 3, 5).values[:, layer]])
    edits = 0.1 * residual_norms(model)[layer] * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    change = np.zeros((4, body.config.vocab_size))
    for prompt in PROMPTS:
        state = torch.from_numpy(read_tokens(model, [prompt], layers=[model.n_layers])[0][-1, 0])
        with torch.no_grad():
            both = body.lm_head(body.model.norm(torch.stack([state, *(state + torch.from_numpy(edits).float())])))
        change += (both[1:] - both[:1]).numpy() / len(PROMPTS)
    ordinary = [token for token in range(change.shape[1]) if token not in model.tokenizer.all_special_ids]
    z = (change - change[:, ordinary].mean(1, keepdims=True)) / change[:, ordinary].std(1, keepdims=True)
    for side, sign in (("top", 1), ("bottom", -1)):
        order = sorted(ordinary, key=lambda token: -sign * change[0, token])[:2]
        part = table[table["side"] == side]
        assert part["token_id"].tolist() == order
        np.testing.assert_allclose(part["change"], change[0, order], rtol=1e-3)
        np.testing.assert_allclose(part["z"], z[0, order], rtol=1e-3)
        ranked = [np.sort(-sign * z[row, ordinary])[:2] * -sign for row in (1, 2, 3)]
        np.testing.assert_allclose(part["null"], np.mean(ranked, axis=0), rtol=1e-3)
        larger = (sign * np.array(ranked) >= sign * z[0, order]).sum(axis=0)
        np.testing.assert_allclose(part["p"], (1 + larger) / 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"emotions": "smug"}, "unknown emotion 'smug'"),
        ({"emotions": []}, "an emotion and a prompt at least"),
        ({"layers": 9}, "layer 9 is out of range"),
        ({"top": 0}, "top is 1 or more"),
        ({"random": 0}, "random is 1 or more"),
        ({"prompts": []}, "an emotion and a prompt at least"),
    ],
)
def test_mistakes_are_one_line(planted, settings, message):
    with pytest.raises(EmotraceError, match=message):
        emotrace.lens(*planted, **settings)
