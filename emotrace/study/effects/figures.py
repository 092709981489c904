"""Figures of the steering experiments, each from a run's tables alone (habits as in ``plots.py``)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, PURPLE, plt

REGIME_COLOURS = {
    regimes.SURGICAL: "#9ecae1", regimes.REPETITIVE: "#e69f00", regimes.EXPLOSIVE: "#d55e00", regimes.SHORT: "#bbbbbb",
}  # fmt: skip
READINGS = {
    "projection": "stream at a later layer\n(layer norms, change)", "kin_log_probability": "next token is a kin word\n(log-probability, change)",
    "classifier": "outside classifier's score\nof the emotion's labels",
}  # fmt: skip


def dose_response(tables: dict[str, pd.DataFrame]) -> Figure:
    """The three readings over strength, mean of the emotions, beside random directions and other emotions."""
    table = select(tables["dose_response"], emotion="all")
    # A vocabulary may have no kin word as one token.
    readings = {metric: label for metric, label in READINGS.items() if metric in set(table["metric"])}
    figure, axes = plt.subplots(1, len(readings), figsize=(4.4 * len(readings), 3.9))
    for ax, (metric, label) in zip(axes, readings.items(), strict=True):
        rows = select(table, metric=metric).sort_values("strength")
        ax.axvspan(-rows["strength"].max() / rows["relative"].max(), rows["strength"].max() / rows["relative"].max(),
                   color=GREEN, alpha=0.07, lw=0)  # fmt: skip
        ax.fill_between(rows["strength"], rows["random_low"], rows["random_high"], color=GREY, alpha=0.3, lw=0,
                        label="random directions, range")  # fmt: skip
        ax.plot(rows["strength"], rows["others"], "--", color=ORANGE, lw=1.4, label="the other emotions' vectors")
        spans = np.stack([rows["value"] - rows["low"], rows["high"] - rows["value"]])
        ax.errorbar(rows["strength"], rows["value"], yerr=spans, fmt="o-", ms=4, lw=1.8, capsize=3, color=BLUE,
                    label="the emotion's own vector")  # fmt: skip
        ax.axvline(0, color=GREY, lw=0.8)
        ax.set_xlabel("strength (× mean residual norm)")
        ax.set_ylabel(label)
        ax.set_title(f"n = {int(rows['n'].iloc[0])} emotions", loc="right", color=GREY, fontsize=8)
    axes[0].legend(loc="upper left", fontsize=8)
    return figure


def dose_by_emotion(tables: dict[str, pd.DataFrame]) -> Figure:
    """Each emotion's classifier score over strength, with the range of the random directions."""
    table = select(tables["dose_response"], metric="classifier")
    names = [name for name in corpus.emotion_names() if name in set(table["emotion"])]
    figure, axes = plt.subplots(
        -(-len(names) // 5), 5, figsize=(13, 2.1 * -(-len(names) // 5)), sharex=True, sharey=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        rows = select(table, emotion=name).sort_values("strength")
        ax.fill_between(rows["strength"], rows["random_low"], rows["random_high"], color=GREY, alpha=0.3, lw=0)
        ax.plot(rows["strength"], rows["others"], "--", color=ORANGE, lw=1)
        ax.plot(rows["strength"], rows["value"], "o-", ms=3, color=BLUE, lw=1.5)
        ax.set_title(name, loc="left", fontsize=9)
        ax.set_ylim(0, 1)
    for ax in list(axes.flat)[len(names) :]:
        ax.set_visible(False)
    figure.supxlabel(f"strength (× mean residual norm); n = {int(table['n'].min())} prompts a point")
    figure.supylabel("classifier's score")
    return figure


def regime_map(tables: dict[str, pd.DataFrame]) -> Figure:
    """The most frequent regime of each emotion at each strength; the number is the share of surgical texts."""
    table = tables["regimes"]
    named = [name for name in corpus.emotion_names() if name in set(table["emotion"])]
    order = [*named, "all", "random"]
    chosen = table[table["emotion"].isin(order)]
    shares = chosen.pivot(index="emotion", columns="strength", values="value").loc[order]
    labels = chosen.pivot(index="emotion", columns="strength", values="regime").loc[order]
    codes = labels.replace({name: place for place, name in enumerate(REGIME_COLOURS)}).to_numpy(dtype=int)
    figure, ax = plt.subplots(figsize=(1.0 * shares.shape[1] + 2.6, 7.6))
    ax.imshow(codes, cmap=ListedColormap(list(REGIME_COLOURS.values())), vmin=-0.5, vmax=3.5, aspect="auto")
    for (row, column), share in np.ndenumerate(shares.to_numpy()):
        ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=8)
    ax.set_xticks(range(shares.shape[1]), [f"{value:+.2g}" for value in shares.columns])
    ax.set_yticks(range(len(order)), [*named, "all emotions", "random directions"])
    ax.axhline(len(named) - 0.5, color="black", lw=1)
    ax.set_xlabel("strength (× mean residual norm)")
    n = int(chosen[chosen["emotion"].isin(named)]["n"].min())
    ax.set_title(
        f"colour: most frequent regime; number: share of surgical texts; n = {n} texts a cell", fontsize=9, loc="left"
    )
    handles = [
        Patch(color=colour, label=name) for name, colour in REGIME_COLOURS.items() if name in set(chosen["regime"])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def regimes_over_strength(tables: dict[str, pd.DataFrame]) -> Figure:
    """Perplexity ratio against repetition as strength grows: why neither alone tells the regimes apart."""
    table = select(tables["regimes"], emotion="all").sort_values("strength")
    random = select(tables["regimes"], emotion="random").sort_values("strength")
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.8))
    for rows, style, label in ((table, "o-", "emotions"), (random, "s--", "random directions")):
        axes[0].plot(
            rows["strength"], rows["perplexity_ratio"], style, color=BLUE if style == "o-" else GREY, ms=4, label=label
        )
    axes[0].axhline(regimes.DEFAULT.ratio, color=ORANGE, lw=1, ls=":", label=f"threshold {regimes.DEFAULT.ratio:g}")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("perplexity ratio (median)")
    axes[0].legend(fontsize=8)
    bottom = np.zeros(len(table))
    places = np.arange(len(table))
    for name, colour in REGIME_COLOURS.items():
        share = table[name.replace(" ", "_")].to_numpy()
        axes[1].bar(places, share, bottom=bottom, color=colour, label=name, width=0.8)
        bottom = bottom + share
    axes[1].set_xticks(places, [f"{value:+.2g}" for value in table["strength"]])
    axes[1].set_ylabel("share of texts, all emotions")
    axes[1].legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=4, handlelength=1, columnspacing=1)
    for ax in axes:
        ax.set_xlabel("strength (× mean residual norm)")
        ax.set_title(f"n = {int(table['n'].iloc[0])} texts a strength", loc="right", color=GREY, fontsize=8)
    return figure


