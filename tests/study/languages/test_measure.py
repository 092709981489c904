"""Planted words are found and shuffled ones are not; every count against a closed form or a naive loop."""

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch

import emotrace
from emotrace import activations, steering
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.study.separation import claims
from emotrace.study.folder import RunFolder, select
from emotrace.study.languages import figures as plots_crosslingual
from emotrace.study.languages import lexicon, readout, writing_systems
from emotrace.study.languages import measure as crosslingual
from emotrace.study.languages.measure import Sizes
from emotrace.study.languages.rows import Rows, own_minus_others
from emotrace.study.languages.writing_systems import HAN
from emotrace.vectors import EmotionVectors

PROMPTS = ["The door opened and", "After supper they all went down to the river, where the boats were", "On Monday"]
SMALL = Sizes(random=8, new_tokens=5, written_prompts=2, bootstrap=60, permutations=99)
NAMES = corpus.emotion_names()


@pytest.fixture(autouse=True)
def _few_tokens_are_enough(monkeypatch):
    monkeypatch.setattr(writing_systems, "MIN_HAN_TOKENS", 100)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A llama that knows every Chinese word as one token, whose unembedding is its emotion's direction; the vectors."""
    table = lexicon.lexicon()
    used = set("".join(table["word"]) + "找了摸索")
    filler = [chr(code) for code in range(0x4E00, 0x9FFF, 97) if chr(code) not in used]
    words = tiny_models.tokenizer("llama", (*table["word"], "找了", "摸索", *filler))
    model = tiny_models._random("llama", words, seed=0, n_layers=4, d_model=64)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0][: len(NAMES)].astype(np.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.01
            layer.mlp.down_proj.weight *= 0.01
        for row in table.itertuples():
            direction = torch.from_numpy(basis[NAMES.index(row.emotion)])
            model.lm_head.weight[words.convert_tokens_to_ids(row.word)] = direction
    folder = tmp_path_factory.mktemp("planted")
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    loaded = emotrace.load(str(folder))
    return loaded, vectors_of(loaded, basis)


def vectors_of(model, directions: np.ndarray) -> EmotionVectors:
    """Vectors that are ``directions [emotion, d_model]`` at every layer."""
    values = np.repeat(directions[:, None], model.n_layers + 1, axis=1)
    zero = np.zeros_like(values[0])
    made = {**model.provenance, "model": model.name, "method": "planted", "pooling": "mean", "centring": "grand"}
    return EmotionVectors(tuple(NAMES), tuple(range(model.n_layers + 1)), values, zero, zero, zero, made)


# -- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("找了", "Han"), (" 高", "Han"), ("𠮷", "Han"), ("々", "Han"), ("hello", "Latin"), (" é", "Latin"), ("Ａ", "Latin"),
        ("привет", "Cyrillic"), ("です", "Hiragana"), ("カ", "Katakana"), ("한", "Hangul"), ("ไทย", "Thai"),
        ("123", "common"), ("，。", "common"), ("", "common"), ("😀", "common"), ("\ufffd", "part"), ("a\ufffd", "part"),
        ("AI技术平台", "Han"), ("email信", "Latin"),
    ],
)  # fmt: skip
def test_script_of_a_token(text, name):
    assert writing_systems.script(text) == name


def test_common_characters_count_for_no_script():
    assert writing_systems.script_counts("He said 绝望, 3 次!") == {"Latin": 6, "Han": 3}


def test_every_token_has_one_script_and_at_most_one_group(planted):
    model, _ = planted
    vocab = writing_systems.vocabulary(model)
    assert len(vocab.texts) == len(vocab.scripts) == model.nn._module.lm_head.weight.shape[0]
    for token in model.tokenizer.all_special_ids:
        assert vocab.scripts[token] == "special"
    groups = vocab.groups()
    by_hand = {"Han": 0, "part": 2}
    for name, row in zip(vocab.scripts, groups, strict=True):
        expected = by_hand.get(name, None if name in ("Latin", "common", "special") else 1)
        assert row.sum() == (expected is not None)
        assert expected is None or row[expected] == 1
    # A byte-level tokenizer has pieces of characters, and the planted words are whole.
    assert groups.sum(axis=0)[0] >= len(lexicon.lexicon())
    assert 100 < groups.sum(axis=0)[2] < 200


