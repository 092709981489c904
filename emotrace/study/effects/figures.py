"""Figures of the steering experiments, each from one model's tables alone."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.study.experiment import Picture, Tables
from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, PURPLE, note

REGIME_COLOURS = {
    regimes.SURGICAL: "#9ecae1",
    regimes.REPETITIVE: "#e69f00",
    regimes.EXPLOSIVE: "#d55e00",
    regimes.SHORT: "#bbbbbb",
}
_READINGS = {
    "projection": "stream at a later layer\n(layer norms, change)",
    "kin_log_probability": "next token is a kin word\n(log-probability, change)",
    "classifier": "outside classifier's score\nof the emotion's labels",
}
_STRENGTH = "strength (× mean residual norm)"


def dose_response(tables: Tables) -> Figure:
    """The three readings over strength, mean of the emotions, beside random directions and other emotions."""
    table = select(tables["dose_response"], emotion="all")
    # A vocabulary may have no kin word as one token.
    readings = {metric: label for metric, label in _READINGS.items() if metric in set(table["metric"])}
    figure, axes = plt.subplots(1, len(readings), figsize=(4.4 * len(readings), 3.9))
    for ax, (metric, label) in zip(axes, readings.items(), strict=True):
        rows = select(table, metric=metric).sort_values("strength")
        window = rows["strength"].max() / rows["relative"].max()
        ax.axvspan(-window, window, color=GREEN, alpha=0.07, lw=0)
        _controls(ax, rows, width=1.4)
        lengths = np.stack([rows["value"] - rows["low"], rows["high"] - rows["value"]])
        ax.errorbar(
            rows["strength"],
            rows["value"],
            yerr=lengths,
            fmt="o-",
            ms=4,
            lw=1.8,
            capsize=3,
            color=BLUE,
            label="the emotion's own vector",
        )
        ax.axvline(0, color=GREY, lw=0.8)
        ax.set_xlabel(_STRENGTH)
        ax.set_ylabel(label)
        note(ax, f"n = {int(rows['n'].iloc[0])} emotions")
    axes[0].legend(loc="upper left", fontsize=8)
    return figure


def _controls(ax: Axes, rows: pd.DataFrame, width: float) -> None:
    ax.fill_between(
        rows["strength"],
        rows["random_low"],
        rows["random_high"],
        color=GREY,
        alpha=0.3,
        lw=0,
        label="random directions, range",
    )
    ax.plot(rows["strength"], rows["others"], "--", color=ORANGE, lw=width, label="the other emotions' vectors")


def dose_by_emotion(tables: Tables) -> Figure:
    """Each emotion's classifier score over strength, with the range of the random directions."""
    table = select(tables["dose_response"], metric="classifier")
    names = [name for name in corpus.emotion_names() if name in set(table["emotion"])]
    n_rows = -(-len(names) // 5)
    figure, axes = plt.subplots(n_rows, 5, figsize=(13, 2.1 * n_rows), sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        rows = select(table, emotion=name).sort_values("strength")
        _controls(ax, rows, width=1)
        ax.plot(rows["strength"], rows["value"], "o-", ms=3, color=BLUE, lw=1.5)
        ax.set_title(name, loc="left", fontsize=9)
        ax.set_ylim(0, 1)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    figure.supxlabel(f"{_STRENGTH}; n = {int(table['n'].min())} prompts a point")
    figure.supylabel("classifier's score")
    return figure


def regime_map(tables: Tables) -> Figure:
    """The most frequent regime of each emotion at each strength; the number is the share of surgical texts."""
    table = tables["regimes"]
    names = [name for name in corpus.emotion_names() if name in set(table["emotion"])]
    order = [*names, "all", "random"]
    rows = table[table["emotion"].isin(order)]
    shares = rows.pivot(index="emotion", columns="strength", values="value").loc[order]
    labels = rows.pivot(index="emotion", columns="strength", values="regime").loc[order]
    codes = labels.replace({name: code for code, name in enumerate(REGIME_COLOURS)}).to_numpy(dtype=int)
    figure, ax = plt.subplots(figsize=(1.0 * shares.shape[1] + 2.6, 7.6))
    ax.imshow(codes, cmap=ListedColormap(list(REGIME_COLOURS.values())), vmin=-0.5, vmax=3.5, aspect="auto")
    for (y, x), share in np.ndenumerate(shares.to_numpy()):
        ax.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=8)
    ax.set_xticks(range(shares.shape[1]), [f"{strength:+.2g}" for strength in shares.columns])
    ax.set_yticks(range(len(order)), [*names, "all emotions", "random directions"])
    ax.axhline(len(names) - 0.5, color="black", lw=1)
    ax.set_xlabel(_STRENGTH)
    n = int(rows[rows["emotion"].isin(names)]["n"].min())
    title = f"colour: most frequent regime; number: share of surgical texts; n = {n} texts a cell"
    ax.set_title(title, fontsize=9, loc="left")
    present = set(rows["regime"])
    handles = [Patch(color=colour, label=name) for name, colour in REGIME_COLOURS.items() if name in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def regimes_over_strength(tables: Tables) -> Figure:
    """Perplexity ratio against repetition as strength grows: why neither alone tells the regimes apart."""
    table = select(tables["regimes"], emotion="all").sort_values("strength")
    random = select(tables["regimes"], emotion="random").sort_values("strength")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
    left.plot(table["strength"], table["perplexity_ratio"], "o-", color=BLUE, ms=4, label="emotions")
    left.plot(random["strength"], random["perplexity_ratio"], "s--", color=GREY, ms=4, label="random directions")
    left.axhline(regimes.DEFAULT.ratio, color=ORANGE, lw=1, ls=":", label=f"threshold {regimes.DEFAULT.ratio:g}")
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_ylabel("perplexity ratio (median)")
    left.legend(fontsize=8)
    bars, bottom = np.arange(len(table)), np.zeros(len(table))
    for name, colour in REGIME_COLOURS.items():
        share = table[name.replace(" ", "_")].to_numpy()
        right.bar(bars, share, bottom=bottom, color=colour, label=name, width=0.8)
        bottom = bottom + share
    right.set_xticks(bars, [f"{strength:+.2g}" for strength in table["strength"]])
    right.set_ylabel("share of texts, all emotions")
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=4, handlelength=1, columnspacing=1)
    for ax in (left, right):
        ax.set_xlabel(_STRENGTH)
        note(ax, f"n = {int(table['n'].iloc[0])} texts a strength")
    return figure


def success_by_scenario(tables: Tables) -> Figure:
    """Each scenario's rise of the target's score beside the random directions of equal norm."""
    table = tables["verification"].sort_values(["emotion", "tone"]).reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(7.6, 0.21 * len(table) + 1.6))
    y = np.arange(len(table))
    ax.hlines(y, table["random_mean"], table["random_95"], color=GREY, lw=4, alpha=0.45)
    success = table["success"].astype(bool)
    ax.scatter(table["rise"][success], y[success], color=GREEN, s=34, marker="o", zorder=3)
    ax.scatter(table["rise"][~success], y[~success], color=PURPLE, s=30, marker="x", zorder=3)
    ax.set_yticks(y, [f"{row.emotion} ({row.tone})" for row in table.itertuples()], fontsize=7)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_xlabel("rise of the target's score over the unsteered text")
    handles = [
        Line2D([], [], marker="o", ls="", color=GREEN, label="success"),
        Line2D([], [], marker="x", ls="", color=PURPLE, label="no success"),
        Line2D([], [], color=GREY, lw=4, alpha=0.45, label="random directions, mean to 95th percentile"),
    ]
    figure.legend(handles=handles, loc="outside upper center", fontsize=8, ncols=3)
    counts = f"{int(success.sum())} of {len(table)} scenarios; {int(table['n'].iloc[0])} seed(s)"
    note(ax, f"{counts}, {int(table['m'].iloc[0])} random directions")
    return figure


