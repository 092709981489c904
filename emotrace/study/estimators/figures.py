"""Figures of estimators and precision, from a run's tables alone. Every axis is named, every figure states its n."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from emotrace.hosts.precision import PRECISIONS
from emotrace.measures.estimators import ESTIMATORS
from emotrace.study.experiment import Picture, Tables
from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, POOLING_TITLES, note

_MARKS = (
    ("ranking", BLUE, "o", "same author, unseen topics"),
    ("transfer_ranking", ORANGE, "s", "another author, unseen topics"),
    ("split_half", GREEN, "D", "cosine of vectors from halves of the topics"),
)


def compared(tables: Tables) -> Figure:
    """How every estimator ranks held-out texts, here and on another author's, and how far its halves agree."""
    table = select(tables["estimators"], choice="chosen")
    names = [name for name in ESTIMATORS if name in set(table["estimator"])]
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(table["pooling"])]
    figure, axes = plt.subplots(1, len(poolings), figsize=(5.4 * len(poolings), 4.6), sharey=True, squeeze=False)
    for ax, pooling in zip(axes[0], poolings, strict=True):
        rows = select(table, pooling=pooling)
        for offset, (metric, colour, mark, label) in zip((-0.2, 0, 0.2), _MARKS, strict=True):
            found = select(rows, metric=metric).set_index("estimator").reindex(names)
            heights = np.arange(len(names)) + offset
            errors = np.clip([found["value"] - found["low"], found["high"] - found["value"]], 0, None)
            ax.errorbar(found["value"], heights, xerr=errors, fmt=mark, color=colour, ms=5, capsize=2, label=label)
            if metric != "transfer_ranking" and "null" in found:
                shuffled = "the same, labels shuffled within topics" if metric == "ranking" else None
                ax.plot(found["null"], heights, "x", color=GREY, ms=5, label=shuffled)
        ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
        ax.set_title(POOLING_TITLES[pooling], loc="left")
        note(ax, f"{int(select(rows, metric='ranking')['n'].max())} topics; 95% intervals")
        ax.set_xlabel("rank among the topic's texts (chance 0.5); cosine")
        ax.set_xlim(-0.15, 1.02)
    axes[0, 0].set_yticks(range(len(names)), [ESTIMATORS[name].title for name in names])
    axes[0, 0].invert_yaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def agreement(tables: Tables) -> Figure:
    """Cosines between the estimators' vectors of the same emotion, mean over emotions."""
    table = select(tables["estimators"], choice="chosen", metric="cosine")
    names = [name for name in ESTIMATORS if name in set(table["estimator"])]
    titles = [ESTIMATORS[name].title for name in names]
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(table["pooling"])]
    figure, axes = plt.subplots(1, len(poolings), figsize=(4.6 * len(poolings) + 2, 5.6), sharey=True, squeeze=False)
    for ax, pooling in zip(axes[0], poolings, strict=True):
        rows = select(table, pooling=pooling)
        cosines = (
            rows.pivot_table(index="estimator", columns="other", values="value")
            .reindex(names)[names]
            .to_numpy(copy=True)
        )
        np.fill_diagonal(cosines, 1)
        image = ax.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(cosines):
            colour = "white" if abs(value) > 0.6 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        ax.set_xticks(range(len(names)), titles, rotation=90)
        ax.set_yticks(range(len(names)), titles)
        ax.set_title(f"{POOLING_TITLES[pooling]}, layer {rows['layer'].iloc[0]:.0f}", loc="left")
    figure.colorbar(image, ax=axes, shrink=0.7, label=f"cosine, mean over {int(table['n'].iloc[0])} emotions")
    return figure


_CHANGES = (
    ("activations", "a text's activations", GREY, "o"),
    ("vectors", "emotion vectors", BLUE, "s"),
    ("rdm", "geometry of the classes, ρ", ORANGE, "D"),
)


def precisions(tables: Tables) -> Figure:
    """1 − agreement with the model as loaded, by precision, on a logarithmic axis, beside what other texts do."""
    table = select(tables["precision"], choice="chosen")
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(table["pooling"])]
    figure, axes = plt.subplots(1, len(poolings), figsize=(5 * len(poolings), 4), sharey=True, squeeze=False)
    for ax, pooling in zip(axes[0], poolings, strict=True):
        rows = select(table, pooling=pooling)
        own = select(rows, metric="rdm_halves").iloc[0]
        rows = select(rows, reference=own["reference"])
        names = [name for name in PRECISIONS if name in set(rows["precision"]) - {own["reference"]}]
        for offset, (metric, label, colour, mark) in zip((-0.15, 0, 0.15), _CHANGES, strict=True):
            found = select(rows, metric=metric).set_index("precision").reindex(names)
            where, change = np.arange(len(names)) + offset, np.maximum(1 - found["value"], 1e-7)
            ax.plot(where, change, mark, color=colour, ms=6, label=label)
            if metric != "activations":
                ends = np.maximum([1 - found["high"], 1 - found["low"]], 1e-7)
                ax.vlines(where, *ends, color=colour, lw=1.4)
        ax.axhline(1 - own["value"], color=GREEN, ls="--", lw=1.2, label="geometry from the other half of the topics")
        ax.set_yscale("log")
        ax.set_xticks(range(len(names)), names)
        ax.set_xlabel("weights")
        ax.set_title(f"{POOLING_TITLES[pooling]}, layer {own['layer']:.0f}", loc="left")
        note(ax, f"{int(select(rows, metric='rdm')['n'].max())} topics; 95% intervals")
    axes[0, 0].set_ylabel(f"1 − agreement with {own['reference']} (lower = the same)")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    return figure


PRECISION = (
    Picture(
        "precision",
        precisions,
        "precision",
        "What rounding the weights changes: one minus the cosine of activations and of emotion vectors, and one minus "
        "Spearman's ρ of the classes' geometries, each with the model as loaded. Green: what other texts change in "
        "the geometry, the measure to judge it by. A packaged model's weights come from 4 bits, so that its int4 is "
        "a second rounding.",
    ),
)
ESTIMATED = (
    Picture(
        "estimators",
        compared,
        "estimators",
        "What each way to compute a vector is worth, on the same texts, folds and layers. Blue and orange: how a text "
        "ranks on its own emotion's direction among all texts on its topic, which the direction was not computed from, "
        " by the same author and by another. Green: how far vectors from disjoint halves of the topics agree. "
        "Crosses: the same with labels shuffled within topics. The two floors read embeddings, words without context.",
    ),
    Picture(
        "estimator_agreement",
        agreement,
        "estimators",
        "How far the estimators' vectors point the same way, at the layer that half of the topics chose.",
    ),
)
