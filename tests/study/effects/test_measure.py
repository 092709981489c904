"""All steering tables of one run on a model whose answer is known; a run cut short goes on to the same tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joy_model import D_MODEL, N_LAYERS, Joy, WordCounter, joy_vectors, plant_joy

import emotrace
from emotrace import activations, steered_texts, steering
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.instrument.instrument import default
from emotrace.judges import calibration, classifiers, confirmation, regimes
from emotrace.measures import statistics
from emotrace.models import Model
from emotrace.readings import Reading
from emotrace.study import experiments
from emotrace.study.effects import arms, measure, prompting, sweep, verification
from emotrace.study.experiment import Results
from emotrace.study.folder import RunFolder, select
from emotrace.study.settings import Settings
from emotrace.study.steered import FALLBACK_STRENGTH, prepare
from emotrace.study.study import Study, choose_layer
from emotrace.tokens import Writing
from emotrace.whatif import text_reading as reading

BEST, READ, SCENARIOS = 3, 4, 6
EFFECTS = [one for one in experiments.EXPERIMENTS if "study.effects" in one.run.__module__]
DOSES = (-1.0, 0.5, 1.0, 2.5, 4.0)
SETTINGS = replace(
    Settings.quick(seed=1),
    permutations=99,
    calibration_texts=8,
    doses=DOSES,
    dose_prompts=2,
    dose_seeds=2,
    dose_permuted=4,
    dose_random=3,
    tokens=20,
    scenarios=SCENARIOS,
    scenario_seeds=2,
    published_doses=(-0.02, 0.02, 0.15),
    published_permuted=2,
    published_scenarios=2,
)
HOUSE = ["model", "instrument", "method", "pooling", "layer", "depth"]
EXPERIMENTS = ["dose_response", "regimes", "verification"]


def read(model: Model, joy: Joy) -> Reading:
    """What the model would have read: each emotion's direction, told apart at layer 3 only."""
    rng = np.random.default_rng(0)
    topics = list(corpus.topics().index)[:6]
    labels = [
        {"topic": topic, "emotion": emotion, "text": f"{topic} {emotion}"}
        for topic in topics
        for emotion in corpus.emotions().index
    ]
    noise = np.array([30.0, 30.0, 30.0, 0.3, 8.0])[:, None]
    nothing = np.zeros(D_MODEL)
    pooled = np.stack(
        [
            5 * joy.directions.get(row["emotion"], nothing) + noise * rng.normal(size=(N_LAYERS + 1, D_MODEL)) / 8
            for row in labels
        ]
    ).astype(np.float32)
    provenance = {**model.provenance, "model": model.name, "method": "comprehension"}
    return Reading(pd.DataFrame(labels), {"mean": pooled}, list(range(N_LAYERS + 1)), provenance)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joy")
    joy = plant_joy(folder)
    return emotrace.load(str(folder)), joy


def study_in(path: Path, model: Model, joy: Joy, *, resume: bool = False, settings: Settings = SETTINGS) -> Study:
    run = RunFolder(path, {"models": [model.name]}, resume=resume)
    facts = model.name, model.family, model.n_layers, False, read(model, joy), {}
    study = Study(*facts, settings, run, lambda what, done, of: None, loaded=model)
    study.classifier = WordCounter()
    return study


def run(study: Study, chosen: list[str] = EXPERIMENTS) -> tuple[dict, dict, object]:
    """Tables, texts and the calibrated vectors."""
    results = Results()
    try:
        experiments.measure(experiments.planned(map(experiments.by_name, chosen)), study, results)
    finally:
        study.run.close()
    return results.tables, results.texts, results.vectors["comprehension", "mean"]


