"""Separation, decoding, anisotropy and axes over depth; emotion vectors at one layer. From tables and vectors alone.

Every axis is named, every figure states its n.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotrace.instrument.instrument import NORMS, norms_of
from emotrace.measures import geometry
from emotrace.study.experiment import Picture, Tables, emotions_in_words
from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, POOLING_TITLES, PURPLE, curve, note, panels
from emotrace.vectors import EmotionVectors

ROOMY = 30
"""So many emotions' names have room in a figure of the usual size; beyond it grows."""
CRITERION_TITLES = {
    "cosine": "centroid cosine (the paper's)",
    "shuffled_cosine": "its null, shuffled labels",
    "noise_cosine": "its null less the emotions' part: the space",
    "shuffle_excess": "cosine minus its null",
    "anisotropy_excess": "cosine minus unrelated texts",
    "ratio": "R = (1 − cosine) / (1 − null)",
    "intraclass": "share of variance, cross-validated",
    "nearest_centroid": "nearest centroid, accuracy",
    "logistic_regression": "logistic regression, accuracy",
}


def separation_over_depth(tables: Tables) -> Figure:
    """The paper's measure over depth beside its two controls: shuffled labels and unrelated texts."""
    figure, axes = panels(tables, "separation", sharey=False)
    for pooling, ax in axes.items():
        rows = select(tables["separation"], pooling=pooling, metric="cosine")
        shuffled = rows.assign(value=rows["null"], low=np.nan, high=np.nan)
        curve(ax, rows, BLUE, "emotion centroids")
        curve(ax, shuffled, ORANGE, "labels shuffled within topics", "--")
        lowest = 1.0
        if "anisotropy" in tables:
            groups = select(tables["anisotropy"], pooling=pooling, metric="group_cosine")
            curve(ax, groups, GREEN, "unrelated texts, same group size", "-.")
            lowest = groups[groups["layer"] > 0]["value"].min()
        note(ax, f"{emotions_in_words(tables)}, {int(rows['n'].iloc[0])} topics; 95% bands")
        floor = min(rows["value"].min(), rows[rows["layer"] > 0]["low"].min(), lowest)
        ax.set_ylim(floor - 0.35 * (1 - floor), 1 + 0.05 * (1 - floor))  # room for the legend
    return _labelled(figure, axes, "mean pairwise cosine (lower = better separated)")


def u_question(tables: Tables) -> Figure:
    """Is the U the emotions' or the space's? The cosine and its null above, their scale-free ratio R below."""
    separation, located = tables["separation"], tables["localisation"]
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(located["pooling"])]
    figure, grid = plt.subplots(2, len(poolings), figsize=(5.2 * len(poolings), 6.4), sharex=True, squeeze=False)
    for pooling, (above, below) in zip(poolings, grid.T, strict=True):
        above.set_title(POOLING_TITLES[pooling], loc="left")
        below.set_xlabel("depth (layer / number of layers)")
        for metric, colour, label, style in (
            ("cosine", BLUE, "emotion centroids", "-"),
            ("shuffled_cosine", ORANGE, "labels shuffled within topics", "--"),
            ("noise_cosine", GREY, "… less the emotions' part: the space alone", ":"),
        ):
            rows = select(separation, pooling=pooling, metric=metric).query("layer > 0")
            curve(above, rows if metric != "noise_cosine" else rows.assign(low=np.nan), colour, label, style)
            _mark(above, rows, rows["value"].argmin(), colour)
        rows = select(separation, pooling=pooling, metric="ratio").query("layer > 0")
        curve(below, rows, GREEN, "R = (1 − blue) / (1 − orange)")
        _mark(below, rows, rows["value"].argmax(), GREEN)
        below.axhline(1, color=GREY, ls="--", lw=1)
        of = select(located, pooling=pooling).set_index("criterion")["u"]
        note(above, f"net depth of a U: {of['cosine']:.2f}, space {of['noise_cosine']:.2f}")
        note(below, f"net depth of R as an arch: {of['ratio']:.2f}; {int(rows['n'].iloc[0])} topics")
        for ax in (above, below):
            ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
    grid[0, 0].set_ylabel("mean pairwise cosine")
    grid[1, 0].set_ylabel("R, emotion spread over chance spread")
    for ax in grid[:, 0]:
        ax.legend(loc="best", fontsize=8)
    return figure


