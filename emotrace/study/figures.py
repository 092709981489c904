"""Draws the figures of a run: one model's from its tables and vectors, and those over models."""

from __future__ import annotations

import io
from collections.abc import Container

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotrace.files import write_file
from emotrace.study.across.figures import PICTURES as OVER_MODELS
from emotrace.study.effects.figures import confirmed_shares, draw_confirmed
from emotrace.study.experiment import (
    Picture,
    Tables,
    emotions_in_words,
    instruments,
    of_instrument,
    of_main_instrument,
    of_model,
)
from emotrace.study.experiments import PICTURES, TABLES
from emotrace.study.folder import RunFolder, file_name, select
from emotrace.study.style import BLUE, GREEN, GREY, curve, plt
from emotrace.vectors import EmotionVectors


def overview(tables: Tables) -> Figure:
    """What a model holds when it reads, and what an outside judge sees when it is steered: a panel each."""
    judged = all(len(tables.get(name, ())) for name in ("verification", "judge_ceiling"))
    figure, axes = plt.subplots(
        1,
        1 + judged,
        figsize=(10.2 if judged else 5, 3.4),
        squeeze=False,
        width_ratios=[1.6, 1][: 1 + judged],  # the second has long labels beside it
    )
    _held(axes[0, 0], tables)
    if judged:
        draw_confirmed(axes[0, 1], confirmed_shares(of_main_instrument(tables)))
    return figure


def _held(ax: Axes, tables: Tables) -> None:
    rows = select(tables["separation"], pooling="mean", metric="logistic_regression")
    for name, colour in zip(instruments({"separation": rows}), (BLUE, GREEN), strict=False):
        own = select(rows, instrument=name)
        curve(ax, own, colour, name)
        ax.axhline(own["value"].iloc[0], color=colour, lw=1, ls=":", label=f"{name}, words without context")
    ax.axhline(rows["null"].iloc[0], color=GREY, lw=1, ls="--", label="chance")
    ax.set_xlabel("depth (layer / number of layers)")
    ax.set_ylabel(f"accuracy on unseen topics, {emotions_in_words(of_main_instrument(tables))}")
    ax.set_ylim(0, 1.32)  # room for the legend
    ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    ax.legend(fontsize=8, loc="upper left", ncols=2)


OVERVIEW = Picture(
    "overview",
    overview,
    "separation",
    "Reading: how often a linear probe on the residual stream (mean over tokens) names the right emotion on "
    "topics it never saw, over depth, with 95% bands, beside the words alone. Writing: how often an outside classifier "
    "confirms the feeling in steered texts, in unsteered ones that were asked for it, under controls, and in passages "
    "that do carry it.",
)


def draw_figures(run: RunFolder, tables: Tables, model: str, drawn: Container[str] = ()) -> None:
    """Draws every figure that the run's tables and vectors of one model allow, as png and svg.

    Those of the tables in ``drawn`` are left as they are.
    """
    own = of_model(tables, model)
    main, *others = instruments(own) or [""]
    file = run.path / "vectors" / f"{file_name(model)}-comprehension-mean.safetensors"
    vectors = EmotionVectors.load(file) if file.exists() else None
    _save(run, OVERVIEW.figure(own), f"{OVERVIEW.name}-{file_name(model)}")
    for name, picture in PICTURES.items():
        if picture.table in drawn:
            continue
        if _shows(own, picture.table, main):
            _save(run, picture.figure(of_instrument(own, main), vectors), f"{name}-{file_name(model)}")
        for instrument in others if TABLES[picture.table].per_instrument and not picture.vectors else ():
            if _shows(own, picture.table, instrument):
                _save(run, picture.figure(of_instrument(own, instrument)), f"{name}-{file_name(model)}-{instrument}")


def _shows(tables: Tables, name: str, instrument: str) -> bool:
    """A table has rows of the instrument, or rests on none."""
    held = instruments({name: tables[name]}) if name in tables else []
    return not held or instrument in held or not TABLES[name].per_instrument


def draw_across(run: RunFolder, tables: Tables) -> None:
    """Draws the figures over models, once a run; their names have no model in them."""
    for picture in OVER_MODELS:
        _save(run, picture.figure(tables), picture.name)


def _save(run: RunFolder, figure: Figure | None, name: str) -> None:
    if figure is None:
        return
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
        write_file(run.path / "figures" / f"{name}.{suffix}", buffer.getvalue())
    plt.close(figure)