def test_rows_of_the_unembedding_that_no_token_uses_belong_to_no_script(tiny):
    model = tiny("qwen")
    size = model.nn._module.config.vocab_size
    try:
        model.nn._module.config.vocab_size = size + 7
        assert list(writing_systems.vocabulary(model).scripts[-7:]) == ["special"] * 7
    finally:
        model.nn._module.config.vocab_size = size


# -- the lexicon ------------------------------------------------------------------------------------------------------


def test_the_lexicon_holds_what_it_promises():
    table = lexicon.lexicon()
    assert lexicon.check_lexicon(table) == []
    assert not set(table["word"]) & {word for words in lexicon.ANECDOTES.values() for word in words}
    assert len(set(table["word"].str.len())) >= 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t[t["emotion"] != "sad"], "sad: 0 words"),
        (lambda t: pd.concat([t, t[t["word"] == "绝望"].assign(emotion="gloomy")]), "绝望 stands there 2 times"),
        (lambda t: t.assign(word=t["word"].replace("高兴", "高兴!")), "高兴!: not Han"),
        (lambda t: t.assign(word=t["word"].replace("高兴", "glad")), "glad: not Han"),
        (lambda t: t.assign(word=t["word"].replace("不耐烦", "不安分")), "不安 (anxious) stands inside 不安分"),
        (lambda t: t.assign(emotion=t["emotion"].replace("calm", "relaxed")), "unknown emotion relaxed"),
        (lambda t: t.assign(gloss=t["gloss"].where(t["word"] != "高兴", "")), "高兴: no pinyin or gloss"),
    ],
)
def test_each_fault_of_a_lexicon_is_named(change, complaint):
    assert any(line.startswith(complaint) for line in lexicon.check_lexicon(change(lexicon.lexicon())))


def test_tokenisation_is_reported_word_by_word(planted):
    model, _ = planted
    words = pd.DataFrame(
        [("sad", "绝望"), ("sad", "绝望了"), ("calm", "绝望吗"), ("calm", "平静"), ("calm", "水")],
        columns=["emotion", "word"],
    )
    table = lexicon.tokenised(model, words, writing_systems.vocabulary(model)).set_index("word")
    assert list(table["whole"]) == [True, False, False, True, False]
    assert list(table["shared"]) == [True, True, True, False, False]
    assert list(table["usable"]) == [False, False, False, True, False]  # the last begins with a piece of a character
    assert list(table["token"][:4]) == ["绝望", "绝望", "绝望", "平静"]
    assert table.loc["绝望了", "n_tokens"] == len(model.tokenizer("绝望了", add_special_tokens=False)["input_ids"])


# -- read-outs --------------------------------------------------------------------------------------------------------


