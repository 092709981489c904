"""Carries a finished run into the repository: the README's table of claims, docs/results, data/calibration.csv.

    python scripts/publish_run.py runs/full

Figures quoted anywhere in the project come from a run by this way alone, never by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd

from emotrace.claims import format_interval, format_number
from emotrace.errors import EmotraceError
from emotrace.runs import file_name, read_manifest, read_tables, select

ROOT = Path(__file__).parent.parent
EMBEDDED = "smollm2-135m-instruct"
# Small tables only; the rest is in a run of one's own.
TABLES = (
    "claims", "localisation", "calibration", "verification", "monotonicity", "regimes", "regime_sensitivity",
    "method_comparison", "method_comparison_models", "factorial_effects", "factorial_decoding", "story_rates",
)  # fmt: skip
FIGURES = (
    "separation_over_depth", "decoding_over_depth", "dose_response", "regime_map", "success_by_scenario", "method_by_layer",
    "factorial_decomposition", "factorial_decoding", "lexicon_alignment",
)  # fmt: skip


def claims_table(claims: pd.DataFrame) -> str:
    """The claims as Markdown."""
    rows = ["| claim | paper | measured | 95% interval | verdict |", "|---|---|---|---|---|"]
    for row in claims.itertuples():
        cells = (row.claim, row.paper, format_number(row.measured), format_interval(row.low, row.high), row.verdict)
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def across_models(claims: pd.DataFrame) -> str:
    """One row a claim, one column a model: measured value, interval, and a mark for the verdict."""
    marks = {"reproduced": "✓", "not reproduced": "✗", "not testable on this model": "–"}
    models = list(dict.fromkeys(claims["model"]))
    rows = ["| claim | paper | " + " | ".join(models) + " |", "|---|---|" + "---|" * len(models)]
    for claim in dict.fromkeys(claims["claim"]):
        some = select(claims, claim=claim).set_index("model")
        cells = [
            f"{marks[some.loc[model, 'verdict']]} {format_number(some.loc[model, 'measured'])} "
            f"({format_interval(some.loc[model, 'low'], some.loc[model, 'high'])})" if model in some.index else ""
            for model in models
        ]  # fmt: skip
        rows.append("| " + " | ".join([claim, str(some["paper"].iloc[0]), *cells]).replace("(–)", "") + " |")
    return "\n".join(rows)


def replace_between(path: Path, name: str, text: str) -> None:
    """Puts ``text`` between the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = path.read_text()
    new, count = re.subn(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", old, flags=re.DOTALL)
    if count != 1:
        raise EmotraceError(f"{path} lacks the markers {begin} and {end}")
    path.write_text(new)


def calibrations(tables: dict[str, pd.DataFrame], manifest: dict) -> pd.DataFrame:
    """The calibrated layer and strength of each model of the run, by its weights."""
    rows = []
    for row in tables["calibration"].dropna(subset=["layer"]).drop_duplicates("model").itertuples():
        if pd.notna(row.window_low) and pd.notna(row.window_high):
            rows.append({
                "model": row.model, "weights_id": manifest["models"][row.model]["weights_id"], "layer": int(row.layer),
                "strength": row.window_high, "window_low": row.window_low, "window_high": row.window_high, "n": int(row.n),
            })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    manifest, tables = read_manifest(run), read_tables(run)
    if not manifest["complete"] or manifest["settings"]["quick"]:
        raise EmotraceError(f"{run} is no complete run with full settings")
    claims = tables["claims"]
    replace_between(ROOT / "README.md", "claims", claims_table(select(claims, model=EMBEDDED)))
    results = ROOT / "docs" / "results"
    for folder in ("tables", "figures"):
        shutil.rmtree(results / folder, ignore_errors=True)
        (results / folder).mkdir(parents=True)
    for name in TABLES:
        if name in tables:
            shutil.copy(run / "tables" / f"{name}.csv", results / "tables")
    for name in FIGURES:
        for model in manifest["models"]:
            figure = run / "figures" / f"{name}-{file_name(model)}.png"
            if figure.exists():
                shutil.copy(figure, results / "figures")
    (results / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    replace_between(results / "README.md", "models", across_models(claims))
    calibrations(tables, manifest).to_csv(
        ROOT / "data" / "calibration.csv", index=False, float_format="%.4g", lineterminator="\n"
    )
    shutil.copy(
        run / "figures" / f"decoding_over_depth-{file_name(EMBEDDED)}.png", ROOT / "docs" / "images" / "decoding.png"
    )


if __name__ == "__main__":
    try:
        main()
    except EmotraceError as error:
        sys.exit(f"publish_run: {error}")
