"""A what-if shows the same two texts at strength 0, the right change otherwise, and never runs what it prints."""

import re
import time
from dataclasses import replace

import joy_model
import numpy as np
import pandas as pd
import pytest
from unsafe import control_characters

import emotrace
from emotrace import steered_texts
from emotrace.activations import read_activations, residual_norms
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.calibration import Calibration
from emotrace.measures.randomness import generator
from emotrace.readings import read_texts
from emotrace.scoring import log_likelihoods
from emotrace.tokens import Writing, encode
from emotrace.whatif import compare, slider, text_reading
from emotrace.whatif.compare import what_if
from emotrace.whatif.slider import window
from emotrace.whatif.token_reading import read_emotions

PROMPT = "The door opened and"


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama", n_layers=6)


@pytest.fixture(scope="module")
def vectors(llama):
    return emotrace.extract(llama, pooling="mean")


@pytest.fixture(scope="module")
def joyful(tmp_path_factory):
    """A model that a known direction makes speak of joy, its vectors, and the strength from which on it does."""
    folder = tmp_path_factory.mktemp("joy")
    joy = joy_model.plant_joy(folder)
    model = emotrace.load(str(folder))
    return model, joy_model.joy_vectors(model, joy), joy.flip


JUDGE = joy_model.WordCounter()


# -- texts and changes ------------------------------------------------------------------------------------------------


def test_strength_zero_shows_two_equal_texts_and_no_change(llama, vectors):
    result = what_if(llama, PROMPT, "happy", 0.0, vectors=vectors, writing=Writing(8))
    assert result.plain == result.steered
    assert (result.changes["change"] == 0).all()
    assert result.gaps == 0
    plain, steered = result.sides
    assert plain.perplexity_ratio == steered.perplexity_ratio == 1
    assert plain.regime == steered.regime
    np.testing.assert_array_equal(plain.reading.score, steered.reading.score)
    assert (result.judged["change"] == 0).all()


def test_the_texts_and_the_changes_are_those_of_steering_and_reading(llama, vectors):
    result = what_if(llama, PROMPT, "sad", 0.8, vectors=vectors, layer=4, writing=Writing(8), judge=False)
    table = steered_texts.steer(llama, PROMPT, vectors, [0.0, 0.8], emotions=["sad"], layers=[4], writing=Writing(8))
    assert [result.plain, result.steered] == list(table["text"])
    assert result.plain != result.steered
    activation = read_activations(llama, [PROMPT + result.steered], layers=[4])["mean"][0, 0]
    centred = activation - vectors.grand_mean[4]
    vector = vectors["sad", 4]
    expected = centred @ vector / np.linalg.norm(centred) / np.linalg.norm(vector)
    row = result.to_frame().set_index("emotion").loc["sad"]
    assert row["steered"] == pytest.approx(expected, abs=1e-5)
    assert row["change"] == pytest.approx(row["steered"] - row["plain"], abs=1e-6)
    assert result.gaps == pytest.approx(0.8 * residual_norms(llama)[4] / np.linalg.norm(vector), rel=1e-4)
    assert len(result.changes) == 20
    assert result.changes["change"].is_monotonic_decreasing


