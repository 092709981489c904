"""The rank of implied emotions and the course of a projection over a dose, from tables alone."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotrace.study.experiment import Picture, Tables
from emotrace.study.folder import select
from emotrace.study.reading.graded import EMOTION, NUMBER, OWN
from emotrace.study.reading.implicit import EMBEDDINGS, TFIDF, TOP, VECTORS
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, PURPLE, note

READERS = (
    (VECTORS, "last", "vectors, last token", BLUE),
    (VECTORS, "mean", "vectors, mean over tokens", ORANGE),
    (EMBEDDINGS, None, "words alone: embeddings", GREEN),
    (TFIDF, None, "words alone: TF-IDF", PURPLE),
)
READINGS = (
    (OWN, BLUE, "-", "own emotion, dose"),
    (NUMBER, GREY, "--", "own emotion, number that means nothing"),
    (EMOTION, ORANGE, "-.", "unrelated emotion, dose"),
)


def _one_instrument(tables: Tables, *names: str) -> tuple[pd.DataFrame, ...]:
    """These tables, of the first instrument that they hold."""
    first = tables[names[0]]["instrument"].iloc[0]
    return tuple(select(tables[name], instrument=first) for name in names)


def _rows_of(table: pd.DataFrame, reader: str, pooling: str | None) -> pd.DataFrame:
    rows = select(table, reader=reader)
    return rows if pooling is None else select(rows, pooling=pooling)


def implicit(tables: Tables) -> Figure:
    """The rank of each scenario's emotion by the model's vectors, and how often each reader has it in the top three."""
    scenarios, rates = _one_instrument(tables, "implicit", "implicit_rates")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.6), width_ratios=(3, 2))
    of_model = select(scenarios, reader=VECTORS)
    order = list(of_model.groupby("scenario")["rank"].mean().sort_values(ascending=False, kind="stable").index)
    emotions = of_model.drop_duplicates("scenario").set_index("scenario")["emotion"]
    for offset, (reader, pooling, label, colour) in zip((0.14, -0.14), READERS[:2], strict=True):
        rows = _rows_of(scenarios, reader, pooling).set_index("scenario").reindex(order)
        left.plot(rows["rank"], np.arange(len(order)) + offset, "o", color=colour, ms=6, label=label)
    left.axvspan(0.5, TOP + 0.5, color=GREY, alpha=0.12, lw=0)
    left.set_yticks(range(len(order)), [emotions[scenario] for scenario in order])
    left.set_xticks((1, TOP, 5, 10, 15, 20))
    left.set_xlabel("rank of the implied emotion among all (1 = highest; grey: the top 3)")
    note(left, f"{len(order)} scenarios; passages: {of_model['instrument'].iloc[0]}")
    left.legend(loc="upper right", fontsize=8)
    _rates(right, rates)
    return figure


def _rates(ax: Axes, rates: pd.DataFrame) -> None:
    """The top-3 rate of each reader with Wilson's interval, beside what vectors of shuffled labels give."""
    labels: list[str] = []
    for reader, pooling, label, colour in READERS:
        rows = _rows_of(select(rates, metric=f"top{TOP}"), reader, pooling)
        if rows.empty:
            continue
        row, height = rows.iloc[0], -len(labels)
        errors = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        ax.errorbar(row["value"], height, xerr=errors, fmt="o", color=colour, capsize=3)
        ax.plot(row["null"], height - 0.18, "|", color=GREY, ms=12, mew=2)
        labels.append(f"{label}\np = {row['p']:.3g}")
        chance, n, m = row["chance"], int(row["n"]), int(row["m"])
    ax.axvline(chance, color=GREY, lw=0.8, ls=":")
    ax.set_yticks([-height for height in range(len(labels))], labels, fontsize=9)
    ax.set_ylim(0.5 - len(labels), 0.5)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel("share of scenarios in the top 3\n(dotted: chance; grey: shuffled labels)")
    note(ax, f"n = {n}, 95% Wilson intervals; m = {m}")


def graded(tables: Tables) -> Figure:
    """The projections over the dose of each scale beside its two controls, on vectors of the last token if read."""
    table, scales = _one_instrument(tables, "graded", "graded_scales")
    pooling = "last" if "last" in set(table["pooling"]) else table["pooling"].iloc[0]
    table, scales = select(table, pooling=pooling), select(scales, pooling=pooling)
    names = list(table["scale"].unique())
    columns = min(3, len(names))
    height = -(-len(names) // columns)
    figure, grid = plt.subplots(height, columns, figsize=(4 * columns, 3.1 * height), squeeze=False)
    for ax, scale in zip(grid.flat, names, strict=False):
        _scale(ax, select(table, scale=scale), select(scales, scale=scale).set_index("metric"))
    for ax in grid.flat[len(names) :]:
        ax.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    figure.supylabel("projection, standard deviations of the passages", fontsize=10)
    return figure


def _scale(ax: Axes, rows: pd.DataFrame, rhos: pd.DataFrame) -> None:
    for reading, colour, style, label in READINGS:
        curve = select(rows, reading=reading).sort_values("level")
        ax.plot(curve["level"], curve["value"], style, color=colour, label=label, lw=1.8, marker="o", ms=3.5)
    own = select(rows, reading=OWN).iloc[0]
    ax.set_xscale("log")
    direction = "rises" if own["sign"] > 0 else "falls"
    ax.set_title(f"{own['scale']}: {own['emotion']} {direction}", loc="left", fontsize=10)
    ax.set_title(
        f"ρ {rhos.loc[OWN, 'value']:+.2f}, {rhos.loc[NUMBER, 'value']:+.2f}, {rhos.loc[EMOTION, 'value']:+.2f}",
        loc="right",
        color=GREY,
        fontsize=8,
    )
    ax.set_xlabel(f"dose or number ({len(rhos) and int(rhos.loc[OWN, 'n'])} levels, log scale)", fontsize=8)


IMPLICIT = (
    Picture(
        "implicit",
        implicit,
        "implicit_rates",
        "Messages that imply an emotion and never name it, read at the last token before the reply. Left: the rank of "
        "the implied emotion among all, by the projection on the passages' vectors, at the layer that half of the "
        "topics chose. Right: how often it is among the top three, by the model's vectors and by words alone, without "
        "their context; grey bars are vectors of the same passages with shuffled labels.",
    ),
)
GRADED = (
    Picture(
        "graded",
        graded,
        "graded_scales",
        "Messages in which one number makes things better or worse. Blue: the projection on the scale's emotion over "
        "that number; the title says whether it should rise or fall. Grey: the same emotion while another number of "
        "the same message changes, which means nothing. Orange: an emotion that lies across in the plane of valence "
        "and arousal. Above each panel Spearman's ρ of the three, times the expected sign.",
    ),
)