def _mark(ax: Axes, rows: pd.DataFrame, index: int, colour: str) -> None:
    """A dot where a curve has its best layer."""
    best = rows.iloc[index]
    ax.plot(best["depth"], best["value"], "o", color=colour, ms=6)


def _labelled(
    figure: Figure, axes: dict[str, Axes], ylabel: str, legend: Literal["lower left", "upper left"] = "lower left"
) -> Figure:
    """The same figure, its first panel with the label and the legend of all."""
    first = next(iter(axes.values()))
    first.set_ylabel(ylabel)
    first.legend(loc=legend, fontsize=8)
    return figure


def decoding_over_depth(tables: Tables) -> Figure:
    """Accuracy on held-out topics over depth, beside chance and what the words give without a model."""
    figure, axes = panels(tables, "separation")
    table = tables["separation"]
    floors = [("bag of embeddings", select(table, pooling="mean", layer=0, metric="logistic_regression"), "-.")]
    floors += [
        (label, select(table, pooling="words", metric=metric), style)
        for metric, label, style in (("tfidf", "TF-IDF", ":"), ("surface_counts", "punctuation and lengths", "--"))
    ]
    for pooling, ax in axes.items():
        logistic = select(table, pooling=pooling, metric="logistic_regression")
        centroid = select(table, pooling=pooling, metric="nearest_centroid")
        curve(ax, logistic, BLUE, "logistic regression")
        curve(ax, centroid, ORANGE, "nearest centroid")
        ax.axhline(centroid["null"].iloc[0], color=GREY, ls="--", lw=1, label="chance")
        for label, rows, style in floors:
            if len(rows):
                ax.axhline(rows["value"].iloc[0], color=GREEN, ls=style, lw=1.2, label=label)
        note(ax, f"{int(centroid['n'].iloc[0])} topics; 95% bands")
        ax.set_ylim(0, 1)
    return _labelled(figure, axes, f"accuracy, {emotions_in_words(tables)}, topics held out", "upper left")


def transfer_over_depth(tables: Tables) -> Figure:
    """Accuracy of one instrument's vectors on another's texts, beside what the words carry over."""
    table = tables["transfer"]
    figure, axes = panels({"transfer": select(table, metric="accuracy")}, "transfer")
    colours = itertools.cycle((BLUE, ORANGE, GREEN, PURPLE))
    for (train, test), rows in table.groupby(["train", "test"], sort=False):
        colour = next(colours)
        words = select(rows, pooling="words")["value"].iloc[0]
        for pooling, ax in axes.items():
            curve(ax, select(rows, pooling=pooling, metric="accuracy"), colour, f"vectors of {train}, texts of {test}")
            ax.axhline(words, color=colour, ls=":", lw=1.4, label="the same by words (TF-IDF)")
    for ax in axes.values():
        ax.axhline(table["null"].max(), color=GREY, ls="--", lw=1, label="chance")
        ax.set_ylim(0, 1)
        note(ax, f"{int(select(table, metric='accuracy')['n'].max())} texts; 95% bands over topics")
    return _labelled(figure, axes, "accuracy on the other's texts", "upper left")


def anisotropy_over_depth(tables: Tables) -> Figure:
    """How alike the activations of unrelated texts are."""
    figure, axes = panels(tables, "anisotropy")
    for pooling, ax in axes.items():
        table = select(tables["anisotropy"], pooling=pooling)
        cosine = select(table, metric="cosine")
        curve(ax, cosine, BLUE, "mean pairwise cosine, single texts")
        curve(ax, select(table, metric="top_dimension_share"), ORANGE, "share of squared norm in one dimension", "--")
        note(ax, f"{int(cosine['n'].iloc[0])} texts; 95% band")
        ax.set_ylim(min(0, cosine["low"].min()), 1.02)
    return _labelled(figure, axes, "cosine, share")


def localisation(tables: Tables) -> Figure:
    """The best depth by each criterion, with its bootstrap interval over topics."""
    table = tables["localisation"]
    figure, ax = plt.subplots(figsize=(8.4, 5.2))
    criteria = list(CRITERION_TITLES)
    for offset, pooling, colour in ((-0.14, "last", BLUE), (0.14, "mean", ORANGE)):
        rows = select(table, pooling=pooling).set_index("criterion").reindex(criteria)
        heights = np.arange(len(criteria)) + offset
        errors = np.stack([rows["depth"] - rows["low"], rows["high"] - rows["depth"]])
        ax.errorbar(
            rows["depth"], heights, xerr=errors, fmt="o", color=colour, capsize=3, label=POOLING_TITLES[pooling]
        )
    ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
    ax.text(0.505, -0.62, "the paper's 50%", color=GREY, fontsize=8, va="center")
    ax.set_yticks(range(len(criteria)), [CRITERION_TITLES[name] for name in criteria])
    ax.set_ylim(len(criteria) - 0.5, -0.8)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel(f"depth of the best layer (95% bootstrap intervals, {int(table['n'].iloc[0])} topics)")
    ax.legend(loc="lower left", fontsize=8)
    return figure


