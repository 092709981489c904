"""Figures across languages, each from one model's ``crosslingual.csv`` alone."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotrace.study.experiment import Picture, Tables
from emotrace.study.folder import select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, PURPLE, note

_GROUPS = {
    "all": (BLUE, "-", "emotion vectors"),
    "permuted": (ORANGE, "--", "vectors of permuted labels"),
    "random": (GREY, ":", "Gaussian directions"),
}
_LANGUAGES = {"zh": ("Chinese", BLUE), "en": ("English", GREEN)}


def script_mass(tables: Tables) -> Figure:
    """Chinese and other scripts under steering in English, over strengths, beside controls of equal norm."""
    figure, (chinese, others, written) = plt.subplots(1, 3, figsize=(13, 4))
    _over_strengths(chinese, tables, "han_logit_change", "next_token", "Chinese, next token")
    _over_strengths(others, tables, "other_script_logit_change", "next_token", "other scripts, next token")
    _over_strengths(written, tables, "han_letters", "written", "Chinese, text written")
    chinese.set_ylabel("change of the log-odds of its probability (nats)")
    others.sharey(chinese)
    written.set_ylabel("share of the letters written")
    chinese.legend(loc="upper left", fontsize=8)
    return figure


def _over_strengths(ax: Axes, tables: Tables, metric: str, where: str, title: str) -> None:
    table = select(tables["crosslingual"], metric=metric, where=where)
    table = table[table["strength"].notna()]
    for emotion, (colour, style, label) in _GROUPS.items():
        rows = select(table, emotion=emotion).sort_values("strength")
        ax.plot(rows["strength"], rows["value"], style, color=colour, marker="o", ms=4, label=label)
        ax.fill_between(rows["strength"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
    unsteered = select(table, emotion="unsteered")["value"]
    ax.axhline(unsteered.iloc[0] if len(unsteered) else 0, color=GREY, lw=0.8, ls=":", label="unsteered")
    ax.set_xlabel("strength (multiples of the mean residual norm)")
    ax.set_title(title, loc="left")
    note(ax, f"{int(select(table, emotion='all')['n'].iloc[0])} prompts; 95% bands")


def lexicon_alignment(tables: Tables) -> Figure | None:
    """How far steering ranks the emotion's own words above the other emotions', in Chinese and in English; the mean
    over the positive strengths. None for a vocabulary without the lexicon's words."""
    table = select(tables["crosslingual"], metric="alignment", readout="steered")
    table = table[table["strength"].isna()]
    languages = [name for name in _LANGUAGES if name in set(table["language"])]
    if not languages:
        return None
    figure, axes = plt.subplots(1, len(languages), figsize=(5.6 * len(languages), 6), squeeze=False)
    order: list[str] = []
    for ax, language in zip(axes[0], languages, strict=True):
        title, colour = _LANGUAGES[language]
        rows = select(table, language=language).set_index("emotion")
        known = list(rows.drop(index="all").sort_values("value").index)
        order = order or known
        names = [name for name in order if name in known] + ["all"]
        rows, y = rows.loc[names], np.arange(len(names))
        ax.hlines(y, rows["null_low"], rows["null_high"], color=GREY, lw=6, alpha=0.3, label="null, central 95%")
        colours = [colour] * (len(names) - 1) + [PURPLE]
        ax.hlines(y, rows["low"], rows["high"], color=colours, lw=1.5, label="95% interval over words")
        ax.scatter(rows["value"], y, c=colours, s=25, zorder=3)
        ax.axvline(0, color=GREY, lw=0.8)
        ax.set_yticks(y, names)
        ax.set_title(title, loc="left")
        every = rows.loc["all"]
        note(ax, f"{every['n']:.0f} words, p = {every['p']:.2g} (m = {every['m']:.0f})")
        ax.set_xlabel("own words minus the other emotions' (SD over tokens)")
    axes[0, 0].legend(loc="lower right", fontsize=8)
    return figure


PICTURES = (
    Picture(
        "script_mass",
        script_mass,
        "crosslingual",
        "C11: how probable Chinese and other scripts become when an English prompt is steered, beside vectors of "
        "permuted labels and Gaussian directions of equal norm.",
    ),
    Picture(
        "lexicon_alignment",
        lexicon_alignment,
        "crosslingual",
        "C11: does an emotion's vector rank its own Chinese (and English) words above other emotions' words? An order "
        "among the tokens of a script, which need not become more probable.",
    ),
)
