"""A run folder → figures and one self-contained ``report.html`` that opens from a file, with no network."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from . import plots, plots_steering
from .claims import NOT_REPRODUCED, REPRODUCED, format_interval, format_number
from .corpus import model_registry
from .errors import EmotraceError
from .runs import RunFolder, file_name, read_manifest, read_tables, select
from .vectors import EmotionVectors

CAPTIONS = {
    "separation_over_depth": "The paper's measure of separation, layer by layer. Blue: mean cosine between the centroids of "
    "the 20 emotions, before any centring. Orange: the same texts with their labels shuffled within topics, so nothing but "
    "the emotion differs. Green: groups of unrelated factual texts. What lies between blue and orange is emotion; what "
    "lies between orange and 1 is topic, noise and the shape of the activation space.",
    "decoding_over_depth": "How often the emotion of a text is decoded right when its topic was never seen in training. "
    "The green line is what the words alone give (embeddings averaged, no context): only what lies above it is the model's.",
    "localisation": "Where over depth the emotions separate best, by five criteria and two poolings.",
    "anisotropy_over_depth": "How alike the activations of 150 unrelated texts are. Near 1, every text points the same way and "
    "raw cosines say little; the orange curve shows how far a single dimension is the reason.",
    "axes_over_depth": "Whether the emotion vectors are laid out by valence and arousal (norms of Warriner et al. 2013).",
    "cosine_matrix": "Cosines between the emotion vectors at the layer that one half of the topics chose.",
    "valence_arousal_plane": "The emotions on the first two principal components of their vectors at that layer.",
    **plots_steering.CAPTIONS,
}
TABLE_FIGURES = {**plots.TABLE_FIGURES, **plots_steering.TABLE_FIGURES}


def best_layer(tables: dict[str, pd.DataFrame], model: str, pooling: str) -> int | None:
    """The layer chosen on one half of the topics by nearest centroid, if localisation was run."""
    if "localisation" not in tables:
        return None
    rows = select(tables["localisation"], model=model, pooling=pooling, criterion="nearest_centroid")
    return int(rows["chosen_layer"].iloc[0]) if len(rows) else None


def draw_figures(run: RunFolder, tables: dict[str, pd.DataFrame], model: str) -> None:
    """Draws every figure that the run's tables and vectors of one model allow, as png and svg."""
    mine = {name: table[table["model"] == model] for name, table in tables.items()}
    for name, (draw, needs) in TABLE_FIGURES.items():
        if needs in mine and len(mine[needs]):
            _save(run, draw(mine), f"{name}-{file_name(model)}")
    file = run.path / "vectors" / f"{file_name(model)}-comprehension-mean.safetensors"
    layer = best_layer(tables, model, "mean")
    if file.exists() and layer is not None:
        for name, draw in plots.VECTOR_FIGURES.items():
            _save(run, draw(EmotionVectors.load(file), layer), f"{name}-{file_name(model)}")


def _save(run: RunFolder, figure: Any, name: str) -> None:
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
        run.write(run.path / "figures" / f"{name}.{suffix}", buffer.getvalue())
    plots.plt.close(figure)


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