def axes_over_depth(tables: Tables) -> Figure:
    """Valence and arousal in the emotion vectors over depth."""
    figure, axes = panels(tables, "geometry")
    for pooling, ax in axes.items():
        table = select(tables["geometry"], pooling=pooling, split="all")
        valence, arousal = (select(table, metric=metric) for metric in ("pc1_valence_r", "pc2_arousal_r"))
        curve(ax, valence, BLUE, "PC1 with valence, r")
        curve(ax, arousal.assign(value=arousal["value"].abs(), low=np.nan), ORANGE, "PC2 with arousal, |r|")
        curve(ax, select(table, metric="rdm_rho"), GREEN, "dissimilarities with plane distances, ρ")
        ax.axhline(0, color=GREY, lw=0.8)
        note(ax, f"{int(valence['n'].iloc[0])} emotions in the norms; 95% bands")
        ax.set_ylim(-0.6, 1)
    return _labelled(figure, axes, "correlation")


def cosine_matrix(vectors: EmotionVectors, layer: int) -> Figure:
    """Cosines between the emotion vectors at one layer, centred on their mean; by valence where most have one."""
    valence = norms_of(vectors.provenance, vectors.emotions)["valence"]
    known = 2 * valence.notna().sum() > len(valence)
    valence = valence.fillna(3)
    order = sorted(vectors.emotions, key=lambda name: valence[name]) if known else list(vectors.emotions)
    directions = np.stack([vectors[name, layer] for name in order]).astype(np.float64)
    cosines = 1 - geometry.rdm(directions - directions.mean(axis=0))
    many = max(0, len(order) - ROOMY)
    figure, ax = plt.subplots(figsize=(7.2 + 0.1 * many, 6.2 + 0.1 * many))
    image = ax.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_xticks(range(len(order)), order, rotation=90, fontsize=6 if many else None)
    ax.set_yticks(range(len(order)), order, fontsize=6 if many else None)
    pooling = POOLING_TITLES[vectors.provenance["pooling"]]
    ordered = " by valence, low to high" if known else ""
    ax.set_title(f"layer {layer}, {pooling}; {len(order)} emotions{ordered}")
    figure.colorbar(image, ax=ax, shrink=0.8, label=f"cosine between emotion vectors (centred on the {len(order)})")
    return figure


def valence_arousal_plane(vectors: EmotionVectors, layer: int) -> Figure:
    """The emotions on the first two principal components of their vectors, coloured by the norms' valence."""
    norms = norms_of(vectors.provenance, vectors.emotions)
    scores, shares = geometry.principal_components(vectors.at(layer).astype(np.float64))
    valence, arousal = norms["valence"].to_numpy(), norms["arousal"].to_numpy()
    known = np.isfinite(valence)
    unknown = known.sum() < 3  # of emotions without norms there is no correlation with them
    r = [
        np.nan if unknown or np.ptp(axis[known]) == 0 else np.corrcoef(scores[known, i], axis[known])[0, 1]
        for i, axis in enumerate((valence, arousal))
    ]
    scores *= np.where(np.less(r, 0), -1, 1)  # the sign of a component is arbitrary
    room = max(1.0, np.sqrt(len(scores) / ROOMY))
    figure, ax = plt.subplots(figsize=(7.5 * room, 5.6 * room))
    x, y = scores.T
    few = len(scores) <= 2 * ROOMY  # moving more names apart takes minutes: they stand right of their points
    size = 70 if few else 16
    ax.scatter(x[~known], y[~known], color="white", edgecolor=GREY, s=size)
    points = ax.scatter(
        x[known], y[known], c=valence[known], cmap="coolwarm_r", vmin=1, vmax=9, s=size, edgecolor=GREY, lw=0.5
    )
    how: dict[str, Any] = {"fontsize": 9} if few else {"fontsize": 6, "va": "center"}
    labels = [ax.text(x[at], y[at], name if few else f"  {name}", **how) for at, name in enumerate(vectors.emotions)]
    ax.axhline(0, color=GREY, lw=0.6)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.margins(0.16)
    of_norms = [
        "" if np.isnan(of) else f", |r| with {name} {abs(of):.2f}" for name, of in zip(norms[NORMS], r, strict=True)
    ]
    ax.set_xlabel(f"PC1, {shares[0]:.0%} of variance{of_norms[0]}")
    ax.set_ylabel(f"PC2, {shares[1]:.0%} of variance{of_norms[1]}")
    ax.set_title(f"layer {layer}, {POOLING_TITLES[vectors.provenance['pooling']]}, n = {len(scores)}")
    figure.colorbar(points, ax=ax, shrink=0.8, label="valence in the norms (1–9); white: no entry")
    if few:
        figure.canvas.draw()  # settles the layout, in whose coordinates the labels are moved apart
        adjust_text(labels, x, y, ax=ax, iter_lim=500, arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5})
    return figure