DOSE = (
    Picture(
        "dose_response",
        dose_response,
        "dose_response",
        "What grows with the strength of an edit, three ways of reading it: the residual stream at a layer after the "
        "edit, the next token, and a text that an outside classifier judges. Blue: each emotion under its own vector, "
        "mean and 95% interval over the emotions. Grey: random directions of equal norm. Orange: the same readings "
        "under the other emotions' vectors. Green: the calibrated window.",
    ),
    Picture(
        "dose_by_emotion",
        dose_by_emotion,
        "dose_response",
        "The classifier's score of each emotion under its own vector (blue), under the other emotions' (orange) and "
        "under random directions (grey).",
    ),
)
REGIMES = (
    Picture(
        "regime_map",
        regime_map,
        "regimes",
        "What becomes of the text: the most frequent regime, and the share of coherent (surgical) texts.",
    ),
    Picture(
        "regimes_over_strength",
        regimes_over_strength,
        "regimes",
        "Perplexity ratio and regimes over strength. A text that repeats itself is easy to predict: the ratio alone "
        "would call it coherent.",
    ),
)
VERIFICATION = (
    Picture(
        "success_by_scenario",
        success_by_scenario,
        "verification",
        "C9, one row a scenario: the rise of the target emotion's score beside that under random directions of equal "
        "norm. A success is a rise above all of them.",
    ),
)


def texts_shown(texts: pd.DataFrame, verdicts: pd.DataFrame, count: int = 8) -> list[dict[str, object]]:
    """Plain and steered texts side by side for the report: scenarios spread over the table, not picked by outcome."""
    examples = []
    for verdict in verdicts.iloc[:: max(1, len(verdicts) // count)].head(count).to_dict("records"):
        rows = select(texts, scenario=verdict["scenario"])
        written = select(rows, seed=rows["seed"].min()).set_index("kind")["text"]
        example = {"emotion": verdict["emotion"], "prompt": rows["prompt"].iloc[0], "rise": verdict["rise"]}
        texts_of = {"plain": written["plain"], "target": written["target"]}
        examples.append({**example, "success": bool(verdict["success"]), **texts_of})
    return examples
