"""Carries a finished run into the repository: findings, claims, docs/results, guidelines, data/calibration.csv.

    python scripts/publish_run.py runs/smollm2 runs/gemma runs/qwen

One run of several models, or several runs with the same settings; only the former has tables over models. Figures
quoted anywhere in the project come from a run by this way alone, never by hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.study import experiments, findings, guidelines
from emotrace.study.across import measure as across_models
from emotrace.study.across.facts import in_words
from emotrace.study.across.figures import PICTURES as OVER_MODELS
from emotrace.study.experiment import of_model
from emotrace.study.folder import FLOAT_FORMAT, read_manifest, read_tables, select
from emotrace.study.verdicts import ALL_MODELS, format_interval, format_number

ROOT = Path(__file__).parent.parent
EMBEDDED = "smollm2-135m-instruct"
# Small tables only; the rest is in a run of one's own.
TABLES = (
    "claims",
    "localisation",
    "calibration",
    "dose_response",
    "verification",
    "judge_ceiling",
    "prompting",
    "monotonicity",
    "steering_effects",
    "steerability",
    "regimes",
    "regime_sensitivity",
    "method_comparison",
    "method_comparison_models",
    "factorial_effects",
    "factorial_decoding",
    "story_rates",
    "transfer",
    *across_models.TABLES,
)
TEXTS = ("steered", "scenarios", "prompted")
"""What was written under steering and on request, so that anyone can judge it."""
FIGURES = (
    "u_question",
    "separation_over_depth",
    "decoding_over_depth",
    "dose_response",
    "regime_map",
    "success_by_scenario",
    "method_by_layer",
    "factorial_decomposition",
    "factorial_decoding",
    "lexicon_alignment",
    "transfer_over_depth",
)


def crosslingual_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Of ``crosslingual.csv``: means over emotions, each emotion's alignment read off its vector, the paper's words."""
    means = table["emotion"].isin(("all", "unsteered"))
    own = table["readout"].eq("direct") & (table["metric"].eq("alignment") | table["metric"].str.startswith("rank"))
    return table[means | own]


SUMMARIES = {"crosslingual": crosslingual_summary}
"""Tables that are too large to publish whole, and what is kept of them."""

IMAGES = {"decoding_over_depth": "decoding.png", "dose_response": "dose_response.png"}
_OWN = {"models": None, "quick": None, "sizes": None}


def merged(runs: list[Path]) -> tuple[dict, dict[str, pd.DataFrame]]:
    """One manifest and one set of tables of several runs; the tables over models are made anew."""
    manifests = [read_manifest(run) for run in runs]
    for run, manifest in zip(runs, manifests, strict=True):
        if not manifest["complete"]:
            raise EmotraceError(f"{run} is no complete run: go on with it by --resume")
        # A quick run may stand beside a full one, as long as it is called so.
        if {**manifest["settings"], **_OWN} != {**manifests[0]["settings"], **_OWN}:
            raise EmotraceError(f"{run} was run with other settings than {runs[0]}")
    whole = manifests[0]
    whole["quick"] = [name for manifest in manifests if manifest["settings"]["quick"] for name in manifest["models"]]
    for manifest in manifests[1:]:
        whole["settings"]["models"] += manifest["settings"]["models"]
        whole["models"] |= manifest["models"]
        for stage, seconds in manifest["seconds"].items():
            whole["seconds"][stage] = round(whole["seconds"].get(stage, 0) + seconds, 1)
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        for name, table in read_tables(run).items():
            parts.setdefault(name, []).append(table)
    tables = {name: pd.concat(pieces, ignore_index=True) for name, pieces in parts.items()}
    return whole, tables | experiments.over_models(tables)