def _at_chosen_layer(draw: Callable[[EmotionVectors, int], Figure]) -> Callable[[Tables, EmotionVectors], Figure]:
    """``draw`` at the layer that nearest centroid chose on one half of the topics, for the vectors' pooling."""

    def drawn(tables: Tables, vectors: EmotionVectors) -> Figure:
        pooling = vectors.provenance["pooling"]
        row = select(tables["localisation"], pooling=pooling, criterion="nearest_centroid").iloc[0]
        return draw(vectors, int(row["chosen_layer"]))

    return drawn


SEPARATION = (
    Picture(
        "separation_over_depth",
        separation_over_depth,
        "separation",
        "The paper's measure of separation, layer by layer. Blue: mean cosine between the centroids of the "
        "emotions, before any centring. Orange: the same texts with their labels shuffled within topics, so nothing "
        "but the emotion differs. Green: groups of unrelated factual texts. What lies between blue and orange is "
        "emotion; what lies between orange and 1 is topic, noise and the shape of the activation space.",
    ),
    Picture(
        "decoding_over_depth",
        decoding_over_depth,
        "separation",
        "How often the emotion of a text is decoded right when its topic was never seen in training. The green "
        "lines are what the words alone give: embeddings averaged without context, TF-IDF, punctuation and lengths. "
        "Words alone do not reach what lies above them.",
    ),
)
LOCALISATION = (
    Picture(
        "u_question",
        u_question,
        "localisation",
        "Is the U over depth the emotions' or the activation space's? Above: the paper's cosine between emotion "
        "centroids and the same with labels shuffled within topics, which knows no emotion. Below: their ratio R, how "
        "much further emotions lie apart than chance, free of the space's shape. Grey: the null less what the "
        "emotions' own variance adds to it. Dots: where each is best. Where blue and grey have the same U and R has "
        "no arch, the U is the space's. 95% bands over topics.",
    ),
    Picture(
        "localisation",
        localisation,
        "localisation",
        "Where over depth the emotions separate best, by nine criteria and two poolings; a null has one too.",
    ),
)
TRANSFER = (
    Picture(
        "transfer_over_depth",
        transfer_over_depth,
        "transfer",
        "How often a text's emotion is decoded by the vectors of another instrument's texts, over the emotions that "
        "both have; where they have topics in common, by vectors of other topics. Dotted: the same by words alone, "
        "learnt from the other's texts. What the model adds to words lies above the dotted line of the same colour.",
    ),
)
ANISOTROPY = (
    Picture(
        "anisotropy_over_depth",
        anisotropy_over_depth,
        "anisotropy",
        "How alike the activations of unrelated factual texts are. Near 1, every text points the same way and raw "
        "cosines say little; the orange curve shows how far a single dimension is the reason.",
    ),
)
GEOMETRY = (
    Picture(
        "axes_over_depth",
        axes_over_depth,
        "geometry",
        "Whether the emotion vectors are laid out by valence and arousal (norms of Warriner et al. 2013).",
    ),
    Picture(
        "cosine_matrix",
        _at_chosen_layer(cosine_matrix),
        "localisation",
        "Cosines between the emotion vectors at the layer that one half of the topics chose.",
        vectors=True,
    ),
    Picture(
        "valence_arousal_plane",
        _at_chosen_layer(valence_arousal_plane),
        "localisation",
        "The emotions on the first two principal components of their vectors at that layer.",
        vectors=True,
    ),
)
