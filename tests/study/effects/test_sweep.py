"""What a sweep writes and reads, on a model that a known direction makes speak of joy."""

import numpy as np
import pandas as pd
import pytest
import torch
from bare_steering import bare_steering
from joy_model import JOY, N_LAYERS, joy_vectors, plant_joy

import emotrace
from emotrace import activations, scoring, steered_texts
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.study.effects import dose, sweep
from emotrace.study.folder import select
from emotrace.study.study import Settings
from emotrace.tokens import Writing, encode

# -- kin --------------------------------------------------------------------------------------------------------------


def test_kin_tokens_are_those_that_are_a_kin_word_by_themselves(planted):
    model, _, _ = planted
    expected = model.tokenizer.convert_tokens_to_ids([f" {word}" for word in JOY])
    assert sweep._kin_tokens(model, "happy") == sorted(expected)
    every = corpus.emotions().loc["happy", "kin"]
    assert len(expected) < len(every)  # the others take several tokens


def test_the_share_of_kin_words_counts_words_and_not_letters():
    texts = ["Joy! She was glad, and sad.", "a joyride to Gladstone", "", "HAPPY happy"]
    share = sweep._kin_share(texts, ["happy", "sad"])
    np.testing.assert_allclose(share, [[2 / 6, 1 / 6], [0, 0], [0, 0], [1, 0]])


# -- on a model -------------------------------------------------------------------------------------------------------

LAYER, READ = 2, 3


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joy")
    joy = plant_joy(folder)
    model = emotrace.load(str(folder))
    return model, joy, joy_vectors(model, joy, ["happy", "sad", "proud", "grateful"])


@pytest.fixture(scope="module")
def swept(planted):
    """The sweep, its unsteered texts, its strengths, and how many texts were written."""
    model, joy, vectors = planted
    done = []
    settings = Settings(doses=(-1.0, -0.5, 0.5, 0.8, 1.0, 4.0), tokens=16)
    steering = bare_steering(
        model,
        vectors,
        LAYER,
        joy.flip,
        read_layer=READ,
        settings=settings,
        progress=lambda what, now, of: done.append((now, of)),
    )
    texts, plain = sweep.sweep(steering)
    assert {of for _, of in done} == {sum(now for now, _ in done)}
    return texts, plain, [dose * joy.flip for dose in settings.doses], sum(now for now, _ in done)


def test_a_sweep_has_every_direction_at_every_strength_on_every_prompt(swept, planted):
    found, plain, _, done = swept
    prompts, texts = corpus.prompts("dose"), found.texts
    assert len(texts) == 4 + 6 * (4 + 8) * 4
    assert done == len(texts) - 4 + len(plain)
    assert len(plain) == 16
    assert list(texts["prompt"][:4]) == prompts
    assert list(texts["strength"][:4]) == [0.0] * 4
    counts = texts[4:].groupby(["emotion", "strength"])["prompt"].agg(list)
    assert len(counts) == 12 * 6
    assert all(each == prompts for each in counts)
    assert set(texts[texts["control"]]["emotion"]) == {f"random-{number}" for number in range(1, 9)}
    assert {metric: values.shape for metric, values in found.values.items()} == dict.fromkeys(
        sweep.EMOTION_METRICS, (len(texts), 4)
    )
    # The texts of strength 0 are the unsteered ones of the same seed.
    same = plain[plain["seed"] == 0]
    assert [texts["text"][place] for place in range(4)] == list(same["text"])


def test_the_texts_of_a_sweep_are_those_that_steer_writes(swept, planted):
    found, _, strengths, _ = swept
    model, _, vectors = planted
    prompts = corpus.prompts("dose")
    again = steered_texts.steer(
        model,
        prompts,
        vectors,
        strengths,
        emotions=["happy"],
        layers=[LAYER],
        writing=Writing(max_new_tokens=16, temperature=0.7),
    )
    for row in again.itertuples():
        assert select(found.texts, emotion="happy", strength=row.strength, prompt=row.prompt)["text"].item() == row.text


def test_the_projection_after_the_edit_is_the_strength_itself(swept):
    """Layers that hardly move the stream leave at the next one what was added: strength × norm along joy, in norms."""
    found, _, strengths, _ = swept
    table = dose.response(found)
    for strength in strengths:
        rows = select(table, metric="projection", strength=strength).set_index("emotion")
        np.testing.assert_allclose(rows["value"], strength, rtol=0.01)
        np.testing.assert_allclose(rows["others"], 0, atol=0.01 * abs(strength))
        size = abs(strength) / np.sqrt(96)  # of the cosine of a random direction with a given one
        assert (rows["random"].drop("all").abs() < 2 * size).all()
        assert (rows["random_high"].drop("all") - rows["random_low"].drop("all") > size).all()


