"""Figures over models, one each a run, from a run's tables alone; habits and colours as in the other figures."""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from matplotlib.typing import LegendLocType

from emotrace.study.across.measure import CURVES
from emotrace.study.across.steering import MEASURES
from emotrace.study.effects.figures import REGIME_COLOURS
from emotrace.study.experiment import Picture, Tables, of_main_instrument
from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, POOLING_TITLES, PURPLE

CURVE_TITLES = {
    "cosine": "centroid cosine (lower = better separated)",
    "shuffled_cosine": "the same, labels shuffled within topics",
    "ratio": "R (higher = better separated)",
}
DELTA_TITLES = {
    "raw_delta": "raw residual units",
    "delta": "mean residual norms of the layer",
    "delta_in_gaps": "lengths of the emotion's own vector",
}


class Mark(NamedTuple):
    """How one model is drawn in every figure."""

    colour: str
    line: Any
    marker: str


_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#56b4e9", "#e69f00", "#000000")
_LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = "osD^vPX"


def marks(table: pd.DataFrame) -> dict[str, Mark]:
    """A mark for each model, in the order of the table: told apart by colour, line and marker alike."""
    names = dict.fromkeys(table["model"])
    return {name: Mark(_COLOURS[idx % 7], _LINES[idx % 5], _MARKERS[idx % 7]) for idx, name in enumerate(names)}


def across_depth(tables: Tables) -> Figure:
    """The centroid cosine over depth, its null, and R, all models on one axis."""
    tables = of_main_instrument(tables)
    table = tables["across_depth"]
    table = table[table["layer"] > 0]
    metrics = [metric for metric in CURVES if metric in set(table["metric"])]
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(table["pooling"])]
    size = (4.3 * len(metrics), 3.5 * len(poolings))
    figure, axes = plt.subplots(len(poolings), len(metrics), figsize=size, sharex=True, squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        pooling, metric = poolings[row], metrics[column]
        for name, mark in marks(table).items():
            rows = select(table, model=name, pooling=pooling, metric=metric).sort_values("depth")
            ax.plot(rows["depth"], rows["value"], color=mark.colour, ls=mark.line, lw=1.8, label=name)
            ax.fill_between(rows["depth"], rows["low"], rows["high"], color=mark.colour, alpha=0.14, lw=0)
        if "localisation" in tables:
            _mark_turns(ax, select(tables["localisation"], pooling=pooling, criterion=metric), marks(table))
        ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
        ax.set_title(CURVE_TITLES[metric] if row == 0 else "", loc="left", fontsize=10)
        if column == 0:
            ax.set_ylabel(POOLING_TITLES[pooling])
        if metric == "ratio":
            ax.axhline(1, color=GREY, lw=0.8)
    figure.supxlabel("depth (layer / number of layers); marks below the curves: where a bent one turns", fontsize=10)
    _legend(figure, axes[0, 0], "outside upper center")
    return figure


def _mark_turns(ax: Axes, rows: pd.DataFrame, marks_of: dict[str, Mark]) -> None:
    """Where each U turns, in a strip under the curves; nothing for a curve whose net depth may be 0."""
    rows, strip = rows[rows["u_low"] > 0], ax.get_xaxis_transform()
    for idx, row in enumerate(rows.to_dict("records")):
        mark = marks_of[row["model"]]
        ax.plot(row["turn"], 0.03 + 0.045 * idx, mark.marker, ms=5, color=mark.colour, transform=strip)
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.06 * (1 + len(rows)) * (high - low), high)


