"""What a sweep writes and reads, on a model that a known direction makes speak of joy."""

from dataclasses import replace

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
from emotrace.instrument.instrument import default
from emotrace.judges import regimes
from emotrace.steered_texts import Row
from emotrace.study import steered
from emotrace.study.effects import arms, dose, sweep
from emotrace.study.folder import select
from emotrace.study.settings import Settings
from emotrace.tokens import Writing, encode

# -- kin --------------------------------------------------------------------------------------------------------------


def test_kin_tokens_are_those_that_are_a_kin_word_by_themselves(planted):
    model, _, _ = planted
    expected = model.tokenizer.convert_tokens_to_ids([f" {word}" for word in JOY])
    assert sweep._kin_tokens(model, default().kin["happy"]) == sorted(expected)
    every = corpus.emotions().loc["happy", "kin"]
    assert len(expected) < len(every)  # the others take several tokens


def test_the_share_of_kin_words_counts_words_and_not_letters():
    texts = ["Joy! She was glad, and sad.", "a joyride to Gladstone", "", "HAPPY happy"]
    share = sweep._kin_share(default(), texts, ["happy", "sad"])
    np.testing.assert_allclose(share, [[2 / 6, 1 / 6], [0, 0], [0, 0], [1, 0]])


# -- on a model -------------------------------------------------------------------------------------------------------

LAYER, READ = 2, 3


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joy")
    joy = plant_joy(folder)
    model = emotrace.load(str(folder))
    return model, joy, joy_vectors(model, joy, ["happy", "sad", "proud", "grateful"])


SETTINGS = Settings(doses=(-1.0, -0.5, 0.5, 0.8, 1.0, 4.0), tokens=16, dose_prompts=4, dose_seeds=2, dose_random=3)
PERMUTED = 5


@pytest.fixture(scope="module")
def swept(planted):
    """The sweep, its strengths, and how many texts were written."""
    model, joy, vectors = planted
    done: dict[str, list[tuple[int, int]]] = {}

    def progress(what: str, now: int, of: int) -> None:
        done.setdefault(what.split(": ")[1], []).append((now, of))

    steering = bare_steering(model, vectors, LAYER, joy.flip, read_layer=READ, settings=SETTINGS, progress=progress)
    found = sweep.sweep(steering, arms.calibrated(steering, PERMUTED))
    for steps in done.values():
        assert {of for _, of in steps} == {sum(now for now, _ in steps)}
    assert list(done) == ["texts", "texts scored", "next tokens read"]
    return found, [dose * joy.flip for dose in SETTINGS.doses], sum(now for now, _ in done["texts"])


def test_a_sweep_has_every_direction_at_every_strength_on_every_prompt(swept):
    found, _, done = swept
    prompts, texts = corpus.prompts("dose")[:4], found.texts
    plain = texts[texts["strength"] == 0]
    assert len(texts) == done == 16 + 4 * 4 * (5 * 2 + 1) + 6 * (PERMUTED + 3) * 4
    assert list(plain["prompt"]) == [prompt for prompt in prompts for _ in range(4)]
    assert set(plain["emotion"]) == set(plain["source"]) == {""}
    counts = texts[texts["strength"] != 0].groupby(["emotion", "strength"])["prompt"].agg(set)
    assert len(counts) == 12 * 6
    assert all(each == set(prompts) for each in counts)
    assert found.directions("permuted") == [f"permuted-{number}" for number in range(1, PERMUTED + 1)]
    assert found.directions("gaussian") == ["random-1", "random-2", "random-3"]
    seeds = texts[texts["strength"] != 0].groupby(["source", "strength"])["seed"].nunique()
    for (source, strength), count in seeds.items():
        assert count == (2 if source == "emotion" and abs(strength) <= found.strength else 1)
    assert {metric: values.shape for metric, values in found.values.items()} == dict.fromkeys(
        sweep.EMOTION_METRICS, (len(texts), 4)
    )


def test_the_texts_of_a_sweep_are_those_that_steer_writes(swept, planted):
    found, strengths, _ = swept
    model, _, vectors = planted
    again = steered_texts.steer(
        model,
        corpus.prompts("dose")[:4],
        vectors,
        strengths,
        emotions=["happy"],
        layers=[LAYER],
        writing=Writing(max_new_tokens=16, temperature=0.7),
    )
    own = select(found.texts, emotion="happy", seed=0)
    for row in again.itertuples():
        assert select(own, strength=row.strength, prompt=row.prompt)["text"].item() == row.text