def test_the_next_tokens_kin_are_as_probable_as_a_plain_hook_makes_them(swept, planted):
    found, _, strengths, _ = swept
    model, joy, _ = planted
    kin = sweep._kin_tokens(model, "happy")
    norm = activations.residual_norms(model)[LAYER]
    for strength in (0.0, strengths[0], strengths[4]):
        edit = torch.from_numpy(strength * norm * joy.directions["happy"]).float()

        def hook(module, inputs, output, edit=edit):
            output = output.clone()
            output[:, -1] += edit
            return output

        for prompt in corpus.prompts("dose")[:2]:
            ids = torch.tensor([encode(model, [prompt])[0].ids])
            handle = model.nn._module.model.layers[LAYER - 1].register_forward_hook(hook)
            with torch.no_grad():
                logs = model.nn._module(ids).logits[0, -1].double().log_softmax(dim=-1)
            handle.remove()
            chosen = (found.texts["prompt"] == prompt) & (found.texts["strength"] == strength)
            if strength:
                chosen &= found.texts["emotion"] == "happy"
            value = found.values["kin_log_probability"][np.flatnonzero(chosen).item(), 0]
            assert value == pytest.approx(float(logs[kin].exp().sum().log()), abs=1e-3)


def test_the_judge_and_the_kin_words_are_read_in_the_texts_themselves(swept):
    found, _, _, _ = swept
    share = np.array([np.mean([word in JOY for word in text.split()]) for text in found.texts["text"]])
    np.testing.assert_allclose(found.values["classifier"][:, 0], share, atol=1e-12)
    np.testing.assert_allclose(found.values["kin_share"][:, 0], share, atol=1e-12)
    assert share.max() == 1
    assert found.values["kin_share"][:, 1:].max() < 0.2


def test_joy_grows_with_its_own_vector_and_with_no_other_direction(swept, planted):
    found, flip = swept[0], planted[1].flip
    table = dose.monotonicity(found, flip, 199, np.random.default_rng(0)).set_index(["emotion", "metric"])
    for metric in dose.MONOTONE_METRICS:
        assert table.loc[("happy", metric), "p"] < 0.01
        assert table.loc[("happy", metric), "up"] > 0.1
        assert abs(table.loc[("happy", metric), "random_up"]) < 0.2 * table.loc[("happy", metric), "up"]
    assert table.loc[("happy", "classifier"), "beyond"] == pytest.approx(1 / 9)
    # Where nothing disturbs it, a stream holds any direction in proportion, however little of it is joy.
    assert table.loc[("happy", "projection"), "random_high"] == pytest.approx(1)
    assert table.loc[("happy", "kin_log_probability"), "rho"] == pytest.approx(1)
    assert table.loc[("happy", "kin_log_probability"), "down"] < -3
    assert table.loc[("happy", "classifier"), "down"] == 0  # the unsteered texts have no word of joy to lose
    assert table.loc[("proud", "classifier"), "rho"] == 0
    assert table.loc[("proud", "classifier"), "p"] == 1
    response = dose.response(found)
    glad = select(response, emotion="happy", metric="classifier").set_index("strength")
    assert glad.loc[4 * flip, "value"] > 0.9
    assert (glad["others"] == 0).all()
    assert (glad["random_high"] < 0.1).all()  # far out, one word of joy by chance


def test_a_huge_strength_of_joy_repeats_one_word_and_of_nothing_does_not(swept, planted):
    found, plain, _, _ = swept
    far = found.texts[found.texts["strength"] == 4 * planted[1].flip]
    assert set(far[far["emotion"] == "happy"]["regime"]) == {regimes.REPETITIVE}
    assert regimes.REPETITIVE not in set(far[far["emotion"] != "happy"]["regime"])
    assert set(plain["regime"]) == {regimes.SURGICAL}


def test_small_passes_read_the_same(planted, monkeypatch):
    model, _, vectors = planted
    settings = Settings(doses=(-0.2, 0.4), dose_prompts=2, dose_random=2, tokens=6)
    steered = bare_steering(model, vectors, 1, read_layer=4, settings=settings)
    texts, plain = sweep.sweep(steered)
    monkeypatch.setattr(sweep, "_SCORED_ROWS", 5)
    monkeypatch.setattr(scoring, "LOGITS", 20 * model.nn._module.config.vocab_size)
    monkeypatch.setitem(steered_texts.write.__kwdefaults__, "batch_rows", 3)
    again, plain_again = sweep.sweep(steered)
    pd.testing.assert_frame_equal(again.texts, texts.texts, rtol=1e-4)
    pd.testing.assert_frame_equal(plain_again, plain, rtol=1e-4)
    for metric, values in texts.values.items():
        np.testing.assert_allclose(again.values[metric], values, rtol=1e-4, atol=1e-4)


def test_vectors_of_another_model_are_refused(planted, tiny):
    vectors = joy_vectors(tiny("llama", n_layers=N_LAYERS, d_model=96), planted[1], ["happy"])
    with pytest.raises(EmotraceError, match="these vectors belong to"):
        sweep.sweep(bare_steering(planted[0], vectors, 1))
