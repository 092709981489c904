"""Token readings: exact on streams that are known, the same at one layer as at all, and no character cut or lost."""

import io

import numpy as np
import pytest
import tiny_models
from awkward_checkpoints import CHECKPOINTS
from unsafe import control_characters

import emotrace
from emotrace.activations import read_activations, read_tokens
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.tokens import encode
from emotrace.vectors import EmotionVectors
from emotrace.whatif import terminal, token_reading
from emotrace.whatif.shading import level, pleasantness
from emotrace.whatif.spans import Span, offsets, spans
from emotrace.whatif.token_reading import read_emotions

TEXT = "The footsteps stopped outside my door and nobody knocked."
ODD = "  The door 😀 opened…\n\nمرحبا 你好 👨‍👩‍👧 e\u0301 𐍈 café\t end \n"
LAYER = 3


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama", n_layers=6)


@pytest.fixture(scope="module")
def vectors(llama):
    return emotrace.extract(llama, pooling="mean")


def made(model, directions: dict[str, np.ndarray], grand: np.ndarray) -> EmotionVectors:
    """Vectors at one layer, with a grand mean, that claim to be the model's."""
    values = np.stack(list(directions.values()))[:, None].astype(np.float32)
    mean = grand[None].astype(np.float32)
    provenance = {**model.provenance, "model": model.name, "pooling": "mean", "centring": "grand"}
    return EmotionVectors(tuple(directions), (LAYER,), values, mean, mean, mean, provenance)


# -- what is measured -------------------------------------------------------------------------------------------------


def test_a_token_at_the_grand_mean_plus_c_vectors_reads_as_c_and_as_0_on_an_orthogonal_one(llama):
    stream = read_tokens(llama, [TEXT], layers=[LAYER])[0][:, 0].astype(np.float64)
    token, c = 6, 2.5
    rng = np.random.default_rng(0)
    grand = stream.mean(axis=0) + rng.normal(size=stream.shape[1])
    vector = (stream[token] - grand) / c
    other = rng.normal(size=stream.shape[1])
    other -= (other @ vector) / (vector @ vector) * vector
    reading = read_emotions(llama, TEXT, layer=LAYER, vectors=made(llama, {"sad": vector, "calm": other}, grand))
    assert reading.projection[token, 0] == pytest.approx([c, 0], abs=1e-4)
    away = read_emotions(llama, TEXT, layer=LAYER, vectors=made(llama, {"sad": -vector, "calm": other}, grand))
    assert away.projection[token, 0] == pytest.approx([-c, 0], abs=1e-4)


def test_projections_are_those_of_a_naive_loop(llama, vectors):
    reading = read_emotions(llama, TEXT, layer=LAYER, vectors=vectors)
    (stream,) = read_tokens(llama, [TEXT])
    for token in range(2, len(stream), 3):
        for place, emotion in enumerate(vectors.emotions):
            vector = vectors[emotion, LAYER].astype(np.float64)
            unit = vector / np.linalg.norm(vector)
            expected = (stream[token, LAYER] - vectors.grand_mean[LAYER]) @ unit / np.linalg.norm(vector)
            assert reading.projection[token, 0, place] == pytest.approx(expected, abs=1e-5)


def test_scores_are_standardised_over_the_tokens_of_the_neutral_passages(llama, vectors):
    passages = corpus.passages()
    neutral = list(passages[passages["emotion"] == "neutral"]["text"])
    parts = [read_emotions(llama, text, layer=LAYER, vectors=vectors) for text in neutral]
    scores = np.concatenate([part.score[part.tokens["counted"].to_numpy(), 0] for part in parts])
    assert len(scores) == parts[0].n
    assert scores.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert scores.std(axis=0) == pytest.approx(1)
    assert (scores.max(axis=1) > parts[0].ceiling[0]).mean() == pytest.approx(0.05, abs=1.5 / len(scores))


def test_a_score_does_not_depend_on_the_centre(llama, vectors):
    moved = EmotionVectors(
        vectors.emotions,
        vectors.layers,
        vectors.values,
        vectors.neutral_mean,
        vectors.grand_mean + 0.3,
        vectors.emotions_mean,
        vectors.provenance,
    )
    one = read_emotions(llama, TEXT, layer=LAYER, vectors=vectors)
    two = read_emotions(llama, TEXT, layer=LAYER, vectors=moved)
    assert np.nanmax(np.abs(one.projection - two.projection)) > 1e-3
    np.testing.assert_allclose(one.score, two.score, atol=1e-6)


