"""What all figures share: colours, panels, notes.

Colours are Okabe and Ito's, which stay apart for colour-blind readers and in grey.
"""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#777777"
POOLING_TITLES = {"last": "last token", "mean": "mean over tokens"}

plt.rcParams |= {
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "emotrace",
    "svg.fonttype": "path",
}


def curve(ax: Axes, table: pd.DataFrame, colour: str, label: str, style: str = "-") -> None:
    table = table.sort_values("depth")
    ax.plot(table["depth"], table["value"], style, color=colour, label=label, lw=1.8)
    if "low" in table and table["low"].notna().any():
        ax.fill_between(table["depth"], table["low"], table["high"], color=colour, alpha=0.18, lw=0)


def panels(tables: dict[str, pd.DataFrame], name: str, sharey: bool = True) -> tuple[Figure, dict[str, Axes]]:
    poolings = [pooling for pooling in POOLING_TITLES if pooling in set(tables[name]["pooling"])]
    figure, axes = plt.subplots(1, len(poolings), figsize=(5 * len(poolings), 4), sharey=sharey, squeeze=False)
    for ax, pooling in zip(axes[0], poolings, strict=True):
        ax.set_title(POOLING_TITLES[pooling], loc="left")
        ax.set_xlabel("depth (layer / number of layers; 0 = embeddings)")
        ax.axvline(0.5, color=GREY, lw=0.8, ls=":")
    return figure, dict(zip(poolings, axes[0], strict=True))


def note(ax: Axes, text: str) -> None:
    """What the panel rests on, above its right corner where no curve runs."""
    ax.set_title(text, loc="right", color=GREY, fontsize=8)
