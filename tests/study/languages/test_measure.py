"""The experiment across languages: planted words are found, and shuffled ones are not."""

import numpy as np
import pandas as pd
import pytest
from bare_steering import bare_steering
from planted_chinese import NAMES, PROMPTS, SMALL, permuted_labels

import emotrace
from emotrace.instrument import corpus
from emotrace.logit_lens import Directions, direct_readout, last_states
from emotrace.study.folder import RunFolder, select
from emotrace.study.languages import figures, lexicon, measure, readout, writing_systems
from emotrace.study.languages.claims import CLAIMS, crosslingual_claims
from emotrace.study.languages.measure import crosslingual
from emotrace.study.languages.readout import Sizes
from emotrace.study.languages.rows import RowBuilder, own_minus_others
from emotrace.study.languages.writing_systems import HAN
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED


@pytest.fixture(scope="module")
def table(planted):
    model, vectors = planted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing_systems, "MIN_HAN_TOKENS", 100)
        return crosslingual(bare_steering(model, vectors, 2), permuted_labels(vectors), [0.5, 1.0], PROMPTS, SMALL)


def test_a_planted_direction_is_found(table):
    for kind in ("direct", "steered"):
        rows = select(table, metric="alignment", readout=kind, language="zh")
        everything = select(rows, emotion="all")
        assert (everything["p"] == 1 / 100).all()
        assert (everything["low"] > 2).all()
        assert (rows[rows["emotion"] != "all"]["p"] <= 1 / (SMALL.permuted + 1) + 1e-9).all()
        assert (everything["n"] == len(lexicon.lexicon())).all()


def test_chinese_rises_under_planted_emotions_and_their_mixtures_more_than_under_noise(table):
    for metric, where in (("han_mass", "next_token"), ("han_mass", "written"), ("han_letters", "written")):
        rows = select(table, metric=metric, where=where, strength=1.0).set_index("emotion")
        plain = select(table, metric=metric, where=where, emotion="unsteered")["value"]
        assert len(plain) == 1  # it is told once, not once a strength
        assert rows.loc["all", "value"] > 1.5 * max(rows.loc["random", "value"], plain.iloc[0])
        # Every second of a mixture's words is lowered, and raised ones count: the control that lies where vectors lie.
        assert rows.loc["all", "null"] == rows.loc["permuted", "value"] > rows.loc["random", "value"]
        difference = rows.loc["all", "value"] - rows.loc["permuted", "value"]
        assert rows.loc["excess", "value"] == pytest.approx(difference)
        assert rows.loc["excess", "low"] <= difference <= rows.loc["excess", "high"]
    dose = select(table, metric="han_logit_change", emotion="all").set_index("strength")["value"]
    assert 0 < dose[0.5] < dose[1.0]
    assert dose[np.nan] == pytest.approx((dose[0.5] + dose[1.0]) / 2)


def test_steering_away_lowers_the_words_and_does_not_enter_the_mean_over_positive_strengths(planted):
    model, vectors = planted
    table = crosslingual(bare_steering(model, vectors, 2), permuted_labels(vectors), [-0.5, 0.5], PROMPTS, SMALL)
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
    change = direct_readout(
        Directions(model, readout.with_controls(vectors, permuted_labels(vectors), SMALL), 2),
        last_states(model, PROMPTS),
    )
    reduced = measure._reduced(change, tokens, vocab)
    rows = RowBuilder(lambda **values: values, NAMES, SMALL).readout("direct", 0.1, [reduced], tokens)
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


def test_a_model_without_chinese_says_so_and_is_not_tested_on_it(planted, monkeypatch):
    model, vectors = planted
    monkeypatch.setattr(writing_systems, "MIN_HAN_TOKENS", 10_000)
    table = crosslingual(bare_steering(model, vectors, 2), permuted_labels(vectors), [0.5], PROMPTS, SMALL)
    assert "zh" not in set(table["language"])
    assert not table["metric"].str.startswith("rank").any()
    count = select(table, metric="han_tokens")["value"].item()
    assert count == len(writing_systems.vocabulary(model).ids(HAN))
    claims = crosslingual_claims({"crosslingual": table}, "qwen")
    assert {claim.verdict() for claim in claims} == {NOT_TESTABLE}