def test_the_direct_readout_is_the_logit_difference_of_the_models_own_head(planted):
    model, vectors = planted
    found = readout.direct_readout(model, vectors, 2, PROMPTS, strength=0.3)
    body, unit = model.nn._module, vectors.values[:, 2] / np.linalg.norm(vectors.values[:, 2], axis=1, keepdims=True)
    edits = torch.from_numpy(0.3 * activations.residual_norms(model)[2] * unit).float()
    expected = 0
    for prompt in PROMPTS:
        ids = torch.tensor([activations.encode(model, [prompt])[0].ids])
        with torch.no_grad():
            # The last of transformers' hidden states is after the norm: ours is before it.
            state = activations.read_tokens(model, prompt, layers=[model.n_layers])[-1, 0]
            steered = body.lm_head(body.model.norm(torch.from_numpy(state) + edits))
            expected = expected + (steered - body(ids).logits[0, -1]).numpy() / len(PROMPTS)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_planted_words_are_the_top_tokens_and_no_others(planted):
    model, vectors = planted
    table = crosslingual.readout_table(model, vectors, 2, prompts=PROMPTS, sizes=SMALL, top=14)
    emotions = lexicon.lexicon().set_index("word")["emotion"]
    for among in ("all", HAN):
        rows = table[(table["among"] == among) & table["emotion"].isin(NAMES)]
        assert (rows["token"].map(emotions) == rows["emotion"]).all()
        assert list(select(rows, emotion="sad")["rank"]) == list(range(1, 15))
    assert (table[table["among"] == HAN]["script"] == HAN).all()
    assert set(table["emotion"]) - set(NAMES) == {f"random-{i}" for i in range(1, 9)}
    assert (table.groupby(["emotion", "among"])["logit_change"].diff().dropna() <= 0).all()


def test_the_steered_readout_is_the_change_under_a_hook(planted):
    model, vectors = planted
    groups = writing_systems.vocabulary(model).groups()
    both = readout.with_controls(vectors, SMALL)
    change, masses = readout.steered_readout(model, both, 2, PROMPTS, 0.4, "all", groups)
    assert change.shape == (28, len(groups))
    assert masses.shape == (29, 3, 3)
    edit = steering.directions(vectors, [("angry", 0.4)], [2], activations.residual_norms(model))[2]
    expected = []
    for place, prompt in enumerate(PROMPTS):
        ids = torch.tensor([activations.encode(model, [prompt])[0].ids])
        with torch.no_grad():
            plain = model.nn._module(ids).logits[0, -1].log_softmax(-1)
            handle = model.nn._module.model.layers[1].register_forward_hook(
                lambda module, inputs, output: output + edit
            )
            steered = model.nn._module(ids).logits[0, -1].log_softmax(-1)
            handle.remove()
        np.testing.assert_allclose(masses[NAMES.index("angry"), place], steered.exp().numpy() @ groups, rtol=1e-4)
        np.testing.assert_allclose(masses[-1, place], plain.exp().numpy() @ groups, rtol=1e-4)
        expected.append((steered - plain).numpy())
    np.testing.assert_allclose(change[NAMES.index("angry")], np.mean(expected, axis=0), atol=1e-4)


def test_a_rank_counts_the_tokens_above():
    change = np.array([[3.0, 1.0, 2.0, 5.0], [0.0, 9.0, 1.0, 2.0]])
    assert list(readout.ranks(change, 2)) == [3, 3]
    assert list(readout.ranks(change, 2, np.array([1, 2]))) == [1, 2]


def test_own_minus_others_is_the_naive_loop_and_blind_to_how_high_a_lexicon_is_at_large():
    rng = np.random.default_rng(3)
    owner = np.array([0, 0, 1, 2, 2, 2])
    z, weights = rng.normal(size=(5, 6)), np.array([2, 0, 1, 1, 1, 1])  # three emotions and two random directions
    for each in (None, weights):
        count = np.ones(6) if each is None else each
        score = np.array([[np.average(row[owner == e], weights=count[owner == e]) for e in range(3)] for row in z])
        centred = score - score[:3].mean(axis=0)
        found = own_minus_others(z, owner, each)
        for direction in range(5):
            for emotion in range(3):
                others = [centred[direction, other] for other in range(3) if other != emotion]
                assert found[direction, emotion] == pytest.approx(centred[direction, emotion] - np.mean(others))
    raised = z + np.where(owner == 1, 50.0, 0.0)
    np.testing.assert_allclose(own_minus_others(raised, owner), own_minus_others(z, owner), atol=1e-9)