def test_the_projection_after_the_edit_is_the_strength_itself_and_nothing_beyond_the_skip(swept):
    """Layers that hardly move the stream leave at the next one what was added: strength × norm along joy, in norms.

    That is the skip connection's work alone: beyond it there is nothing, under any direction.
    """
    found, strengths, _ = swept
    table = dose.response(found)
    for strength in strengths:
        rows = select(table, metric="projection", strength=strength).set_index("emotion")
        np.testing.assert_allclose(rows["value"], strength, rtol=0.01)
        np.testing.assert_allclose(rows["others"], 0, atol=0.01 * abs(strength))
        size = abs(strength) / np.sqrt(96)  # of the cosine of a random direction with a given one
        assert (rows["random"].drop("all").abs() < 3 * size).all()
        beyond = select(table, metric="beyond_skip", strength=strength)
        columns = ["value", "others", "permuted", "permuted_low", "permuted_high", "random_low", "random_high"]
        np.testing.assert_allclose(beyond[columns], 0, atol=0.01 * abs(strength))


def test_a_control_direction_is_read_along_its_own_vector_of_the_later_layer(planted):
    """A layer between that doubles one direction: beyond the skip connection there is as much again, for a control
    whose own vector that is as for an emotion's."""
    model, joy, vectors = planted
    steering = bare_steering(model, vectors, LAYER, joy.flip, read_layer=READ, settings=SETTINGS)
    arm = arms.calibrated(steering, 2)
    doubled = torch.from_numpy(joy.directions["happy"]).float()

    def hook(module, inputs):
        return (inputs[0] + (inputs[0] @ doubled)[..., None] * doubled, *inputs[1:])

    control = replace(vectors, emotions=("permuted-1", "permuted-2"), values=vectors.values[:2])  # happy and sad
    arm = replace(arm, directions={**arm.directions, "permuted": control})
    rows = [
        Row("The shop was", source, name, strength, 0)
        for source, name, strength in (
            *((vectors, "happy", 0.0), (vectors, "happy", 0.3), (vectors, "sad", 0.3)),
            *((control, "permuted-1", 0.3), (control, "permuted-2", 0.3)),
        )
    ]
    handle = model.nn._module.model.layers[READ - 1].register_forward_pre_hook(hook)
    try:
        beyond = sweep._next_token(steering, arm, rows)["beyond_skip"]
    finally:
        handle.remove()
    assert beyond[0] == pytest.approx(0, abs=1e-6)
    assert beyond[1] == pytest.approx([0.3, 0, 0, 0], abs=0.01)
    assert beyond[2] == pytest.approx(0, abs=0.01)
    assert beyond[3] == pytest.approx(0.3, abs=0.01)  # whatever emotion it stands beside
    assert beyond[4] == pytest.approx(0, abs=0.01)


def test_the_next_tokens_kin_are_as_probable_as_a_plain_hook_makes_them(swept, planted):
    found, strengths, _ = swept
    model, joy, _ = planted
    kin = sweep._kin_tokens(model, default().kin["happy"])
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
            for value in found.values["kin_log_probability"][np.flatnonzero(chosen), 0]:  # the same for every seed
                assert value == pytest.approx(float(logs[kin].exp().sum().log()), abs=1e-3)


def test_the_judge_and_the_kin_words_are_read_in_the_texts_themselves(swept):
    found = swept[0]
    share = np.array([np.mean([word in JOY for word in text.split()]) for text in found.texts["text"]])
    np.testing.assert_allclose(found.values["classifier"][:, 0], share, atol=1e-12)
    np.testing.assert_allclose(found.values["kin_share"][:, 0], share, atol=1e-12)
    assert share.max() == 1
    assert found.values["kin_share"][:, 1:].max() < 0.2


def test_joy_grows_with_its_own_vector_and_with_no_other_direction(swept, planted):
    found, flip = swept[0], planted[1].flip
    table = dose.trends(found).set_index(["emotion", "metric"])
    for metric in ("kin_log_probability", "classifier", "kin_share"):
        assert table.loc[("happy", metric), "p"] < 0.01
        assert table.loc[("happy", metric), "up"] > 0.1
        assert abs(table.loc[("happy", metric), "permuted_up"]) < 0.5 * table.loc[("happy", metric), "up"]
    assert table.loc[("happy", "kin_log_probability"), "rho"] > 0.95
    assert table.loc[("happy", "kin_log_probability"), "down"] < -2
    assert table.loc[("proud", "classifier"), "p"] > 0.05
    # Where nothing disturbs it, a stream holds any direction in proportion: the trend of what is beyond is rounding.
    assert abs(table.loc[("happy", "beyond_skip"), "slope"]) < 0.01 * flip
    glad = select(dose.response(found), emotion="happy", metric="classifier").set_index("strength")
    assert glad.loc[4 * flip, "value"] > 0.9
    assert (glad["others"] == 0).all()
    assert (glad["random_high"] < 0.2).all()  # far out, a word of joy by chance