def test_beside_the_changes_stand_those_under_vectors_of_permuted_labels(llama, vectors, monkeypatch):
    options = {"vectors": vectors, "writing": Writing(6), "judge": False, "layer": 3}
    own = {name: what_if(llama, PROMPT, name, 0.9, **options) for name in ("sad", "calm", "happy")}
    change = {name: one.changes.set_index("emotion")["change"] for name, one in own.items()}
    drawn = replace(vectors, emotions=("permuted-1", "permuted-2"), values=np.stack([vectors["sad"], vectors["calm"]]))
    monkeypatch.setattr(compare, "permuted_like", lambda model, of, count, **_: drawn)
    result = what_if(llama, PROMPT, "happy", 0.9, control=2, **options)
    table = result.changes.set_index("emotion")
    pd.testing.assert_series_equal(table["change"], change["happy"])
    both = pd.concat([change["sad"], change["calm"]], axis=1).loc[table.index]
    assert both.abs().max(axis=None) > 0.01
    np.testing.assert_allclose(table["permuted"], both.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(table["permuted_low"], both.min(axis=1), atol=1e-6)
    np.testing.assert_allclose(table["permuted_high"], both.max(axis=1), atol=1e-6)
    assert result.steered == own["happy"].steered
    np.testing.assert_allclose(table["p"], (1 + both.ge(table["change"], axis=0).sum(axis=1)) / 3)
    assert len(set(table["p"].round(2))) > 1
    away = {name: what_if(llama, PROMPT, name, -0.9, **options) for name in ("sad", "calm")}
    both = pd.concat([one.changes.set_index("emotion")["change"] for one in away.values()], axis=1)
    fallen = what_if(llama, PROMPT, "happy", -0.9, control=2, **options).changes.set_index("emotion")
    expected = (1 + both.loc[fallen.index].le(fallen["change"], axis=0).sum(axis=1)) / 3
    np.testing.assert_allclose(fallen["p"], expected)
    mixed = what_if(llama, PROMPT, {"happy": -1.0, "proud": 1.0}, 0.9, control=2, **options).changes
    mixed, upwards = mixed.set_index("emotion"), pd.concat([change["sad"], change["calm"]], axis=1)
    against = upwards.loc[mixed.index]
    beyond = against.ge(mixed["change"], axis=0)
    beyond.loc["happy"] = against.loc["happy"] <= mixed.loc["happy", "change"]  # steered away from
    np.testing.assert_allclose(mixed["p"], (1 + beyond.sum(axis=1)) / 3)
    assert f"p of the change among them: happy {table.loc['happy', 'p']:.2g} (2 allow none below 0.33: take 19 for" in (
        result.ranks()
    )
    assert result.ranks() in result._repr_html_()
    assert result.ranks() in " ".join(str(result).split())
    assert own["sad"].ranks() == ""
    lines = [line for line in str(result).splitlines() if "│" in line]
    row = table.loc["happy"]
    ends = f"{row['permuted_low']:+.2f} … {row['permuted_high']:+.2f}"
    assert next(line for line in lines if " happy " in line).endswith(ends)
    assert max(map(len, str(result).splitlines())) <= 80
    assert "2 vectors of permuted labels of equal norm" in str(result).replace("\n", " ")
    assert "2 vectors of permuted labels of equal norm" in result._repr_html_()
    assert "permuted" not in str(own["sad"])
    assert "permuted" not in own["sad"]._repr_html_()


def test_a_control_of_fewer_than_none_is_refused_before_anything_is_read(llama, monkeypatch):
    monkeypatch.setattr(compare, "cached_vectors", None)
    with pytest.raises(EmotraceError, match=r"control.*-1"):
        what_if(llama, PROMPT, "happy", control=-1)


def test_vectors_of_permuted_labels_are_of_the_same_texts_read_once(llama, vectors, monkeypatch):
    drawn = text_reading.permuted_like(llama, vectors, 3)
    reading = read_texts(llama, corpus.passages(), layers=[2], poolings=("mean",))
    texts, topics = reading.pooled["mean"][:, 0].astype(float), reading.labels["topic"].to_numpy(str)
    labels, rng = reading.labels["emotion"].to_numpy(str), generator(0, "permuted labels", "mean")
    for number, values in enumerate(drawn.values[:, vectors.index(2)]):
        mixed = labels.copy()
        for topic in np.unique(topics):
            (rows,) = np.nonzero(topics == topic)
            mixed[rows] = labels[rng.permutation(rows)]
        assert (mixed != labels).mean() > 0.5
        means = {name: texts[mixed == name].mean(axis=0) for name in set(labels)}
        expected = means[vectors.emotions[number]] - np.mean(list(means.values()), axis=0)
        np.testing.assert_allclose(values, expected, atol=1e-5)
    monkeypatch.setattr(text_reading, "read_texts", None)
    np.testing.assert_array_equal(text_reading.permuted_like(llama, vectors, 3).values, drawn.values)
    with pytest.raises(EmotraceError, match="need the texts that the vectors are of"):
        text_reading.permuted_like(llama, replace(vectors, provenance={**vectors.provenance, "texts": "other"}), 3)
    for other in (vectors * 2, vectors.recentre("neutral")):
        with pytest.raises(EmotraceError, match="plain differences of class means"):
            text_reading.permuted_like(llama, other, 3)
    with pytest.raises(EmotraceError, match="1 or more"):
        text_reading.permuted_like(llama, vectors, 0)


def test_a_mixture_is_the_weighted_sum_and_of_one_that_emotion(llama, vectors):
    options = {"vectors": vectors, "writing": Writing(6), "judge": False}
    one = what_if(llama, PROMPT, "sad", 0.8, **options)
    mixture = what_if(llama, PROMPT, {"sad": 2.0}, 0.8, **options)
    assert one.steered == mixture.steered
    assert mixture.emotion == "sad×2"
    both = {"sad": 1.0, "angry": -0.5}
    summed = emotrace.EmotionVectors(
        (*vectors.emotions, "sum"),
        vectors.layers,
        np.concatenate([vectors.values, vectors.mix(both)[None]]),
        vectors.neutral_mean,
        vectors.grand_mean,
        vectors.emotions_mean,
        vectors.provenance,
    )
    assert (
        what_if(llama, PROMPT, both, 1.5, **options).steered
        == what_if(llama, PROMPT, "sum", 1.5, **{**options, "vectors": summed}).steered
        != one.steered
    )


def test_negative_strength_along_a_vector_is_positive_along_its_opposite(llama, vectors):
    options = {"vectors": vectors, "writing": Writing(6), "judge": False}
    away = what_if(llama, PROMPT, "sad", -1.2, **options)
    opposite = what_if(llama, PROMPT, {"sad": -1.0}, 1.2, **options)
    assert away.steered == opposite.steered != what_if(llama, PROMPT, "sad", 1.2, **options).steered
    assert away.gaps < 0 < opposite.gaps


def test_an_unknown_emotion_lists_the_known(llama, vectors):
    for emotion in ("smug", {"happy": 1.0, "smug": 0.5}):
        with pytest.raises(EmotraceError, match="unknown emotion 'smug': known are happy, sad"):
            what_if(llama, "The door", emotion, vectors=vectors)


# -- regime, judge, reading -------------------------------------------------------------------------------------------


def test_a_known_model_turns_to_joy_and_the_judge_and_the_regime_say_so(joyful):
    model, vectors, flip = joyful
    below, above = (
        what_if(model, "the table", "happy", factor * flip, vectors=vectors, layer=2, writing=Writing(20), judge=JUDGE)
        for factor in (0.9, 1.1)
    )
    assert below.steered == below.plain
    assert above.steered.split() == ["joy"] * len(above.steered.split())
    assert above.side("steered").regime == regimes.REPETITIVE
    assert above.side("plain").regime == regimes.SURGICAL
    assert below.advice() == ""
    said = f"Steering broke the text: take less strength ({1.1 * flip / 2:.2g}, say), or sample the texts"
    assert said in above.advice()
    assert above.advice() in " ".join(str(above).split())
    assert above.advice() in above._repr_html_()
    looping = replace(above, sides=(replace(above.sides[0], regime=regimes.REPETITIVE), above.sides[1]))
    assert looping.advice().startswith("The plain text breaks down by itself")
    assert above.settings().endswith("at layer 2; texts greedy")
    assert above.judge == "word counter"
    assert above.judged.set_index("label").loc["joy", ["plain", "steered", "change"]].tolist() == [0, 1, 1]
    assert above.judged["label"].iloc[0] == "joy"


def test_the_ratio_is_that_of_the_two_texts_under_the_unsteered_model(llama, vectors):
    result = what_if(llama, PROMPT, "sad", 0.8, vectors=vectors, layer=4, writing=Writing(12), judge=False)
    table = steered_texts.steer(llama, PROMPT, vectors, [0.0, 0.8], emotions=["sad"], layers=[4], writing=Writing(12))
    prompt = encode(llama, [PROMPT])[0].ids
    scored = [log_likelihoods(llama, [prompt], [tokens])[0] for tokens in table["tokens"]]
    expected = np.exp(scored[0].mean() - scored[1].mean())
    assert result.side("steered").perplexity_ratio == pytest.approx(expected, rel=1e-5)
    assert abs(expected - 1) > 0.05
    assert result.to_frame().attrs["perplexity_ratio"] == pytest.approx(expected, rel=1e-5)


def test_each_text_is_read_again_without_the_edit(llama, vectors):
    result = what_if(llama, PROMPT, "sad", 0.8, vectors=vectors, layer=4, writing=Writing(8), judge=False)
    for side, text in (("plain", result.plain), ("steered", result.steered)):
        again = read_emotions(llama, PROMPT + text, "sad", layer=4, vectors=vectors)
        np.testing.assert_array_equal(result.side(side).reading.score, again.score)


def test_without_a_judge_none_is_asked_and_its_absence_names_the_way_out(llama, vectors, monkeypatch):
    def missing():
        raise EmotraceError("the encoder is not installed")

    monkeypatch.setattr(compare, "load_classifier", missing)
    compare._default_judge.cache_clear()
    result = what_if(llama, PROMPT, "sad", 0.1, vectors=vectors, writing=Writing(3), judge=False)
    assert result.judged is None
    assert "judge" not in str(result)
    assert "judge" not in result._repr_html_()
    with pytest.raises(EmotraceError, match="not installed; without an outside judge: judge=False"):
        what_if(llama, PROMPT, "sad", 0.1, vectors=vectors, writing=Writing(3))


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_the_terminal_shows_everything_within_80_columns(joyful):
    model, vectors, flip = joyful
    result = what_if(
        model, "the table", "happy", 1.1 * flip, vectors=vectors, layer=2, writing=Writing(60), judge=JUDGE
    )
    text = str(result)
    assert max(map(len, text.splitlines())) <= 80
    bars = re.findall(r"^[▸ ] +(\w+) ([+-]\d\.\d{3}) ", text, flags=re.MULTILINE)
    shown = [(row.emotion, f"{row.change:+.3f}") for row in result.changes.itertuples()]
    assert [(name, value) for name, value in bars] == shown
    assert "▸          happy" in text
    assert "[repetitive collapse; perplexity" in text
    assert "60 tokens]" in text
    assert "word counter" in text
    assert "joy  0.00 → 1.00" in text


def test_every_change_is_a_bar_of_its_length_and_side(llama, vectors):
    result = what_if(llama, PROMPT, "sad", 0.8, vectors=vectors, writing=Writing(8), judge=False)
    bars = re.findall(r'class="(rise|fall)" style="width:([\d.]+)%"', result._repr_html_())
    changes = result.changes["change"]
    assert [side == "rise" for side, _ in bars] == list(changes > 0)
    widths = np.array([float(width) for _, width in bars])
    np.testing.assert_allclose(widths, 48 * changes.abs() / max(changes.abs().max(), 0.1), atol=0.01)


def test_markup_in_a_prompt_shows_as_text(llama, vectors, tmp_path):
    prompt = "<script>alert(1)</script> & \x1b[31m so"
    result = what_if(llama, prompt, "sad", 0.1, vectors=vectors, writing=Writing(4))
    page = result.to_html(tmp_path / "page.html").read_text()
    for html in (result._repr_html_(), page):
        assert "<script" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; ␛[31m so" in without_spans(html)
        assert not control_characters(html)
    assert not control_characters(str(result))


def without_spans(html: str) -> str:
    """The text between the spans of tokens, without the marks for blanks."""
    return re.sub(r"</?span[^>]*>", "", re.sub(r'<span class="t mark[^>]*>.</span>', "", html))


def test_a_page_that_cannot_be_written_is_one_clear_error(llama, vectors, tmp_path):
    (tmp_path / "file").write_text("")
    result = what_if(llama, PROMPT, "sad", 0.1, vectors=vectors, writing=Writing(2), judge=False)
    with pytest.raises(EmotraceError, match="cannot be written"):
        result.to_html(tmp_path / "file" / "page.html")


# -- the slider -------------------------------------------------------------------------------------------------------


def test_the_slider_runs_over_the_calibrated_window_with_zero_in_the_middle(vectors):
    assert window(vectors, steps=2) == (-0.4, -0.2, 0.0, 0.2, 0.4)
    calibrated = Calibration([4], (-0.3, 0.12), 0.9, 40, "generated", 0.7).onto(vectors)
    assert window(calibrated, steps=2) == (-0.3, -0.15, 0.0, 0.06, 0.12)
    half = Calibration([4], (None, 0.12), 0.9, 40, "generated", 0.7).onto(vectors)
    assert window(half, steps=1) == (-0.4, 0.0, 0.12)


def test_a_setting_is_written_once_and_is_the_what_if_of_it(llama, vectors, monkeypatch):
    pytest.importorskip("ipywidgets")
    written = []

    def counted(model, prompt, emotion, strength, **options):
        written.append((emotion, strength))
        return what_if(model, prompt, emotion, strength, **options)

    monkeypatch.setattr(slider, "what_if", counted)
    options = {"vectors": vectors, "writing": Writing(5), "judge": False}
    widget = emotrace.what_if_slider(llama, PROMPT, "sad", **options)
    (_, strength), page = widget.children[0].children, widget.children[1]
    first, highest = page.value, strength.value
    assert first == what_if(llama, PROMPT, "sad", highest, **options)._repr_html_()
    strength.value = 0.0
    strength.value = highest
    assert page.value == first
    assert written == [("sad", highest), ("sad", 0.0)]
    with emotrace.steered(llama, vectors, "calm", 2.0):
        strength.value = 0.0
        edited = page.value
        assert edited == what_if(llama, PROMPT, "sad", 0.0, **options)._repr_html_()
    strength.value = highest
    strength.value = 0.0
    assert page.value != edited
    assert page.value == what_if(llama, PROMPT, "sad", 0.0, **options)._repr_html_()
    assert written[2:] == [("sad", 0.0)]


def test_moving_the_slider_and_the_menu_shows_another_what_if(llama, vectors):
    pytest.importorskip("ipywidgets")
    widget = emotrace.what_if_slider(llama, PROMPT, "sad", vectors=vectors, writing=Writing(5), judge=False)
    (menu, strength), shown = widget.children[0].children, widget.children[1]
    assert "sad +0.4 ×" in shown.value
    strength.value = 0.0
    assert "sad +0 ×" in shown.value
    menu.value = "calm"
    assert "calm +0 ×" in shown.value
    strength.value = strength.options[0][1]
    assert "calm -0.4 ×" in shown.value
    assert list(menu.options) == list(vectors.emotions)


def test_the_slider_names_what_is_missing(llama, vectors, monkeypatch):
    with pytest.raises(EmotraceError, match="unknown emotion 'smug'"):
        emotrace.what_if_slider(llama, PROMPT, "smug", vectors=vectors)
    with pytest.raises(EmotraceError, match="the slider sets the strength"):
        emotrace.what_if_slider(llama, PROMPT, vectors=vectors, strength=0.2)
    own = emotrace.load_instrument(
        pd.DataFrame(
            {"emotion": ["smug", "shy"] * 3, "topic": list("aabbcc"), "text": [f"A day {n}." for n in range(6)]}
        )
    )
    shown = emotrace.what_if_slider(llama, PROMPT, "smug", instrument=own, writing=Writing(3), judge=False)
    assert shown.children[0].children[0].options == ("smug", "shy")
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    with pytest.raises(EmotraceError, match="the slider needs ipywidgets: pip install ipywidgets"):
        emotrace.what_if_slider(llama, PROMPT, vectors=vectors)


# -- real models ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_on_a_real_model_steering_raises_the_emotion_that_the_model_reads_in_its_own_text(packaged):
    model = packaged("smollm2-135m-instruct")
    vectors = emotrace.extract(model, pooling="mean")
    changes, ranks = [], []
    for name in ("afraid", "angry", "grateful"):
        for prompt in ("I woke up this morning and", "When she opened the letter, she"):
            result = what_if(model, prompt, name, 0.3, vectors=vectors, writing=Writing(30), judge=False)
            table = result.changes.set_index("emotion")
            changes.append(table.loc[name, "change"])
            ranks.append(list(table.index).index(name))
    assert np.mean(changes) > 0.1
    assert np.mean(ranks) < 5  # 9.5 by chance, of 20


@pytest.mark.real
def test_the_first_answer_on_the_embedded_model_comes_in_seconds_and_reads_no_passages(packaged, monkeypatch):
    model = packaged("smollm2-135m-instruct")
    monkeypatch.setattr(text_reading, "read_texts", None)
    model.norms = None
    start = time.process_time()  # of all cores, whatever else they do
    result = what_if(model, "When she opened the letter, she", "afraid")
    seconds = time.process_time() - start
    assert set(result.changes["emotion"]) == set(corpus.emotion_names())
    assert result.side("steered").regime == regimes.SURGICAL
    assert result.steered != result.plain
    assert seconds < 40  # 10 s on two fast cores, 17 to 24 on slow ones
