"""An experiment is one record: pipeline, report, notebooks, command line and docs iterate over the one list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from emotrace.study.verdicts import Claim

if TYPE_CHECKING:
    from emotrace.study.study import Study
    from emotrace.vectors import EmotionVectors

Tables = dict[str, pd.DataFrame]
"""Tidy tables by name, as ``tables/NAME.csv`` has them."""


@dataclass
class Results:
    """What an experiment measured on one model.

    Attributes:
        tables: name → tidy table (``docs/tables.md``).
        texts: name → texts that the model wrote.
        vectors: (method, pooling) → emotion vectors.
    """

    tables: Tables = field(default_factory=dict)
    texts: Tables = field(default_factory=dict)
    vectors: dict[tuple[str, str], EmotionVectors] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A figure of the report and the notebooks.

    Attributes:
        name: its file's name.
        draw: one model's tables → a matplotlib figure, or None where there is nothing to draw.
        table: the table that it is drawn from.
        caption: what it shows, with its n.
    """

    name: str
    draw: Callable[[Tables], Any]
    table: str
    caption: str


def no_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """For an experiment that the paper claims nothing of."""
    return ()


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: what ``emotrace run --experiments`` takes.
        question: heading of the part of the report that it belongs to.
        tables: the tables that it makes.
        run: measures it. Takes the model's study and the tables of ``needs``.
        texts: the sets of texts that it keeps.
        needs: experiments that run with it, before it.
        uses_model: it needs the model's weights, not only what was read.
        claims: the claims that its tables speak to, from all of one model's tables and the model's family.
        pictures: its figures.
        notebook: number of the notebook that walks through it.
    """

    name: str
    question: str
    tables: tuple[str, ...]
    run: Callable[[Study, Tables], Results]
    texts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    uses_model: bool = False
    claims: Callable[[Tables, str], Sequence[Claim]] = no_claims
    pictures: tuple[Picture, ...] = ()
    notebook: str = ""
