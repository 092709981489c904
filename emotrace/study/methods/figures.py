"""Figures of the comparison of methods, from a run's tables alone. Every axis is named, every figure states its n."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emotrace.study.experiment import Picture, Tables
from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, POOLING_TITLES, PURPLE, curve

METRIC_TITLES = {
    "cosine": "mean centroid cosine\n(lower = better separated)",
    "intraclass": "intraclass correlation\n(higher = better separated)",
    "nearest_centroid": "accuracy, topics held out\n(higher = better separated)",
}
_FACTOR_COLOURS = {"author": BLUE, "frame": ORANGE, "pooling": GREEN, "texts": PURPLE, "components": GREY}


def method_by_layer(tables: Tables) -> Figure:
    """Mean centroid cosine of both methods over depth (:func:`emotrace.study.methods.comparison.layer_curves`)."""
    curves = tables["method_by_layer"]
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(curves["pooling"])]
    figure, axes = plt.subplots(1, len(poolings), figsize=(5 * len(poolings), 4), squeeze=False)
    for ax, pooling in zip(axes[0], poolings, strict=True):
        for method, colour in (("comprehension", BLUE), ("generation", ORANGE)):
            rows = select(curves, pooling=pooling, method=method)
            if len(rows):  # a base model writes no stories
                curve(ax, rows, colour, method)
        ax.set_title(POOLING_TITLES[pooling], loc="left")
        ax.set_title(f"{int(curves['n'].max())} topics; 95% bands", loc="right", color=GREY, fontsize=8)
        ax.set_xlabel("depth (layer / number of layers)")
        ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
    axes[0, 0].set_ylabel("mean pairwise cosine (lower = better separated)")
    axes[0, 0].legend(loc="lower left", fontsize=8)
    return figure


def marginal_effects(tables: Tables) -> Figure:
    """Each factor's effect on each metric, averaged over the other factors."""
    effects = select(tables["factorial_effects"], kind="marginal")
    return _effects(effects, "difference between levels, averaged over all other factors")


def decomposition(tables: Tables) -> Figure | None:
    """What author, frame and pooling contribute to generation − comprehension; the parts add up to the whole."""
    parts = select(tables["factorial_effects"], kind="decomposition")
    # Without stories of the model's own there is nothing to take apart.
    return _effects(parts, "contribution to generation − comprehension") if len(parts) else None


def _effects(table: pd.DataFrame, label: str) -> Figure:
    """One panel a metric, one row a contrast."""
    metrics = [metric for metric in METRIC_TITLES if metric in set(table["metric"])]
    table = table.astype({"level": str, "reference": str})
    contrasts = list(dict.fromkeys(zip(table["factor"], table["level"], table["reference"], strict=True)))
    size = (4.2 * max(1, len(metrics)), 1.6 + 0.32 * len(contrasts))
    figure, axes = plt.subplots(1, max(1, len(metrics)), figsize=size, sharey=True, squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=False):
        for row in select(table, metric=metric).itertuples():
            height = contrasts.index((row.factor, row.level, row.reference))
            colour = _FACTOR_COLOURS.get(str(row.factor), "black")
            ax.plot([row.low, row.high], [height, height], color=colour, lw=1.6)
            ax.plot(row.value, height, "o", color=colour)
        ax.axvline(0, color=GREY, lw=0.8)
        ax.set_title(METRIC_TITLES[metric], loc="left", fontsize=9)
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    labels = [f"{factor}: {level} − {reference}" for factor, level, reference in contrasts]
    axes[0, 0].set_yticks(range(len(contrasts)), labels)
    axes[0, 0].set_ylim(len(contrasts) - 0.5, -0.5)
    n = int(table["n"].max()) if len(table) else 0
    figure.supxlabel(f"{label} (95% intervals over {n} topics)", fontsize=9)
    return figure


def decoding_matrix(tables: Tables) -> Figure:
    """Accuracy across authors and frames, mean over tokens, each author's own centre: rows train, columns test."""
    table = select(tables["factorial_decoding"], pooling="mean", centre="own")
    names = list(dict.fromkeys(zip(table["train_author"], table["train_frame"], strict=True)))
    grid = np.full((len(names), len(names)), np.nan)
    for row in table.itertuples():
        grid[names.index((row.train_author, row.train_frame)), names.index((row.test_author, row.test_frame))] = (
            row.value
        )
    figure, ax = plt.subplots(figsize=(3.4 + 0.75 * len(names), 2.6 + 0.65 * len(names)))
    image = ax.imshow(grid, cmap="viridis", vmin=0, vmax=1)
    labels = [f"{author}, {frame}" for author, frame in names]
    ax.set_xticks(range(len(names)), labels, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), labels)
    ax.set_xlabel("tested on (other topics)")
    ax.set_ylabel("trained on")
    for (row, column), value in np.ndenumerate(grid):
        colour = "white" if value < 0.6 else "black"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    chance, n = table["chance"].iloc[0], int(table["n"].iloc[0])
    ax.set_title(f"{POOLING_TITLES['mean']}; chance {chance:.2f}; {n} topics", loc="left", fontsize=10)
    figure.colorbar(image, ax=ax, shrink=0.8, label="accuracy, nearest centroid")
    return figure


COMPARISON = (
    Picture(
        "method_by_layer",
        method_by_layer,
        "method_by_layer",
        "C5, layer by layer: how alike the emotions' centroids are when the model reads the passages, and when it "
        "reads its own stories after the request for them.",
    ),
)
FACTORIAL = (
    Picture(
        "factorial_effects",
        marginal_effects,
        "factorial_effects",
        "What each respect in which the two methods differ does by itself, averaged over all the others. Right of zero "
        "is better, except for the cosine, where left is. The cosine also moves with the width of the cone in which "
        "all states lie; the intraclass correlation, the emotion's share of the variance within topics, does not.",
    ),
    Picture(
        "factorial_decomposition",
        decomposition,
        "factorial_effects",
        "The whole difference between generation as it is used and comprehension, and the parts that author, frame and "
        "pooling contribute to it; the parts add up to the whole.",
    ),
    Picture(
        "factorial_decoding",
        decoding_matrix,
        "factorial_decoding",
        "Vectors trained on one author's texts, tested on another's, on topics never seen. A value off the diagonal "
        "near those on it says that what was learnt is not the author's alone.",
    ),
)
