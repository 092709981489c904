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
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from emotrace.judges import regimes
from emotrace.measures.statistics import Interval
from emotrace.study.effects.arms import CALIBRATED, PUBLISHED
from emotrace.study.effects.ceilings import CUT, WHOLE
from emotrace.study.effects.contrasts import TOWARDS
from emotrace.study.effects.success import PAPER_SUCCESS, rate
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
    "beyond_skip": "stream at a later layer, beyond\nthe skip connection (layer norms)",
    "kin_log_probability": "next token is a kin word\n(log-probability, change)",
    "classifier": "outside classifier's score\nof the emotion's labels",
    "kin_share": "share of kin words\namong the words written",
}
_STRENGTH = "strength (× mean residual norm)"


def dose_response(tables: Tables) -> Figure:
    """The four readings over strength, mean of the emotions, beside control directions and other emotions."""
    table = select(tables["dose_response"], arm=CALIBRATED, emotion="all")
    # A vocabulary may have no kin word as one token.
    readings = {metric: label for metric, label in _READINGS.items() if metric in set(table["metric"])}
    figure, axes = plt.subplots(1, len(readings), figsize=(4.2 * len(readings), 3.9), squeeze=False)
    for ax, (metric, label) in zip(axes[0], readings.items(), strict=True):
        rows = select(table, metric=metric).sort_values("strength")
        window = rows["strength"].max() / rows["relative"].max()
        ax.axvspan(-window, window, color=GREEN, alpha=0.07, lw=0, label="up to the calibrated strength")
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
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _controls(ax: Axes, rows: pd.DataFrame, width: float) -> None:
    ax.fill_between(
        rows["strength"],
        rows["permuted_low"],
        rows["permuted_high"],
        color=GREY,
        alpha=0.35,
        lw=0,
        label="vectors of permuted labels, range",
    )
    ax.plot(rows["strength"], rows["random"], ":", color=PURPLE, lw=width, label="Gaussian directions, mean")
    ax.plot(rows["strength"], rows["others"], "--", color=ORANGE, lw=width, label="the other emotions' vectors")


