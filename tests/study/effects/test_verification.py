"""What counts as a success, on tables whose answer is known, and on a model that is known to speak of joy."""

import numpy as np
import pandas as pd
import pytest
from bare_steering import bare_steering
from joy_model import WordCounter, joy_vectors, plant_joy
from scipy import stats

import emotrace
from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.classifiers import emotion_scores
from emotrace.study.effects import arms, prompting, verification
from emotrace.study.effects.arms import GAUSSIAN, PERMUTED
from emotrace.study.effects.verification import ASKED, HELD_OUT, PLAIN, PROMPTED, TARGET, WRONG
from emotrace.study.settings import Settings
from emotrace.study.steered import Steering

EMOTIONS = list(corpus.emotions().index)
LABELS = dict(corpus.emotions()["goemotions"])


def table(rises: dict[tuple[str, str], list[float]], plain: list[float], target: str = "happy") -> tuple:
    """Texts and scores of one scenario: (kind, vector) → the target's rise over ``plain``, one value a seed."""
    rows, scores = [], []
    for (kind, emotion), values in {(PLAIN, target): [0.0] * len(plain), **rises}.items():
        for seed, (rise, base) in enumerate(zip(values, plain, strict=True)):
            rows.append({"scenario": "s1", "target": target, "kind": kind, "emotion": emotion, "seed": seed})
            scores.append(dict.fromkeys(EMOTIONS, 0.05) | {target: base + rise})
    return pd.DataFrame(rows), pd.DataFrame(scores)


def randoms(values, kind: str = PERMUTED) -> dict[tuple[str, str], list[float]]:
    return {(kind, f"{kind} {number}"): [value] for number, value in enumerate(values)}


def verdict(own: float, null, plain: float = 0.1, **more) -> pd.Series:
    rises = {(TARGET, "happy"): [own], **randoms(null)}
    for kind, values in more.items():
        of = {"held_out": HELD_OUT, "wrong": WRONG, "gaussian": GAUSSIAN, "prompted": PROMPTED, "asked": ASKED}
        rises |= randoms(values, of[kind])
    return verification.verdicts(*table(rises, [plain])).iloc[0]


NULL = [0.01 * number for number in range(19)]  # 0 … 0.18


# -- the verdict ------------------------------------------------------------------------------------------------------


def test_a_rise_above_all_19_random_directions_is_a_success_at_one_in_twenty():
    row = verdict(0.2, NULL)
    assert row["success"]
    assert row["p"] == pytest.approx(1 / 20)
    assert row["m"] == 19
    assert (row["plain"], row["steered"], row["rise"]) == pytest.approx((0.1, 0.3, 0.2))
    assert row["permuted_mean"] == pytest.approx(0.09)
    assert row["permuted_positive"] == pytest.approx(18 / 19)
    assert row["permuted_95"] == pytest.approx(np.percentile(NULL, 95))


def test_a_rise_above_18_of_19_is_none():
    row = verdict(0.175, NULL)
    assert not row["success"]
    assert row["p"] == pytest.approx(2 / 20)
    assert row["rise"] > row["permuted_95"]  # a percentile of 19 draws by interpolation would have let it pass


def test_a_tie_with_the_largest_counts_against():
    assert not verdict(0.18, NULL)["success"]
    assert verdict(0.18, NULL)["p"] == pytest.approx(2 / 20)
    assert not verdict(0.0, [0.0] * 19)["success"]
    assert verdict(0.0, [0.0] * 19)["p"] == 1


def test_a_text_that_shows_less_of_the_emotion_is_never_a_success():
    row = verdict(-0.01, [-0.05 - value for value in NULL])
    assert row["p"] == pytest.approx(1 / 20)
    assert not row["success"]
    assert not verdict(0.0, [-0.05] * 19)["success"]


def test_fewer_directions_can_show_nothing_at_the_five_percent_level():
    assert not verdict(1.0, NULL[:18])["success"]
    assert verdict(1.0, NULL[:18])["p"] == pytest.approx(1 / 19)


def test_held_out_directions_and_wrong_emotions_stand_the_same_test():
    row = verdict(0.5, NULL, held_out=[0.19, 0.17], wrong=[0.3, 0.18, 0.2])
    assert (row["held_out_successes"], row["held_out"]) == (1, 2)
    assert (row["wrong_successes"], row["wrong"]) == (2, 3)
    row = verdict(0.5, NULL)
    assert (row["held_out"], row["wrong"], row["held_out_successes"], row["wrong_successes"]) == (0, 0, 0, 0)