def test_a_massive_activation_is_left_out_of_text_and_scale(llama, vectors, monkeypatch):
    plain = read_emotions(llama, TEXT, layer="all", vectors=vectors)
    calls = []

    def with_sinks(model, texts, *, layers, progress=None):
        streams = read_tokens(model, texts, layers=layers)
        for stream in streams:
            stream[9, 2] *= 1000  # one token of each text, at one layer
        calls.extend(texts)
        return streams

    monkeypatch.setattr(token_reading, "read_tokens", with_sinks)
    monkeypatch.setattr(token_reading, "_remembered", {})
    massive = read_emotions(llama, TEXT, layer="all", vectors=vectors)
    assert len(calls) == 13  # the text and the neutral passages
    assert np.isnan(massive.score[9, 2]).all()
    others = np.ones(massive.score.shape[:2], dtype=bool)
    others[9, 2] = False
    assert (np.isnan(massive.score) == np.isnan(plain.score))[others].all()
    np.testing.assert_allclose(np.delete(massive.score, 2, axis=1), np.delete(plain.score, 2, axis=1))
    # 12 tokens of 1,252 fewer in the scale
    np.testing.assert_allclose(massive.score[others], plain.score[others], atol=0.15)
    assert np.isfinite(massive.ceiling).all()


def test_the_mean_over_tokens_is_the_projection_of_the_pooled_text(llama, vectors):
    reading = read_emotions(llama, TEXT, layer=LAYER, vectors=vectors)
    pooled = read_activations(llama, [TEXT], layers=[LAYER], poolings=("mean",))["mean"][0, 0]
    values = vectors.at(LAYER).astype(np.float64)
    expected = values @ (pooled - vectors.grand_mean[LAYER]) / (values**2).sum(axis=1)
    np.testing.assert_allclose(np.nanmean(reading.projection[:, 0], axis=0), expected, atol=1e-5)


def test_special_tokens_and_the_first_are_left_out(llama, vectors):
    reading = read_emotions(llama, "One <s> two three.", layer=LAYER, vectors=vectors)
    ids = encode(llama, ["One <s> two three."])[0].ids
    assert [place for place, token in enumerate(ids) if token == llama.tokenizer.bos_token_id] == [0]
    assert "".join(reading.tokens["text"]) == "One <s> two three."  # what the text spells is its characters
    left_out = set(np.flatnonzero(~reading.tokens["counted"]))
    assert left_out == {0, 1}
    assert np.isnan(reading.score[sorted(left_out)]).all()
    assert not np.isnan(reading.score[reading.tokens["counted"]]).any()


def test_all_layers_agree_with_single_ones(llama, vectors):
    every = read_emotions(llama, TEXT, "sad", layer="all", vectors=vectors)
    assert every.layers == tuple(range(7))
    for layer in (0, 2, 6):
        one = read_emotions(llama, TEXT, "sad", layer=layer, vectors=vectors)
        for name in ("score", "projection"):
            np.testing.assert_allclose(getattr(every, name)[:, layer], getattr(one, name)[:, 0], rtol=1e-9)
        assert every.ceiling[layer] == pytest.approx(one.ceiling[0])


def test_a_mixture_is_the_weighted_sum_and_of_one_that_emotion(llama, vectors):
    mixture = read_emotions(llama, TEXT, {"sad": 1.0, "calm": -0.5}, layer=LAYER, vectors=vectors)
    assert mixture.emotions[-1] == mixture.shown == "sad×1 + calm×-0.5"
    vector = vectors.mix({"sad": 1.0, "calm": -0.5})[LAYER].astype(np.float64)
    centred = read_tokens(llama, [TEXT], layers=[LAYER])[0][5, 0] - vectors.grand_mean[LAYER]
    assert mixture.projection[5, 0, -1] == pytest.approx(centred @ vector / (vector @ vector), abs=1e-5)
    double = read_emotions(llama, TEXT, {"sad": 2.0}, layer=LAYER, vectors=vectors)
    plain = read_emotions(llama, TEXT, "sad", layer=LAYER, vectors=vectors)
    np.testing.assert_allclose(double.score[..., -1], plain.score[..., 1])


def test_the_strongest_emotion_is_the_planted_one(tmp_path):
    tiny_models.plant(tmp_path, strength=3.0)
    model = emotrace.load(str(tmp_path))
    texts = tiny_models.planted_passages()
    found = emotrace.extract(model, pooling="mean", passages=texts, emotions=list(tiny_models.PLANTED))
    for emotion in ("afraid", "proud"):
        text = f"She talked about trains and {tiny_models.marker(emotion)} went home."
        reading = read_emotions(model, text, layer=2, vectors=found)
        (marked,) = [place for place, piece in enumerate(reading.tokens["text"]) if emotion in piece]
        best = reading.strongest().set_index("token")
        assert best.loc[marked, "emotion"] == emotion
        assert best["score"].idxmax() == marked
        assert best.loc[marked, "score"] > 5
        shown = next(cell for cell in reading.cells() if emotion in cell.text)
        assert (shown.name, shown.style) == (emotion, f"{pleasantness(emotion)}5")


