"""One function a figure, each from a run's tables and vectors alone. Every axis is named; every caption states n.

Colours are Okabe and Ito's, which stay apart for colour-blind readers and in grey.
"""

from __future__ import annotations

import matplotlib

from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, POOLING_TITLES, curve, note, panels

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.figure import Figure

from emotrace.instrument import corpus
from emotrace.measures import geometry
from emotrace.study.folder import select
from emotrace.vectors import EmotionVectors


def separation_over_depth(tables: dict[str, pd.DataFrame]) -> Figure:
    """The paper's measure over depth beside its two controls: shuffled labels and unrelated texts."""
    figure, axes = panels(tables, "separation", sharey=False)
    for pooling, ax in axes.items():
        rows = select(tables["separation"], pooling=pooling, metric="cosine")
        curve(ax, rows, BLUE, "emotion centroids")
        curve(
            ax, rows.assign(value=rows["null"], low=np.nan, high=np.nan), ORANGE, "labels shuffled within topics", "--"
        )
        if "anisotropy" in tables:
            groups = select(tables["anisotropy"], pooling=pooling, metric="group_cosine")
            curve(ax, groups, GREEN, "unrelated texts, same group size", "-.")
        n = int(rows["n"].iloc[0])
        note(ax, f"20 emotions, {n} topics; 95% bands")
        floor = min(rows["value"].min(), rows[rows["layer"] > 0]["low"].min())
        ax.set_ylim(floor - 0.35 * (1 - floor), 1 + 0.05 * (1 - floor))  # room for the legend
    next(iter(axes.values())).set_ylabel("mean pairwise cosine (lower = better separated)")
    next(iter(axes.values())).legend(loc="lower left", fontsize=8)
    return figure