# -- text written under the edit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_reading_again_gives_the_distributions_the_text_was_drawn_from(planted, positions):
    model, vectors = planted
    everything = np.eye(model.nn._module.lm_head.weight.shape[0], dtype=np.float32)
    edits = steering.directions(
        vectors, [("sad", 0.5), ("calm", -0.4), ("proud", 0.2)], [2], activations.residual_norms(model)
    )[2]
    ids = [activations.encode(model, [prompt])[0].ids for prompt in PROMPTS]
    for edit in (None, edits):
        used = None if edit is None else steering.Edit({2: edit}, positions=positions)
        texts = steering.generate(model, ids, used, max_new_tokens=7)
        texts[1] = texts[1][:3]  # rows of unequal length
        steps = steering.reread(model, ids, texts, edit, 2, positions, everything)
        scored = steering.score(model, PROMPTS, used, read_layers=[2])["log_probabilities"]
        for row, text in enumerate(texts):
            assert steps[row].shape == (len(text), len(everything))
            np.testing.assert_allclose(steps[row].sum(axis=1), 1, atol=1e-4)
            np.testing.assert_allclose(steps[row][0], np.exp(scored[row]), atol=1e-5)
            assert list(steps[row].argmax(axis=1)) == text  # greedy: the likeliest token was written


def test_reading_again_does_not_depend_on_the_batch_and_takes_an_empty_text(planted, monkeypatch):
    model, vectors = planted
    groups = writing_systems.vocabulary(model).groups()
    edits = steering.directions(vectors, [("sad", 0.5)] * 3, [2], activations.residual_norms(model))[2]
    ids, texts = [activations.encode(model, [prompt])[0].ids for prompt in PROMPTS], [[5, 6, 7, 8], [], [9, 10]]
    together = steering.reread(model, ids, texts, edits, 2, "generated", groups)
    assert [len(steps) for steps in together] == [4, 1, 2]
    monkeypatch.setattr(steering, "REREAD_TOKENS", 1)
    for one, all_three in zip(steering.reread(model, ids, texts, edits, 2, "generated", groups), together, strict=True):
        np.testing.assert_allclose(one, all_three, rtol=1e-3, atol=1e-7)


def test_what_a_text_holds_is_counted(planted):
    model, _ = planted
    ids = model.tokenizer("She was sad and 绝望, 高兴", add_special_tokens=False)["input_ids"]
    found = readout._measured(model, ids)
    assert (found["letters"], found["han"], found["other_script"]) == (16, 4, 0)
    assert found["chinese"] == ["desperate", "happy"]
    assert found["english"] == ["sad"]


# -- rows -------------------------------------------------------------------------------------------------------------


def rows_of(names: list[str], random: int) -> Rows:
    return Rows(lambda **values: values, names, Sizes(random=random, bootstrap=200, permutations=199))


def test_ratios_are_of_sums_and_their_p_ranks_them_among_random_directions():
    above = np.array([[9.0, 1.0], [4.0, 0.0], *[[0.0, 1.0]] * 19])
    below = np.array([[10.0, 90.0], [2.0, 2.0], *[[5.0, 5.0]] * 19])
    table = pd.DataFrame(rows_of(["happy", "sad"], 19).ratios("x", above, below)).set_index("emotion")
    assert table.loc["happy", "value"] == pytest.approx(10 / 100)
    assert table.loc["sad", "value"] == pytest.approx(1.0)
    assert table.loc["all", "value"] == pytest.approx(0.55)
    assert table.loc["random", "value"] == table.loc["happy", "null"] == pytest.approx(0.1)
    assert table.loc["sad", "p"] == pytest.approx(1 / 20)
    assert table.loc["happy", "p"] == pytest.approx(1.0)  # equal to all of them
    assert table.loc["happy", "low"] == pytest.approx(1 / 90)
    assert table.loc["happy", "high"] == pytest.approx(9 / 10)
    flat = pd.DataFrame(rows_of(["happy", "sad"], 19).ratios("x", below, below)).set_index("emotion")
    assert (flat["value"] == 1).all()
    assert flat.loc["all", "p"] == 1


