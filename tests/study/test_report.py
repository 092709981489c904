"""The report: self-contained, escaped, and with everything that the run holds."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape

from emotrace.errors import EmotraceError
from emotrace.study import experiments, pipeline
from emotrace.study.folder import read_tables, select
from emotrace.study.verdicts import format_interval, format_number


@pytest.fixture(scope="module")
def run(small, tiny_folder, tmp_path_factory) -> Path:
    """A small run on a tiny model whose folder's name is markup."""
    folder = tmp_path_factory.mktemp("models") / "<img src=x onerror=alert(1)>"
    shutil.copytree(tiny_folder("llama", n_layers=6), folder)
    out = tmp_path_factory.mktemp("runs") / "run"
    pipeline.run([str(folder)], out, quick=True)
    return out


ASKED = [one for one in experiments.EXPERIMENTS if not one.extra or one.name == "transfer"]
"""What all runs; transfer is brought by localisation."""


def test_the_page_loads_nothing_from_elsewhere(run):
    page = (run / "report.html").read_text()
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert sources
    assert all(source.startswith(("data:image/svg+xml;base64,", "#", "tables/", "manifest.json")) for source in sources)
    assert "@import" not in page
    assert "url(" not in page


def test_what_comes_from_names_is_escaped(run):
    page = (run / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_every_figure_is_there_as_png_and_svg_and_on_the_page(run):
    page = (run / "report.html").read_text()
    # The tiny model's vocabulary has no Chinese and no English kin word, so there is no alignment to draw.
    asked = {picture.name for one in ASKED for picture in one.pictures}
    names = sorted(asked - {"lexicon_alignment"})
    for name in names:
        assert str(escape(experiments.PICTURES[name].caption)) in page
        for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            files = list((run / "figures").glob(f"{name}-*.{suffix}"))
            picture = experiments.PICTURES[name]
            several = experiments.TABLES[picture.table].per_instrument and not picture.vectors
            assert len(files) == (2 if several else 1), name
            assert all(file.read_bytes().startswith(start) for file in files)
    assert page.count("<figure ") == len(list((run / "figures").glob("*.svg")))


def test_every_claim_stands_on_the_page_with_its_verdict(run):
    page, claims = (run / "report.html").read_text(), read_tables(run)["claims"]
    assert {claim.split()[0] for claim in claims["claim"]} == {"C5", "C6", "C7", "C8", "C9", "C10", "C11", "neighbour:"}
    assert all(page.count(f"error rates <code>{id}</code>") == 1 for id in claims["id"].unique())
    shown = re.findall(r'<b class="one (\w+)">([^<]*)</b>', page)
    assert sorted(verdict for _, verdict in shown) == sorted(claims["verdict"])
    colours = {"reproduced": "yes", "not reproduced": "no"}
    assert all(colour == colours.get(verdict, "soft") for colour, verdict in shown)
    assert "Quick run." in page
    words = re.sub(r"<script.*?</script>|base64,[^\"]*", "", page, flags=re.DOTALL).lower().split()
    assert "nan" not in words, " ".join(words[max(0, words.index("nan") - 40) : words.index("nan") + 5])


def test_the_page_has_a_part_for_the_claims_and_each_question_in_the_order_of_the_list(run):
    titles = re.findall(r"<h3 id=[^>]*>(.*)</h3>", (run / "report.html").read_text())
    questions = dict.fromkeys(experiment.question for experiment in ASKED)
    assert titles == ["What was found", str(escape("The paper's claims against ours")), *questions]


def test_the_page_opens_with_five_sentences_and_a_figure_then_the_claims_by_number(run):
    page, claims = (run / "report.html").read_text(), read_tables(run)["claims"]
    first = page.partition("<h3")[2].partition("<h3")[0]
    assert first.count("<li>") == 5
    assert first.count("<figure ") == 1
    row = select(claims, id="C8.towards.classifier").iloc[0]
    said = f"{format_number(row['measured'])} ({format_interval(row['low'], row['high'])}) to an outside classifier"
    assert said in first
    numbers = re.findall(r'<tr class="number"><th[^>]*>(C\d+)', page)
    assert numbers == [f"C{number}" for number in range(1, 13)]


def test_the_report_can_be_written_again_and_is_the_same(run):
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert pipeline.report(run).read_bytes() == before


def test_tables_are_tidy_with_the_columns_of_the_design(run):
    for name, table in read_tables(run).items():
        if name in OVER_MODELS:
            continue
        assert "model" in table.columns
        assert table["model"].nunique() == 1
        if name in HOUSE:
            assert {"method", "pooling", "layer", "depth"} <= set(table.columns)
        if "depth" in table:
            pd.testing.assert_series_equal(table["depth"], table["layer"] / 6, check_names=False, atol=1e-5)


HOUSE = (
    "separation",
    "localisation",
    "anisotropy",
    "geometry",
    "dose_response",
    "verification",
    "regimes",
    "crosslingual",
)
OVER_MODELS = ("method_comparison_models",)


def test_every_table_of_the_design_is_there(run):
    wanted = {*HOUSE, "method_comparison", "factorial", "claims"}
    assert wanted <= set(read_tables(run))


def test_steered_texts_stand_beside_the_unsteered_on_the_page(run):
    page, texts = (run / "report.html").read_text(), pd.read_csv(run / "texts" / "scenarios.csv", keep_default_na=False)
    assert "Unsteered and steered texts" in page
    assert "Calibrated strengths" in page
    first = texts[texts["kind"] == "target"].iloc[0]
    assert str(escape(first["prompt"])) in page
    assert {"stories.csv", "steered.csv", "scenarios.csv"} <= {file.name for file in (run / "texts").iterdir()}


def test_a_base_model_runs_through_without_stories(tiny_folder, tmp_path):
    pipeline.run([str(tiny_folder("gpt2"))], tmp_path / "run", chosen="method_comparison,factorial", quick=True)
    tables = read_tables(tmp_path / "run")
    assert set(tables["factorial"]["author"]) == {"ours", "other"}
    assert set(tables["factorial"]["frame"]) == {"plain"}
    assert "method_comparison" not in tables
    assert not (tmp_path / "run" / "texts" / "stories.csv").exists()
    assert list((tmp_path / "run" / "figures").glob("method_by_layer-*.png"))
    assert not list((tmp_path / "run" / "figures").glob("factorial_decomposition-*.png"))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(EmotraceError, match="holds no run"):
        pipeline.report(tmp_path)
