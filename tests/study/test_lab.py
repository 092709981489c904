"""A notebook's calls run what they need, once, through the same code as a run; what they show is what was measured."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emotrace.errors import EmotraceError
from emotrace.study import figures, notebook, on_demand, pipeline
from emotrace.study.folder import read_tables
from emotrace.study.lab import CLAIMS, MADE_BY, Lab
from emotrace.study.separation import figures as plots
from emotrace.study.study import Settings
from emotrace.study.separation.claims import claims

SMALL = {"topics": 4, "baseline_texts": 20, "bootstrap": 20, "permutations": 19, "decoder_permutations": 9}
SMALLER = {
    **SMALL, "story_topics": 4, "calibration_texts": 4, "doses": (-1, 1, 3), "dose_prompts": 1, "dose_random": 2, "tokens": 6,
    "scenarios": 3, "scenario_seeds": 1,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small():
    """Quick settings that are quicker still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "quick", classmethod(lambda cls, seed=0: cls(seed, **SMALLER)))
        yield


@pytest.fixture
def lab(tiny_folder, tmp_path):
    """A lab with nothing in its folder."""
    return Lab(str(tiny_folder("llama")), folder=tmp_path / "run")


@pytest.fixture(scope="module")
def used(tiny_folder, tmp_path_factory):
    """A lab that tests share: what one has measured the next finds done."""
    return Lab(str(tiny_folder("llama")), folder=tmp_path_factory.mktemp("lab") / "run")


def counting(monkeypatch, module, name):
    """How often a function is called from now on."""
    calls, real = [], getattr(module, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_nothing_is_loaded_or_measured_until_it_is_asked_for(lab):
    assert "nothing yet" in repr(lab)
    assert lab._all._model is None
    assert not lab.folder.exists()


def test_a_table_runs_its_experiment_alone_and_once(lab, monkeypatch):
    from emotrace.study.effects import measure as steering_experiments
    from emotrace.study.methods import measure as method_experiments

    calls = counting(monkeypatch, on_demand, "run_all")
    for module in (method_experiments, steering_experiments):
        monkeypatch.setattr(module, "run", lambda *_: pytest.fail("not asked for"))
    table = lab.table("separation")
    assert lab.table("separation") is table
    assert set(table["metric"]) == {"cosine", "shuffle_excess", "silhouette", "nearest_centroid", "logistic_regression"}
    assert len(calls) == 1
    assert "measured here: separation" in repr(lab)
    assert sorted(read_tables(lab.folder)) == ["anisotropy", "separation"]


def test_a_second_lab_on_the_folder_computes_nothing_anew(lab, tiny_folder, monkeypatch):
    from emotrace.measures import geometry

    table = lab.table("separation")
    before = sorted((lab.folder / ".cache").iterdir())
    calls = counting(monkeypatch, geometry, "decode")
    again = Lab(str(tiny_folder("llama")), folder=lab.folder).table("separation")
    pd.testing.assert_frame_equal(again, table)
    assert not calls
    assert sorted((lab.folder / ".cache").iterdir()) == before


def test_claims_run_what_they_rest_on_alone(lab):
    assert len(lab.claims("C6").frame) == 6
    assert lab._all.done == ["localisation"]


def test_two_labs_may_be_open_on_one_folder(lab, tiny_folder):
    other = Lab(str(tiny_folder("llama")), folder=lab.folder)
    assert len(lab.table("anisotropy")) == len(other.table("anisotropy"))
    assert len(lab.table("geometry")) == len(other.table("geometry"))


def test_emotrace_run_goes_on_with_a_labs_folder_to_the_same_tables(used, tiny_folder):
    mine = {
        name: used.table(name) for name in ("separation", "localisation", "dose_response", "verification", "factorial")
    }
    stated = used._claims()
    pipeline.run([str(tiny_folder("llama"))], used.folder, quick=True, resume=True)
    theirs = read_tables(used.folder)
    for name, table in mine.items():
        there = theirs[name][list(table.columns)]
        pd.testing.assert_frame_equal(there, table.reset_index(drop=True), rtol=1e-5, check_dtype=False)
    there = theirs["claims"][theirs["claims"]["claim"].isin(stated["claim"])].reset_index(drop=True)
    assert list(there["claim"]) == list(stated["claim"])
    np.testing.assert_allclose(there["measured"], stated["measured"], rtol=1e-5)


def test_claims_are_those_of_the_tables_filtered_by_number(used):
    shown = used.claims("C6")
    tables = {name: used.table(name) for name in ("separation", "anisotropy", "localisation")}
    whole = claims(used.model.name, "llama", tables)
    kept = whole[whole["claim"].str.startswith("C6 ")]
    assert list(shown.frame["claim"]) == list(kept["claim"])
    assert list(shown.frame["the paper"]) == list(kept["paper"])
    one = used.claim("C6 emotions separate best at about 50% depth (mean")
    located = used.row("localisation", pooling="mean", criterion="cosine")
    assert one["measured"] == located["depth"]
    with pytest.raises(EmotraceError, match="6 claims begin with 'C6', not one"):
        used.claim("C6")


def test_every_claim_number_has_rows(used):
    found = used._claims()
    assert {claim.split()[0].rstrip(":") for claim in found["claim"]} == set(CLAIMS)
    for number in CLAIMS:
        rows = used._claims(number)
        assert len(rows)
        assert {claim.split()[0].rstrip(":") for claim in rows["claim"]} == {number}
    probe = used.claim("neighbour: a linear probe tells 20 emotions apart (mean")
    located = used.row("localisation", pooling="mean", criterion="logistic_regression")
    assert probe["measured"] == located["held_out"]


def test_every_table_is_made_by_the_experiment_it_stands_under(used):
    for name in MADE_BY:
        assert len(used.table(name)), name
    for name in ("stories", "steered", "scenarios"):
        assert used.texts(name)["text"].map(len).sum() > 0
    assert used.vectors("last").provenance["pooling"] == "last"
    assert len(used.examples(2).frame) == 2


@pytest.mark.parametrize("name", ["separation_over_depth", "cosine_matrix", "regime_map", "factorial_effects"])
def test_a_figure_is_the_reports_own(used, name):
    figure = used.figure(name)
    content, width = notebook.png(figure)
    plots.plt.close(figure)
    assert content.startswith(b"\x89PNG")
    assert len(content) < 100_000
    assert 300 < width < 1200
    assert name in figures.CAPTIONS


def test_a_figure_of_separation_has_its_baseline(used):
    figure = used.figure("separation_over_depth")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    plots.plt.close(figure)
    assert "unrelated texts, same group size" in labels


def test_wrong_names_list_the_known(used):
    for ask, known in ((used.table, "separation"), (used.figure, "regime_map"), (used.texts, "stories")):
        with pytest.raises(EmotraceError, match=known):
            ask("nonsense")
    with pytest.raises(EmotraceError, match="C11"):
        used.claims("C99")
    with pytest.raises(EmotraceError, match="not one"):
        used.row("separation", pooling="mean")


def test_a_base_model_says_why_it_has_no_stories(tiny_folder, tmp_path):
    lab = Lab(str(tiny_folder("gpt2")), folder=tmp_path / "base")
    for ask in (lambda: lab.table("method_comparison"), lambda: lab.texts("stories")):
        with pytest.raises(EmotraceError, match="a base model writes no stories"):
            ask()


def test_folders_differ_by_what_makes_a_run(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path))
    names = {Lab(**how).folder for how in ({}, {"quick": False}, {"seed": 3}, {"model": "org/name"}, {"remote": True})}
    assert len(names) == 5
    assert Lab().folder == tmp_path / "smollm2-135m-instruct-quick"