def success_by_scenario(tables: dict[str, pd.DataFrame]) -> Figure:
    """Each scenario's rise of the target's score beside the random directions of equal norm."""
    table = tables["verification"].sort_values(["emotion", "tone"]).reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(7.6, 0.21 * len(table) + 1.6))
    places = np.arange(len(table))
    ax.hlines(places, table["random_mean"], table["random_95"], color=GREY, lw=4, alpha=0.45)
    success = table["success"].astype(bool)
    ax.scatter(table["rise"][success], places[success], color=GREEN, s=34, marker="o", zorder=3)
    ax.scatter(table["rise"][~success], places[~success], color=PURPLE, s=30, marker="x", zorder=3)
    ax.set_yticks(places, [f"{row.emotion} ({row.tone})" for row in table.itertuples()], fontsize=7)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_xlabel("rise of the target's score over the unsteered text")
    handles = [
        plt.Line2D([], [], marker="o", ls="", color=GREEN, label="success"),
        plt.Line2D([], [], marker="x", ls="", color=PURPLE, label="no success"),
        plt.Line2D([], [], color=GREY, lw=4, alpha=0.45, label="random directions, mean to 95th percentile"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", fontsize=8, ncols=3)
    ax.set_title(f"{int(success.sum())} of {len(table)} scenarios; {int(table['n'].iloc[0])} seed(s), {int(table['m'].iloc[0])} random directions",
                 loc="right", color=GREY, fontsize=8)  # fmt: skip
    return figure


TABLE_FIGURES = {
    "dose_response": (dose_response, "dose_response"),
    "dose_by_emotion": (dose_by_emotion, "dose_response"),
    "regime_map": (regime_map, "regimes"),
    "regimes_over_strength": (regimes_over_strength, "regimes"),
    "success_by_scenario": (success_by_scenario, "verification"),
}
"""Figures drawn from one model's tables, and the table each needs."""

CAPTIONS = {
    "dose_response": "What grows with the strength of an edit, three ways of reading it: the residual stream at a layer after the edit, the "
    "next token, and a text that an outside classifier judges. Blue: each emotion under its own vector, mean and 95% interval over the "
    "emotions. Grey: random directions of equal norm. Orange: the same readings under the other emotions' vectors. Green: the calibrated window.",
    "dose_by_emotion": "The classifier's score of each emotion under its own vector (blue), under the other emotions' (orange) and under random "
    "directions (grey).",
    "regime_map": "What becomes of the text: the most frequent regime, and the share of coherent (surgical) texts.",
    "regimes_over_strength": "Perplexity ratio and regimes over strength. A text that repeats itself is easy to predict: the ratio alone "
    "would call it coherent.",
    "success_by_scenario": "C9, one row a scenario: the rise of the target emotion's score beside that under random directions of equal norm. "
    "A success is a rise above all of them.",
}


def texts_shown(texts: pd.DataFrame, verdicts: pd.DataFrame, count: int = 8) -> list[dict[str, object]]:
    """Plain and steered texts side by side for the report: scenarios spread over the table, not picked by outcome."""
    scenarios = list(verdicts["scenario"])[:: max(1, len(verdicts) // count)][:count]
    shown = []
    for scenario in scenarios:
        rows = select(texts, scenario=scenario)
        seed = rows["seed"].min()
        own = verdicts[verdicts["scenario"] == scenario].iloc[0]
        of_kind = {kind: select(rows, kind=kind, seed=seed)["text"].iloc[0] for kind in ("plain", "target")}
        shown.append({"emotion": own["emotion"], "prompt": rows["prompt"].iloc[0], "rise": own["rise"],
                      "success": bool(own["success"]), **of_kind})  # fmt: skip
    return shown
