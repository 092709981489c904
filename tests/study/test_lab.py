"""A notebook's calls run what they need, once, through the same code as a run; what they show is what was measured."""

import base64
import copy
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import emotrace
from emotrace.errors import EmotraceError
from emotrace.hosts.remote import Remote
from emotrace.study import experiments, notebook, pipeline
from emotrace.study.experiment import of_main_instrument
from emotrace.study.folder import read_tables
from emotrace.study.lab import Lab
from emotrace.study.settings import Settings
from emotrace.study.style import plt
from emotrace.study.verdicts import NOT_TESTABLE

SMALL = {"topics": 4, "baseline_texts": 20, "bootstrap": 20, "permutations": 19, "decoder_permutations": 9}
SMALLER = {
    **SMALL,
    "story_topics": 4,
    "calibration_texts": 4,
    "doses": (-1, 1, 3),
    "dose_prompts": 1,
    "dose_seeds": 1,
    "dose_permuted": 2,
    "dose_random": 2,
    "tokens": 6,
    "scenarios": 3,
    "scenario_seeds": 1,
    "published_doses": (-0.02, 0.02),
    "published_permuted": 2,
    "published_scenarios": 2,
}


@pytest.fixture(autouse=True, scope="module")
def small():
    """Quick settings that are quicker still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "quick", classmethod(lambda cls, seed=0: cls(seed, **SMALLER)))
        yield


@pytest.fixture(scope="module")
def model(tiny_folder):
    return emotrace.load(str(tiny_folder("llama")))


@pytest.fixture
def lab(model, tmp_path):
    """A lab with nothing in its folder."""
    return Lab(model, folder=tmp_path / "run")


@pytest.fixture(scope="module")
def used(model, tmp_path_factory):
    """A lab that tests share: what one has measured the next finds done."""
    return Lab(model, folder=tmp_path_factory.mktemp("lab") / "run")


def counting(monkeypatch, module, name):
    """How often a function is called from now on."""
    calls, real = [], getattr(module, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_nothing_is_measured_until_it_is_asked_for(lab):
    assert "nothing yet" in repr(lab)
    assert not lab.folder.exists()


def test_a_lab_keeps_work_of_ones_own(lab, model, monkeypatch):
    from emotrace import activations

    texts = ["The kettle boils.", "Somebody is at the door, and it is late."]
    first = activations.read_activations(model, texts, cache=lab)
    calls = counting(monkeypatch, activations, "_pool")
    again = activations.read_activations(model, texts, cache=lab)
    assert not calls
    for pooling, values in activations.read_activations(model, texts).items():
        np.testing.assert_array_equal(first[pooling], again[pooling])
        np.testing.assert_allclose(again[pooling], values, rtol=1e-5, atol=1e-6)


def test_a_lab_shows_the_instrument_that_it_is_asked_for(used, model):
    accounts = Lab(model, instrument="accounts", folder=used.folder)
    theirs, ours = accounts.table("separation"), used.table("separation")
    assert set(theirs["instrument"]) == {"accounts"}
    pd.testing.assert_frame_equal(theirs, used.table("separation", "accounts"))
    assert not np.allclose(theirs["value"].iloc[:40], ours["value"].iloc[:40])
    assert accounts.claim("C6.depth.mean")["instrument"] == "accounts"
    assert accounts.vectors().provenance["texts"] != used.vectors().provenance["texts"]
    with pytest.raises(EmotraceError, match=r"unknown instrument 'diaries': known are scenes, accounts.* notebook 13"):
        Lab(model, instrument="diaries")


def test_a_table_runs_its_experiment_alone_and_once(lab, monkeypatch):
    measured = counting(monkeypatch, experiments, "measure")
    table = lab.table("separation")
    pd.testing.assert_frame_equal(lab.table("separation"), table)
    assert {"cosine", "ratio", "silhouette", "nearest_centroid", "logistic_regression"} <= set(table["metric"])
    assert set(table["instrument"]) == {"scenes"}
    assert set(lab.table("separation", "accounts")["instrument"]) == {"accounts"}
    assert [experiment.name for (plan, *_) in measured for experiment in plan] == ["separation"]
    assert repr(lab).endswith("used here: separation")
    assert sorted(read_tables(lab.folder)) == ["separation"]


def test_a_second_lab_on_the_folder_computes_nothing_anew(lab, model, monkeypatch):
    from emotrace.measures import geometry

    table = lab.table("separation")
    before = sorted((lab.folder / ".cache").iterdir())
    calls = counting(monkeypatch, geometry, "decode")
    again = Lab(model, folder=lab.folder).table("separation")
    pd.testing.assert_frame_equal(again, table)
    assert not calls
    assert sorted((lab.folder / ".cache").iterdir()) == before


def test_claims_run_what_they_rest_on_alone(lab):
    assert len(lab.claims("C6")) == 20  # five claims, two poolings, two instruments
    assert repr(lab).endswith("used here: anisotropy, separation, localisation, transfer")


def test_two_labs_may_be_open_on_one_folder(lab, model):
    other = Lab(model, folder=lab.folder)
    assert len(lab.table("anisotropy")) == len(other.table("anisotropy"))
    assert len(lab.table("geometry")) == len(other.table("geometry"))


@pytest.mark.slow
def test_emotrace_run_goes_on_with_a_labs_folder_to_the_same_tables(used, tiny_folder):
    mine = {
        name: used.table(name) for name in ("separation", "localisation", "dose_response", "verification", "factorial")
    }
    stated = used.claims()
    assert {claim.split(".")[0] for claim in stated["id"]} == {
        id.split(".")[0] for id, experiment in experiments.CLAIMS.items() if not experiment.extra
    }
    pipeline.run([str(tiny_folder("llama"))], used.folder, quick=True, resume=True)
    theirs = read_tables(used.folder)
    for name, table in mine.items():
        there = of_main_instrument({name: theirs[name]})[name][list(table.columns)]
        pd.testing.assert_frame_equal(there, table.reset_index(drop=True), rtol=1e-5, check_dtype=False)
    for column in ("id", "claim", "verdict"):
        assert list(theirs["claims"][column]) == list(stated[column])
    np.testing.assert_allclose(theirs["claims"]["measured"], stated["measured"], rtol=1e-5)


def test_claims_are_found_by_their_ids_and_by_how_these_begin(used):
    stated = used.claims("C6")
    tables = {name: table for name, table in used._results.tables.items() if name != "claims"}
    whole = [claim for claim in experiments.claims(tables, "llama") if claim.id.startswith("C6.")]
    assert list(stated["claim"]) == [claim.claim for claim in whole]
    assert list(stated["paper"]) == [claim.paper for claim in whole]
    assert list(used.claims("C6.u")["id"]) == ["C6.u.last", "C6.u.mean"] * 2  # C6.u_null is another claim
    several = used.claims("C6.depth", "C7.gemma")
    assert list(several["id"]) == ["C6.depth.last", "C6.depth.mean"] * 2 + ["C7.gemma"]
    assert list(several["instrument"])[:4] == ["scenes", "scenes", "accounts", "accounts"]
    located = used.table("localisation").query("pooling == 'mean' and criterion == 'cosine'")
    assert used.claim("C6.depth.mean")["measured"] == located["depth"].item()
    curve = used.table("learning_curve")
    curve = curve[(curve["pooling"] == "mean") & (curve["metric"] == "logistic_regression")]
    assert used.claim("neighbour.probe.mean")["measured"] == curve.sort_values("topics").iloc[-1]["value"]
    with pytest.raises(EmotraceError, match="0 claims have the id 'C6', not one"):
        used.claim("C6")


def test_experiments_state_the_claims_that_their_records_list(used):
    stated = used.claims()
    assert not stated.duplicated(["id", "instrument"]).any()
    # The tiny model's vocabulary has no English kin word as one token.
    asked_for = {id for id, experiment in experiments.CLAIMS.items() if not experiment.extra}
    missing = asked_for - set(stated["id"])
    assert missing == {
        *(
            f"C8.{arm}{claim}.kin_log_probability"
            for arm in ("", "published.")
            for claim in ("monotonic", "towards", "away")
        ),
        "C8.equal_harm.kin_log_probability",
    }
    assert set(stated["id"]) <= set(experiments.CLAIMS)
    for row in stated.itertuples():
        number = row.claim.split()[0].rstrip(":")
        assert row.id.split(".")[0] == number
    tables = used._results.tables
    for experiment in (one for one in experiments.EXPERIMENTS if not one.extra):
        own = of_main_instrument({name: table for name, table in tables.items() if name != "claims"})
        assert {claim.id for claim in experiment.claims(own, "llama")} == set(experiment.claim_ids) - missing


def test_every_table_is_made_by_the_experiment_it_stands_under(used):
    wordless = {"estimator_effects", "layer_strength", "damage"}  # a random model has no kin word of one token
    for name in set(experiments.TABLES) - wordless:
        assert len(used.table(name)), name
    for name in wordless:
        with pytest.raises(EmotraceError, match=f"has no {name}: .* no emotion has kin words"):
            used.table(name)
    assert set(experiments.TEXTS) == {"stories", "steered", "scenarios", "prompted"}
    for name in experiments.TEXTS:
        assert used.texts(name)["text"].map(len).sum() > 0
    assert used.vectors("last").provenance["pooling"] == "last"


@pytest.mark.parametrize("name", ["separation_over_depth", "cosine_matrix", "regime_map", "factorial_effects"])
def test_a_figure_is_the_reports_own_as_a_small_png_with_its_caption(used, name, monkeypatch):
    found, open_before = shown(monkeypatch), plt.get_fignums()
    used.show(name)
    (bundle, how), (caption, _) = found
    assert how["metadata"]["emotrace"] == {"figure": name}
    content = base64.b64decode(bundle["image/png"])
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert picture.std() > 10
    assert len(content) < 100_000
    assert 300 < how["metadata"]["image/png"]["width"] < 1200
    assert caption.data == f"*{experiments.PICTURES[name].caption}*"
    assert len(caption.data) > 40
    assert plt.get_fignums() == open_before


def test_wrong_names_list_the_known(used):
    for ask, known in ((used.table, "separation"), (used.show, "regime_map"), (used.texts, "stories")):
        with pytest.raises(EmotraceError, match=known):
            ask("nonsense")
    for ask in (used.claims, used.claim):
        with pytest.raises(EmotraceError, match=r"unknown claim 'C99': known are C7\.gemma, .*C11"):
            ask("C99")
    with pytest.raises(EmotraceError, match="not one"):
        used.claim("C6.depth")


def test_a_base_model_says_why_it_has_no_stories(tiny_folder, tmp_path):
    lab = Lab(emotrace.load(str(tiny_folder("gpt2"))), folder=tmp_path / "base")
    for ask in (lambda: lab.table("method_comparison"), lambda: lab.texts("stories")):
        with pytest.raises(EmotraceError, match="a base model writes no stories"):
            ask()


def test_folders_differ_by_what_makes_a_run(model, monkeypatch, tmp_path):
    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path))
    other, served, simulated = copy.copy(model), copy.copy(model), copy.copy(model)
    other.name, served.remote, simulated.remote = "org/name", Remote("https://a.server"), Remote("local")
    labs = Lab(model), Lab(model, quick=False), Lab(model, seed=3), Lab(other), Lab(served)
    assert len({lab.folder for lab in labs}) == 5
    assert labs[0].folder == tmp_path / f"{model.name}-quick"
    assert labs[3].folder == tmp_path / "org--name-quick"
    assert Lab(simulated).folder == labs[0].folder  # the same weights on the same machine
    folders = set()
    for changed in ({"weights_id": "memory:0123456789"}, {"weights_id": "memory:1123456789"}, {"dtype": "bfloat16"}):
        copied = copy.copy(model)
        copied.provenance = {**model.provenance, **changed}
        folders.add(Lab(copied).folder.name.removeprefix(f"{model.name}-quick-"))
    assert folders == {"01234567", "11234567", "bfloat16"}


def test_passages_of_ones_own_have_a_folder_of_their_own(model, monkeypatch, tmp_path):
    from emotrace.instrument import corpus

    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path))
    mine = corpus.passages().assign(text=lambda table: table["text"] + " Then it was over.")
    mine.to_csv(tmp_path / "mine.csv", index=False)
    assert Lab(model, passages=tmp_path / "mine.csv").folder != Lab(model).folder


def test_published_claims_have_one_column_a_model():
    frame = notebook.published("C6").frame
    assert list(frame.columns[:2]) == ["claim", "the paper"]
    assert frame["claim"].str.startswith("C6 ").all()
    whole = pd.read_csv(Path(__file__).parents[2] / "docs" / "results" / "tables" / "claims.csv")
    for row in whole[whole["claim"] == frame["claim"][0]].itertuples():
        (column,) = [name for name in frame.columns if name in (row.model, f"{row.model} (quick)")]
        assert frame.loc[0, column].startswith(notebook.MARKS[row.verdict])
        assert f"{row.measured:.3g}" in frame.loc[0, column] or pd.isna(row.measured)


def test_without_a_checkout_a_line_says_where_the_published_claims_are(monkeypatch, tmp_path):
    from emotrace.instrument import corpus

    monkeypatch.setattr(corpus, "data_dir", lambda: tmp_path / "data")
    assert "docs/results/tables/claims.csv" in repr(notebook.published("C6"))


# -- what is shown ----------------------------------------------------------------------------------------------------


def shown(monkeypatch):
    found = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **how: found.append((args[0], how)))
    return found


def test_a_headline_says_and_keeps_its_number(monkeypatch):
    found = shown(monkeypatch)
    row = pd.Series({"value": 0.60001, "low": 0.5, "high": 0.7, "n": 6})
    notebook.headline("depth", row, 0.1, "Best at {topics}, they say.")
    (bundle, how) = found[0]
    assert bundle["text/markdown"] == "- Best at **0.6** (0.5 to 0.7, n = 6 topics), they say."
    assert bundle[notebook.HEADLINE] == {
        "name": "depth",
        "value": 0.60001,
        "low": 0.5,
        "high": 0.7,
        "n": 6,
        "tolerance": 0.1,
    }
    assert how["metadata"] == {"emotrace": {"headline": "depth"}}
    notebook.headline("none", {"measured": np.nan, "low": np.nan, "high": np.nan, "n": 4}, 0.1, "{}")
    assert found[1][0]["text/markdown"] == "- – (n = 4)"
    assert json.loads(json.dumps(found[1][0][notebook.HEADLINE], allow_nan=False))["value"] is None


def test_a_claim_is_a_headline_too(monkeypatch):
    found = shown(monkeypatch)
    notebook.headline("d", pd.Series({"measured": 2.0, "low": 1.0, "high": 3.0, "n": 9}), 0, "{}")
    assert found[0][0][notebook.HEADLINE]["value"] == 2.0


def test_a_table_escapes_markup_and_shows_whole_texts():
    text = "<script>alert(1)</script>" + " long" * 60
    table = notebook.Table(pd.DataFrame({"text": [text], "value": [0.123456]}), {"how": "<b>so</b>"})
    page = table._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;so" in page
    assert page.count(" long") == 60
    assert "0.123" in page
    assert "0.1234" not in page


def test_claims_tables_mark_their_verdicts():
    shared = {"claim": "C6 x", "instrument": "scenes", "paper": "0.5", "n": 6, "how": "by looking"}
    rows = pd.DataFrame(
        [
            {**shared, "model": "a", "measured": 0.61, "low": 0.6, "high": 0.7, "verdict": "reproduced"},
            {**shared, "model": "b", "measured": 0.2, "low": np.nan, "high": np.nan, "verdict": NOT_TESTABLE},
        ]
    )
    one = notebook.claims_table(rows)
    assert list(one.frame["verdict"]) == ["✓ reproduced", "– not testable on this model"]
    assert list(one.frame["95% interval"]) == ["0.6 to 0.7", "–"]
    assert "by looking" in one._repr_html_()
    wide = notebook.claims_of_models(rows).frame
    assert wide.to_dict("records") == [{"claim": "C6 x", "the paper": "0.5", "a": "✓ 0.61 (0.6 to 0.7)", "b": "– 0.2"}]


def test_text_of_a_table_has_no_address():
    table = notebook.Table(pd.DataFrame({"a": [1]}))
    assert not re.search(r"0x[0-9a-f]+", repr(table) + table._repr_html_())
