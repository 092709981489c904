"""A run folder → figures and one self-contained ``report.html`` that opens from a file, with no network."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from emotrace.errors import EmotraceError
from emotrace.files import write_file
from emotrace.instrument.corpus import model_registry
from emotrace.study import claim_groups, findings, guidelines
from emotrace.study.across.facts import in_words
from emotrace.study.across.figures import PICTURES as OVER_MODELS
from emotrace.study.effects.figures import texts_shown
from emotrace.study.experiment import (
    Experiment,
    Picture,
    Tables,
    emotions_in_words,
    instruments,
    of_instrument,
    of_model,
)
from emotrace.study.experiments import EXPERIMENTS, NAMES, by_name, planned
from emotrace.study.figures import OVERVIEW, draw_across, draw_figures
from emotrace.study.folder import RunFolder, file_name, read_manifest, read_tables, select
from emotrace.study.separation.figures import CRITERION_TITLES
from emotrace.study.style import POOLING_TITLES
from emotrace.study.verdicts import ALL_MODELS, NOT_REPRODUCED, REPRODUCED, VERDICTS, format_interval, format_number
from emotrace.whatif import html as rendering

FOUND_TITLE, CLAIMS_TITLE = "What was found", "The paper's claims against ours"


def write_report(run: RunFolder, changed: Collection[str] | None = None, shown: Collection[str] = ()) -> Path:
    """Draws the figures and writes ``report.html`` from what the folder holds.

    Args:
        run: the run.
        changed: draw the figures of these tables alone, for a run that goes on; None: all.
        shown: these models alone, where a run that goes on has tables of others from before; default: all.
    """
    tables = read_tables(run.path)
    if shown:
        tables = {name: _of_models(table, shown) for name, table in tables.items()}
    if not tables:
        raise EmotraceError(f"{run.path} holds no tables yet: finish the run with --resume")
    # A model that failed, or was under way when the run was killed, has no results to show. The tables keep the order
    # of the run.
    finished = dict.fromkeys(name for table in tables.values() if "model" in table for name in table["model"].unique())
    models = [name for name in finished if name in run.manifest["models"]]
    left = () if changed is None else set(tables) - set(changed)
    for model in models:
        draw_figures(run, tables, model, left)
    if changed is None:
        draw_across(run, tables)
    path = run.path / "report.html"
    write_file(path, render(run.path, tables, models).encode())
    return path


def _of_models(table: pd.DataFrame, models: Collection[str]) -> pd.DataFrame:
    return table[table["model"].isin(models)] if "model" in table else table


def render(path: Path, tables: Tables, models: list[str]) -> str:
    """The report's HTML. Everything that comes from data or models is escaped by the template."""
    environment = rendering.environment().overlay()
    script = (files("emotrace") / "templates" / "report.js").read_text(encoding="utf-8")
    environment.filters["number"] = format_number
    environment.filters["emphasised"] = _emphasised
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
        criteria=CRITERION_TITLES,
        poolings=POOLING_TITLES,
        found_title=FOUND_TITLE,
        claims_title=CLAIMS_TITLE,
        script=Markup(script),
        script_hash=_source_hash(script),
        reproduced=REPRODUCED,
        not_reproduced=NOT_REPRODUCED,
    )


