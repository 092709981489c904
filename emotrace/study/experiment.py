"""An experiment is one record: pipeline, report, notebooks, command line and docs iterate over the one list of them.

The list is ``emotrace.study.experiments.EXPERIMENTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from emotrace.study.verdicts import Claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emotrace.instrument.instrument import Instrument
    from emotrace.study.study import Study
    from emotrace.vectors import EmotionVectors

Tables = dict[str, pd.DataFrame]
"""Tidy tables by name, as ``tables/NAME.csv`` has them."""


def of_model(tables: Tables, model: str) -> Tables:
    """The rows of one model, of every table that has a column ``model``."""
    return {name: table[table["model"] == model] for name, table in tables.items() if "model" in table}


def instruments(tables: Tables) -> list[str]:
    """The instruments that tables rest on, the main one first: the column ``instrument``, in order of appearance."""
    names = (name for table in tables.values() if "instrument" in table for name in table["instrument"].unique())
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def of_instrument(tables: Tables, instrument: str) -> Tables:
    """Tables with the rows of one instrument alone; those that rest on none, or not on this one, whole."""

    def rows(table: pd.DataFrame) -> pd.DataFrame:
        own = table["instrument"] == instrument if "instrument" in table else pd.Series(False, table.index)
        return table[own] if own.any() else table

    return {name: rows(table) for name, table in tables.items()}


def emotions_in_words(tables: Tables) -> str:
    """``20 emotions`` of the tables of one model and instrument; without the number where no table has it."""
    if len(curve := tables.get("learning_curve", ())):
        return f"{round(1 / curve['chance'].iloc[0])} emotions"
    return "emotions"


def of_main_instrument(tables: Tables) -> Tables:
    """Tables with the rows of the main instrument alone."""
    names = instruments(tables)
    return of_instrument(tables, names[0]) if names else tables


@dataclass
class Results:
    """What an experiment measured on one model.

    Attributes:
        tables: name → tidy table (``docs/tables.md``).
        texts: name → texts that the model wrote.
        vectors: (method, pooling) → emotion vectors, in place of any that were there.
        left_out: experiment → instrument → why it was not measured.
    """

    tables: Tables = field(default_factory=dict)
    texts: Tables = field(default_factory=dict)
    vectors: dict[tuple[str, str], EmotionVectors] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, other: Results) -> None:
        """Takes up the results of another experiment on the same model; they replace those of one name."""
        self.tables |= other.tables
        self.texts |= other.texts
        self.vectors |= other.vectors
        for name, reasons in other.left_out.items():
            self.left_out.setdefault(name, {}).update(reasons)


@dataclass(frozen=True)
class Picture:
    """A figure of the report and the notebooks.

    Attributes:
        name: its file's name.
        draw: one model's tables (those over models: a run's tables) → a figure, or None where there is nothing to draw.
        table: the table without which it is not drawn.
        caption: what it shows, with its n.
        vectors: ``draw`` takes, after the tables, the model's comprehension vectors (mean over tokens).
    """

    name: str
    draw: Callable[..., Figure | None]
    table: str
    caption: str
    vectors: bool = False

    def figure(self, tables: Tables, vectors: EmotionVectors | None = None) -> Figure | None:
        """The figure; None without its table or the vectors that it needs, and where there is nothing to draw."""
        if not len(tables.get(self.table, ())) or (self.vectors and vectors is None):
            return None
        return self.draw(tables, vectors) if self.vectors else self.draw(tables)


FIRST, GENERATE, STEER, ANALYSE = STAGES = ("first", "generate", "steer", "analyse")
"""A model's stages of work in order: what needs no more than the reading, so that there is something to see early; two
with its weights; and the analysis, when they are not in memory any more."""


def no_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """For an experiment that the paper claims nothing of."""
    return ()


def no_tables(tables: Tables) -> Tables:
    """For an experiment without a table over models."""
    return {}


def nothing(instrument: Instrument) -> str:
    """For an experiment that any instrument will do for."""
    return ""


def only_data(what: str) -> Callable[[Instrument], str]:
    """For an experiment on what ``data/`` alone has."""
    return lambda instrument: "" if instrument.default else f"needs {what}, which data/ alone has"


def norms(instrument: Instrument) -> str:
    """For an experiment on valence and arousal."""
    known = int(instrument.norms[["valence", "arousal"]].reindex(instrument.emotions).notna().all(axis=1).sum())
    least = 5
    return "" if known >= least else f"needs norms of valence and arousal of {least} emotions, not of {known} (--norms)"


def openings(instrument: Instrument) -> str:
    """For an experiment that has a model go on with openings without a tone."""
    lacking = [use for use in ("calibration", "dose") if not instrument.prompts(use)]
    return f"needs openings for {' and '.join(lacking)} (prompts: use, prompt)" if lacking else ""


def scenarios(instrument: Instrument) -> str:
    """For an experiment that has a judge read what a model makes of scenarios."""
    if instrument.scenarios is None:
        return "needs scenarios for its emotions (scenarios: target, prompt)"
    judged, least = {name for name in instrument.scenarios["target"] if instrument.labels.get(name)}, 2
    if len(judged) < least:
        return f"needs labels of the judge (emotions: goemotions) for {least} emotions that scenarios are for"
    return openings(instrument)


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: what ``emotrace run --experiments`` takes.
        question: heading of the part of the report that it belongs to.
        tables: the tables that it makes.
        run: measures it. Takes the model's study and the tables of the model that were made before, those of ``needs``
            among them.
        texts: the sets of texts that it keeps.
        needs: experiments that run with it, before it.
        brings: experiments that run with it, after it, since they cost nothing more.
        beside: experiments whose tables its claims and figures show beside its own where they were made; a notebook
            runs them with it.
        stage: when it runs, and where the manifest counts its seconds: ``generate`` and ``steer`` use the model's
            weights, ``first`` and ``analyse`` only what was read before.
        per_instrument: it runs on each set of passages; others run on the main one alone.
        selectable: users ask for it by name; otherwise it runs only where another one needs it.
        extra: not one of ``all``; runs where it is asked for by name.
        claims: the claims that its tables speak to, from all of one model's tables and the model's family. Called only
            where one of ``tables`` was made.
        claim_ids: the ids of all these claims (``docs/claims.md`` lists them).
        pictures: its figures.
        over_models: the tables over models that it makes of the tables of all models of a run.
        requires: what an instrument lacks that the experiment needs, in words; empty where it lacks nothing. Without it
            the experiment is left out, and the run says so.
        notebook: number of the notebook that walks through it.
    """

    name: str
    question: str
    tables: tuple[str, ...]
    run: Callable[[Study, Tables], Results]
    texts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    brings: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    stage: str = ANALYSE
    per_instrument: bool = False
    selectable: bool = True
    extra: bool = False
    claims: Callable[[Tables, str], Sequence[Claim]] = no_claims
    claim_ids: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    over_models: Callable[[Tables], Tables] = no_tables
    requires: Callable[[Instrument], str] = nothing
    notebook: str = ""

    @property
    def uses_model(self) -> bool:
        """It needs the model's weights, not only what was read."""
        return self.stage in (GENERATE, STEER)


def together(parts: list[Tables]) -> Tables:
    """The tables of several models, one below the other."""
    names = dict.fromkeys(name for tables in parts for name in tables)
    return {name: pd.concat([tables[name] for tables in parts if name in tables], ignore_index=True) for name in names}