def test_the_default_layer_is_the_calibrated_one_else_half_depth(llama, vectors):
    from emotrace.judges.calibration import Calibration

    assert read_emotions(llama, TEXT, vectors=vectors).layers == (3,)
    calibrated = Calibration([5], (-0.1, 0.1), 0.9, 40, "generated", 0.7).onto(vectors)
    assert read_emotions(llama, TEXT, vectors=calibrated).layers == (5,)


# -- data and mistakes ------------------------------------------------------------------------------------------------


def test_the_frame_is_tidy_and_holds_every_number(llama, vectors):
    reading = read_emotions(llama, TEXT, layer="all", vectors=vectors)
    table = reading.to_frame()
    assert len(table) == reading.score.size
    assert not table.duplicated(["token", "layer", "emotion"]).any()
    row = table.query("token == 4 and layer == 2 and emotion == 'angry'").iloc[0]
    assert row["score"] == reading.score[4, 2, vectors.emotions.index("angry")]
    assert row["projection"] == reading.projection[4, 2, vectors.emotions.index("angry")]
    assert row["depth"] == pytest.approx(2 / 6)
    assert row["text"] == TEXT[row["start"] : row["end"]]
    naive = table.dropna().groupby(["token", "layer"])["score"].max()
    np.testing.assert_array_equal(reading.strongest()["score"], naive)


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("", {}, "is empty"),
        ("a", {}, "one token cannot be read token by token"),
        (TEXT, {"emotion": "smug"}, "unknown emotion 'smug': known are happy, sad"),
        (TEXT, {"emotion": {"happy": 1, "smug": 2}}, "unknown emotion 'smug'"),
        (TEXT, {"layer": 7}, "layer 7 is out of range"),
        (TEXT, {"layer": "middle"}, "a layer is a number or all, not 'middle'"),
        (TEXT, {"emotion": {"happy": 0.0}}, "no direction"),
    ],
)
def test_mistakes_are_named(llama, vectors, text, settings, words):
    with pytest.raises(EmotraceError, match=words):
        read_emotions(llama, text, vectors=vectors, **settings)


def test_vectors_of_another_model_are_refused(tiny, vectors):
    with pytest.raises(EmotraceError, match="these vectors belong to"):
        read_emotions(tiny("llama", seed=3, n_layers=6), TEXT, vectors=vectors)


def test_vectors_without_direction_are_refused_at_their_layer_and_blank_on_the_map(llama):
    last = emotrace.extract(llama, pooling="last")  # every passage ends in the same full stop
    with pytest.raises(EmotraceError, match="at layer 0 the vectors have no direction"):
        read_emotions(llama, TEXT, layer=0, vectors=last)
    every = read_emotions(llama, TEXT, layer="all", vectors=last)
    assert np.isnan(every.score[:, 0]).all()
    assert not np.isnan(every.score[2:, 1:]).any()
    assert "<table" in every._repr_html_()
    assert str(every)


# -- spans ------------------------------------------------------------------------------------------------------------


def test_spans_join_to_the_text_and_cut_no_character(tiny_model):
    item = encode(tiny_model, [ODD])[0]
    found = spans(ODD, offsets(tiny_model, ODD, item))
    assert "".join(span.text for span in found) == ODD
    for whole in ("😀", "👨‍👩‍👧", "e\u0301", "𐍈"):
        assert sum(whole in span.text for span in found) == 1
    tokens = [token for span in found for token in span.tokens]
    assert tokens == sorted(set(tokens))
    assert len(item.ids) - len(tokens) == item.start  # all but what the tokenizer put before


@pytest.mark.parametrize("name", ["appended eos", "appended eos without bos"])
def test_each_token_stands_in_its_place_whatever_the_tokenizer_adds(name, tmp_path):
    model = emotrace.load(str(CHECKPOINTS[name].build(tmp_path)))
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    words = model.tokenizer.batch_decode([[token] for token in ids])
    reading = read_emotions(model, TEXT, layer=LAYER, vectors=emotrace.extract(model, emotions=["happy", "sad"]))
    assert list(reading.tokens["text"])[-len(ids) :] == words
    assert [span.text for span in reading.spans] == words
    beginning, end = model.tokenizer.bos_token or "", model.tokenizer.eos_token
    whole = f"{beginning}{TEXT}{end}"  # a prompt with both spelt out, which the tokenizer adds once more
    item = encode(model, [whole], prompts=True)[0]
    places = [whole[start:stop] for start, stop in offsets(model, whole, item, special=True)]
    assert places == [*filter(None, [beginning]), *words, end]