def decoding_over_depth(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy on held-out topics over depth, beside chance and the bag-of-embeddings baseline."""
    figure, axes = panels(tables, "separation")
    table = tables["separation"]
    lexical = select(table, pooling="mean", layer=0, metric="logistic_regression")
    for pooling, ax in axes.items():
        for metric, colour, label in (
            ("logistic_regression", BLUE, "logistic regression"), ("nearest_centroid", ORANGE, "nearest centroid"),
        ):  # fmt: skip
            rows = select(table, pooling=pooling, metric=metric)
            curve(ax, rows, colour, label)
        ax.axhline(rows["null"].iloc[0], color=GREY, ls="--", lw=1, label="chance")
        if len(lexical):
            ax.axhline(lexical["value"].iloc[0], color=GREEN, ls="-.", lw=1.2, label="bag of embeddings (logistic)")
        n = int(rows["n"].iloc[0])
        note(ax, f"{n} topics; 95% bands")
        ax.set_ylim(0, 1)
    next(iter(axes.values())).set_ylabel("accuracy, 20 emotions, topics held out")
    next(iter(axes.values())).legend(loc="upper left", fontsize=8)
    return figure


def anisotropy_over_depth(tables: dict[str, pd.DataFrame]) -> Figure:
    """How alike the activations of unrelated texts are."""
    figure, axes = panels(tables, "anisotropy")
    for pooling, ax in axes.items():
        table = select(tables["anisotropy"], pooling=pooling)
        curve(ax, select(table, metric="cosine"), BLUE, "mean pairwise cosine, single texts")
        curve(ax, select(table, metric="top_dimension_share"), ORANGE, "share of squared norm in one dimension", "--")
        n = int(select(table, metric="cosine")["n"].iloc[0])
        note(ax, f"{n} texts; 95% band")
        ax.set_ylim(min(0, select(table, metric="cosine")["low"].min()), 1.02)
    next(iter(axes.values())).set_ylabel("cosine, share")
    next(iter(axes.values())).legend(loc="lower left", fontsize=8)
    return figure


CRITERION_TITLES = {
    "cosine": "centroid cosine (the paper's)", "shuffle_excess": "… minus shuffled labels",
    "anisotropy_excess": "… minus unrelated texts", "nearest_centroid": "nearest centroid, accuracy",
    "logistic_regression": "logistic regression, accuracy",
}  # fmt: skip


def localisation(tables: dict[str, pd.DataFrame]) -> Figure:
    """The best depth by each criterion, with its bootstrap interval over topics."""
    table = tables["localisation"]
    figure, ax = plt.subplots(figsize=(8, 4))
    criteria = list(CRITERION_TITLES)
    for offset, (pooling, colour) in zip((-0.14, 0.14), (("last", BLUE), ("mean", ORANGE)), strict=True):
        rows = select(table, pooling=pooling).set_index("criterion").reindex(criteria)
        places = np.arange(len(criteria)) + offset
        spans = np.stack([rows["depth"] - rows["low"], rows["high"] - rows["depth"]])
        ax.errorbar(rows["depth"], places, xerr=spans, fmt="o", color=colour, capsize=3, label=POOLING_TITLES[pooling])
    ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
    ax.text(0.505, -0.62, "the paper's 50%", color=GREY, fontsize=8, va="center")
    ax.set_yticks(range(len(criteria)), [CRITERION_TITLES[name] for name in criteria])
    ax.set_ylim(len(criteria) - 0.5, -0.8)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel(f"depth of the best layer (95% bootstrap intervals, {int(table['n'].iloc[0])} topics)")
    ax.legend(loc="lower left", fontsize=8)
    return figure


def axes_over_depth(tables: dict[str, pd.DataFrame]) -> Figure:
    """Valence and arousal in the emotion vectors over depth."""
    figure, axes = panels(tables, "geometry")
    for pooling, ax in axes.items():
        table = select(tables["geometry"], pooling=pooling, split="all")
        curve(ax, select(table, metric="pc1_valence_r"), BLUE, "PC1 with valence, r")
        curve(
            ax,
            select(table, metric="pc2_arousal_r").assign(value=lambda t: t["value"].abs(), low=np.nan),
            ORANGE,
            "PC2 with arousal, |r|",
        )
        curve(ax, select(table, metric="rdm_rho"), GREEN, "dissimilarities with plane distances, ρ")
        ax.axhline(0, color=GREY, lw=0.8)
        n = int(select(table, metric="pc1_valence_r")["n"].iloc[0])
        note(ax, f"{n} emotions in the norms; 95% bands")
        ax.set_ylim(-0.6, 1)
    next(iter(axes.values())).set_ylabel("correlation")
    next(iter(axes.values())).legend(loc="lower left", fontsize=8)
    return figure


def cosine_matrix(vectors: EmotionVectors, layer: int) -> Figure:
    """Cosines between the emotion vectors at one layer, centred on the 20, ordered by valence."""
    norms = corpus.emotions()
    order = sorted(
        vectors.emotions, key=lambda name: norms.loc[name, "valence"] if norms.loc[name, "valence"] > 0 else 3
    )
    chosen = np.stack([vectors[name, layer] for name in order]).astype(np.float64)
    cosines = 1 - geometry.rdm(chosen - chosen.mean(axis=0))
    figure, ax = plt.subplots(figsize=(7.2, 6.2))
    image = ax.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_xticks(range(len(order)), order, rotation=90)
    ax.set_yticks(range(len(order)), order)
    ax.set_title(
        f"layer {layer}, {POOLING_TITLES[vectors.provenance['pooling']]}; {len(order)} emotions by valence, low to high"
    )
    figure.colorbar(image, ax=ax, shrink=0.8, label="cosine between emotion vectors (centred on the 20)")
    return figure


def valence_arousal_plane(vectors: EmotionVectors, layer: int) -> Figure:
    """The emotions on the first two principal components of their vectors, coloured by the norms' valence."""
    norms = corpus.emotions().loc[list(vectors.emotions)]
    scores, shares = geometry.principal_components(vectors.at(layer).astype(np.float64))
    valence, arousal = norms["valence"].to_numpy(), norms["arousal"].to_numpy()
    known = np.isfinite(valence)
    correlations = [
        np.corrcoef(scores[known, place], axis[known])[0, 1] for place, axis in enumerate((valence, arousal))
    ]
    scores *= np.where(np.less(correlations, 0), -1, 1)  # the sign of a component is arbitrary
    figure, ax = plt.subplots(figsize=(7.5, 5.6))
    ax.scatter(*scores[~known].T, color="white", edgecolor=GREY, s=70)
    points = ax.scatter(
        *scores[known].T, c=valence[known], cmap="coolwarm_r", vmin=1, vmax=9, s=70, edgecolor=GREY, lw=0.5
    )
    labels = [ax.text(x, y, name, fontsize=9) for name, (x, y) in zip(vectors.emotions, scores, strict=True)]
    ax.axhline(0, color=GREY, lw=0.6)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.margins(0.16)
    ax.set_xlabel(f"PC1, {shares[0]:.0%} of variance, |r| with valence {abs(correlations[0]):.2f}")
    ax.set_ylabel(f"PC2, {shares[1]:.0%} of variance, |r| with arousal {abs(correlations[1]):.2f}")
    ax.set_title(f"layer {layer}, {POOLING_TITLES[vectors.provenance['pooling']]}, n = {len(scores)}")
    figure.colorbar(points, ax=ax, shrink=0.8, label="valence in the norms (1–9); white: no entry")
    figure.canvas.draw()  # settles the layout, in whose coordinates the labels are moved apart
    adjust_text(labels, *scores.T, ax=ax, arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5})
    return figure


TABLE_FIGURES = {
    "separation_over_depth": (separation_over_depth, "separation"),
    "decoding_over_depth": (decoding_over_depth, "separation"),
    "localisation": (localisation, "localisation"),
    "anisotropy_over_depth": (anisotropy_over_depth, "anisotropy"),
    "axes_over_depth": (axes_over_depth, "geometry"),
}
"""Figures drawn from one model's tables, and the table each needs."""

VECTOR_FIGURES = {"cosine_matrix": cosine_matrix, "valence_arousal_plane": valence_arousal_plane}
"""Figures drawn from one model's vectors at one layer."""