def test_other_controls_have_their_mean_rises():
    row = verdict(0.5, NULL, wrong=[0.3, 0.1], gaussian=[-0.2, 0.0, 0.05])
    assert row["wrong_mean"] == pytest.approx(0.2)
    assert row["random_mean"] == pytest.approx(-0.05)
    assert np.isnan(verdict(0.5, NULL)["random_mean"])


def test_asking_stands_the_same_test_against_the_same_request_without_a_feeling():
    """What a request does to a text anyway is no success of the feeling's name."""
    row = verdict(0.5, NULL, prompted=[0.45], asked=[0.2])
    assert row["prompted_rise"] == pytest.approx(0.25)
    assert row["prompted_success"]
    assert not verdict(0.5, NULL, prompted=[0.45], asked=[0.3])["prompted_success"]
    assert "prompted_rise" not in verdict(0.5, NULL)


def test_seeds_are_averaged_before_anything_is_compared():
    """One lucky seed among two is not enough: the means decide, of the target and of each random direction."""
    rises = {(TARGET, "happy"): [0.5, -0.1], **{(PERMUTED, f"r{number}"): [0.0, 0.3] for number in range(19)}}
    row = verification.verdicts(*table(rises, [0.1, 0.3])).iloc[0]
    assert row["n"] == 2
    assert (row["plain"], row["rise"], row["steered"]) == pytest.approx((0.2, 0.2, 0.4))
    assert row["permuted_95"] == pytest.approx(0.15)
    assert row["success"]
    rises[PERMUTED, "r7"] = [0.0, 0.41]
    assert not verification.verdicts(*table(rises, [0.1, 0.3])).iloc[0]["success"]


def test_the_rank_is_of_rises_among_the_twenty_and_ties_share_it():
    texts, scores = table({(TARGET, "happy"): [0.2], **randoms(NULL)}, [0.05])
    steered = texts.index[texts["kind"] == TARGET]
    scores.loc[steered, "calm"] += 0.3  # above
    scores.loc[steered, ["proud", "loving"]] += 0.2  # tied
    scores.loc[steered, "neutral"] += 0.9  # not an emotion
    scores["gloomy"] = 0.9  # high in all texts: no rise
    row = verification.verdicts(texts, scores).iloc[0]
    assert row["rank"] == 3  # ranks 2, 3 and 4 are shared
    assert row["ranked"] == 20
    scores.loc[steered, ["calm", "proud", "loving"]] = 0.05
    assert verification.verdicts(texts, scores).iloc[0]["rank"] == 1


def test_each_scenario_is_judged_by_its_own_texts_and_its_own_target():
    glad = table({(TARGET, "happy"): [0.2], **randoms(NULL)}, [0.1])
    dull = table({(TARGET, "sad"): [0.1], **randoms(NULL)}, [0.4], target="sad")
    texts = pd.concat([dull[0].assign(scenario="s2"), glad[0]], ignore_index=True)
    scores = pd.concat([dull[1], glad[1]], ignore_index=True)
    mixed = np.random.default_rng(0).permutation(len(texts))
    found = verification.verdicts(texts.loc[mixed], scores.loc[mixed]).set_index("scenario")
    assert dict(found["target"]) == {"s1": "happy", "s2": "sad"}
    assert dict(found["success"]) == {"s1": True, "s2": False}
    assert dict(found["plain"]) == pytest.approx({"s1": 0.1, "s2": 0.4})


def test_under_the_null_one_scenario_in_twenty_succeeds():
    """The target's vector is one more random direction: the rate of successes is what it claims, the control's too."""
    rng = np.random.default_rng(2)
    rows = [verdict(rng.exponential(), rng.exponential(size=19), held_out=rng.exponential(size=1)) for _ in range(400)]
    for name in ("success", "held_out_successes"):
        count = int(sum(row[name] for row in rows))
        assert stats.binomtest(count, 400, 1 / 20).pvalue > 0.001
        assert 8 <= count <= 34


# -- scenarios and wrong emotions -------------------------------------------------------------------------------------