@pytest.mark.parametrize(
    ("text", "ranges", "expected"),
    [
        ("ab cd", [(0, 2), (2, 5)], [("ab", (0,)), (" cd", (1,))]),
        ("ab cd", [(0, 0), (0, 2), (3, 5)], [("ab", (1,)), (" cd", (2,))]),  # a special token; a dropped space
        ("x😀y", [(0, 1), (1, 2), (1, 2), (2, 3)], [("x", (0,)), ("😀", (1, 2)), ("y", (3,))]),
        ("x😀", [(0, 2), (1, 2)], [("x😀", (0, 1))]),
        ("e\u0301f", [(0, 1), (1, 2), (2, 3)], [("e\u0301", (0, 1)), ("f", (2,))]),
        ("ab  ", [(0, 2)], [("ab", (0,)), ("  ", ())]),
    ],
)
def test_spans_by_hand(text, ranges, expected):
    assert spans(text, ranges) == [Span(*one) for one in expected]


def test_a_character_of_several_tokens_is_shown_by_their_mean(llama, vectors):
    reading = read_emotions(llama, "The door 😀 opened.", layer=LAYER, vectors=vectors)
    (place,) = [place for place, span in enumerate(reading.spans) if "😀" in span.text]
    tokens = list(reading.spans[place].tokens)
    assert len(tokens) > 2
    np.testing.assert_allclose(reading.of_spans()[place], reading.score[tokens].mean(axis=0))


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_colours_get_stronger_with_the_score_and_none_is_left_white(llama, vectors):
    assert [level(score) for score in (0, 0.49, 0.5, -1.2, 1.99, 2.0, -9, np.nan)] == [0, 0, 1, 2, 3, 4, 5, 0]
    reading = read_emotions(llama, TEXT, "sad", layer=LAYER, vectors=vectors)
    scores = reading.of_spans()[:, 0, vectors.emotions.index("sad")]
    for cell, score in zip(reading.cells(), scores, strict=True):
        expected = "" if np.isnan(score) or abs(score) < 0.5 else f"{'up' if score > 0 else 'down'}{level(score)}"
        assert cell.style == expected
        assert np.isnan(score) or f"sad {score:+.2f}" in cell.title


def test_the_strongest_is_coloured_from_the_ceiling_on(llama, vectors):
    reading = read_emotions(llama, TEXT * 6, layer=LAYER, vectors=vectors)
    best = reading.of_spans()[:, 0].max(axis=1)
    styled = [bool(cell.style) for cell in reading.cells()]
    assert styled == [bool(score > reading.ceiling[0]) for score in best]
    assert 0 < sum(styled) < len(styled)
    for cell, score in zip(reading.cells(), best, strict=True):
        if cell.style:
            steps = 1 + sum(score - reading.ceiling[0] >= step for step in (0.5, 1, 1.5, 2.5))
            assert cell.style == f"{pleasantness(cell.name)}{steps}"


def test_valence_parts_the_emotions():
    assert {pleasantness(name) for name in ("happy", "calm", "loving")} == {"up"}
    assert {pleasantness(name) for name in ("sad", "angry", "nervous")} == {"down"}
    assert pleasantness("exasperated") == pleasantness("a mixture") == "other"


def test_markup_and_control_characters_show_as_text(llama, vectors):
    text = "A <script>alert(1)</script> & \x1b[31mred\u202e door."
    for layer in (LAYER, "all"):
        reading = read_emotions(llama, text, layer=layer, vectors=vectors)
        for shown in (reading._repr_html_(), str(reading)):
            assert not control_characters(shown)
        assert "<script" not in reading._repr_html_()
    assert "&lt;" in reading._repr_html_()


def test_text_is_coloured_on_a_terminal_only(llama, vectors, monkeypatch):
    reading = read_emotions(llama, TEXT, "sad", layer=LAYER, vectors=vectors)
    plain = str(reading)
    assert "\x1b" not in plain
    assert TEXT in plain
    assert max(map(len, plain.splitlines())) <= 80
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in str(reading)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2" not in str(reading)


def test_a_map_has_one_character_a_layer(llama, vectors):
    text = str(read_emotions(llama, TEXT, "sad", layer="all", vectors=vectors))
    rows = [line for line in text.splitlines() if line.startswith("  ") and len(line) == 2 + 16 + 1 + 7]
    assert len(rows) > 5
    assert terminal._sign(0.4) == "·"
    assert terminal._sign(3.0) == "█"


@pytest.mark.real
def test_on_a_real_model_fear_is_read_after_the_words_that_bring_it(packaged):
    model = packaged("smollm2-135m-instruct")
    frightening = read_emotions(
        model, "I lay in bed. The footsteps stopped outside my door and the handle turned.", "afraid"
    )
    plain = read_emotions(model, "I lay in bed. The milk stood in the fridge and the radio played on.", "afraid")
    place = frightening.emotions.index("afraid")

    def mean(reading):
        return np.nanmean(reading.score[:, 0, place])

    assert mean(frightening) > mean(plain)