@pytest.fixture(scope="module")
def whole(planted, tmp_path_factory):
    """A run without interruption: its folder, and its tables, texts and vectors."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(study_in(folder, *planted))


@pytest.fixture(scope="module")
def tables(whole):
    return whole[1][0]


@pytest.fixture(scope="module")
def texts(whole):
    return whole[1][1]


@pytest.fixture(scope="module")
def strength(whole):
    return whole[1][2].calibration["strength"]


def same_tables(one: tuple, other: tuple, **tolerance) -> None:
    for first, second in zip(one[:2], other[:2], strict=True):
        assert list(first) == list(second)
        for name, table in first.items():
            pd.testing.assert_frame_equal(second[name], table, obj=name, **tolerance)
    assert one[2].provenance == other[2].provenance


def test_planted_vectors_come_back_from_the_reading(planted):
    """What the run extracts at its best layer is what was planted, up to the mean of all."""
    model, joy = planted
    vectors, truth = read(model, joy).vectors("mean").unit(), joy_vectors(model, joy).unit()
    cosines = np.einsum("ed,ed->e", vectors.at(BEST), truth.at(BEST))
    assert (cosines > 0.95).all()


# -- the tables -------------------------------------------------------------------------------------------------------


def test_every_table_has_the_columns_of_the_house(tables, texts, planted, strength):
    assert set(tables) == {name for experiment in EFFECTS for name in experiment.tables}
    assert set(texts) == {"steered", "scenarios", "prompted"}
    for name, table in {**tables, **texts}.items():
        assert len(table) > 0
        assert table.columns.is_unique
        assert set(table["model"]) == {planted[0].name}
        assert "tokens" not in table
        if name == "residual_norms":
            continue
        assert list(table.columns[: len(HOUSE)]) == HOUSE, name
        assert set(table["pooling"]) == {"mean"}
        assert set(table["layer"].dropna()) == {BEST}
        assert set(table["depth"].dropna()) == {BEST / N_LAYERS}
        if name == "calibration":
            continue
        assert set(table["arm"]) == ({"calibrated"} if name in ("prompting", "prompted") else set(arms.ARMS)), name
        assert table["layer"].isna().eq(table["arm"] == "published").all()  # every layer, so none
        if "strength" in table:
            units = table["arm"].map({"calibrated": strength, "published": arms.PUBLISHED_STRENGTH})
            np.testing.assert_allclose(table["relative"], table["strength"] / units)


def test_the_unit_of_a_strength_is_given_for_every_layer(tables, planted):
    table = tables["residual_norms"]
    assert list(table.columns) == ["model", "layer", "depth", "value", "n"]
    np.testing.assert_allclose(table["value"], activations.residual_norms(planted[0]))
    assert list(table["depth"]) == [layer / N_LAYERS for layer in range(N_LAYERS + 1)]
    assert (table["n"] == (corpus.passages()["emotion"] == corpus.NEUTRAL).sum()).all()


def test_the_layer_is_the_one_that_one_half_of_the_topics_chose(planted, tmp_path):
    study = study_in(tmp_path / "run", *planted)
    assert choose_layer(study, "mean", "nearest_centroid") == BEST != planted[0].n_layers // 2


def test_the_calibrated_strength_is_where_joy_turns_the_text(tables, whole, planted, strength):
    """A quarter of the eight texts are of joy, so the window ends where they collapse, and the vectors keep it."""
    table = select(tables["calibration"], setting=f"layer {BEST}")
    window = table[["window_low", "window_high"]].drop_duplicates().to_numpy()
    assert len(window) == 1
    held = table[table["value"] >= 0.9]["strength"]
    assert (held.min(), held.max()) == pytest.approx(tuple(window[0]))
    assert 0.5 * planted[1].flip < strength < planted[1].flip
    assert strength == window[0][1]
    stored = whole[1][2].calibration
    assert stored["layers"] == [BEST]
    assert stored["window"] == pytest.approx(list(window[0]))
    everywhere = select(tables["calibration"], setting="all layers")
    assert everywhere["layer"].isna().all()
    assert (everywhere["window_high"] < strength).all()  # added four times


def test_calibrating_by_itself_gives_the_same(tables, planted, whole):
    model, _ = planted
    vectors = replace(whole[1][2], provenance={**whole[1][2].provenance, "calibration": "{}"})
    writing = Writing(max_new_tokens=20, temperature=0.7, seeds=(1, 2))
    found, tried = calibration.calibrate(model, vectors, layers=[BEST], texts=8, writing=writing)
    table = select(tables["calibration"], setting=f"layer {BEST}").reset_index(drop=True)
    pd.testing.assert_frame_equal(table[tried.columns.to_list()], tried)
    assert found.onto(vectors).provenance == whole[1][2].provenance


def own_arm(table: pd.DataFrame, **values) -> pd.DataFrame:
    return select(table, arm="calibrated", **values)


def test_the_dose_response_has_every_emotion_strength_and_metric_beside_controls(tables, strength):
    table = own_arm(tables["dose_response"])
    names = [*corpus.emotion_names(), "all"]
    projections = select(table, metric="beyond_skip")
    assert len(projections) == len(names) * (len(DOSES) + 1)
    assert set(projections["emotion"]) == set(names)
    assert sorted(set(projections["relative"])) == pytest.approx(sorted([*DOSES, 0.0]))
    columns = [f"{name}{end}" for name in ("permuted", "random") for end in ("", "_low", "_high")]
    assert projections[["value", "others", *columns]].notna().all(axis=None)
    glad = select(table, emotion="happy", metric="classifier").set_index("relative").sort_index()
    assert glad.loc[4.0, "value"] > 0.8
    assert glad.loc[1.0, "value"] > 0
    assert (glad.loc[[-1.0, 0.0], "value"] == 0).all()
    assert (glad["random_high"] < 0.1).all()
    assert (glad["n"] == 2).all()
    assert "projection" not in set(select(tables["dose_response"], arm="published")["metric"])


def test_the_projection_is_read_at_the_later_layer_along_its_own_vector(tables, whole):
    """Nothing moves the stream in between: strength × the cosine of the two layers' vectors, and nothing beyond it."""
    vectors = whole[1][2].unit()
    for name in ("happy", "sad", "grateful"):
        cosine = float(vectors[name, BEST] @ vectors[name, READ])
        assert cosine < 0.9
        rows = own_arm(tables["dose_response"], emotion=name, metric="projection")
        slack = 0.01 * rows["strength"].abs().max()
        np.testing.assert_allclose(rows["value"], rows["strength"] * cosine, atol=slack)
        beyond = own_arm(tables["dose_response"], emotion=name, metric="beyond_skip")
        np.testing.assert_allclose(beyond["value"], 0, atol=slack)