def test_forty_scenarios_with_each_emotion_once_in_either_tone():
    scenarios = corpus.scenarios()
    assert len(scenarios) == len(set(scenarios["id"])) == len(set(scenarios["prompt"])) == 40
    counts = pd.crosstab(scenarios["target"], scenarios["tone"])
    assert set(counts.index) == set(corpus.emotion_names())
    assert list(counts.columns) == ["negative", "positive"]
    assert (counts == 1).all(axis=None)


def drawn(scenarios: pd.DataFrame, seed: int = 0, names: tuple[str, ...] = tuple(corpus.emotion_names())) -> dict:
    return {
        row.id: tuple(verification._wrong(LABELS, row.target, names, 3, seed, row.id)) for row in scenarios.itertuples()
    }


def test_wrong_emotions_share_no_label_with_the_target_and_are_drawn_for_each_scenario():
    scenarios, labels = corpus.scenarios(), corpus.emotions()["goemotions"]
    found = drawn(scenarios)
    for row in scenarios.itertuples():
        assert len(set(found[row.id])) == 3
        assert row.target not in found[row.id]
        assert not {label for name in found[row.id] for label in labels[name]} & set(labels[row.target])
    assert found == drawn(scenarios)
    assert found != drawn(scenarios, seed=1)
    of_target = [found[row.id] for row in scenarios.itertuples() if row.target == "happy"]
    assert of_target[0] != of_target[1]
    assert {name for names in found.values() for name in names} == set(corpus.emotion_names())


def test_no_more_wrong_emotions_than_there_are():
    assert set(verification._wrong(LABELS, "happy", ["happy", "blissful", "sad"], 2, 0, "s01")) == {"sad"}


# -- on a model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joy")
    joy = plant_joy(folder)
    model = emotrace.load(str(folder))
    return model, joy_vectors(model, joy), joy.flip


def steered(planted, relative: float) -> Steering:
    """At ``relative`` times the strength that turns the text."""
    model, vectors, flip = planted
    return bare_steering(model, vectors, 2, relative * flip, settings=Settings(scenario_seeds=2, tokens=12))


def written(planted, relative: float, scenarios: pd.DataFrame) -> pd.DataFrame:
    steering = steered(planted, relative)
    return verification.write_scenarios(steering, arms.calibrated(steering, 20), scenarios, 2)


@pytest.fixture(scope="module")
def scenarios():
    table = corpus.scenarios()
    return table[table["target"].isin(["happy", "sad", "grateful", "angry"])].reset_index(drop=True)


@pytest.fixture(scope="module")
def texts(planted, scenarios):
    return written(planted, 0.9, scenarios)


def test_every_direction_is_written_on_the_same_prompt_seeds_and_strength(texts, scenarios, planted):
    assert len(texts) == 8 * 2 * (1 + 1 + 19 + 1 + 3 + 2 + 2)
    for scenario in scenarios.itertuples():
        rows = texts[texts["scenario"] == scenario.id]
        assert set(rows["prompt"]) == {scenario.prompt}
        assert set(rows["target"]) == {scenario.target}
        directions = rows.groupby("kind")["emotion"].nunique()
        assert dict(directions) == {
            **{PLAIN: 1, TARGET: 1, PERMUTED: 19, HELD_OUT: 1, GAUSSIAN: 3, WRONG: 2, PROMPTED: 1, ASKED: 1}
        }
        assert set(rows[rows["kind"] == TARGET]["emotion"]) == {scenario.target}
        unsteered = rows["kind"].isin([PLAIN, PROMPTED, ASKED])
        assert set(rows[unsteered]["strength"]) == {0.0}
        assert set(rows[~unsteered]["strength"]) == {0.9 * planted[2]}
        assert (rows.groupby(["kind", "emotion"])["seed"].apply(set) == {0, 1}).all()
        wrong = set(rows[rows["kind"] == WRONG]["emotion"])
        assert wrong == set(verification._wrong(LABELS, scenario.target, planted[1].emotions, 2, 0, scenario.id))
    held_out = set(texts[texts["kind"] == HELD_OUT]["emotion"])
    assert held_out.isdisjoint(texts[texts["kind"] == PERMUTED]["emotion"])


