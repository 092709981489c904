"""A run folder → figures and one self-contained ``report.html`` that opens from a file, with no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from emotrace.errors import EmotraceError
from emotrace.instrument.corpus import model_registry
from emotrace.study import guidelines
from emotrace.study.across import figures as plots_across
from emotrace.study.across.claims import MODEL as ALL
from emotrace.study.effects import figures as plots_steering
from emotrace.study.figures import CAPTIONS, draw_across, draw_figures
from emotrace.study.folder import RunFolder, file_name, read_manifest, read_tables, select
from emotrace.study.separation import figures as plots
from emotrace.study.verdicts import NOT_REPRODUCED, REPRODUCED, format_interval, format_number
from emotrace.whatif import html as rendering


def write_report(run: RunFolder) -> Path:
    """Draws the figures and writes ``report.html`` from what the folder holds."""
    tables = read_tables(run.path)
    if not tables:
        raise EmotraceError(f"{run.path} holds no tables yet: finish the run with --resume")
    # A model that failed, or was under way when the run was killed, has no results to show. The tables keep the order of the run.
    finished = dict.fromkeys(name for table in tables.values() if "model" in table for name in table["model"].unique())
    models = [name for name in finished if name in run.manifest["models"]]
    for model in models:
        draw_figures(run, tables, model)
    draw_across(run, tables)
    path = run.path / "report.html"
    run.write(path, render(run.path, tables, models).encode())
    return path


def render(path: Path, tables: dict[str, pd.DataFrame], models: list[str]) -> str:
    """The report's HTML. Everything that comes from data or models is escaped by the template."""
    environment = rendering.environment().overlay()
    script = (files("emotrace") / "templates" / "report.js").read_text(encoding="utf-8")
    environment.filters["number"] = format_number
    environment.globals["interval"] = format_interval
    manifest = read_manifest(path)
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        settings=manifest["settings"],
        models=[_section(path, tables, model, manifest) for model in models],
        across=_across(path, tables) if len(models) > 1 else None,
        guidelines=guidelines.rules(tables),
        failures=manifest.get("failures", {}),
        tables={name: len(table) for name, table in tables.items()},
        script=Markup(script),
        script_hash=_source_hash(script),
        reproduced=REPRODUCED,
        not_reproduced=NOT_REPRODUCED,
    )


def _section(path: Path, tables: dict[str, pd.DataFrame], model: str, manifest: dict[str, Any]) -> dict[str, Any]:
    def mine(name: str) -> list[dict[str, Any]]:
        return select(tables[name], model=model).to_dict("records") if name in tables else []

    registry = model_registry()
    figures = {
        name: _figure(path / "figures" / f"{name}-{file_name(model)}.svg", name, caption, f"{name}-{slug(model)}")
        for name, caption in CAPTIONS.items()
        if (path / "figures" / f"{name}-{file_name(model)}.svg").exists()
    }
    section = {
        "id": slug(model),
        "name": model,
        "kind": registry.loc[model, "kind"] if model in registry.index else "",
        "facts": manifest["models"].get(model, {}),
        "claims": mine("claims"),
        "verdicts": _verdicts(mine("claims")),
        "localisation": mine("localisation"),
        "criteria": plots.CRITERION_TITLES,
        "poolings": plots.POOLING_TITLES,
        "lexical": _lexical(tables, model),
        "calibration": _calibration(tables, model),
        "texts": _texts(path, tables, model),
    }
    return section | {"groups": _groups(section, figures)}


# What belongs together on the page: key, title, figures, and the tables of the section that are shown there.
GROUPS = (
    ("claims", "The paper's claims against ours", (), ("claims",)),
    ("separation", "Separation and localisation", ("separation_over_depth", "localisation", "decoding_over_depth"),
     ("lexical", "localisation")),
    ("geometry", "Anisotropy and geometry",
     ("anisotropy_over_depth", "axes_over_depth", "cosine_matrix", "valence_arousal_plane"), ()),
    ("methods", "Comprehension and generation",
     ("method_by_layer", "factorial_effects", "factorial_decomposition", "factorial_decoding"), ()),
    ("steering", "Steering and dose response", ("dose_response", "dose_by_emotion"), ("calibration",)),
    ("regimes", "Regimes", ("regime_map", "regimes_over_strength"), ()),
    ("verification", "External verification", ("success_by_scenario",), ("texts",)),
    ("crosslingual", "Across languages", ("script_mass", "lexicon_alignment"), ()),
)  # fmt: skip


def _groups(section: dict[str, Any], figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The section's parts that have something to show, each with its figures; figures of no group come last."""
    named = {name for _, _, names, _ in GROUPS for name in names}
    further = ("further", "Further figures", tuple(name for name in figures if name not in named), ())
    return [
        {"key": key, "id": f"{section['id']}-{key}", "title": title, "figures": shown}
        for key, title, names, needs in (*GROUPS, further)
        if (shown := [figures[name] for name in names if name in figures]) or any(section[need] for need in needs)
    ]


def _verdicts(claims: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """How often each verdict was given, reproduced first."""
    counts = Counter(row["verdict"] for row in claims)
    first = [verdict for verdict in (REPRODUCED, NOT_REPRODUCED) if verdict in counts]
    return [(verdict, counts[verdict]) for verdict in dict.fromkeys([*first, *sorted(counts)])]


def slug(model: str) -> str:
    """A model's name as part of an address within the page."""
    return re.sub(r"[^\w.]+", "-", model).strip("-") or "model"


def _across(path: Path, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """What only several models can show: their claims and figures."""
    return {
        "claims": select(tables["claims"], model=ALL).to_dict("records") if "claims" in tables else [],
        "figures": [
            _figure(path / "figures" / f"{name}.svg", name, caption, name)
            for name, caption in plots_across.CAPTIONS.items()
            if name in tables and (path / "figures" / f"{name}.svg").exists()
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


def _figure(file: Path, name: str, caption: str, place: str) -> dict[str, Any]:
    """A figure with its size in pixels, so that the page does not jump while it loads."""
    content = file.read_bytes()
    points = re.search(rb'<svg[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"', content)
    width, height = (float(points[1]), float(points[2])) if points else (720.0, 432.0)
    return {
        "name": name, "id": place, "title": name.replace("_", " ").capitalize(), "caption": caption,
        "width": round(width * 4 / 3), "height": round(height * 4 / 3),
        "source": "data:image/svg+xml;base64," + base64.b64encode(content).decode(),
    }  # fmt: skip


def _source_hash(script: str) -> str:
    """What the page's content security policy calls this script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
