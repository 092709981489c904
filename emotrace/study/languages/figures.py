"""Figures across languages, from ``crosslingual.csv`` of one model alone. Same habits as :mod:`~emotrace.study.separation.figures`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, PURPLE, note

_GROUPS = {"all": (BLUE, "-", "emotion vectors"), "random": (ORANGE, "--", "random directions, equal norm")}


def script_mass(tables: dict[str, pd.DataFrame]) -> Figure:
    """Chinese and other scripts under steering in English, over strengths, beside random directions of equal norm."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    _over_strengths(axes[0], tables, "han_logit_change", "next_token", "Chinese, next token")
    _over_strengths(axes[1], tables, "other_script_logit_change", "next_token", "other scripts, next token")
    _over_strengths(axes[2], tables, "han_letters", "written", "Chinese, text written")
    axes[0].set_ylabel("change of the log-odds of its probability (nats)")
    axes[1].sharey(axes[0])
    axes[2].set_ylabel("share of the letters written")
    axes[0].legend(loc="upper left", fontsize=8)
    return figure


def _over_strengths(ax: Axes, tables: dict[str, pd.DataFrame], metric: str, where: str, title: str) -> None:
    table = select(tables["crosslingual"], metric=metric, where=where)
    table = table[table["strength"].notna()]
    for emotion, (colour, style, label) in _GROUPS.items():
        rows = select(table, emotion=emotion).sort_values("strength")
        ax.plot(rows["strength"], rows["value"], style, color=colour, marker="o", ms=4, label=label)
        ax.fill_between(rows["strength"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
    plain = select(table, emotion="unsteered")["value"]
    ax.axhline(plain.iloc[0] if len(plain) else 0, color=GREY, lw=0.8, ls=":", label="unsteered")
    ax.set_xlabel("strength (multiples of the mean residual norm)")
    ax.set_title(title, loc="left")
    note(ax, f"{int(select(table, emotion='all')['n'].iloc[0])} prompts; 95% bands")


def lexicon_alignment(tables: dict[str, pd.DataFrame]) -> Figure | None:
    """How far steering raises the emotion's own words above the other emotions', in Chinese and in English; the mean
    over the positive strengths."""
    table = select(tables["crosslingual"], metric="alignment", readout="steered")
    table = table[table["strength"].isna()]
    languages = [name for name in ("zh", "en") if name in set(table["language"])]
    if not languages:
        return None  # a vocabulary without the lexicon's words
    figure, axes = plt.subplots(1, len(languages), figsize=(5.6 * len(languages), 6), squeeze=False)
    order: list[str] = []
    for ax, language in zip(axes[0], languages, strict=True):
        rows = select(table, language=language).set_index("emotion")
        known = list(rows.drop(index="all").sort_values("value").index)
        order = order or known
        names = [name for name in order if name in known] + ["all"]
        rows, places = rows.loc[names], np.arange(len(names))
        ax.hlines(places, rows["null_low"], rows["null_high"], color=GREY, lw=6, alpha=0.3, label="null, central 95%")
        colours = [PURPLE if name == "all" else BLUE if language == "zh" else GREEN for name in names]
        ax.hlines(places, rows["low"], rows["high"], color=colours, lw=1.5, label="95% interval over words")
        ax.scatter(rows["value"], places, c=colours, s=25, zorder=3)
        ax.axvline(0, color=GREY, lw=0.8)
        ax.set_yticks(places, names)
        ax.set_title({"zh": "Chinese", "en": "English"}[language], loc="left")
        note(ax, f"{int(rows.loc['all', 'n'])} words, p = {rows.loc['all', 'p']:.2g} (m = {int(rows.loc['all', 'm'])})")
        ax.set_xlabel("own words minus the other emotions' (SD over tokens)")
    axes[0, 0].legend(loc="lower right", fontsize=8)
    return figure


FIGURES = {"script_mass": (script_mass, "crosslingual"), "lexicon_alignment": (lexicon_alignment, "crosslingual")}
"""Figures drawn from one model's tables, and the table each needs (as ``plots.TABLE_FIGURES``)."""