def test_trends_and_effects_are_those_of_the_window(tables):
    table = own_arm(tables["monotonicity"]).set_index(["emotion", "metric"])
    assert len(table) == 3 * 20 + 1  # one emotion alone has kin words of one token
    glad = table.loc[("happy", "classifier")]
    assert glad["up"] > 0
    assert glad["p"] < 0.06
    # Four times the calibrated strength, where the text is one word of joy, is no part of it.
    at = own_arm(tables["dose_response"], emotion="happy", metric="classifier").set_index("relative")["value"]
    assert glad["up"] == pytest.approx(at.loc[1.0] - at.loc[0.0])
    assert glad["up"] < at.loc[4.0]
    effects = own_arm(tables["steering_effects"], metric="classifier", contrast="towards", match="norm")
    rows = own_arm(tables["dose_response"], metric="classifier")
    one = rows[(rows["emotion"] == "all") & np.isclose(rows["relative"], 1)].iloc[0]
    for control, column in (("permuted", "permuted"), ("gaussian", "random"), ("others", "others")):
        row = select(effects, control=control).iloc[0]
        assert row["value"] == pytest.approx(one["value"] - one[column])
        assert (row["n"], row["prompts"]) == (20, 2)
    matched = own_arm(tables["steering_effects"], metric="classifier", contrast="towards", control="permuted")
    assert set(matched["match"]) == {"norm", "perplexity", "coherence"}


