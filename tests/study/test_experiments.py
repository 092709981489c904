"""The one list of experiments: complete, in order, free of circles; docs say of it what it is."""

import re
import types
from pathlib import Path

import pandas as pd
import pytest
from threadpoolctl import threadpool_info

from emotrace.errors import EmotraceError
from emotrace.study import experiments
from emotrace.study.across import claims as across_claims
from emotrace.study.across import measure as across_tables
from emotrace.study.experiment import ANALYSE, STAGES, STEER, Experiment, Picture, Results, of_model

ROOT = Path(__file__).parents[2]
SELECTABLE = (
    "separation anisotropy geometry reliability localisation transfer method_comparison factorial dose_response "
    "regimes verification crosslingual implicit graded estimators precision estimator_steering layer_strength"
)
# Written by the pipeline itself, or by what compares models.
NOT_OF_AN_EXPERIMENT = {"claims", *across_tables.TABLES}


def names(plan: list[Experiment]) -> list[str]:
    return [experiment.name for experiment in plan]


def test_names_are_those_that_manifests_of_finished_runs_hold():
    assert list(experiments.NAMES) == SELECTABLE.split()


def test_nothing_is_made_twice():
    for field in ("tables", "texts", "claim_ids"):
        made = [name for experiment in experiments.EXPERIMENTS for name in getattr(experiment, field)]
        assert len(made) == len(set(made)), field
    pictures = [picture.name for experiment in experiments.EXPERIMENTS for picture in experiment.pictures]
    assert len(pictures) == len(set(pictures))


def test_every_name_in_a_record_is_known():
    known = set(names(experiments.EXPERIMENTS))
    for experiment in experiments.EXPERIMENTS:
        assert {*experiment.needs, *experiment.beside} <= known - {experiment.name}
        assert experiment.stage in STAGES
        assert all(picture.table in experiments.TABLES for picture in experiment.pictures)
        assert list((ROOT / "notebooks").glob(f"{experiment.notebook}_*.ipynb"))
    assert set(experiments.CLAIMS_FIRST) <= known


@pytest.mark.parametrize("beside", [False, True])
def test_a_plan_has_what_is_needed_before_what_needs_it(beside):
    for experiment in experiments.EXPERIMENTS:
        plan = experiments.planned([experiment], beside=beside)
        order = names(plan)
        assert experiment in plan
        assert len(order) == len(set(order))
        assert [one.stage for one in plan] == sorted((one.stage for one in plan), key=STAGES.index)
        for one in plan:
            assert all(order.index(name) < order.index(one.name) for name in one.needs)
            assert not beside or set(one.beside) <= set(order)


def test_a_plan_holds_no_more_than_is_asked_for_and_needed():
    assert names(experiments.planned([experiments.by_name("separation")])) == ["separation"]
    located = experiments.planned([experiments.by_name("localisation")])
    assert names(located) == ["separation", "anisotropy", "localisation", "transfer"]
    steered = experiments.planned([experiments.by_name("geometry"), experiments.by_name("verification")])
    assert names(steered) == ["calibration", "verification", "geometry"]


def test_what_users_cannot_ask_for_is_not_known_by_name():
    for name in ("calibration", "nonsense"):
        with pytest.raises(EmotraceError, match="known are separation, anisotropy"):
            experiments.by_name(name)


def test_results_are_given_on_and_analysis_runs_on_one_thread():
    threads = []

    def run(study, tables):
        threads.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        return Results({f"{len(tables)} before": pd.DataFrame()})

    records = [Experiment("a", "?", (), run, stage=ANALYSE), Experiment("b", "?", (), run, stage=STEER)]
    results = Results()
    study = types.SimpleNamespace(instrument="scenes", source=None)
    experiments.measure(records, study, results)
    assert list(results.tables) == ["0 before", "1 before"]
    assert threads[0] == {1}


def test_a_picture_needs_its_table_and_its_vectors():
    full, empty = pd.DataFrame({"x": [1]}), pd.DataFrame({"x": []})
    picture = Picture("p", lambda tables: "drawn", "t", "a caption")
    assert picture.figure({"t": full}) == "drawn"
    assert picture.figure({"t": empty}) is None
    assert picture.figure({}) is None
    of_vectors = Picture("p", lambda tables, vectors: vectors, "t", "a caption", vectors=True)
    assert of_vectors.figure({"t": full}, "the vectors") == "the vectors"
    assert of_vectors.figure({"t": full}) is None


def test_tables_of_one_model_are_its_rows():
    table = pd.DataFrame({"model": ["a", "b"], "value": [1, 2]})
    ((name, rows),) = of_model({"t": table, "over models": table[["value"]]}, "b").items()
    assert (name, list(rows["value"])) == ("t", [2])


# -- the docs ---------------------------------------------------------------------------------------------------------


def test_the_reference_of_tables_has_exactly_the_tables_there_are():
    titles = re.findall(r"^## `([a-z_]+)\.csv`", (ROOT / "docs" / "tables.md").read_text(), flags=re.MULTILINE)
    over_models = {"method_comparison_models"}
    assert len(titles) == len(set(titles))
    assert set(titles) == {*experiments.TABLES, *NOT_OF_AN_EXPERIMENT, *over_models}


def claims_documented() -> dict[str, tuple[str, str]]:
    """Id → (what measures it, number of the notebook), of ``docs/claims.md``."""
    text = (ROOT / "docs" / "claims.md").read_text()
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 8 and cells[1].startswith("`"):
            notebook = re.match(r"\[(\d\d)\]\(\.\./notebooks/\1_\w+\.ipynb\)$", cells[6])
            for id in re.findall(r"`([^`]+)`", cells[1]):
                assert id not in found
                found[id] = (cells[5].strip("`"), notebook[1])
    return found


def test_the_list_of_claims_has_exactly_the_claims_there_are_and_where_each_is_measured():
    of_models = {id: (experiment.name, experiment.notebook) for id, experiment in experiments.CLAIMS.items()}
    over_models = dict.fromkeys(across_claims.CLAIM_IDS, ("across", "10"))
    assert claims_documented() == {**of_models, **over_models}


def test_the_list_of_claims_has_all_twelve_of_the_paper():
    titles = re.findall(r"^## (C\d+)\b", (ROOT / "docs" / "claims.md").read_text(), flags=re.MULTILINE)
    assert titles == [f"C{number}" for number in range(1, 13)]


def test_all_leaves_out_what_is_asked_for_by_name_alone():
    extra = {"estimators", "precision", "estimator_steering", "layer_strength"}
    assert not extra & set(experiments.names_in("all"))
    assert set(experiments.names_in(" all, precision,all")) == {*experiments.ALL, "precision"}
    assert experiments.names_in("separation,precision,separation") == ["separation", "precision"]
    assert {*experiments.ALL, *extra, "transfer"} == set(experiments.NAMES)