def test_emotions_above_all_random_directions_have_a_small_p_and_swapped_ones_a_large():
    rng = np.random.default_rng(0)
    high, low = rng.uniform(5, 6, size=(8, 3)), rng.uniform(0, 1, size=(8, 3))
    one = np.ones((16, 3))
    rows = rows_of(NAMES[:8], 8)
    assert pd.DataFrame(rows.ratios("x", np.concatenate([high, low]), one)).set_index("emotion").loc["all", "p"] <= 0.01
    assert pd.DataFrame(rows.ratios("x", np.concatenate([low, high]), one)).set_index("emotion").loc["all", "p"] >= 0.99
    alike = np.repeat(np.arange(16.0)[np.array([*range(1, 16, 2), *range(0, 16, 2)])], 3).reshape(16, 3)
    found = pd.DataFrame(rows.ratios("x", alike, one)).set_index("emotion").loc["all"]
    assert found["value"] - found["null"] == pytest.approx(1)
    assert 0.2 < found["p"] < 0.6  # a difference that exchanging labels gives as well


def test_texts_missed_by_a_filter_of_english_words():
    def text(emotion, chinese=(), english=(), han=0):
        steps = [[0.2, 0.0, 0.1], [0.4, 0.0, 0.1]]
        return {
            "emotion": emotion,
            "letters": 10,
            "han": han,
            "other_script": 0,
            "chinese": chinese,
            "english": english,
            "steps": steps,
        }

    texts = [
        text("happy", ["happy"], han=2), text("happy", ["happy"], ["sad"], han=2),
        text("sad", ["happy"], han=2), text("sad", [], ["sad"]), text("random-1"), text("random-1"),
    ]  # fmt: skip
    plain = [text("unsteered"), text("unsteered")]
    rows = Rows(lambda **v: v, ["happy", "sad"], Sizes(random=1, bootstrap=50, permutations=99, new_tokens=3))
    table = pd.DataFrame(rows.texts(0.3, texts, plain))
    at = select(table, emotion="all").set_index(["metric", "step"])["value"]
    assert at["chinese_own", np.nan] == pytest.approx(2 / 4)
    assert at["english_own", np.nan] == pytest.approx(1 / 4)
    assert at["missed_own", np.nan] == pytest.approx(1 / 4)
    assert at["missed_any", np.nan] == pytest.approx(2 / 4)
    assert at["texts_with_han", np.nan] == pytest.approx(3 / 4)
    assert at["han_letters", np.nan] == pytest.approx(6 / 40)
    assert at["han_mass", np.nan] == pytest.approx(0.3)
    assert at["han_mass_at_step", 0.0] == pytest.approx(0.2)
    assert at["han_mass_at_step", 1.0] == pytest.approx(0.4)
    assert (select(table, metric="missed_own")["n"] == 4).all()
    assert (select(table, emotion="unsteered")["strength"] == 0).all()


# -- the experiment ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(planted):
    model, vectors = planted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing_systems, "MIN_HAN_TOKENS", 100)
        return crosslingual.crosslingual(model, vectors, 2, [0.5, 1.0], prompts=PROMPTS, sizes=SMALL)


def test_a_planted_direction_is_found(table):
    for kind in ("direct", "steered"):
        rows = select(table, metric="alignment", readout=kind, language="zh")
        everything = select(rows, emotion="all")
        assert (everything["p"] == 1 / 100).all()
        assert (everything["low"] > 2).all()
        assert (rows[rows["emotion"] != "all"]["p"] <= 1 / (20 + 8 - 1 + 1) + 1e-9).all()
        assert (everything["n"] == len(lexicon.lexicon())).all()