def dose_by_emotion(tables: Tables) -> Figure | None:
    """Each emotion's classifier score over strength, with the range of the permuted-label vectors."""
    table = select(tables["dose_response"], arm=CALIBRATED, metric="classifier")
    if not (names := [name for name in table["emotion"].unique() if name != "all"]):
        return None
    columns = 5 if len(names) <= 30 else 10
    n_rows = -(-len(names) // columns)
    size = (2.6 * columns, 2.1 * n_rows)
    figure, axes = plt.subplots(n_rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
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
    table = select(tables["regimes"], arm=CALIBRATED)
    directions = list(table["emotion"].unique())
    together = {"all": "all emotions", "permuted": "permuted labels", "random": "Gaussian directions"}
    names = [name for name in directions if name.split("-")[0] not in (*together, "unsteered")]
    order = [*names, *(name for name in together if name in directions)]
    rows = table[table["emotion"].isin(order)]
    shares = rows.pivot(index="emotion", columns="strength", values="value").loc[order]
    labels = rows.pivot(index="emotion", columns="strength", values="regime").loc[order]
    codes = labels.replace({name: code for code, name in enumerate(REGIME_COLOURS)}).to_numpy(dtype=int)
    figure, ax = plt.subplots(figsize=(1.0 * shares.shape[1] + 2.6, 0.27 * len(order) + 1.4))
    ax.imshow(codes, cmap=ListedColormap(list(REGIME_COLOURS.values())), vmin=-0.5, vmax=3.5, aspect="auto")
    for (y, x), share in np.ndenumerate(shares.to_numpy()):
        ax.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=8)
    ax.set_xticks(range(shares.shape[1]), [f"{strength:+.2g}" for strength in shares.columns])
    ax.set_yticks(range(len(order)), [together.get(name, name) for name in order])
    ax.axhline(len(names) - 0.5, color="black", lw=1)
    ax.set_xlabel(_STRENGTH)
    n = int(rows[rows["emotion"].isin(names)]["n"].min())
    ax.set_title(f"colour: most frequent regime\nnumber: share of surgical texts; n ≥ {n}", fontsize=9, loc="left")
    handles = [Patch(color=REGIME_COLOURS[name], label=name) for name in REGIME_COLOURS if name in set(rows["regime"])]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def regimes_over_strength(tables: Tables) -> Figure:
    """Perplexity ratio against repetition as strength grows: why neither alone tells the regimes apart."""
    table, permuted, random = (
        select(tables["regimes"], arm=CALIBRATED, emotion=name).sort_values("strength")
        for name in ("all", "permuted", "random")
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
    left.plot(table["strength"], table["perplexity_ratio"], "o-", color=BLUE, ms=4, label="emotions")
    left.plot(permuted["strength"], permuted["perplexity_ratio"], "s--", color=GREY, ms=4, label="permuted labels")
    left.plot(random["strength"], random["perplexity_ratio"], "^:", color=PURPLE, ms=4, label="Gaussian directions")
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
        note(ax, f"n ≥ {int(table['n'].min())} texts a strength")
    return figure


def success_by_scenario(tables: Tables) -> Figure:
    """Each scenario's rise of the target's score beside control directions of equal norm, and what asking does."""
    table = select(tables["verification"], arm=CALIBRATED).sort_values(["emotion", "tone"]).reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(7.6, 0.21 * len(table) + 1.6))
    y = np.arange(len(table))
    ax.hlines(y, table["permuted_mean"], table["permuted_95"], color=GREY, lw=4, alpha=0.45)
    if "prompted_rise" in table:
        ax.scatter(table["prompted_rise"], y, color=ORANGE, s=18, marker="D", alpha=0.8, zorder=2)
    success = table["success"].astype(bool)
    ax.scatter(table["rise"][success], y[success], color=GREEN, s=34, marker="o", zorder=3)
    ax.scatter(table["rise"][~success], y[~success], color=PURPLE, s=30, marker="x", zorder=3)
    ax.set_yticks(
        y,
        [row.emotion + f" ({row.tone})" * bool(row.tone) for row in table.fillna({"tone": ""}).itertuples()],
        fontsize=7,
    )
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_xlabel("rise of the target's score over the unsteered text")
    handles = [
        Line2D([], [], marker="o", ls="", color=GREEN, label="success"),
        Line2D([], [], marker="x", ls="", color=PURPLE, label="no success"),
        Line2D(
            [], [], color=GREY, lw=4, alpha=0.45, label="permuted labels, mean to 95th percentile (success: above all)"
        ),
        Line2D([], [], marker="D", ls="", color=ORANGE, label="asked for, unsteered"),
    ]
    figure.legend(handles=handles, loc="outside upper center", fontsize=8, ncols=2)
    counts = f"{int(success.sum())} of {len(table)} scenarios; {int(table['n'].iloc[0])} text(s) a scenario"
    note(ax, f"{counts}, {int(table['m'].iloc[0])} permuted-label vectors")
    return figure


_CONTROL_TITLES = {
    ("permuted", "norm"): "permuted labels, equal norm",
    ("permuted", "perplexity"): "permuted labels, equal perplexity ratio",
    ("permuted", "coherence"): "permuted labels, equal share of coherent texts",
    ("gaussian", "norm"): "Gaussian, equal norm",
    ("gaussian", "perplexity"): "Gaussian, equal perplexity ratio",
    ("others", "norm"): "the other emotions' vectors, equal norm",
}


def steering_effects(tables: Tables) -> Figure:
    """What steering towards an emotion adds to each reading, beyond each control, at equal norm and at equal harm."""
    table = select(tables["steering_effects"], arm=CALIBRATED, contrast=TOWARDS)
    readings = {metric: label for metric, label in _READINGS.items() if metric in set(table["metric"])}
    figure, axes = plt.subplots(1, len(readings), figsize=(3.4 * len(readings) + 2.4, 3.0), sharey=True, squeeze=False)
    for ax, (metric, label) in zip(axes[0], readings.items(), strict=True):
        rows = select(table, metric=metric).set_index(["control", "match"])
        for y, key in enumerate(_CONTROL_TITLES):
            if key not in rows.index:
                continue
            row = rows.loc[key]
            span = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            breaks = bool(row["control_breaks"])
            mark = {"mfc": "white"} if breaks else {}
            ax.errorbar(row["value"], y, xerr=span, fmt="o", ms=6, capsize=3, color=ORANGE if breaks else BLUE, **mark)
        ax.axvline(0, color=GREY, lw=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_xlabel(label, fontsize=9)
    axes[0, 0].set_yticks(range(len(_CONTROL_TITLES)), list(_CONTROL_TITLES.values()), fontsize=8)
    axes[0, 0].set_ylim(len(_CONTROL_TITLES) - 0.5, -0.5)
    handles = [
        Line2D([], [], marker="o", ls="", color=BLUE, label="effect at +1 × the calibrated strength, 95% interval"),
        Line2D([], [], marker="o", ls="", color=ORANGE, mfc="white", label="the control breaks the text otherwise"),
    ]
    figure.legend(handles=handles, loc="outside upper center", fontsize=8, ncols=2)
    return figure


def confirmed(tables: Tables) -> Figure:
    """How often the judge confirms the feeling: steered, asked for, controls, and texts that do carry it."""
    shares = confirmed_shares(tables)
    figure, ax = plt.subplots(figsize=(7.4, 0.42 * len(shares) + 1.2))
    draw_confirmed(ax, shares)
    table = select(tables["verification"], arm=CALIBRATED)
    note(ax, f"n = {len(table)} scenarios, {table['emotion'].nunique()} emotions")
    return figure


def confirmed_shares(tables: Tables) -> dict[str, Interval]:
    """What was judged, in words → the share that the judge confirms, with its interval over emotions."""
    table = select(tables["verification"], arm=CALIBRATED)
    ceiling = select(tables["judge_ceiling"], arm=CALIBRATED, emotion="all").set_index("texts")
    shares = {"steered": rate(table, "success")}
    published = select(tables["verification"], arm=PUBLISHED)
    if len(published):
        shares["steered, the author's setting"] = rate(published, "success")
    if table["prompted_success"].notna().all():
        shares["unsteered, asked for the feeling"] = rate(table, "prompted_success")
    held_out = table.assign(share=table["held_out_successes"] / table["held_out"])
    shares["vector of permuted labels, held out"] = rate(held_out, "share")
    shares["other emotions' vectors"] = rate(table.assign(share=table["wrong_successes"] / table["wrong"]), "share")
    for kind, words in ((CUT, "our passages, cut to the same length"), (WHOLE, "our passages, whole")):
        shares[words] = Interval(*(float(number) for number in ceiling.loc[kind, ["value", "low", "high"]]))
    return shares


def draw_confirmed(ax: Axes, shares: dict[str, Interval]) -> None:
    """One line a share, beside the paper's."""
    for y, (words, share) in enumerate(shares.items()):
        span = [[share.value - share.low], [share.high - share.value]]
        colour = GREEN if "passages" in words else ORANGE if "asked" in words else BLUE if "steered" in words else GREY
        ax.errorbar(share.value, y, xerr=span, fmt="o", ms=6, capsize=3, color=colour)
    ax.set_yticks(range(len(shares)), list(shares), fontsize=9)
    ax.set_ylim(len(shares) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.axvline(PAPER_SUCCESS, color=PURPLE, lw=1, ls="--")
    ax.text(PAPER_SUCCESS, -0.45, "the paper's 37 of 40 ", color=PURPLE, fontsize=8, ha="right", va="top")
    ax.set_xlabel("confirmed by the judge (rule of C9)")


DOSE = (
    Picture(
        "dose_response",
        dose_response,
        "dose_response",
        "What grows with the strength of an edit, four ways of reading it: the residual stream at a layer after the "
        "edit (beyond what the skip connection carries there), the next token, and a text, by an outside classifier "
        "and by its kin words. Blue: each emotion under its own vector, mean and 95% interval over emotions and "
        "prompts. Grey: vectors of permuted labels of equal norm. Orange: the other emotions' vectors. Dotted: "
        "Gaussian directions. Green: up to the calibrated strength on either side.",
    ),
    Picture(
        "steering_effects",
        steering_effects,
        "steering_effects",
        "What an emotion's vector adds to each reading at the calibrated strength beyond each control: vectors of "
        "permuted labels, Gaussian noise and the other emotions' vectors of equal norm, and the first two at the "
        "strength at which they do as much harm to the text. Intervals over emotions, prompts and control directions.",
    ),
    Picture(
        "dose_by_emotion",
        dose_by_emotion,
        "dose_response",
        "The classifier's score of each emotion under its own vector (blue), under the other emotions' (orange), "
        "under vectors of permuted labels (grey) and under Gaussian directions (dotted).",
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
        "C9, one row a scenario: the rise of the target emotion's score beside that under vectors of permuted labels "
        "of equal norm. A success is a rise above all of them. Orange: the rise in unsteered texts that were asked for "
        "the feeling.",
    ),
    Picture(
        "confirmed",
        confirmed,
        "judge_ceiling",
        "C9: how often the judge confirms the feeling by one and the same rule, in steered texts, in unsteered ones "
        "that were asked for it, under control directions, and in passages of ours that do carry it (its ceiling). "
        "Intervals over emotions.",
    ),
)


def texts_shown(texts: pd.DataFrame, verdicts: pd.DataFrame, count: int = 8) -> list[dict[str, object]]:
    """Plain and steered texts side by side for the report: scenarios spread over the table, not picked by outcome."""
    texts, verdicts = select(texts, arm=CALIBRATED), select(verdicts, arm=CALIBRATED)
    examples = []
    for verdict in verdicts.iloc[:: max(1, len(verdicts) // count)].head(count).to_dict("records"):
        rows = select(texts, scenario=verdict["scenario"])
        written = select(rows, seed=rows["seed"].min()).drop_duplicates("kind").set_index("kind")["text"]
        example = {"emotion": verdict["emotion"], "prompt": rows["prompt"].iloc[0], "rise": verdict["rise"]}
        texts_of = {"plain": written["plain"], "target": written["target"], "prompted": written["prompted"]}
        examples.append({**example, "success": bool(verdict["success"]), **texts_of})
    return examples