def test_single_samples_are_counted_in_the_direction_they_move(tables):
    table = own_arm(tables["steerability"]).set_index(["emotion", "metric"])
    glad = table.loc[("happy", "classifier")]
    assert glad["n"] == 2 * 2
    assert glad["right_way"] > glad["wrong_way"]
    assert table.loc[("all", "classifier"), "n"] == 20 * 2 * 2
    assert table.loc[("sad", "classifier"), ["right_way", "wrong_way"]].to_list() == [0, 0]  # nothing reads it


def test_the_shares_of_regimes_are_those_of_the_texts(tables, texts, strength):
    table, steered = own_arm(tables["regimes"]), own_arm(texts["steered"])
    permuted, gaussian = [f"permuted-{n}" for n in range(1, 5)], [f"random-{n}" for n in range(1, 4)]
    names = [*corpus.emotion_names(), *permuted, *gaussian, "all", "permuted", "random"]
    assert len(table) == len(names) * len(DOSES) + 1
    for row in table.itertuples():
        if row.emotion == "unsteered":
            members = steered[steered["strength"] == 0]
            assert row.n == 8
        else:
            groups = {"all": corpus.emotion_names(), "permuted": permuted, "random": gaussian}
            wanted = groups.get(row.emotion, [row.emotion])
            members = steered[steered["emotion"].isin(wanted) & (steered["strength"] == row.strength)]
        counts = members["regime"].value_counts()
        assert row.n == len(members)
        for name in regimes.REGIMES:
            assert getattr(row, name.replace(" ", "_")) == pytest.approx(counts.get(name, 0) / row.n)
        assert row.value == pytest.approx(counts.get(regimes.SURGICAL, 0) / row.n)
        assert row.low <= row.value <= row.high
        if row.emotion not in ("all", "permuted", "random"):
            assert (row.low, row.high) == pytest.approx(statistics.wilson(counts.get(regimes.SURGICAL, 0), row.n)[1:])
        strict = (members["regime"] == regimes.SURGICAL) & (members["perplexity_ratio"] <= 2)
        assert row.within_2 == pytest.approx(strict.mean())
        assert counts[row.regime] == counts.max()
        for name in ("perplexity_ratio", "distinct_2", "longest_loop", "real_words"):
            assert getattr(row, name) == pytest.approx(members[name].median())
    far = select(table, emotion="happy", strength=4 * strength)
    assert far["repetitive_collapse"].item() == 1
    assert select(table, emotion="unsteered")["value"].item() == 1
    assert select(table, emotion="all", strength=strength)["value"].item() > 0.9


def test_the_sensitivity_table_holds_the_regimes_themselves_and_moves_with_one_threshold(tables, texts):
    table = own_arm(tables["regime_sensitivity"])
    shares = [name.replace(" ", "_") for name in regimes.REGIMES]
    assert len(table) == 9 * len(DOSES)
    default = select(table, variant="default").set_index("strength")
    every = own_arm(tables["regimes"], emotion="all").set_index("strength")
    pd.testing.assert_frame_equal(default[[*shares, "n"]], every.loc[default.index, [*shares, "n"]])
    steered = own_arm(texts["steered"], source="emotion")
    moved = 0
    for variant, thresholds in regimes.DEFAULT.variants().items():
        labels = regimes.label(steered, thresholds)
        for row in select(table, variant=variant).itertuples():
            members = labels[steered["strength"] == row.strength]
            assert [getattr(row, name) for name in shares] == pytest.approx(
                [(members == name).mean() for name in regimes.REGIMES]
            )
            moved += row.surgical != default.loc[row.strength, "surgical"]
    assert moved >= 2