def test_chinese_rises_under_planted_emotions_and_not_under_random_directions(table):
    for metric, where in (("han_mass", "next_token"), ("han_mass", "written"), ("han_letters", "written")):
        row = select(table, metric=metric, where=where, emotion="all", strength=1.0).iloc[0]
        plain = select(table, metric=metric, where=where, emotion="unsteered")["value"]
        assert len(plain) == 1  # it is told once, not once a strength
        assert row["value"] > 1.5 * max(row["null"], plain.iloc[0])
        assert row["p"] == 1 / 100
    dose = select(table, metric="han_logit_change", emotion="all").set_index("strength")["value"]
    assert 0 < dose[0.5] < dose[1.0]
    assert dose[np.nan] == pytest.approx((dose[0.5] + dose[1.0]) / 2)


def test_steering_away_lowers_the_words_and_does_not_enter_the_mean_over_positive_strengths(planted):
    model, vectors = planted
    table = crosslingual.crosslingual(model, vectors, 2, [-0.5, 0.5], prompts=PROMPTS, sizes=SMALL)
    for metric in ("alignment", "han_logit_change"):
        rows = select(table, metric=metric, emotion="all")
        rows = rows[(rows["readout"] != "direct") & (rows["language"] != "en")].set_index("strength")["value"]
        assert rows[-0.5] < 0 < rows[0.5]
        assert rows[np.nan] == rows[0.5]


def test_a_shuffled_lexicon_is_not_found(planted, monkeypatch):
    model, vectors = planted
    true = lexicon.lexicon()
    order = np.random.default_rng(1).permutation(len(true))
    monkeypatch.setattr(lexicon, "lexicon", lambda: true.assign(emotion=true["emotion"].to_numpy()[order]))
    vocab = writing_systems.vocabulary(model)
    tokens = lexicon.lexicon_tokens(model, vocab, NAMES)
    change = readout.direct_readout(model, readout.with_controls(vectors, SMALL), 2, PROMPTS)
    reduced = crosslingual._reduced(change, tokens, vocab)
    rows = Rows(lambda **values: values, NAMES, SMALL).readout("direct", 0.1, [reduced], tokens)
    row = next(
        row for row in rows if row["metric"] == "alignment" and row["emotion"] == "all" and row["language"] == "zh"
    )
    assert row["p"] > 0.05
    assert row["value"] < 0.5


def test_every_number_has_its_n_and_shares_their_interval(table):
    assert table["n"].notna().all()
    bare = table[table["low"].isna()]
    assert set(bare["metric"]) <= {"han_tokens", "rank_all", "rank_han"}
    assert ((table["low"] <= table["value"] + 1e-9) & (table["value"] <= table["high"] + 1e-9))[
        table["low"].notna()
    ].all()
    assert set(select(table, metric="rank_han")["word"]) == {"找了", "摸索"}
    assert not table.duplicated().any()


def claim_rows(table: pd.DataFrame) -> list[dict]:
    return claims.claims("planted", "qwen", {"crosslingual": table}).to_dict("records")


def test_a_model_without_chinese_says_so_and_is_not_tested_on_it(planted, monkeypatch):
    model, vectors = planted
    monkeypatch.setattr(writing_systems, "MIN_HAN_TOKENS", 10_000)
    table = crosslingual.crosslingual(model, vectors, 2, [0.5], prompts=PROMPTS, sizes=SMALL)
    assert "zh" not in set(table["language"])
    assert not table["metric"].str.startswith("rank").any()
    count = select(table, metric="han_tokens")["value"].item()
    assert count == len(writing_systems.vocabulary(model).ids(HAN))
    verdicts = [row["verdict"] for row in claim_rows(table)]
    assert set(verdicts) == {"not testable on this model"}


def test_verdicts_follow_the_rows(table):
    rows = {row["claim"]: row for row in claim_rows(table)}
    assert len(rows) == 5
    assert all(claim.startswith("C11") for claim in rows)
    by_word = {claim.split("(")[0].strip(): row["verdict"] for claim, row in rows.items()}
    assert list(by_word.values())[:2] == ["reproduced", "reproduced"]
    worse = table.copy()
    worse.loc[(worse["metric"] == "han_logit_change") & (worse["emotion"] == "all"), "p"] = 0.5
    assert claim_rows(worse)[0]["verdict"] == "not reproduced"