def test_the_published_arm_edits_every_layer_and_token_by_norms_at_hand(planted):
    """Its texts are those that the author's setting writes; the read-out's own layer is edited, so it is not read."""
    model, joy, vectors = planted
    settings = Settings(dose_prompts=2, dose_seeds=1, tokens=8, published_doses=(-0.02, 0.02, 0.15))
    steering = bare_steering(model, vectors, LAYER, joy.flip, settings=settings)
    arm = arms.published(steering, 2)
    assert (arm.layers, arm.positions, arm.on_the_fly) == ([1, 2, 3, 4], "all", True)
    assert arm.pooling == "mean"  # no last token was read here
    found = sweep.sweep(steering, arm)
    assert set(found.values) == {"kin_log_probability", "classifier", "kin_share"}
    assert found.strengths == [-0.02, 0.0, 0.02, 0.15]
    again = steered_texts.steer(
        model,
        corpus.prompts("dose")[:2],
        arm.vectors,
        [0.15],
        emotions=["happy"],
        layers="all",
        writing=Writing(max_new_tokens=8, temperature=0.7, positions="all"),
        on_the_fly=True,
    )
    own = select(found.texts, emotion="happy", strength=0.15)
    assert list(own["text"]) == list(again["text"])


def test_permuted_labels_leave_vectors_that_lie_among_the_texts(planted):
    """Means of as many real texts as an emotion's vector is of, minus the same centre, of labels that say nothing."""
    model, _, vectors = planted
    steering = bare_steering(model, vectors, LAYER)
    reading = steering.study.reading
    drawn = steered.permuted_vectors(steering.study, "mean", 4)
    texts = reading.pooled["mean"].astype(np.float64)
    grand = np.stack(
        [texts[reading.labels["emotion"] == name].mean(0) for name in set(reading.labels["emotion"])]
    ).mean(0)
    topics = reading.labels["topic"].to_numpy()
    for values in drawn.values:
        # Of six texts, one of each topic: least squares finds them, with a sixth each.
        flat = texts.reshape(len(texts), -1)
        weights = np.linalg.lstsq(flat.T, (values + grand).reshape(-1), rcond=None)[0]
        chosen = np.flatnonzero(weights > 0.05)
        np.testing.assert_allclose(weights[chosen], 1 / 6, atol=1e-3)
        assert len(chosen) == 6
        assert set(topics[chosen]) == set(topics)
    assert drawn.emotions == ("permuted-1", "permuted-2", "permuted-3", "permuted-4")
    np.testing.assert_array_equal(drawn.values, steered.permuted_vectors(steering.study, "mean", 4).values)


def test_a_huge_strength_of_joy_repeats_one_word_and_of_nothing_does_not(swept, planted):
    found = swept[0]
    far = found.texts[found.texts["strength"] == 4 * planted[1].flip]
    assert set(far[far["emotion"] == "happy"]["regime"]) == {regimes.REPETITIVE}
    assert regimes.REPETITIVE not in set(far[far["source"] == "gaussian"]["regime"])
    assert set(found.texts["regime"][found.texts["strength"] == 0]) == {regimes.SURGICAL}


def test_small_passes_read_the_same(planted, monkeypatch):
    model, _, vectors = planted
    settings = Settings(doses=(-0.2, 0.4), dose_prompts=2, dose_random=2, dose_seeds=2, tokens=6)
    steering = bare_steering(model, vectors, 1, read_layer=4, settings=settings)
    arm = arms.calibrated(steering, 2)
    texts = sweep.sweep(steering, arm)
    monkeypatch.setattr(sweep, "_SCORED_ROWS", 5)
    monkeypatch.setattr(scoring, "LOGITS", 20 * model.nn._module.config.vocab_size)
    monkeypatch.setitem(steered_texts.write.__wrapped__.__kwdefaults__, "batch_rows", 3)
    again = sweep.sweep(steering, arm)
    pd.testing.assert_frame_equal(again.texts, texts.texts, rtol=1e-4)
    for metric, values in texts.values.items():
        np.testing.assert_allclose(again.values[metric], values, rtol=1e-4, atol=1e-4)


def test_vectors_of_another_model_are_refused(planted, tiny):
    vectors = joy_vectors(tiny("llama", n_layers=N_LAYERS, d_model=96), planted[1], ["happy"])
    steering = bare_steering(planted[0], vectors, 1)
    with pytest.raises(EmotraceError, match="these vectors belong to"):
        sweep.sweep(steering, arms.calibrated(steering, 1))
