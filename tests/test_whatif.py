"""A what-if shows the same two texts at strength 0, the right change otherwise, and never runs what it prints."""

import numpy as np
import pytest

import emotrace
from emotrace import activations, steering
from emotrace.errors import EmotraceError
from emotrace.whatif import what_if


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama", n_layers=6)


@pytest.fixture(scope="module")
def vectors(llama):
    return emotrace.extract(llama, pooling="mean")


def test_strength_zero_shows_two_equal_texts_and_no_change(llama, vectors):
    result = what_if(llama, "The door opened and", "happy", 0.0, vectors=vectors, max_new_tokens=8)
    assert result.plain == result.steered
    assert (result.changes["change"] == 0).all()
    assert result.gaps == 0


def test_the_texts_and_the_changes_are_those_of_steering_and_reading(llama, vectors):
    result = what_if(llama, "The door opened and", "sad", 0.8, vectors=vectors, layer=4, max_new_tokens=8)
    table = steering.steer(
        llama, "The door opened and", vectors, [0.0, 0.8], emotions=["sad"], layers=[4], max_new_tokens=8
    )
    assert [result.plain, result.steered] == list(table["text"])
    assert result.plain != result.steered
    activation = activations.read_activations(llama, ["The door opened and" + result.steered], layers=[4])["mean"][0, 0]
    centred = activation - vectors.grand_mean[4]
    vector = vectors["sad", 4]
    expected = centred @ vector / np.linalg.norm(centred) / np.linalg.norm(vector)
    row = result.to_frame().set_index("emotion").loc["sad"]
    assert row["steered"] == pytest.approx(expected, abs=1e-5)
    assert row["change"] == pytest.approx(row["steered"] - row["plain"], abs=1e-6)
    assert result.gaps == pytest.approx(0.8 * activations.residual_norms(llama)[4] / np.linalg.norm(vector), rel=1e-4)


def test_a_mixture_of_one_is_that_emotion(llama, vectors):
    one = what_if(llama, "The door opened and", "sad", 0.8, vectors=vectors, max_new_tokens=6)
    mixture = what_if(llama, "The door opened and", {"sad": 2.0}, 0.8, vectors=vectors, max_new_tokens=6)
    assert one.steered == mixture.steered
    assert mixture.emotion == "sad×2"


def test_markup_in_a_prompt_shows_as_text(llama, vectors):
    html = what_if(llama, "<script>alert(1)</script> & so", "sad", 0.1, vectors=vectors, max_new_tokens=4)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so" in html


def test_an_unknown_emotion_lists_the_known(llama, vectors):
    with pytest.raises(EmotraceError, match="unknown emotion 'smug': known are happy, sad"):
        what_if(llama, "The door", "smug", vectors=vectors)


@pytest.mark.real
def test_on_a_real_model_steering_raises_the_emotion_that_the_model_reads_in_its_own_text(packaged):
    model = packaged("smollm2-135m-instruct")
    vectors = emotrace.extract(model, pooling="mean")
    changes, ranks = [], []
    for name in ("afraid", "angry", "grateful"):
        for prompt in ("I woke up this morning and", "When she opened the letter, she"):
            result = what_if(model, prompt, name, 0.3, vectors=vectors, max_new_tokens=30)
            table = result.changes.set_index("emotion")
            changes.append(table.loc[name, "change"])
            ranks.append(list(table.index).index(name))
    assert np.mean(changes) > 0.1
    assert np.mean(ranks) < 5  # 9.5 by chance, of 20