def test_verdicts_follow_the_rows(table):
    def of(changed):
        return {claim.id: claim.verdict() for claim in crosslingual_claims({"crosslingual": changed}, "qwen")}

    def with_row(metric, emotion, **values):
        worse = table.copy()
        rows = (worse["metric"] == metric) & (worse["emotion"] == emotion)
        worse.loc[rows, list(values)] = list(values.values())
        return worse

    assert tuple(of(table)) == CLAIMS
    assert of(table)["C11.aligned"] == REPRODUCED
    raised = {"value": 0.5, "low": 0.2, "high": 0.8, "p": 0.001}
    for verdict, change in (
        (REPRODUCED, {}),
        (INCONCLUSIVE, {"p": 0.3}),  # permuted labels do as much
        (INCONCLUSIVE, {"low": -0.1}),
        (NOT_REPRODUCED, {"value": 0.02, "low": -0.03, "high": 0.07}),  # too little to matter
    ):
        changed = with_row("han_logit_change", "excess", **{**raised, **change})
        assert of(changed)["C11.more_chinese"] == verdict
    for verdict, change in ((REPRODUCED, {}), (NOT_REPRODUCED, {"value": 0.1, "low": 0.05, "high": 0.15})):
        assert of(with_row("alignment", "all", **{**raised, **change}))["C11.aligned"] == verdict
    for verdict, value in ((REPRODUCED, 2.5), (INCONCLUSIVE, 1.5), (NOT_REPRODUCED, -1.5)):
        changed = with_row("example_rise", "desperate", value=value, low=value - 2, high=value + 2, p=0.01)
        assert of(changed)["C11.example.找了"] == verdict


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_another_family_than_the_papers_is_an_extension_and_never_a_verdict_on_its_claim(table, family):
    raised = table.copy()
    rows = (raised["metric"] == "han_logit_change") & (raised["emotion"] == "excess")
    raised.loc[rows, ["value", "low", "high", "p"]] = [0.5, 0.2, 0.8, 0.001]
    raised.loc[(raised["metric"] == "texts_with_han") & (raised["emotion"] == "all"), "value"] = 0.0
    own = {claim.id: claim for claim in crosslingual_claims({"crosslingual": raised}, "qwen")}
    other = {claim.id: claim for claim in crosslingual_claims({"crosslingual": raised}, family)}
    assert own["C11.more_chinese"].verdict() == REPRODUCED
    assert "about Qwen" not in own["C11.more_chinese"].how
    assert tuple(other) == CLAIMS
    assert {claim.verdict() for claim in other.values()} == {NOT_TESTABLE}
    assert other["C11.more_chinese"].estimate == own["C11.more_chinese"].estimate  # it is measured all the same
    assert "about Qwen: an extension of ours, which by itself would be reproduced" in other["C11.more_chinese"].how
    assert own["C11.more_chinese"].words in other["C11.more_chinese"].how
    assert other["C11.filter"].how.endswith("the paper's claim is about Qwen")  # nor would it be testable by itself


def test_a_filter_is_tested_only_where_chinese_is_written(table):
    def verdict(written, missed):
        changed = table.copy()
        for metric, value in (("texts_with_han", written), ("missed_any", missed)):
            rows = (changed["metric"] == metric) & (changed["emotion"] == "all")
            changed.loc[rows, ["value", "low", "high", "p"]] = [value, max(0, value - 0.04), value + 0.04, 0.001]
        return crosslingual_claims({"crosslingual": changed}, "qwen")[-1].verdict()

    assert verdict(0.0, 0.0) == NOT_TESTABLE
    assert verdict(0.3, 0.2) == REPRODUCED
    assert verdict(0.3, 0.0) == NOT_REPRODUCED


def test_the_titles_say_that_an_order_is_tested_and_english_stands_beside(table):
    claims = {claim.id: claim for claim in crosslingual_claims({"crosslingual": table}, "qwen")}
    assert "among Chinese tokens" in claims["C11.aligned"].claim
    english = select(table, metric="alignment", readout="steered", language="en", emotion="all")
    value = english[english["strength"].isna()]["value"].item() if len(english) else None
    assert (f"in English {value:.2f}" if value is not None else "English words") in claims["C11.aligned"].how


def test_a_finished_run_is_not_computed_again(planted, tmp_path, monkeypatch):
    model, vectors = planted
    run = RunFolder(tmp_path / "run", {})
    steering = bare_steering(model, vectors, 2, run=run)
    first = crosslingual(steering, permuted_labels(vectors), [0.5], PROMPTS, SMALL)
    for name in ("score", "generate"):
        monkeypatch.setattr(readout, name, None)
    again = crosslingual(steering, permuted_labels(vectors), [0.5], PROMPTS, SMALL)
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(TypeError):  # another seed is another run
        crosslingual(steering, permuted_labels(vectors), [0.5], PROMPTS, Sizes(seed=1, random=8))
    run.close()


def test_figures_show_every_strength_and_every_emotion(table):
    figure = figures.script_mass({"crosslingual": table})
    figure.canvas.draw()
    drawn = figure.axes[0].lines[0]
    assert list(drawn.get_xdata()) == [0.5, 1.0]
    np.testing.assert_allclose(
        drawn.get_ydata(), select(table, metric="han_logit_change", emotion="all").dropna(subset="strength")["value"]
    )
    figure = figures.lexicon_alignment({"crosslingual": table})
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
    both = Directions(model, readout.with_controls(vectors, permuted_labels(vectors), Sizes()), 12)
    tokens = lexicon.lexicon_tokens(model, vocab, NAMES)["zh"]
    z = readout.standardised(direct_readout(both, last_states(model, PROMPTS)), tokens)
    own = np.diagonal(own_minus_others(z, tokens.owner)).mean()
    rng = np.random.default_rng(0)
    for _ in range(200):  # neither the wrong lexicons nor random directions come near
        assert own > np.diagonal(own_minus_others(z[rng.permutation(20)], tokens.owner)).mean()
    assert own > 2 * abs(np.diagonal(own_minus_others(z[20:], tokens.owner)).mean())
