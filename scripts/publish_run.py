"""Carries a finished run into the repository: findings, claims, docs/results, guidelines, data/calibration.csv.

    python scripts/publish_run.py runs/smollm2 runs/gemma runs/qwen

    python scripts/publish_run.py --again

One run of several models, or several runs with the same settings; only the former has tables over models. ``--again``:
claims and pages anew from ``docs/results``, after a change of rules or words that leaves what was measured as it is.
Figures quoted anywhere in the project come from a run by this way alone, never by hand. Where a calibrated layer
changes, ``scripts/ship_vectors.py --run`` follows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from published_pages import (
    advice_table,
    by_model,
    changes_table,
    claims_table,
    confirmed_rows,
    findings_list,
    models_table,
    rules_table,
    transfer_rows,
    u_answer,
    vectors_paragraph,
    what_holds,
)

from emotrace.errors import EmotraceError
from emotrace.study import experiments
from emotrace.study.across import claims as across_claims
from emotrace.study.across import measure as across_models
from emotrace.study.across.facts import in_words
from emotrace.study.across.figures import PICTURES as OVER_MODELS
from emotrace.study.experiment import of_main_instrument, of_model
from emotrace.study.folder import FLOAT_FORMAT, read_manifest, read_tables, select
from emotrace.study.languages import claims as languages
from emotrace.study.verdicts import ALL_MODELS, NOT_TESTABLE
from emotrace.study.verdicts import claims_table as one_model

ROOT = Path(__file__).parent.parent
EMBEDDED = "smollm2-135m-instruct"
# Small tables only; the rest is in a run of one's own.
TABLES = (
    "claims",
    "separation",
    "localisation",
    "space",
    "anisotropy",
    "reliability",
    "learning_curve",
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
    "implicit_rates",
    "graded_scales",
    "estimator_effects",
    "layer_strength",
    "damage",
    "precision",
    "transfer",
    *across_models.TABLES,
)
TEXTS = ("steered", "scenarios", "prompted")
"""What was written under steering and on request, so that anyone can judge it."""
LEFT_OUT = ["instrument", "method", "pooling", "layer", "depth", "ended", "distinct_2", "longest_loop", "real_words"]
"""Columns of the texts that say the same in every row of a model, or that a reader of the text does not need."""
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
    "estimators",
    "estimator_effects",
    "layer_strength",
    "precision",
    "transfer_over_depth",
)


def crosslingual_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Of ``crosslingual.csv``: means over emotions, each emotion's alignment read off its vector, the paper's words."""
    means = table["emotion"].isin(("all", "unsteered"))
    own = table["readout"].eq("direct") & (table["metric"].eq("alignment") | table["metric"].str.startswith("rank"))
    return table[means | own]


