"""The calibrated window of a model whose window is known, and what is stored of it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from joy_model import JOY, joy_vectors, plant_joy

import emotrace
from emotrace import activations, steered_texts
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges import calibration, regimes
from emotrace.judges.calibration import HIGHEST, LOWEST, PRECISION, WRITING, Calibration, bracket
from emotrace.measures import statistics
from emotrace.tokens import Writing
from emotrace.vectors import EmotionVectors

LAYER = 2
GREEDY = replace(WRITING, temperature=0.0)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The model, what is known of it, and its vector of joy alone."""
    folder = tmp_path_factory.mktemp("joy")
    joy = plant_joy(folder)
    model = emotrace.load(str(folder))
    return model, joy, joy_vectors(model, joy, ["happy"])


@pytest.fixture(scope="module")
def sampled(planted):
    model, _, vectors = planted
    return calibration.calibrate(model, vectors, layers=[LAYER], texts=20, writing=replace(WRITING, seeds=(4000,)))


# -- the search -------------------------------------------------------------------------------------------------------


def sought(edge: float, first: float = 0.3) -> tuple[float | None, list[float]]:
    """What the search finds where every strength up to ``edge`` holds, and what it tried."""
    search, tried = bracket(first, LOWEST, HIGHEST, PRECISION), []
    strength = next(search)
    while True:
        tried.append(strength)
        try:
            strength = search.send(strength <= edge)
        except StopIteration as end:
            return end.value, tried


@pytest.mark.parametrize("first", [0.3, 0.03])
@pytest.mark.parametrize("edge", [0.005, 0.0071, 0.02, 0.149, 0.15, 0.3, 0.31, 0.6, 0.77, 2.9, 4.99])
def test_an_edge_is_found_from_below_within_the_precision(edge, first):
    found, tried = sought(edge, first)
    assert edge / PRECISION <= found <= edge
    assert found in tried
    assert tried[0] == first
    assert len(tried) <= 14
    assert len(set(tried)) == len(tried)
    assert min(tried) >= LOWEST
    assert max(tried) <= HIGHEST


def test_an_edge_below_the_range_is_none_and_one_above_it_is_the_limit():
    found, tried = sought(LOWEST * 0.99)
    assert found is None
    assert tried[-1] == LOWEST
    found, tried = sought(HIGHEST)
    assert found == HIGHEST
    assert sought(100.0) == (HIGHEST, tried)
    assert len(tried) <= 8


def test_the_two_sides_are_sought_independently_and_in_shared_rounds():
    rounds = []

    def attempt(strengths: list[float]) -> list[bool]:
        rounds.append(strengths)
        return [-0.02 <= strength <= 1.7 for strength in strengths]

    low, high = calibration._both_sides(0.3, attempt)
    assert -0.02 <= low <= -0.02 / PRECISION
    assert 1.7 / PRECISION <= high <= 1.7
    assert rounds[0] == [-0.3, 0.3]
    for sign, edge in ((-1, 0.02), (1, 1.7)):  # each side as if alone, and no longer than it takes
        own = [abs(strength) for strengths in rounds for strength in strengths if strength * sign > 0]
        assert own == sought(edge)[1]
    assert len(rounds) == max(len(sought(0.02)[1]), len(sought(1.7)[1]))
    assert calibration._both_sides(0.3, lambda strengths: [strength > 0 for strength in strengths]) == (None, HIGHEST)


# -- the window of a model --------------------------------------------------------------------------------------------


def test_the_window_of_greedy_texts_is_the_one_in_closed_form(planted):
    """Against joy the chain of words goes on at any strength; towards joy the text is one word from ``flip`` on."""
    model, joy, vectors = planted
    found, tried = calibration.calibrate(model, vectors, layers=[3], texts=8, writing=GREEDY)
    assert found.window[0] == -HIGHEST
    assert joy.flip / PRECISION * 0.99 <= found.window[1] <= joy.flip * 1.01
    assert (found.layers, found.n, found.target, found.temperature) == ([3], 8, 0.9, 0.0)
    expected = (tried["strength"] <= joy.flip).astype(float)
    np.testing.assert_array_equal(tried["value"], expected)
    assert tried["strength"].is_monotonic_increasing
    assert {-HIGHEST, 0.0} < set(tried["strength"])