def claims_table(claims: pd.DataFrame) -> str:
    """The claims as Markdown."""
    rows = ["| claim | paper | measured | 95% interval | verdict |", "|---|---|---|---|---|"]
    for row in claims.itertuples():
        cells = (row.claim, row.paper, format_number(row.measured), format_interval(row.low, row.high), row.verdict)
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def findings_list(own: dict[str, pd.DataFrame]) -> str:
    """The five findings of one model as Markdown; those whose tables are missing are left out."""
    told = [finding for finding in findings.findings(own) if finding.sentence]
    return "\n".join(f"{number}. **{one.title}.** {one.sentence}" for number, one in enumerate(told, 1))


def by_model(claims: pd.DataFrame, quick: list[str]) -> str:
    """One row a claim and set of passages, one column a model: measured value, interval, a mark for the verdict."""
    claims = claims[claims["model"] != ALL_MODELS]
    marks = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?", "not testable on this model": "–"}
    models = list(dict.fromkeys(claims["model"]))
    rows = [
        "| id | claim | paper | passages | "
        + " | ".join(name + (" (quick)" if name in quick else "") for name in models)
        + " |",
        "|---|---|---|---|" + "---|" * len(models),
    ]
    claims = claims.assign(instrument=claims["instrument"].fillna(""))
    for (name, instrument), own in claims.groupby(["id", "instrument"], sort=False):
        row_of = own.set_index("model").to_dict("index")
        first = next(iter(row_of.values()))
        cells = [f"`{name}`", first["claim"], str(first["paper"]), instrument]
        for row in map(row_of.get, models):
            interval = row and format_interval(row["low"], row["high"])
            cells.append(f"{marks[row['verdict']]} {format_number(row['measured'])} ({interval})" if row else "")
        rows.append("| " + " | ".join(cells).replace("(–)", "") + " |")
    return "\n".join(rows)


def rules_table(tables: dict[str, pd.DataFrame]) -> str:
    """The guidelines with what was measured of each, as Markdown."""
    rows = ["| rule | measured | borne out? | table |", "|---|---|---|---|"]
    for rule in guidelines.rules(tables):
        measured = "<br>".join(
            ("" if finding["model"] == ALL_MODELS else f"**{finding['model']}** ({finding['verdict']}): ")
            + finding["measured"]
            for finding in rule["findings"]
        )
        path = f"results/tables/{rule['table']}.csv"
        table = f"[{rule['table']}]({path})" if rule["table"] in (*TABLES, *SUMMARIES) else rule["table"]
        rows.append(f"| {rule['rule']} | {measured} | {rule['verdict']} | {table} |")
    return "\n".join(rows)


ADVICE = (
    ("extract by generation, since it separates better (C5)", ("C5.separation", "C5.authorship", "C5.models")),
    ("take the layer at half depth (C6)", ("C6.depth",)),
    ("expect a U of the emotions over depth (C6)", ("C6.u", "C6.u_ratio", "C6.space")),
    ("check anisotropy before trusting a separation (C7)", ("C7.baseline", "C7.unrelated", "C7.gemma")),
    ("trust steering at any scale and sign (C8)", ("C8",)),
    ("verify with an outside classifier (C9)", ("C9",)),
    ("sort texts into three regimes (C10)", ("C10",)),
    ("audit multilingual models in other scripts (C11)", ("C11",)),
)
"""What a reader of the abstract would do, and the claims (by the start of their ids) that it stands on."""


def advice_table(claims: pd.DataFrame) -> str:
    """What a reader of the abstract would do, beside how often each verdict fell on the claims behind it, as Markdown.

    Over models and sets of passages.
    """
    rows = ["| what a reader of the abstract would do | verdicts of this run on the claims behind it |", "|---|---|"]
    for text, starts in ADVICE:
        parts = []
        for start in starts:
            own = claims[(claims["id"] == start) | claims["id"].str.startswith(f"{start}.")]
            counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(own["verdict"]).most_common())
            parts += [f"`{start}` {counts}"] if counts else []
        rows.append(f"| {text} | {'; '.join(parts)} |")
    return "\n".join(rows)


