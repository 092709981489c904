"""Figures of estimators and precision, from a run's tables alone. Every axis is named, every figure states its n."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from emotrace.hosts.precision import PRECISIONS
from emotrace.measures.estimators import ESTIMATORS
from emotrace.study.estimators.layers import CANDIDATE, CHOICES, EFFECT
from emotrace.study.estimators.steering import NEXT_TOKEN
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


_EFFECTS = (
    (NEXT_TOKEN, "rise of kin words' log-probability (nats)"),
    ("judge_over_ceiling", "judge's rise over its ceiling"),
    (f"right_way_{NEXT_TOKEN}", "samples that follow the sign"),
    ("coherent", "coherent texts"),
)


def steered(tables: Tables) -> Figure:
    """What steering with each estimator's vectors does at the strength of equal harm, beside permuted labels."""
    table = tables["estimator_effects"]
    names = [name for name in ESTIMATORS if name in set(table["estimator"])]
    figure, axes = plt.subplots(1, len(_EFFECTS), figsize=(3.2 * len(_EFFECTS), 4.2), sharey=True)
    for ax, (metric, title) in zip(axes, _EFFECTS, strict=True):
        found = select(table, metric=metric).set_index("estimator").reindex(names)
        errors = np.nan_to_num(np.clip([found["value"] - found["low"], found["high"] - found["value"]], 0, None))
        ax.errorbar(found["value"], np.arange(len(names)), xerr=errors, fmt="o", color=BLUE, ms=5, capsize=2)
        if metric in (f"right_way_{NEXT_TOKEN}", "coherent"):
            ax.plot(found["control"], np.arange(len(names)), "x", color=GREY, ms=5)
        ax.axvline({f"right_way_{NEXT_TOKEN}": 0.5, "coherent": 0.9}.get(metric, 0), color=GREY, lw=0.8, ls=":")
        ax.set_xlabel(title)
    row = select(table, metric=NEXT_TOKEN).iloc[0]
    axes[0].set_yticks(range(len(names)), [ESTIMATORS[name].title for name in names])
    axes[0].invert_yaxis()
    note(axes[0], f"{row['n']:.0f} emotions × {row['prompts']:.0f} prompts; 95% intervals")
    return figure


def layer_effects(tables: Tables) -> Figure:
    """The effect at every layer at equal harm, on the prompts that choose and on others, beside permuted labels."""
    table = select(tables["layer_strength"], metric=EFFECT)
    figure, ax = plt.subplots(figsize=(6.4, 4))
    for where, colour, mark in (("choosing", ORANGE, "s"), ("held out", BLUE, "o")):
        rows = select(table, choice=CANDIDATE, where=where, source="emotion").sort_values("layer")
        errors = np.nan_to_num(np.clip([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0, None))
        ax.errorbar(rows["layer"], rows["value"], yerr=errors, fmt=f"-{mark}", color=colour, ms=5, capsize=2)
        ax.lines[-1].set_label(f"{where} prompts ({rows['prompts'].iloc[0]:.0f})")
    others = table[(table["source"] != "emotion") & (table["choice"] == CANDIDATE) & (table["where"] == "held out")]
    for number, (_, rows) in enumerate(others.groupby("source")):
        label = None if number else "permuted labels, held-out prompts"
        ax.plot(rows["layer"], rows["value"], color=GREY, lw=1, label=label)
    for choice, style in zip(CHOICES, ("-", "--", ":"), strict=True):
        own = select(table, choice=choice, where="held out", source="emotion").iloc[0]
        ax.axvline(own["layer"], color=GREEN, ls=style, lw=1.2, label=f"chosen by {choice}")
    ax.set_xlabel("layer")
    ax.set_ylabel("rise of kin words' log-probability (nats)")
    note(ax, f"{rows['n'].iloc[0]:.0f} emotions; KL {table['kl'].median():.2g} nats a token on neutral texts")
    ax.legend(fontsize=8)
    return figure


STEERED = (
    Picture(
        "estimator_effects",
        steered,
        "estimator_effects",
        "What steering with each estimator's vectors does, at the strength at which it changes the model's predictions "
        "on neutral texts as much as the difference of means does at the calibrated one. The first two beyond vectors "
        "of permuted labels by the same estimator and of equal norm; crosses: those labels' own share. Few emotions "
        "and prompts, one text each.",
    ),
)
LAYERS = (
    Picture(
        "layer_strength",
        layer_effects,
        "layer_strength",
        "What steering does to the next token at every layer, at the strength of equal harm: the same KL on neutral "
        "texts. The layer is chosen on some prompts (orange), where the largest of many looks larger than it is, and "
        "reported on others (blue). Vertical lines: the layers that effect, decoding and half depth choose.",
    ),
)
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