def test_a_scenario_is_written_alike_whatever_others_are_beside_it(planted, scenarios, texts):
    some = scenarios.iloc[[5, 2]].reset_index(drop=True)
    alone = written(planted, 0.9, some)
    for name in some["id"]:
        again = alone[alone["scenario"] == name].reset_index(drop=True)
        assert again.equals(texts[texts["scenario"] == name].reset_index(drop=True))


def test_the_planted_emotion_succeeds_and_no_other_does(texts):
    texts = texts[~texts["kind"].isin([PROMPTED, ASKED])]
    found = verification.verdicts(texts, emotion_scores(WordCounter(), list(texts["text"])).set_index(texts.index))
    glad = found[found["target"] == "happy"]
    assert glad["success"].all()
    assert (glad["p"] == 1 / 20).all()
    assert (glad["plain"] == 0).all()
    assert (glad["rise"] > 0.1).all()
    assert (glad["rank"] == 1.5).all()  # blissful is judged by the same label
    assert (glad["wrong_successes"] == 0).all()
    others = found[found["target"] != "happy"]
    assert not others["success"].any()
    assert (others["rise"] == 0).all()
    assert (others["p"] == 1).all()


def test_coherence_is_the_surgical_share_of_a_scenarios_target_texts(planted, texts, scenarios):
    model, plain = planted[0], texts[texts["kind"] == PLAIN]
    found = verification.coherence(model, texts)["coherent"]
    measured = regimes.measure(model, texts[texts["kind"] == TARGET], regimes.references(model, plain))
    for scenario in scenarios["id"]:
        labels = measured[measured["scenario"] == scenario]["regime"]
        assert found[scenario] == (labels == regimes.SURGICAL).mean()
    assert len(found) == len(scenarios)
    # Far beyond the turning point, joy repeats one word; a direction that nothing reads is as coherent as ever.
    glad = scenarios[scenarios["target"].isin(["happy", "sad"])]
    far = written(planted, 2, glad)
    collapsed = verification.coherence(model, far)["coherent"]
    assert [collapsed[row.id] for row in glad.itertuples() if row.target == "happy"] == [0, 0]
    assert all(found[row.id] == 1 for row in glad.itertuples() if row.target == "sad")


# -- prompting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruct", [False, True])
def test_a_base_model_reads_a_sentence_before_the_text_and_an_instruct_model_a_request(planted, monkeypatch, instruct):
    model, prompt = planted[0], "The door opened, and she"
    monkeypatch.setattr(model, "instruct", instruct)

    def text(emotion: str) -> str:
        return model.tokenizer.decode(prompting.request(model, prompt, emotion), skip_special_tokens=True)

    asked, without = text("afraid"), text("")
    assert "feels afraid" in " ".join(asked.split())
    assert "afraid" not in without
    assert asked.rstrip().endswith("she")
    assert without.rstrip().endswith("she")
    # In a chat the text stands in the request and, once more, where the answer begins.
    assert asked.count("door opened") == without.count("door opened") == 1 + instruct


def test_what_is_asked_for_is_written_row_by_row(planted):
    """Whatever stands beside it in its batch, and with the seed that it was given."""
    model = planted[0]
    cases = [
        ("The shop was", "happy", 3),
        ("People walk", "", 4),
        ("The shop was", "happy", 5),
        ("The shop was", "", 3),
    ]
    table = prompting.write(model, cases, 8)
    assert list(table.columns) == ["text", "tokens", "n_tokens"]
    for row, case in enumerate(cases):
        assert prompting.write(model, [case], 8)["text"][0] == table["text"][row]
    assert table["text"][0] != table["text"][2]


def test_steering_and_asking_are_compared_emotion_by_emotion():
    steering = np.array([[0.5, 0.7], [0.1, 0.1], [0.3, 0.4]])
    asked = np.array([[0.1, 0.3], [0.2, 0.2], [0.0, 0.0]])
    table = prompting.compared("dose", "classifier", ["happy", "sad", "calm"], steering, asked).set_index("emotion")
    assert table["value"].to_list() == pytest.approx([0.4, -0.1, 0.35, 0.65 / 3])
    assert table.loc["all", "n"] == 3
    assert table.loc["all", "low"] < 0.65 / 3 < table.loc["all", "high"]
    assert table.loc[["happy", "sad", "calm"], ["low", "high"]].isna().all(axis=None)
