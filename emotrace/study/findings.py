"""What a run found of a model, said first: five sentences, each written from the tables and from nothing else.

A sentence says what was measured, its 95% interval, and the verdict on the paper's claim between asterisks. What a run
has not measured (yet) has no sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from emotrace.study.effects.arms import CALIBRATED
from emotrace.study.effects.ceilings import CUT
from emotrace.study.experiment import Tables, emotions_in_words, of_main_instrument
from emotrace.study.folder import select
from emotrace.study.verdicts import format_estimate, format_interval, format_number

Row = dict[Hashable, Any]


class Finding(NamedTuple):
    """One of the five: what it is about, its sentence (None where its tables are not there), and who measures it."""

    title: str
    sentence: str | None
    experiment: str


class Claims:
    """The rows of ``claims.csv`` of one model by id: one an instrument, the main one first."""

    def __init__(self, tables: Tables) -> None:
        self._rows: dict[str, list[Row]] = {}
        for row in tables["claims"].to_dict("records") if "claims" in tables else []:
            self._rows.setdefault(row["id"], []).append(row)

    def __contains__(self, id: object) -> bool:
        return id in self._rows

    def value(self, id: str) -> str:
        """``0.533 (0.275 to 0.792; accounts: 0.667)``."""
        main, *others = self._rows[id]
        parts = [f"{row['instrument']}: {format_number(row['measured'])}" for row in others]
        interval = format_interval(main["low"], main["high"])
        around = "; ".join(([interval] if interval != "–" else ["no interval"]) + parts)
        return f"{format_number(main['measured'])} ({around})"

    def n(self, id: str) -> int:
        """Over how many units the main instrument's interval is."""
        return round(self._rows[id][0]["n"])

    def verdict(self, id: str) -> str:
        """The verdict between asterisks; where instruments differ, each with its own."""
        verdicts = {row["instrument"]: row["verdict"] for row in self._rows[id]}
        if len(set(verdicts.values())) == 1:
            return f"*{next(iter(verdicts.values()))}*"
        return ", ".join(f"*{verdict}* on {name}" for name, verdict in verdicts.items())


def _reading(tables: Tables, claims: Claims) -> str | None:
    if "neighbour.probe.mean" not in claims or "separation" not in tables:
        return None
    rows = select(of_main_instrument(tables)["separation"], pooling="mean", metric="logistic_regression", layer=0)
    words, probe = rows.iloc[0], "neighbour.probe.mean"
    return (
        "When it reads, a linear probe of the mean over tokens names the right one of "
        f"{emotions_in_words(of_main_instrument(tables))} in {claims.value(probe)} of texts on {claims.n(probe)} "
        "topics that it never saw; the words alone, their embeddings averaged without context, reach "
        f"{format_number(words['value'])} over all {words['n']:.0f} topics, chance {format_number(words['null'])}."
    )


def _depth(tables: Tables, claims: Claims) -> str | None:
    if "C6.u.last" not in claims:
        return None
    return (
        f"At the last token the raw cosine between emotions is lowest at depth {claims.value('C6.depth.last')}, where "
        f"the paper says about half, here to within 0.15 ({claims.verdict('C6.depth.last')}); its U over depth: "
        f"{claims.verdict('C6.u.last')}; the space without the emotions leaves {claims.value('C6.space.last')} of the "
        "variance of that curve unexplained."
    )


SEPARATION = {"C5.separation.last": "at the last token", "C5.separation.mean": "in the mean over tokens"}
"""The claim at the paper's pooling, and at the other one."""
_STORIES = {"author": "self", "frame": "plain"}


def _writing(tables: Tables, claims: Claims) -> str | None:
    if "C5.separation.last" not in claims:
        return None
    told = [(id, words) for id, words in SEPARATION.items() if id in claims]
    differences = " and ".join(f"{claims.value(id)} {words}" for id, words in told)
    verdicts = ", ".join(f"{words} {claims.verdict(id)}" for id, words in told)
    return (
        "Where it writes the texts itself, the emotion's share of their variance differs from where it reads the "
        f"passages by {differences}; that generation separates better: {verdicts}{_raw_cosines(tables)}"
        f"{_own_stories(tables)}."
    )


def _raw_cosines(tables: Tables) -> str:
    """The difference by the paper's own measure, which decides nothing here."""
    if "method_comparison" not in tables:
        return ""
    rows = select(of_main_instrument(tables)["method_comparison"], sample="pairs_chosen", metric="difference")
    rows = rows[rows["p"].notna()]
    if rows.empty:
        return ""
    told = " and ".join(f"{format_estimate(row)}, p = {row['p']:.2g}" for _, row in rows.iterrows())
    return f" (by the paper's measure, the raw cosine between emotions, lower is further apart: {told})"


def _own_stories(tables: Tables) -> str:
    """What is in the stories at all, where the factorial was run."""
    if "factorial_decoding" not in tables:
        return ""
    cell = {f"{side}_{name}": value for side in ("train", "test") for name, value in _STORIES.items()}
    rows = select(tables["factorial_decoding"], pooling="mean", centre="train", **cell)
    if rows.empty:
        return ""
    row = rows.iloc[0]
    around = format_interval(row["low"], row["high"])
    decoded = f"{format_number(row['value'])} ({around}; chance {format_number(row['chance'])})"
    return f"; of its own stories, read plain, the feeling is decoded in {decoded} by the mean over tokens"


STEERED = {
    "C8.towards.kin_log_probability": "nats to the log probability of its words as the next token",
    "C8.towards.classifier": "to an outside classifier's score of the text",
    "C8.towards.kin_share": "to the share of its words in the text",
}


def _steering(tables: Tables, claims: Claims) -> str | None:
    parts = [f"{claims.value(id)} {words} ({claims.verdict(id)})" for id, words in STEERED.items() if id in claims]
    if not parts:
        return None
    added = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    vectors = "by vectors of the mean over tokens"
    return f"Steering towards an emotion, {vectors}, adds, beyond what vectors of permuted labels do, {added}."


def _judge(tables: Tables, claims: Claims) -> str | None:
    if "C9.strict" not in claims:
        return None
    ceiling = select(tables["judge_ceiling"], arm=CALIBRATED, texts=CUT, emotion="all")["value"].iloc[0]
    asked = ""
    if len(tables.get("prompting", ())):
        share = select(tables["prompting"], where="scenarios", metric="success", emotion="all")["prompting"].iloc[0]
        asked = f", {format_number(share)} of unsteered texts that were asked for the feeling"
    return (
        f"The classifier confirms {claims.value('C9.strict')} of steered scenarios (the paper's: 37 of 40; "
        f"{claims.verdict('C9.strict')}){asked}, and {format_number(ceiling)} of our own passages of the emotions cut "
        "to that length."
    )


SENTENCES: tuple[tuple[str, Callable[[Tables, Claims], str | None], str], ...] = (
    ("Reading", _reading, "localisation"),
    ("Depth", _depth, "localisation"),
    ("Writing", _writing, "method_comparison"),
    ("Steering", _steering, "dose_response"),
    ("The outside judge", _judge, "verification"),
)


def findings(tables: Tables) -> list[Finding]:
    """The five findings of one model, from its tables."""
    claims = Claims(tables)
    return [Finding(title, write(tables, claims), experiment) for title, write, experiment in SENTENCES]