def test_passages_of_ones_own_have_a_folder_of_their_own(monkeypatch, tmp_path):
    from emotrace.instrument import corpus

    monkeypatch.setenv("EMOTRACE_RUNS", str(tmp_path))
    mine = corpus.passages().assign(text=lambda table: table["text"] + " Then it was over.")
    mine.to_csv(tmp_path / "mine.csv", index=False)
    assert Lab(passages=tmp_path / "mine.csv").folder != Lab().folder


def test_remote_is_passed_on_to_load_only_where_it_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr("emotrace.models.load", lambda name, **how: asked.append((name, how)))
    _ = Lab("a").model, Lab("b", remote="local").model
    assert asked == [("a", {}), ("b", {"remote": "local"})]


def test_published_claims_have_one_column_a_model(used):
    frame = used.published("C6").frame
    assert list(frame.columns[:2]) == ["claim", "the paper"]
    assert frame["claim"].str.startswith("C6 ").all()
    whole = pd.read_csv(Path(__file__).parents[2] / "docs" / "results" / "tables" / "claims.csv")
    for row in whole[whole["claim"] == frame["claim"][0]].itertuples():
        (column,) = [name for name in frame.columns if name in (row.model, f"{row.model} (quick)")]
        assert frame.loc[0, column].startswith(notebook.MARKS[row.verdict])
        assert f"{row.measured:.3g}" in frame.loc[0, column] or pd.isna(row.measured)


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
    rows = pd.DataFrame([
        {"model": model, "claim": "C6 x", "paper": "0.5", "measured": value, "low": low, "high": low + 0.1, "n": 6,
         "verdict": verdict, "how": "by looking"}
        for model, value, low, verdict in (("a", 0.61, 0.6, "reproduced"), ("b", 0.2, np.nan, "not testable on this model"))
    ])  # fmt: skip
    one = notebook.claims_table(rows)
    assert list(one.frame["verdict"]) == ["✓ reproduced", "– not testable on this model"]
    assert list(one.frame["95% interval"]) == ["0.6 to 0.7", "–"]
    assert "by looking" in one._repr_html_()
    wide = notebook.claims_of_models(rows).frame
    assert wide.to_dict("records") == [{"claim": "C6 x", "the paper": "0.5", "a": "✓ 0.61 (0.6 to 0.7)", "b": "– 0.2"}]


def test_a_figure_is_shown_as_a_small_png_with_its_caption(used, monkeypatch):
    import base64
    import io

    found, open_before = shown(monkeypatch), plots.plt.get_fignums()
    used.show("separation_over_depth")
    (bundle, how), (caption, _) = found
    assert how["metadata"]["emotrace"] == {"figure": "separation_over_depth"}
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("L"))
    assert picture.std() > 10
    assert caption.data == f"*{figures.CAPTIONS['separation_over_depth']}*"
    assert plots.plt.get_fignums() == open_before


def test_text_of_a_table_has_no_address():
    table = notebook.Table(pd.DataFrame({"a": [1]}))
    assert not re.search(r"0x[0-9a-f]+", repr(table) + table._repr_html_())