def test_verification_has_one_row_a_scenario_and_finds_joy_alone(tables, texts, whole, planted, strength):
    model, _ = planted
    table = own_arm(tables["verification"])
    assert len(table) == SCENARIOS
    assert set(table["tone"].value_counts()) == {SCENARIOS // 2}
    assert (table["n"] == 2).all()
    assert (table["strength"] == strength).all()
    assert (table["classifier"] == "word counter").all()
    facts = corpus.scenarios().set_index("id")
    assert (table["tone"] == table["scenario"].map(facts["tone"])).all()
    assert (table["emotion"] == table["scenario"].map(facts["target"])).all()
    assert list(table[table["success"]]["emotion"]) == ["happy"]
    assert (table["p"] >= 1 / 20).all()
    assert (table["held_out_successes"] == 0).all()
    assert (table["wrong_successes"] == 0).all()
    assert table[["coherent", "control_coherent"]].stack().between(0, 1).all()
    assert table["coherent"].mean() > 0.8
    norm = activations.residual_norms(model)[BEST]
    for row in table.itertuples():
        assert row.gaps == pytest.approx(strength * norm / np.linalg.norm(whole[1][2][row.emotion, BEST]))
    shown = own_arm(texts["scenarios"]).groupby("scenario")["kind"].apply(sorted)
    assert len(shown) == SCENARIOS
    assert all(kinds == sorted(2 * list(verification.SHOWN)) for kinds in shown)
    published = select(tables["verification"], arm="published")
    assert (len(published), set(published["n"])) == (2, {1})


def test_asking_is_beside_steering_on_scenarios_and_on_the_prompts_of_the_dose_response(tables, texts):
    table = tables["prompting"]
    assert set(zip(table["where"], table["metric"], strict=True)) == {
        *(("scenarios", "success"), ("scenarios", "classifier"), ("dose", "classifier"), ("dose", "kin_share"))
    }
    together = select(table, emotion="all", where="scenarios", metric="success").iloc[0]
    verified = own_arm(tables["verification"])
    assert together["steering"] == pytest.approx(verified["success"].mean())
    assert together["prompting"] == pytest.approx(verified["prompted_success"].astype(float).mean())
    asked = texts["prompted"]
    assert len(asked) == 2 * (20 + 1)
    glad = select(table, emotion="happy", where="dose", metric="classifier").iloc[0]
    response = own_arm(tables["dose_response"], emotion="happy", metric="classifier").set_index("relative")["value"]
    assert glad["steering"] == pytest.approx(response.loc[1.0] - response.loc[0.0])


def test_the_judges_ceiling_is_that_of_the_passages_whole_and_cut(tables):
    for arm, texts_a_score in (("calibrated", 2), ("published", 1)):
        table = select(tables["judge_ceiling"], arm=arm)
        assert set(table["texts"]) == {"whole", "cut"}
        assert set(table["emotion"]) == {*corpus.emotion_names(), "all"}
        # The word counter reads kin words alone, and our passages have none.
        assert (table["value"] == 0).all()
        rule = confirmation.Rule(texts=texts_a_score)
        passages = corpus.passages()
        neutral = passages["text"][passages["emotion"] == corpus.NEUTRAL]
        happy = list(passages["text"][passages["emotion"] == "happy"])
        direct = confirmation.ceiling(WordCounter(), {"happy": happy}, list(neutral), rule)
        assert select(table, texts="whole", emotion="happy")["value"].item() == direct.rate.value


@pytest.mark.parametrize(("count", "expected"), [(40, 40), (100, 40), (20, 20), (6, 6)])
def test_fewer_scenarios_are_one_an_emotion_in_alternating_tones(count, expected):
    table = measure._scenarios(default(), count)
    assert len(table) == expected
    if count < 40:
        assert table["target"].is_unique
        assert abs(table["tone"].value_counts().diff().iloc[-1]) == 0


def test_only_what_is_asked_for_is_run(planted, tmp_path):
    model, joy = planted
    settings = replace(SETTINGS, tokens=6, calibration_texts=4, scenarios=2)
    tables, texts, _ = run(study_in(tmp_path / "one", model, joy, settings=settings), ["verification"])
    assert set(tables) == {"calibration", "residual_norms", "verification", "judge_ceiling", "prompting"}
    assert set(texts) == {"scenarios", "prompted"}
    assert set(tables["prompting"]["where"]) == {"scenarios"}
    settings = replace(settings, doses=(0.5, 1.0), dose_prompts=1, published_doses=())
    for name in ("regimes", "dose_response"):  # the one comes with the other
        tables, texts, _ = run(study_in(tmp_path / name, model, joy, settings=settings), [name])
        assert set(tables) == {table for one in EFFECTS if one.name != "verification" for table in one.tables}
        assert set(texts) == {"steered"}


# -- again ------------------------------------------------------------------------------------------------------------


def test_a_finished_run_gives_identical_tables_and_writes_nothing_again(whole, planted, monkeypatch):
    folder, first = whole

    def no_more(*args, **settings):
        raise AssertionError("a text was written again")

    monkeypatch.setattr(steered_texts, "generate", no_more)
    monkeypatch.setattr(prompting, "generate", no_more)
    monkeypatch.setattr(sweep, "score", no_more)
    monkeypatch.setattr(regimes, "log_likelihoods", no_more)
    same_tables(first, run(study_in(folder, *planted, resume=True)), check_exact=True)


class Killed(Exception):
    pass


def test_a_run_cut_short_three_times_goes_on_to_identical_tables(whole, planted, tmp_path, monkeypatch):
    """In the calibration, in the dose sweep and in the scenarios; no finished batch is written twice."""
    generate, wrote, stages = steered_texts.generate, [], []

    def counting(model, prompts, edit, writing, seeds):
        if len(wrote) in stops:
            stops.discard(len(wrote))
            raise Killed
        wrote.append(
            (tuple(map(tuple, prompts)), tuple(seeds), *(rows.numpy().tobytes() for rows in edit.directions.values()))
        )
        return generate(model, prompts, edit, writing, seeds)

    monkeypatch.setattr(steered_texts, "generate", counting)
    monkeypatch.setitem(steered_texts.write.__wrapped__.__kwdefaults__, "batch_rows", 40)
    stops = set()
    study = study_in(tmp_path / "uncut", *planted)
    study.progress = lambda what, done, of: stages.append(what)
    uncut = run(study)
    stages = [stage for stage in stages if stage.endswith(": texts")]
    total, dosing = len(wrote), sum(stage.startswith("dose response") for stage in stages)
    last = sum(stage.startswith("scenarios") for stage in stages)
    assert min(total - dosing - last, dosing, last) >= 6
    stops = {5, total - last - dosing // 2, total - last // 2}
    wrote.clear()
    for _ in range(3):
        with pytest.raises(Killed):
            run(study_in(tmp_path / "cut", *planted, resume=True))
    same_tables(uncut, run(study_in(tmp_path / "cut", *planted, resume=True)), check_exact=True)
    assert len(wrote) == len(set(wrote)) == total
    # Batches of another size are the same rows, and so the same tables, up to rounding.
    same_tables(whole[1], uncut, rtol=1e-4, atol=1e-6)


def test_a_model_that_nothing_calibrates_is_steered_at_the_stated_fallback(tiny, planted, tmp_path):
    """A random model writes no words even when it is left alone: there is no window, and the vectors say so."""
    model = tiny("llama", n_layers=N_LAYERS, d_model=D_MODEL)
    settings = replace(SETTINGS, scenarios=1)
    tables, _, vectors = run(study_in(tmp_path / "run", model, planted[1], settings=settings), ["verification"])
    assert tables["calibration"][["window_low", "window_high"]].isna().all(axis=None)
    assert tables["calibration"]["strength"].abs().max() <= 0.3
    assert set(own_arm(tables["verification"])["strength"]) == {FALLBACK_STRENGTH}
    assert vectors.check(model)
    with pytest.raises(EmotraceError, match="not calibrated"):
        steered_texts.steer(model, "The door", vectors)


# -- a real model -----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_a_real_models_texts_show_their_own_emotion_and_break_at_ten_times_the_strength(packaged):
    model, layer, judge = packaged("smollm2-135m-instruct"), 18, classifiers.load_classifier()
    vectors, prompts = reading.cached_vectors(model), corpus.prompts("dose")
    names = ["happy", "sad", "angry", "afraid", "grateful"]

    def steer(vectors, strengths, seeds, **emotions):
        writing = Writing(max_new_tokens=24, temperature=0.7, seeds=tuple(seeds))
        return steered_texts.steer(model, prompts, vectors, strengths, layers=[layer], writing=writing, **emotions)

    own = steer(vectors, 0.4, [0, 1], emotions=names)
    control = steering.random_like(vectors, 6, seed=0)
    random = steer(control, 0.4, [0, 1])
    scores = classifiers.emotion_scores(judge, list(own["text"]))
    steered = np.array([scores[name][own["emotion"] == name].mean() for name in names])
    chance = classifiers.emotion_scores(judge, list(random["text"]))[names].groupby(random["emotion"]).mean()
    # Measured: 0.31 on average over the emotions; under the six random directions 0.13 to 0.19, mean 0.17.
    assert steered.mean() > chance.mean(axis=1).max() + 0.05
    assert (steered > chance.mean()).sum() >= 4

    plain = steer(vectors, 0.0, range(4), emotions=names[:1])
    texts = steer(vectors, [0.1, 3.0], [5], emotions=names)
    labels = regimes.measure(model, texts, regimes.references(model, plain))["regime"]
    surgical = (labels == regimes.SURGICAL).groupby(texts["strength"]).mean()
    assert surgical[0.1] >= 0.9  # measured: 20 of 20
    assert surgical[3.0] <= 0.2  # measured: none; 12 collapse, 8 explode


def own_instrument():
    """Emotions that ``data/`` has not: *glee*, along the direction of joy, *gloom*, and *pique*, unknown to judges."""
    names, topics = ("glee", "gloom", "pique"), ("sea", "shop", "road", "roof", "lake", "yard")
    words = {"glee": "joy and glad", "gloom": "grief and sad", "pique": "a huff and a sulk"}
    texts = [(name, topic, f"At the {topic} there was {words[name]}.") for topic in topics for name in names]
    facts = [("glee", "joy", "joy|glad|happy"), ("gloom", "sadness", "grief|sad"), ("pique", "", "huff|sulk")]
    targets = [
        ("glee", "the table of"),
        ("glee", "a river in"),
        ("gloom", "this garden with"),
        ("pique", "her letter to"),
    ]
    openings = [
        ("calibration", "under tall"),
        ("calibration", "near seven"),
        ("dose", "after long"),
        ("dose", "the table"),
    ]
    tables = {
        "texts": pd.DataFrame(texts, columns=["emotion", "topic", "text"]),
        "emotions": pd.DataFrame(facts, columns=["emotion", "goemotions", "kin"]),
        "scenarios": pd.DataFrame(targets, columns=["target", "prompt"]),
        "prompts": pd.DataFrame(openings, columns=["use", "prompt"]),
    }
    return emotrace.load_instrument(tables, name="own")


def own_study(path: Path, model: Model, joy: Joy) -> Study:
    own, rng = own_instrument(), np.random.default_rng(0)
    along = {"glee": joy.directions["happy"], "gloom": joy.directions["sad"], "pique": joy.directions["angry"]}
    feeling = np.stack([along[name] for name in own.passages["emotion"]])
    pooled = 5 * feeling[:, None] + rng.normal(size=(len(feeling), N_LAYERS + 1, D_MODEL)) / 8
    nothing = {"mean": np.zeros((N_LAYERS + 1, D_MODEL))}
    provenance = {**model.provenance, "model": model.name, "method": "comprehension"}
    read = Reading(
        own.passages, {"mean": pooled.astype(np.float32)}, list(range(N_LAYERS + 1)), provenance, own, nothing
    )
    sizes = replace(SETTINGS, tokens=8, calibration_texts=4, scenarios=4, scenario_seeds=1, doses=(-1.0, 0.5, 1.0))
    sizes = replace(sizes, dose_prompts=2, dose_seeds=1, dose_random=1, published_doses=(), published_scenarios=0)
    facts = model.name, model.family, model.n_layers, False, read, {}
    study = Study(
        *facts,
        sizes,
        RunFolder(path, {}),
        lambda what, done, of: None,
        loaded=model,
        passages=own.passages,
        instrument="own",
        source=own,
    )
    study.classifier = WordCounter()
    return study


def test_the_scenarios_openings_words_and_labels_are_the_instruments_own(planted, tmp_path):
    study = own_study(tmp_path / "own", *planted)
    study._shared[prepare] = replace(study.once(prepare), strength=3.0)  # where the model speaks of joy alone
    tables, texts, _ = run(study)
    verified = tables["verification"].set_index("scenario")
    assert verified["emotion"].to_dict() == {"s01": "glee", "s02": "glee", "s03": "gloom"}  # no judge knows pique
    assert verified.loc[["s01", "s02"], "rise"].min() > 0.5 > verified.loc["s03", "rise"]
    assert verified["ranked"].unique() == [2]
    assert set(texts["scenarios"]["prompt"]) == {"the table of", "a river in", "this garden with"}
    assert set(texts["steered"]["prompt"]) == set(texts["prompted"]["prompt"]) == {"after long", "the table"}
    dose = tables["dose_response"].query("relative == 1").set_index(["metric", "emotion"])["value"]
    assert set(dose["classifier"].index) == {"glee", "gloom", "all"}
    assert set(dose["kin_share"].index) == {"glee", "gloom", "pique", "all"}
    glad = texts["steered"].query("relative == 1 and emotion == 'glee'")["text"].str.findall("joy|glad|happy").str.len()
    count = texts["steered"].query("relative == 1 and emotion == 'glee'")["text"].str.split().str.len()
    assert dose["kin_share", "glee"] == pytest.approx((glad / count).mean())
    assert dose["kin_share", "glee"] > 0.5 > dose["kin_share", "gloom"]
    # without texts of neutral the judge's ceiling is over unrelated ones
    ceiling = select(tables["judge_ceiling"], texts="whole").set_index("emotion")
    assert ceiling.loc["glee", "value"] == 1
    claims = [claim.id for claim in experiments.claims(tables, "llama")]
    assert "C9.strict" in claims
    names = [picture.name for one in EFFECTS for picture in one.pictures if picture.figure(tables) is not None]
    assert {"dose_by_emotion", "regime_map", "success_by_scenario"} <= set(names)


def test_an_instrument_is_asked_what_it_has_the_stimuli_for():
    own = own_instrument()
    asked = {name: experiments.by_name(name).requires for name in ("dose_response", "verification")}
    assert [one(own) for one in asked.values()] == ["", ""]
    assert asked["verification"](replace(own, scenarios=None)).startswith("needs scenarios")
    judged = "needs labels of the judge (emotions: goemotions) for 2 emotions that scenarios are for"
    assert asked["verification"](replace(own, labels={"glee": ("joy",)})) == judged
    few = replace(own, openings=own.openings[own.openings["use"] == "calibration"])
    assert asked["dose_response"](few) == "needs openings for dose (prompts: use, prompt)"
    assert measure._scenarios(own, 2)["id"].tolist() == ["s01", "s03"]