def test_emotions_and_prompts_are_crossed():
    """Of 80 texts every pair of 20 emotions and four prompts has one; of 40 every emotion has two prompts, and every
    prompt as many texts of either seed."""
    whole = calibration.design(80, 20, 4, 2)
    assert len({(emotion, prompt) for emotion, prompt, _ in whole}) == 80
    half = calibration.design(40, 20, 4, 2)
    for texts, cases in ((80, whole), (40, half)):
        counts = Counter((prompt, sample) for _, prompt, sample in cases)
        assert set(counts.values()) == {texts // 8}
        assert set(Counter(emotion for emotion, _, _ in cases).values()) == {texts // 20}
    prompts_of = {emotion: {prompt for one, prompt, _ in half if one == emotion} for emotion in range(20)}
    assert all(len(prompts) == 2 for prompts in prompts_of.values())


def test_few_texts_are_spread_over_all_emotions():
    """Not the first ones alone; and emotions of even and of odd number share no prompt of their own."""
    assert {emotion for emotion, _, _ in calibration.design(20, 20, 4, 2)} == set(range(20))
    few = calibration.design(10, 20, 4, 2)
    assert [emotion for emotion, _, _ in few] == list(range(0, 20, 2))
    assert len({prompt for _, prompt, _ in few}) == 4
    cases = calibration.design(40, 20, 4, 1)
    for parity in (0, 1):
        assert len({prompt for emotion, prompt, _ in cases if emotion % 2 == parity}) == 4


def test_all_emotions_take_part(planted):
    """Of 20 texts five are of each of four emotions, and those of the one that reads joy collapse."""
    model, joy, _ = planted
    vectors = joy_vectors(model, joy, ["happy", "sad", "proud", "angry"])
    found, tried = calibration.calibrate(model, vectors, layers=[LAYER], texts=20, writing=GREEDY)
    beyond = tried[tried["strength"] > joy.flip]
    assert len(beyond)
    assert set(beyond["value"]) == {15 / 20}
    assert found.window[1] < joy.flip
    lax, _ = calibration.calibrate(model, vectors, layers=[LAYER], texts=20, writing=GREEDY, target=0.7)
    assert lax.window[1] == HIGHEST


def test_the_window_of_sampled_texts_ends_where_they_collapse(planted, sampled):
    """By other texts than the search's: at its ends they are coherent, a little beyond they are not."""
    model, joy, vectors = planted
    found, tried = sampled
    prompt = corpus.prompts("calibration")[0]
    plain = steered_texts.steer(
        model, prompt, vectors, 0.0, layers=[LAYER], writing=replace(WRITING, seeds=tuple(range(100, 104)))
    )
    low, high = found.window
    beyond = [low * PRECISION**2, high * PRECISION**2]
    writing = replace(WRITING, seeds=tuple(range(60)))
    texts = steered_texts.steer(model, prompt, vectors, [low, high, *beyond], layers=[LAYER], writing=writing)
    table = regimes.measure(model, texts, regimes.references(model, plain))
    share = (table["regime"] == regimes.SURGICAL).groupby(table["strength"]).mean()
    assert 0.5 * joy.flip < high < joy.flip
    assert share[high] >= 0.9
    assert share[low] >= 0.8  # the search sampled with one seed, these are sixty
    assert share[beyond[0]] < 0.9
    assert share[beyond[1]] < 0.9
    values = dict(zip(tried["strength"], tried["value"], strict=True))
    assert values[high] >= 0.9
    assert values[0.0] >= 0.9
    assert all(value < 0.9 for strength, value in values.items() if strength > high or strength < low)


def test_each_strength_tried_has_its_share_with_wilsons_interval(sampled):
    _, tried = sampled
    for row in tried.itertuples():
        assert row.n == (16 if row.strength == 0 else 20)
        assert (row.value, row.low, row.high) == pytest.approx(statistics.wilson(round(row.value * row.n), row.n))


def test_calibration_and_dose_have_prompts_of_their_own():
    calibrating, dosing = corpus.prompts("calibration"), corpus.prompts("dose")
    assert (len(set(calibrating)), len(set(dosing))) == (4, 10)
    assert not set(calibrating) & set(dosing)
    assert not (set(calibrating) | set(dosing)) & set(corpus.scenarios()["prompt"])


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_calibrated_vectors_are_steered_at_their_own_layer_and_strength(planted, sampled, tmp_path):
    model, _, vectors = planted
    found, _ = sampled
    found.onto(vectors).save(tmp_path / "joy.safetensors")
    for calibrated in (found.onto(vectors), EmotionVectors.load(tmp_path / "joy.safetensors")):
        writing = Writing(temperature=0.7, seeds=(0, 1, 2))
        by_default = steered_texts.steer(model, "The shop was", calibrated, writing=writing)
        asked = steered_texts.steer(model, "The shop was", vectors, found.window[1], layers=[LAYER], writing=writing)
        assert by_default.equals(asked)
        assert set(by_default["strength"]) == {found.strength} == {found.window[1]}
        assert steered_texts.steered_layers(model, calibrated, None) == [LAYER]
    np.testing.assert_array_equal(found.onto(vectors).values, vectors.values)
    assert found.onto(vectors).check(model)


def test_what_a_writing_leaves_open_is_as_the_vectors_were_calibrated(planted):
    model, _, vectors = planted
    stored = {at: Calibration([LAYER], (-0.1, 0.1), 0.9, 40, "all", at).onto(vectors) for at in (0.0, 1.5)}

    def texts(own: EmotionVectors, *how: object) -> list[str]:
        asked = Writing(8, *how, seeds=(0, 1, 2))
        return list(steered_texts.steer(model, "The shop was", own, 0.05, layers=[LAYER], writing=asked)["text"])

    assert texts(stored[0.0]) == texts(vectors, 0.0, "all") == texts(stored[1.5], 0.0)
    assert texts(stored[1.5]) == texts(vectors, 1.5, "all") != texts(stored[0.0])
    found, _ = calibration.calibrate(model, stored[1.5], layers=[LAYER], texts=4, writing=Writing(4, seeds=(0,)))
    assert (found.temperature, found.positions) == (1.5, "all")
    rows = [steered_texts.Row("The shop was", own, "happy", 0.05) for own in stored.values()]
    with pytest.raises(EmotraceError, match=r"different positions or temperatures: say which, Writing\(positions=…"):
        steered_texts.write(model, rows, [LAYER], Writing(2))


def test_other_layers_than_half_depth_are_kept_too(planted):
    """What is stored is used, not a default that happens to be it: at each layer the text is another."""
    model, joy, vectors = planted
    values = vectors.values.copy()
    values[:, 3] = joy.directions["sad"]  # joy is anywhere but at layer 3
    mixed = EmotionVectors(
        vectors.emotions,
        vectors.layers,
        values,
        vectors.neutral_mean,
        vectors.grand_mean,
        vectors.emotions_mean,
        vectors.provenance,
    )
    for layers, glad in (([3], False), ([1, 4], True)):
        stored = Calibration(layers, (-0.6, 0.6), 0.9, 40, "generated", 0.0).onto(mixed)
        text = steered_texts.steer(model, "The shop was", stored, writing=Writing(8))["text"][0]
        assert ("joy" in text.split()) == glad
        assert steered_texts.steered_layers(model, stored, None) == layers
    assert steered_texts.steered_layers(model, mixed, None) == [2]


def test_the_text_at_the_calibrated_strength_is_glad_and_the_unsteered_is_not(planted, sampled):
    model, _, vectors = planted
    found, _ = sampled
    writing = replace(WRITING, seeds=tuple(range(6)))
    prompts = corpus.prompts("dose")
    steered = steered_texts.steer(model, prompts, found.onto(vectors), writing=writing)
    plain = steered_texts.steer(model, prompts, found.onto(vectors), 0.0, writing=writing)
    against = steered_texts.steer(model, prompts, found.onto(vectors), found.window[0], writing=writing)

    def glad(table) -> np.ndarray:
        return np.array([len(set(text.split()) & set(JOY)) > 0 for text in table["text"]])

    assert glad(steered).mean() > 0.6
    assert not glad(plain).any()
    assert not glad(against).any()


def test_vectors_without_a_calibration_need_a_strength(planted):
    model, _, vectors = planted
    nowhere = Calibration([LAYER], (None, None), 0.9, 40, "generated", 0.7)
    assert nowhere.strength is None
    for each in (vectors, nowhere.onto(vectors)):
        with pytest.raises(EmotraceError, match=r"^these vectors are not calibrated: give a strength, [^\n]*$"):
            steered_texts.steer(model, "The shop was", each)
    assert len(steered_texts.steer(model, "The shop was", nowhere.onto(vectors), 0.1, writing=Writing(2))) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": 0.0}, "a target is a share between 0 and 1, not 0.0"),
        ({"target": 1.0}, "a target is a share between 0 and 1"),
        ({"layers": [9]}, "layer 9 is out of range"),
        ({"layers": [0]}, "layer 0 is the embedding"),
    ],
)
def test_bad_input_is_one_clear_line(planted, change, words):
    model, _, vectors = planted
    with pytest.raises(EmotraceError) as raised:
        calibration.calibrate(model, vectors, **({"layers": [LAYER], "texts": 4} | change))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_texts_are_written_as_asked(planted):
    """Positions reach the edit and the calibration; unknown ones are refused before anything is written."""
    model, _, vectors = planted
    tables = [
        calibration.calibrate(model, vectors, layers=[LAYER], texts=4, writing=replace(GREEDY, positions=positions))
        for positions in ("all", "generated")
    ]
    assert [result.positions for result, _ in tables] == ["all", "generated"]
    with pytest.raises(EmotraceError, match="unknown positions 'prompt'"):
        calibration.calibrate(model, vectors, layers=[LAYER], writing=replace(GREEDY, positions="prompt"))


def test_vectors_of_another_model_are_refused(planted, tiny):
    _, _, vectors = planted
    with pytest.raises(EmotraceError, match="these vectors belong to"):
        calibration.calibrate(tiny("llama"), vectors)


def test_the_planted_model_is_what_it_says(planted):
    """Its layers hardly move the stream, and all its tokens have one norm."""
    model, joy, _ = planted
    norms = activations.residual_norms(model)
    np.testing.assert_allclose(norms, norms[0], rtol=2e-3)
    unit = np.stack(list(joy.directions.values()))
    np.testing.assert_allclose(unit @ unit.T, np.eye(len(unit)), atol=1e-5)
