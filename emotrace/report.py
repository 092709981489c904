"""A run folder → figures and one self-contained ``report.html`` that opens from a file, with no network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from . import plots, plots_steering
from .claims import NOT_REPRODUCED, REPRODUCED, format_interval, format_number
from .corpus import model_registry
from .errors import EmotraceError
from .figures import CAPTIONS, draw_figures
from .runs import RunFolder, file_name, read_manifest, read_tables, select


def write_report(run: RunFolder) -> Path:
    """Draws the figures and writes ``report.html`` from what the folder holds."""
    tables = read_tables(run.path)
    if not tables:
        raise EmotraceError(f"{run.path} holds no tables yet: finish the run with --resume")
    models = list(run.manifest["models"])
    for model in models:
        draw_figures(run, tables, model)
    path = run.path / "report.html"
    run.write(path, render(run.path, tables, models).encode())
    return path


def render(path: Path, tables: dict[str, pd.DataFrame], models: list[str]) -> str:
    """The report's HTML. Everything that comes from data or models is escaped by the template."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emotrace"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    environment.globals["interval"] = format_interval
    manifest = read_manifest(path)
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        settings=manifest["settings"],
        models=[_section(path, tables, model, manifest) for model in models],
        tables={name: len(table) for name, table in tables.items()},
        reproduced=REPRODUCED,
        not_reproduced=NOT_REPRODUCED,
    )


def _section(path: Path, tables: dict[str, pd.DataFrame], model: str, manifest: dict[str, Any]) -> dict[str, Any]:
    def mine(name: str) -> list[dict[str, Any]]:
        return select(tables[name], model=model).to_dict("records") if name in tables else []

    registry = model_registry()
    return {
        "name": model,
        "kind": registry.loc[model, "kind"] if model in registry.index else "",
        "facts": manifest["models"].get(model, {}),
        "claims": mine("claims"),
        "localisation": mine("localisation"),
        "criteria": plots.CRITERION_TITLES,
        "poolings": plots.POOLING_TITLES,
        "lexical": _lexical(tables, model),
        "calibration": _calibration(tables, model),
        "texts": _texts(path, tables, model),
        "figures": [
            {"name": name, "caption": caption, "source": _data_uri(path / "figures" / f"{name}-{file_name(model)}.svg")}
            for name, caption in CAPTIONS.items()
            if (path / "figures" / f"{name}-{file_name(model)}.svg").exists()
        ],
    }


def _lexical(tables: dict[str, pd.DataFrame], model: str) -> dict[str, Any] | None:
    """The bag-of-embeddings baseline beside the best decoding accuracy."""
    if "separation" not in tables:
        return None
    rows = select(tables["separation"], model=model, pooling="mean", metric="logistic_regression")
    words = select(rows, layer=0).iloc[0]
    best = rows.loc[rows["value"].idxmax()]
    return {"words": words.to_dict(), "best": best.to_dict()}


def _calibration(tables: dict[str, pd.DataFrame], model: str) -> list[dict[str, Any]]:
    """The calibrated window of each setting, with the surgical share of unsteered texts."""
    if "calibration" not in tables:
        return []
    rows = select(tables["calibration"], model=model)
    unsteered = select(rows, strength=0).set_index("setting")["value"]
    return [
        {**row, "unsteered": unsteered[row["setting"]]} for row in rows.drop_duplicates("setting").to_dict("records")
    ]


def _texts(path: Path, tables: dict[str, pd.DataFrame], model: str) -> list[dict[str, object]]:
    """Scenarios with their plain and their steered text."""
    file = path / "texts" / "scenarios.csv"
    if "verification" not in tables or not file.exists():
        return []
    texts = select(pd.read_csv(file, keep_default_na=False), model=model)
    return plots_steering.texts_shown(texts, select(tables["verification"], model=model))


def _data_uri(file: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode()