def _section(path: Path, tables: Tables, model: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """One model's part of the page: its facts, what was found, its claims, and a group for each question."""
    own = of_model(tables, model)
    registry, claims = model_registry(), _records(own, "claims")
    waiting = [] if manifest["complete"] else _waiting(own, manifest["settings"]["experiments"])
    return {
        "id": slug(model),
        "name": model,
        "kind": registry.loc[model, "kind"] if model in registry.index else "",
        "facts": manifest["models"].get(model, {}),
        "described": in_words(manifest).get(model, ""),
        "findings": findings.findings(own),
        "overview": _figures(path, [OVERVIEW], model),
        "claims": claim_groups.groups(claims, [id for one in waiting for id in one.claim_ids]),
        "verdicts": _verdicts(claims),
        "waiting": {one.name: one.question for one in waiting},
        "groups": _groups(path, own, model, instruments(own), [one.question for one in waiting]),
    }


def _waiting(own: Tables, asked: list[str]) -> list[Experiment]:
    """The experiments of a run that have no table of this model yet."""
    plan = planned([by_name(name) for name in asked if name in NAMES])
    return [experiment for experiment in plan if not any(len(own.get(name, ())) for name in experiment.tables)]


def _groups(path: Path, own: Tables, model: str, names: list[str], waiting: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What belongs together on the page: each question that has something to show, or will have.

    Each with ``id, title, figures``; ``tables``: what the template shows of a table, by the table's name; ``waiting``:
    more of it is still to be measured.
    """
    tables = of_instrument(own, names[0]) if names else own
    contents: dict[str, Any] = {
        "separation": _lexical(tables),
        "localisation": _records(tables, "localisation"),
        "transfer": _transfer(tables),
        "calibration": _calibration(tables),
        "verification": _texts(path, tables, model),
    }
    groups: dict[str, dict[str, Any]] = {}
    for experiment in EXPERIMENTS:
        title = experiment.question
        anchor = f"{slug(model)}-{slug(title).lower()}"
        empty = {"id": anchor, "title": title, "figures": [], "tables": {}, "waiting": title in waiting}
        group = groups.setdefault(title, empty)
        group["figures"] += _figures(path, experiment.pictures, model, names)
        group["tables"] |= {name: contents[name] for name in experiment.tables if contents.get(name)}
    return [group for group in groups.values() if group["figures"] or group["tables"] or group["waiting"]]


def _figures(
    path: Path, pictures: Iterable[Picture], model: str | None = None, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The pictures that were drawn (of one model, or over models), each with its size in pixels.

    With its size known, the page does not jump while it loads. A picture of the passages follows for each instrument
    of ``names`` that it was drawn for.
    """
    figures = []
    for picture, instrument in itertools.product(pictures, ["", *names[1:]]):
        name = "-".join(part for part in (picture.name, file_name(model) if model else "", instrument) if part)
        file = path / "figures" / f"{name}.svg"
        if not file.exists():
            continue
        content = file.read_bytes()
        points = re.search(rb'<svg[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"', content)
        width, height = (float(points[1]), float(points[2])) if points else (720.0, 432.0)
        figures.append(
            {
                "id": slug(name),
                "title": picture.name.replace("_", " ").capitalize() + (f" ({instrument})" if instrument else ""),
                "caption": picture.caption,
                "width": round(width * 4 / 3),
                "height": round(height * 4 / 3),
                "source": "data:image/svg+xml;base64," + base64.b64encode(content).decode(),
            }
        )
    return figures


def _records(tables: Tables, name: str) -> list[dict[Hashable, Any]]:
    return tables[name].to_dict("records") if name in tables else []


def _verdicts(claims: list[dict[Hashable, Any]]) -> list[tuple[str, int]]:
    """How often each verdict was given, reproduced first."""
    counts = Counter(row["verdict"] for row in claims)
    return [(verdict, counts[verdict]) for verdict in VERDICTS if verdict in counts]


def slug(name: str) -> str:
    """A name as part of an address within the page."""
    return re.sub(r"[^\w.]+", "-", name).strip("-") or "model"


def _across(path: Path, tables: Tables) -> dict[str, Any]:
    """What only several models can show: their claims and figures."""
    over_models = [picture for picture in OVER_MODELS if picture.table in tables]
    claims = select(tables["claims"], model=ALL_MODELS).to_dict("records") if "claims" in tables else []
    groups = [group for group in claim_groups.groups(claims) if group["lines"]]
    return {"claims": groups, "figures": _figures(path, over_models)}


def _lexical(tables: Tables) -> dict[str, pd.Series] | None:
    """The bag-of-embeddings baseline beside the best decoding accuracy."""
    if not len(tables.get("separation", ())):
        return None
    rows = select(tables["separation"], pooling="mean", metric="logistic_regression")
    best = rows.iloc[rows["value"].argmax()]
    return {"words": select(rows, layer=0).iloc[0], "best": best, "emotions": emotions_in_words(tables)}


def _transfer(tables: Tables) -> list[dict[Hashable, Any]]:
    """Each direction and pooling at the layer that its training texts chose, with the words' accuracy beside it."""
    if not len(tables.get("transfer", ())):
        return []
    table = tables["transfer"]
    words = select(table, pooling="words").set_index(["train", "test"])["value"]
    rows = []
    for row in table[table["chosen"].eq(True) & table["metric"].eq("accuracy")].to_dict("records"):
        here = select(table, pooling=row["pooling"], layer=row["layer"])
        own = select(here, train=row["train"], test=row["test"], metric="within")["value"]
        pair = here[here["train"].isin([row["train"], row["test"]]) & here["test"].isin([row["train"], row["test"]])]
        agreed = pair.drop_duplicates("metric", keep="last").set_index("metric")
        alike = {"cosine": agreed["value"].get("cosine", math.nan), "rho": agreed["value"].get("rdm_rho", math.nan)}
        more = {"words": words[row["train"], row["test"]], "within": own.iloc[0], "rho_p": agreed["p"].get("rdm_rho")}
        rows.append(row | more | alike)
    return rows


def _calibration(tables: Tables) -> list[dict[Hashable, Any]]:
    """The calibrated window of each setting, with the surgical share of unsteered texts."""
    if "calibration" not in tables:
        return []
    rows = tables["calibration"]
    unsteered = select(rows, strength=0).set_index("setting")["value"]
    settings = rows.drop_duplicates("setting")
    return settings.assign(unsteered=settings["setting"].map(unsteered)).to_dict("records")


def _texts(path: Path, tables: Tables, model: str) -> list[dict[str, object]]:
    """Scenarios with their plain and their steered text."""
    file = path / "texts" / "scenarios.csv"
    if "verification" not in tables or not file.exists():
        return []
    texts = select(pd.read_csv(file, keep_default_na=False), model=model)
    return texts_shown(texts, tables["verification"])


def _emphasised(sentence: str) -> Markup:
    """A sentence of :mod:`~emotrace.study.findings`, its verdicts as the page marks them; all else is escaped."""
    classes = {REPRODUCED: "yes", NOT_REPRODUCED: "no"}
    parts = re.split(rf"\*({'|'.join(VERDICTS)})\*", sentence)
    marked = [Markup('<em class="{}">{}</em>').format(classes.get(part, "soft"), part) for part in parts[1::2]]
    return Markup("").join(part for pair in itertools.zip_longest(parts[::2], marked, fillvalue="") for part in pair)


def _source_hash(script: str) -> str:
    """What the page's content security policy calls this script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