def _legend(figure: Figure, ax: Axes, loc: LegendLocType) -> None:
    """One legend of the models for the whole figure."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc=loc, ncols=min(4, len(labels)), fontsize=9)


def across_steering(tables: Tables) -> Figure:
    """Deltas at the calibrated strength against anisotropy in three units, and what a norm is worth layer by layer."""
    table = select(tables["across_steering"], relative=1.0)
    figure, axes = plt.subplots(1, 4, figsize=(16, 4.1))
    for ax, measure in zip(axes[:3], MEASURES, strict=True):
        for name, mark in marks(table).items():
            row = select(table, model=name, metric=measure).iloc[0]
            span = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            x, y = row["anisotropy"], row["value"]
            ax.errorbar(x, y, yerr=span, fmt=mark.marker, ms=8, capsize=4, color=mark.colour, label=name)
        ax.set_title(DELTA_TITLES[measure], loc="left", fontsize=10)
        ax.set_xlabel("anisotropy of the layer where it is read")
        if measure == "raw_delta" and (table["value"] > 0).all():
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
        ax.margins(x=0.15)
    axes[0].set_ylabel("steering delta at the calibrated strength")
    figure.suptitle(f"n = {int(table['n'].min())} emotions a model; 95% intervals over them", fontsize=9, color=GREY)
    _norm_worth(axes[3], tables["across_units"])
    _legend(figure, axes[0], "outside lower center")
    return figure


def _norm_worth(ax: Axes, table: pd.DataFrame) -> None:
    """Class gaps that a norm is worth against 1/√(1 − c), one point a layer."""
    for name, mark in marks(table).items():
        rows = select(table, model=name).dropna(subset=["layer"])
        wide = rows.pivot(index="layer", columns="metric", values="value")
        ax.plot(wide["amplification"], wide["gaps_per_norm"], mark.marker, ms=4, color=mark.colour, alpha=0.75)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("1/√(1 − anisotropy)")
    ax.set_ylabel("emotion-vector lengths in one norm")
    ax.set_title("what a norm is worth, layer by layer", loc="left", fontsize=10)


def across_rdm(tables: Tables) -> Figure:
    """Spearman's ρ between all emotion geometries, as a matrix."""
    table = tables["across_rdm"]
    main = table["instrument_a"].iloc[0]
    table = select(table, instrument_a=main, instrument_b=main)
    first, second = (
        list(zip(*(table[f"{part}_{side}"] for part in ("model", "method", "pooling")), strict=True)) for side in "ab"
    )
    # Comprehension first, poolings apart, models within: geometries that should agree stand together.
    order = list(dict.fromkeys(model for model, _, _ in (*first, *second)))
    names = sorted({*first, *second}, key=lambda name: (name[1], name[2] != "mean", order.index(name[0])))
    grid = np.full((len(names), len(names)), np.nan)
    for a, b, value in zip(first, second, table["value"], strict=True):
        grid[names.index(a), names.index(b)] = grid[names.index(b), names.index(a)] = value
    size = 0.62 * len(names) + 4.2
    figure, ax = plt.subplots(figsize=(size + 1, size - 0.6))
    image = ax.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1)
    labels = [f"{model}, {method}, {pooling}" for model, method, pooling in names]
    ax.set_xticks(range(len(names)), labels, rotation=90, fontsize=8)
    ax.set_yticks(range(len(names)), labels, fontsize=8)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value) and len(names) <= 16:
            colour = "white" if abs(value) > 0.6 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    ax.set_title(f"n = {int(table['n'].iloc[0])} emotions, each model at its chosen layer", loc="left", fontsize=9)
    figure.colorbar(image, ax=ax, shrink=0.7, label="Spearman's ρ between dissimilarities")
    return figure


def across_regimes(tables: Tables) -> Figure:
    """Shares of the regimes of each model at matched relative strengths, under emotions' and under control vectors."""
    table = tables["across_regimes"]
    models = list(dict.fromkeys(table["model"]))
    directions = {"emotions": "emotions' vectors", "permuted": "permuted labels", "random": "Gaussian directions"}
    directions = {name: words for name, words in directions.items() if name in set(table["direction"])}
    size = (1.2 + 3.1 * len(models), 2.8 * len(directions))
    figure, axes = plt.subplots(len(directions), len(models), figsize=size, sharex=True, sharey=True, squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        part = select(table, model=models[column], direction=list(directions)[row])
        strengths = sorted(part["relative"].unique())
        bottom = np.zeros(len(strengths))
        for regime, colour in REGIME_COLOURS.items():
            share = select(part, regime=regime).set_index("relative")["value"].reindex(strengths).to_numpy()
            ax.bar(range(len(strengths)), share, bottom=bottom, color=colour, width=0.82)
            bottom = bottom + share
        ax.set_xticks(range(len(strengths)), [f"{value:+g}" for value in strengths])
        ax.set_title(f"{models[column]}" if row == 0 else "", loc="left", fontsize=9)
        n = select(part, regime=next(iter(REGIME_COLOURS)))["n"].min()
        ax.set_title(f"n ≥ {int(n)}", loc="right", color=GREY, fontsize=8)
        if column == 0:
            ax.set_ylabel(f"{list(directions.values())[row]}\nshare of texts")
    figure.supxlabel("strength, in multiples of the model's calibrated strength", fontsize=10)
    handles = [Patch(color=colour, label=name) for name, colour in REGIME_COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9)
    return figure


_CAPTIONS = {
    across_depth: (
        "C6, all models on one axis of depth: how alike the emotions' centroids are (left), how alike they are when "
        "labels are shuffled within topics (middle), and R, the emotions' spread over that chance spread (right). A U "
        "on the left that stands in the middle as well is the activation space's; only R compares models. Marks below: "
        "where a curve turns whose interval of the net depth lies above 0 (of R, upside down)."
    ),
    across_steering: (
        "C7: how far steering at each model's calibrated strength moves the stream along the emotion, in three units. "
        "Raw numbers follow the size of the residual stream by arithmetic: a strength is given in residual norms. The "
        "right panel shows what a residual norm is worth at each layer; both axes share the norm, so that a rise is no "
        "finding."
    ),
    across_rdm: (
        "How far two geometries put the same emotions near each other: models, methods and poolings. The sequel to "
        "the paper reports 0.74 to 0.92 between families. Models that read the same passages share their words, and "
        "words alone give as much: across_rdm.csv has ρ from different topics and given the words."
    ),
    across_regimes: (
        "C10: what becomes of the text at the same multiples of each model's calibrated strength. Every model here "
        "has a family and a size of its own, so no difference can be laid at the door of either."
    ),
}
PICTURES = tuple(Picture(draw.__name__, draw, draw.__name__, caption) for draw, caption in _CAPTIONS.items())
"""Figures drawn once a run, each named as the table that it is drawn from."""