def estimators_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Of ``estimators.csv``: the layers that half of the topics chose."""
    return table[table["choice"] == "chosen"]


SUMMARIES = {"crosslingual": crosslingual_summary, "estimators": estimators_summary}
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


def replace_between(path: Path, name: str, text: str) -> None:
    """Puts ``text`` between the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = path.read_text()
    new, count = re.subn(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", old, flags=re.DOTALL)
    if count != 1:
        raise EmotraceError(f"{path} lacks the markers {begin} and {end}")
    path.write_text(new)


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
        table = pd.concat(pieces, ignore_index=True).drop(columns=LEFT_OUT, errors="ignore")
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def claims_again(tables: dict[str, pd.DataFrame], manifest: dict) -> pd.DataFrame:
    """The claims by today's rules, from the published tables.

    Where a claim rests on a table that is not published whole, all of its number stay as they were: Holm's correction
    is among them.
    """
    made = [
        one_model(name, experiments.claims(of_model(tables, name), facts["family"]))
        for name, facts in manifest["models"].items()
    ]
    over_models = across_claims.claims(of_main_instrument(tables))
    new, old = pd.concat([*made, one_model(ALL_MODELS, over_models)], ignore_index=True), tables["claims"]
    of_old, of_new = _families(old), _families(new)
    measured = set(zip(of_new, new["id"].where(new["measured"].notna()), strict=True))
    rests = zip(of_old, old["id"], old["measured"], strict=True)
    lost = {family for family, name, value in rests if pd.notna(value) and (family, name) not in measured}
    as_was = old[[family in lost for family in of_old]].apply(_by_todays_words, axis=1, manifest=manifest)
    kept = [as_was, new[[family not in lost for family in of_new]]]
    table = pd.concat(kept, ignore_index=True)
    order = {row: place for place, row in enumerate(zip(old["model"], old["instrument"], old["id"], strict=True))}
    places = [order.get(row, len(order)) for row in zip(table["model"], table["instrument"], table["id"], strict=True)]
    table = table.iloc[np.argsort(places, kind="stable")].reset_index(drop=True)
    numbers = ["measured", "low", "high", "p"]
    known = pd.DataFrame(old.set_index(["model", "instrument", "id"])[numbers])
    before = known.reindex(pd.MultiIndex.from_frame(table[["model", "instrument", "id"]])).to_numpy()
    # The tables have six digits, the run had more.
    same = np.isclose(table[numbers], before, rtol=1e-4, atol=1e-7, equal_nan=True)
    table[numbers] = np.where(same, before, table[numbers])
    return table


def _by_todays_words(row: pd.Series, manifest: dict) -> pd.Series:
    """A row that stays as it was measured: its rule says the p that it asks for, and of whom the paper speaks."""
    row = row.copy()
    if pd.notna(row["p"]) and "p < 0.05" not in row["how"]:
        row["how"] += "; p < 0.05 for reproduced"
    family = manifest["models"].get(row["model"], {}).get("family")
    if row["id"].startswith("C11.") and family != languages.PAPER_FAMILY and "about Qwen" not in row["how"]:
        row["how"] += f"; {languages.extension(row['verdict'])}"
        row["verdict"], row["p"] = NOT_TESTABLE, np.nan
    return row


def _families(claims: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Model, instrument and number of each row: what Holm's correction is among."""
    numbers = claims["id"].str.split(".").str[0]
    return list(zip(claims["model"], claims["instrument"].fillna(""), numbers, strict=True))


def publish(runs: list[Path], results: Path) -> None:
    """Tables, figures, texts and manifest of the runs into ``docs/results``, and the calibrations into ``data``."""
    manifest, tables = merged(runs)
    for folder in ("tables", "figures"):
        shutil.rmtree(results / folder, ignore_errors=True)
        (results / folder).mkdir(parents=True)
    for name in (*TABLES, *SUMMARIES):
        if name in tables:
            path, summary = results / "tables" / f"{name}.csv", SUMMARIES.get(name, lambda whole: whole)
            summary(tables[name]).to_csv(path, index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    for name, run in itertools.product(FIGURES, runs):
        for figure in (run / "figures").glob(f"{name}-*.png"):
            shutil.copy(figure, results / "figures")
    for name, run in itertools.product([picture.name for picture in OVER_MODELS], runs):
        if (run / "figures" / f"{name}.png").exists():
            shutil.copy(run / "figures" / f"{name}.png", results / "figures")
    publish_texts(runs, results / "texts")
    (results / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    calibrations(tables, manifest).to_csv(
        ROOT / "data" / "calibration.csv", index=False, float_format="%.4g", lineterminator="\n"
    )
    for name, picture in IMAGES.items():
        shutil.copy(results / "figures" / f"{name}-{EMBEDDED}.png", ROOT / "docs" / "images" / picture)


def write_pages(results: Path) -> None:
    """What README, results and guidelines say, from the published tables."""
    manifest, tables = read_manifest(results), read_tables(results)
    claims, guidelines = tables["claims"], ROOT / "docs" / "guidelines.md"
    changes = pd.read_csv(results / "rule_changes.csv")
    replace_between(ROOT / "README.md", "model", f"**{EMBEDDED}**: {in_words(manifest)[EMBEDDED]}.")
    replace_between(ROOT / "README.md", "findings", findings_list(of_model(tables, EMBEDDED)))
    for name, text in {
        "claims": claims_table(select(claims, model=EMBEDDED)),
        "weights": models_table(manifest),
        "vectors": vectors_paragraph(tables, manifest),
        "models": by_model(claims, manifest["quick"]),
        "changes": changes_table(changes, claims),
        "holds": what_holds(claims, set(changes["id"])),
        "u": u_answer(tables),
        "confirmed": confirmed_rows(tables),
        "transfer": transfer_rows(tables["transfer"]),
        "over-models": claims_table(select(claims, model=ALL_MODELS)),
    }.items():
        replace_between(results / "README.md", name, text)
    replace_between(guidelines, "weights", models_table(manifest))
    replace_between(guidelines, "rules", rules_table(tables, (*TABLES, *SUMMARIES)))
    replace_between(guidelines, "advice", advice_table(claims))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--again", action="store_true", help="the pages anew, from docs/results as it is")
    options = parser.parse_args()
    if bool(options.runs) == options.again:
        parser.error("name the runs, or --again")
    results = ROOT / "docs" / "results"
    if options.again:
        claims = claims_again(read_tables(results), read_manifest(results))
        claims.to_csv(results / "tables" / "claims.csv", index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    else:
        publish(options.runs, results)
    write_pages(results)


if __name__ == "__main__":
    try:
        main()
    except EmotraceError as error:
        sys.exit(f"publish_run: {error}")