def replace_between(path: Path, name: str, text: str) -> None:
    """Puts ``text`` between the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = path.read_text()
    new, count = re.subn(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", old, flags=re.DOTALL)
    if count != 1:
        raise EmotraceError(f"{path} lacks the markers {begin} and {end}")
    path.write_text(new)


def models_table(manifest: dict) -> str:
    """What the models of the run are: size, kind, weights."""
    described = in_words(manifest)
    return "\n".join(f"- **{name}**: {words}" for name, words in described.items())


def calibrations(tables: dict[str, pd.DataFrame], manifest: dict) -> pd.DataFrame:
    """The calibrated layer and strength of each model of a full run, by its weights."""
    rows = []
    for row in tables["calibration"].dropna(subset=["layer"]).drop_duplicates("model").itertuples():
        known = pd.notna(row.window_low) and pd.notna(row.window_high)
        if known and row.model not in manifest["quick"]:
            rows.append(
                {
                    "model": row.model,
                    "weights_id": manifest["models"][row.model]["weights_id"],
                    "layer": int(row.layer),
                    "strength": row.window_high,
                    "window_low": row.window_low,
                    "window_high": row.window_high,
                    "n": int(row.n),
                }
            )
    return pd.DataFrame(rows)


def publish_texts(runs: list[Path], folder: Path) -> None:
    """The runs' written texts, one file a kind."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in TEXTS:
        pieces = [
            pd.read_csv(run / "texts" / f"{name}.csv", keep_default_na=False, dtype=str)
            for run in runs
            if (run / "texts" / f"{name}.csv").exists()
        ]
        pd.concat(pieces, ignore_index=True).to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    manifest, tables = merged(runs)
    claims = tables["claims"]
    replace_between(ROOT / "README.md", "model", f"**{EMBEDDED}**: {in_words(manifest)[EMBEDDED]}.")
    replace_between(ROOT / "README.md", "findings", findings_list(of_model(tables, EMBEDDED)))
    results = ROOT / "docs" / "results"
    replace_between(results / "README.md", "claims", claims_table(select(claims, model=EMBEDDED)))
    for folder in ("tables", "figures"):
        shutil.rmtree(results / folder, ignore_errors=True)
        (results / folder).mkdir(parents=True)
    for name in TABLES:
        if name in tables:
            path = results / "tables" / f"{name}.csv"
            tables[name].to_csv(path, index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    for name, summary in SUMMARIES.items():
        path = results / "tables" / f"{name}.csv"
        summary(tables[name]).to_csv(path, index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    for name, run in itertools.product(FIGURES, runs):
        for figure in (run / "figures").glob(f"{name}-*.png"):
            shutil.copy(figure, results / "figures")
    for name, run in itertools.product([picture.name for picture in OVER_MODELS], runs):
        if (run / "figures" / f"{name}.png").exists():
            shutil.copy(run / "figures" / f"{name}.png", results / "figures")
    publish_texts(runs, results / "texts")
    (results / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    replace_between(results / "README.md", "weights", models_table(manifest))
    replace_between(ROOT / "docs" / "guidelines.md", "weights", models_table(manifest))
    replace_between(results / "README.md", "models", by_model(claims, manifest["quick"]))
    replace_between(results / "README.md", "over-models", claims_table(select(claims, model=ALL_MODELS)))
    replace_between(ROOT / "docs" / "guidelines.md", "rules", rules_table(tables))
    replace_between(ROOT / "docs" / "guidelines.md", "advice", advice_table(claims))
    calibrations(tables, manifest).to_csv(
        ROOT / "data" / "calibration.csv", index=False, float_format="%.4g", lineterminator="\n"
    )
    for name, picture in IMAGES.items():
        shutil.copy(results / "figures" / f"{name}-{EMBEDDED}.png", ROOT / "docs" / "images" / picture)


if __name__ == "__main__":
    try:
        main()
    except EmotraceError as error:
        sys.exit(f"publish_run: {error}")