def test_a_finished_run_is_not_computed_again(planted, tmp_path, monkeypatch):
    model, vectors = planted
    run = RunFolder(tmp_path / "run", {})
    arguments = {"prompts": PROMPTS, "sizes": SMALL, "cache": run}
    first = crosslingual.crosslingual(model, vectors, 2, [0.5], **arguments)
    for name in ("score", "generate"):
        monkeypatch.setattr(readout, name, None)
    again = crosslingual.crosslingual(model, vectors, 2, [0.5], **arguments)
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(TypeError):  # another seed is another run
        crosslingual.crosslingual(model, vectors, 2, [0.5], prompts=PROMPTS, sizes=Sizes(seed=1, random=8), cache=run)
    run.close()


@pytest.mark.parametrize(
    ("layer", "strengths", "prompts", "message"),
    [
        (0, [0.5], PROMPTS, "layer 0 cannot be steered"), (9, [0.5], PROMPTS, "9"), (2, [0.0], PROMPTS, "one of them positive"),
        (2, [np.nan], PROMPTS, "finite"), (2, [0.5], PROMPTS[:1], "two prompts"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(planted, layer, strengths, prompts, message):
    model, vectors = planted
    with pytest.raises(EmotraceError, match=message):
        crosslingual.crosslingual(model, vectors, layer, strengths, prompts=prompts, sizes=SMALL)


def test_figures_show_every_strength_and_every_emotion(table):
    figure = plots_crosslingual.script_mass({"crosslingual": table})
    figure.canvas.draw()
    drawn = figure.axes[0].lines[0]
    assert list(drawn.get_xdata()) == [0.5, 1.0]
    np.testing.assert_allclose(
        drawn.get_ydata(), select(table, metric="han_logit_change", emotion="all").dropna(subset="strength")["value"]
    )
    figure = plots_crosslingual.lexicon_alignment({"crosslingual": table})
    figure.canvas.draw()
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == {*NAMES, "all"}
    spans = figure.axes[0].collections[1].get_segments()
    rows = select(table, metric="alignment", readout="steered", language="zh")
    rows = rows[rows["strength"].isna()].set_index("emotion")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    for name, span in zip(names, spans, strict=True):
        assert list(span[:, 0]) == pytest.approx(list(rows.loc[name, ["low", "high"]]))


@pytest.mark.real
@pytest.mark.slow
def test_on_qwen_the_emotions_chinese_words_lie_along_the_emotions_vectors(packaged):
    model = packaged("qwen2.5-coder-0.5b-instruct")
    vocab = writing_systems.vocabulary(model)
    assert len(vocab.ids(HAN)) > 20_000
    usable = lexicon.tokenised(model, lexicon.lexicon(), vocab)
    usable = usable[usable["usable"]].drop_duplicates("token_id")
    assert usable.groupby("emotion").size().reindex(NAMES, fill_value=0).min() >= 12
    passages = corpus.quick_subset(corpus.passages(), topics_kept=3)
    vectors = emotrace.extract(model, pooling="mean", layers=[12], passages=passages)
    both = readout.with_controls(vectors, Sizes(random=20))
    tokens = lexicon.lexicon_tokens(model, vocab, NAMES)["zh"]
    z = readout.standardised(readout.direct_readout(model, both, 12, PROMPTS), tokens)
    own = np.diagonal(own_minus_others(z, tokens.owner)).mean()
    rng = np.random.default_rng(0)
    for _ in range(200):  # neither the wrong lexicons nor random directions come near
        assert own > np.diagonal(own_minus_others(z[rng.permutation(20)], tokens.owner)).mean()
    assert own > 2 * abs(np.diagonal(own_minus_others(z[20:], tokens.owner)).mean())
