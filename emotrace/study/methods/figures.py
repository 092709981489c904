"""Figures of the comparison of methods, from a run's tables alone; habits and colours as in :mod:`emotrace.study.separation.figures`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, POOLING_TITLES, PURPLE

METRIC_TITLES = {
    "cosine": "mean centroid cosine\n(lower = better separated)",
    "shuffle_excess": "… minus shuffled labels\n(lower = better separated)",
    "nearest_centroid": "accuracy, topics held out\n(higher = better separated)",
}
_FACTOR_COLOURS = {"author": BLUE, "frame": ORANGE, "pooling": GREEN, "texts": PURPLE, "components": GREY}
_FRAME_SHORT = {"plain": "plain", "unnamed": "unnamed", "chat": "chat"}


def method_by_layer(curves: pd.DataFrame) -> Figure:
    """Mean centroid cosine of both methods over depth (table of :func:`emotrace.study.methods.comparison.layer_curves`)."""
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(curves["pooling"])]
    figure, axes = plt.subplots(1, len(poolings), figsize=(5 * len(poolings), 4), squeeze=False)
    for ax, pooling in zip(axes[0], poolings, strict=True):
        for method, colour in (("comprehension", BLUE), ("generation", ORANGE)):
            rows = select(curves, pooling=pooling, method=method).sort_values("depth")
            if rows.empty:  # a base model writes no stories
                continue
            ax.plot(rows["depth"], rows["value"], color=colour, lw=1.8, label=method)
            ax.fill_between(rows["depth"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
        ax.set_title(POOLING_TITLES[pooling], loc="left")
        ax.set_title(f"{int(curves['n'].max())} topics; 95% bands", loc="right", color=GREY, fontsize=8)
        ax.set_xlabel("depth (layer / number of layers)")
        ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
    axes[0, 0].set_ylabel("mean pairwise cosine (lower = better separated)")
    axes[0, 0].legend(loc="lower left", fontsize=8)
    return figure


def marginal_effects(effects: pd.DataFrame) -> Figure:
    """Each factor's effect on each metric, averaged over the other factors (table ``factorial_effects``)."""
    return _effects(select(effects, kind="marginal"), "difference between levels, averaged over all other factors")


def decomposition(effects: pd.DataFrame) -> Figure | None:
    """What author, frame and pooling contribute to generation − comprehension; the parts add up to the whole."""
    parts = select(effects, kind="decomposition")
    # Without stories of the model's own there is nothing to take apart.
    return _effects(parts, "contribution to generation − comprehension") if len(parts) else None


def _effects(table: pd.DataFrame, label: str) -> Figure:
    metrics = [metric for metric in METRIC_TITLES if metric in set(table["metric"])]
    order = list(
        dict.fromkeys(zip(table["factor"], table["level"].astype(str), table["reference"].astype(str), strict=True))
    )
    height = 1.6 + 0.32 * len(order)
    figure, axes = plt.subplots(
        1, max(1, len(metrics)), figsize=(4.2 * max(1, len(metrics)), height), sharey=True, squeeze=False
    )
    for ax, metric in zip(axes[0], metrics, strict=False):
        rows = select(table, metric=metric)
        for row in rows.itertuples():
            place = order.index((row.factor, str(row.level), str(row.reference)))
            colour = _FACTOR_COLOURS.get(row.factor, "black")
            ax.plot([row.low, row.high], [place, place], color=colour, lw=1.6)
            ax.plot(row.value, place, "o", color=colour)
        ax.axvline(0, color=GREY, lw=0.8)
        ax.set_title(METRIC_TITLES[metric], loc="left", fontsize=9)
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    axes[0, 0].set_yticks(range(len(order)), [f"{factor}: {level} − {reference}" for factor, level, reference in order])
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    n = int(table["n"].max()) if len(table) else 0
    figure.supxlabel(f"{label} (95% bootstrap intervals over {n} topics)", fontsize=9)
    return figure


def decoding_matrix(decoding: pd.DataFrame, pooling: str = "mean", centre: str = "own") -> Figure:
    """Accuracy across authors and frames: rows are trained on, columns tested on (table ``factorial_decoding``)."""
    table = select(decoding, pooling=pooling, centre=centre)
    names = list(dict.fromkeys(zip(table["train_author"], table["train_frame"], strict=True)))
    grid = np.full((len(names), len(names)), np.nan)
    for row in table.itertuples():
        place = names.index((row.train_author, row.train_frame)), names.index((row.test_author, row.test_frame))
        grid[place] = row.value
    figure, ax = plt.subplots(figsize=(2.4 + 0.75 * len(names), 1.6 + 0.65 * len(names)))
    image = ax.imshow(grid, cmap="viridis", vmin=0, vmax=1)
    labels = [f"{author}, {_FRAME_SHORT[frame]}" for author, frame in names]
    ax.set_xticks(range(len(names)), labels, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), labels)
    ax.set_xlabel("tested on (other topics)")
    ax.set_ylabel("trained on")
    for (down, right), value in np.ndenumerate(grid):
        ax.text(
            right, down, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value < 0.6 else "black"
        )
    chance, n = table["chance"].iloc[0], int(table["n"].iloc[0])
    ax.set_title(f"{POOLING_TITLES[pooling]}; chance {chance:.2f}; {n} topics", loc="left", fontsize=10)
    figure.colorbar(image, ax=ax, shrink=0.8, label="accuracy, nearest centroid")
    return figure


METHOD_FIGURES = {
    "method_by_layer": (method_by_layer, "method_by_layer"),
    "factorial_effects": (marginal_effects, "factorial_effects"),
    "factorial_decomposition": (decomposition, "factorial_effects"),
    "factorial_decoding": (decoding_matrix, "factorial_decoding"),
}
"""Figures drawn from one model's tables, and the table each needs (it is given that table alone)."""
