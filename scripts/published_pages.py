"""What a published run says, as Markdown: claims by model, what holds, the answer on the U, guidelines, advice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.study import findings, guidelines
from emotrace.study.across.facts import in_words
from emotrace.study.effects.figures import confirmed_shares
from emotrace.study.experiment import of_model
from emotrace.study.folder import select
from emotrace.study.verdicts import (
    ALL_MODELS,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    format_estimate,
    format_interval,
    format_number,
)

MARKS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", INCONCLUSIVE: "?", NOT_TESTABLE: "–"}


def claims_table(claims: pd.DataFrame) -> str:
    """The claims as Markdown."""
    rows = ["| claim | paper | measured | 95% interval | verdict |", "|---|---|---|---|---|"]
    for row in claims.itertuples():
        cells = (row.claim, row.paper, format_number(row.measured), format_interval(row.low, row.high), row.verdict)
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def findings_list(own: dict[str, pd.DataFrame]) -> str:
    """The five findings of one model as Markdown; those whose tables are missing are left out."""
    told = [finding for finding in findings.findings(own) if finding.sentence]
    return "\n".join(f"{number}. **{one.title}.** {one.sentence}" for number, one in enumerate(told, 1))


def by_model(claims: pd.DataFrame, quick: list[str]) -> str:
    """One row a claim and set of passages, one column a model: measured value, interval, a mark for the verdict."""
    claims = claims[claims["model"] != ALL_MODELS]
    models = list(dict.fromkeys(claims["model"]))
    rows = [
        "| id | claim | paper | passages | "
        + " | ".join(name + (" (quick)" if name in quick else "") for name in models)
        + " |",
        "|---|---|---|---|" + "---|" * len(models),
    ]
    claims = claims.assign(instrument=claims["instrument"].fillna(""))
    for (name, instrument), own in claims.groupby(["id", "instrument"], sort=False):
        row_of = own.set_index("model").to_dict("index")
        first = next(iter(row_of.values()))
        cells = [f"`{name}`", first["claim"], str(first["paper"]), instrument]
        for row in map(row_of.get, models):
            interval = row and format_interval(row["low"], row["high"])
            cells.append(f"{MARKS[row['verdict']]} {format_number(row['measured'])} ({interval})" if row else "")
        rows.append("| " + " | ".join(cells).replace("(–)", "") + " |")
    return "\n".join(rows)


def rules_table(tables: dict[str, pd.DataFrame], published: Collection[str]) -> str:
    """The guidelines with what was measured of each, as Markdown."""
    rows = ["| rule | measured | borne out? | table |", "|---|---|---|---|"]
    for rule in guidelines.rules(tables):
        measured = "<br>".join(
            ("" if finding["model"] == ALL_MODELS else f"**{finding['model']}** ({finding['verdict']}): ")
            + finding["measured"]
            for finding in rule["findings"]
        )
        path = f"results/tables/{rule['table']}.csv"
        table = f"[{rule['table']}]({path})" if rule["table"] in published else rule["table"]
        rows.append(f"| {rule['rule']} | {measured} | {rule['verdict']} | {table} |")
    return "\n".join(rows)


VECTORS = ("estimators", "estimator_effects", "layer_strength", "precision")
"""Tables on which vector to take, where, and at what precision."""
UNASKED = {
    "estimator_effects": "what each estimator's vectors do when they steer (`estimator_steering`)",
    "layer_strength": "at which layer to steer (`layer_strength`)",
    "precision": "at what precision of the weights (`precision`)",
}
"""Those of a table that a run may lack: in words, with the experiment."""


def vectors_paragraph(tables: dict[str, pd.DataFrame], manifest: dict) -> str:
    """What the run says on which vector to take, by which estimator and at what precision: a list and its limits."""
    rules = [rule for rule in guidelines.rules(tables) if rule["table"] in VECTORS]
    if not rules:
        asked = "all,estimators,estimator_steering,layer_strength,precision"
        return f"*The published run has none of these experiments: `emotrace run --experiments {asked}`.*"
    said = "\n".join(
        f"- *{rule['rule']}* Borne out: **{rule['verdict']}**."
        + "".join(f"\n  - {finding['model']}: {finding['measured']}." for finding in rule["findings"])
        for rule in rules
    )
    missing = [words for table, words in UNASKED.items() if table not in {rule["table"] for rule in rules}]
    unasked = f" Not asked in this run: {', '.join(missing)}." if missing else ""
    models = len(manifest["models"])
    several = f"{models} small model{'s' if models > 1 else ''}, our passages and a few prompts"
    floor = _words_floor(tables.get("estimator_effects", pd.DataFrame()))
    return f"{said}\n\n{floor}All of it rests on {several}; a null result here is one of this size.{unasked}"


def _words_floor(effects: pd.DataFrame) -> str:
    """How far the bare name of an emotion goes as a direction, beside the difference of means; nothing if unasked."""
    if effects.empty:
        return ""
    own = effects[effects["metric"] == "kin_log_probability"].set_index(["model", "estimator"])
    ranges = {
        name: "; ".join(
            f"{model} {row.value:.2f} ({row.low:.2f} to {row.high:.2f})"
            for model, row in own.xs(name, level="estimator").iterrows()
        )
        for name in ("name_token", "mean_difference")
    }
    return (
        "*A warning on the measure.* The embedding of the emotion's bare name, added as a direction at the same harm, "
        f"raises kin words beyond permuted labels of equal norm by {ranges['name_token']} nats; the difference of "
        f"means by {ranges['mean_difference']}. So the probability of kin words rewards a push on the words "
        "themselves. A late layer, from which little is left to compute, may owe its lead to the same: what is chosen "
        "by effect is the layer that moves these words most, not the one that holds the feeling.\n\n"
    )


ADVICE = (
    ("extract by generation, since it separates better (C5)", ("C5.separation", "C5.authorship", "C5.models")),
    ("take the layer at half depth (C6)", ("C6.depth",)),
    ("expect a U of the emotions over depth (C6)", ("C6.u", "C6.u_ratio", "C6.space")),
    ("check anisotropy before trusting a separation (C7)", ("C7.baseline", "C7.unrelated", "C7.gemma")),
    ("trust steering at any scale and sign (C8)", ("C8",)),
    ("verify with an outside classifier (C9)", ("C9",)),
    ("sort texts into three regimes (C10)", ("C10",)),
    ("audit multilingual models in other scripts (C11)", ("C11",)),
)
"""What a reader of the abstract would do, and the claims (by the start of their ids) that it stands on."""


def advice_table(claims: pd.DataFrame) -> str:
    """What a reader of the abstract would do, beside how often each verdict fell on the claims behind it, as Markdown.

    Over models and sets of passages; a verdict on all models together, which is made of these, stands by itself.
    """
    together = claims["model"] == ALL_MODELS
    rows = ["| what a reader of the abstract would do | verdicts of this run on the claims behind it |", "|---|---|"]
    for text, starts in ADVICE:
        parts = []
        for start in starts:
            own = (claims["id"] == start) | claims["id"].str.startswith(f"{start}.")
            each = Counter(claims.loc[own & ~together, "verdict"]).most_common()
            parts += [f"`{start}` " + ", ".join(f"{count} {verdict}" for verdict, count in each)] if each else []
            parts += [f"over all models `{row.id}` {row.verdict}" for row in claims[own & together].itertuples()]
        rows.append(f"| {text} | {'; '.join(parts)} |")
    return "\n".join(rows)


def models_table(manifest: dict) -> str:
    """What the models of the run are: size, kind, weights."""
    described = in_words(manifest)
    return "\n".join(f"- **{name}**: {words}" for name, words in described.items())


def changes_table(changes: pd.DataFrame, claims: pd.DataFrame) -> str:
    """The verdicts that a change of rule turned after the data were seen, as Markdown, the measured value beside them.

    Raises:
        EmotraceError: the last change of a verdict is not the verdict that stands.
    """
    keys = ["model", "instrument", "id"]
    now = claims.set_index(keys)[["measured", "low", "high", "verdict"]]
    rows = [
        "| date | claim | model | passages | measured | before | since | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for change in changes.itertuples():
        row = now.loc[change.model, change.instrument, change.id]
        last = select(changes, id=change.id, model=change.model, instrument=change.instrument)["after"].iloc[-1]
        if row["verdict"] != last:
            raise EmotraceError(
                f"rule_changes.csv ends with {last} for {change.id} on {change.model}: {row['verdict']}"
            )
        measured = format_estimate(row.rename({"measured": "value"}))
        cells = (f"`{change.id}`", change.model, change.instrument, measured, change.before, change.after, change.why)
        rows.append(f"| {change.date} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def what_holds(claims: pd.DataFrame, changed: Collection[str] = ()) -> str:
    """Which claims hold on every model and set of passages, which on none, which on some, as Markdown lists.

    Those of ``changed``, where a rule that was changed after the data were seen turned a verdict, are marked by ‡.

    An inconclusive verdict is for neither side, and so is one that is not testable: a claim with one of them is
    *reproduced on some, open on the rest* if there is at least one reproduced and none not reproduced.
    """
    claims = claims[claims["model"] != ALL_MODELS]
    titles = {
        "Reproduced on every model and set of passages": [],
        "Reproduced on some, open on the rest": [],
        "Not reproduced on any model or set of passages": [],
        "Not reproduced on some, open on the rest": [],
        "Reproduced on some, not on others": [],
        "Cannot be told here": [],
    }
    everywhere, told, nowhere, untold, mixed, open_ = titles.values()
    of_paper = tuple(f"`{row['id']}`" for _, row in claims.iterrows() if _is_papers(row))
    for id, own in claims.groupby("id", sort=False):
        counts = Counter(own["verdict"])
        mark = "‡ " if id in changed else ""
        line = (
            f"`{id}` {mark}{own['claim'].iloc[0]} ({', '.join(f'{counts[key]} {key}' for key in MARKS if counts[key])})"
        )
        if counts[REPRODUCED] and counts[NOT_REPRODUCED]:
            mixed.append(f"{line}: {_where(own)}")
        elif counts[REPRODUCED]:
            (everywhere if counts[REPRODUCED] == len(own) else told).append(line)
        elif counts[NOT_REPRODUCED]:
            (nowhere if counts[NOT_REPRODUCED] == len(own) else untold).append(line)
        else:
            open_.append(line)
    parts = []
    for title, lines in titles.items():
        ours = [line for line in lines if not line.startswith(of_paper)]
        papers = [line for line in lines if line.startswith(of_paper)]
        for kind, own in {"of the paper": papers, "implied, ours, neighbours'": ours}.items():
            if own:
                parts.append(f"**{title}**, {kind} ({len(own)})\n\n" + "\n".join(f"- {line}" for line in own))
    return "\n\n".join(parts)


def _is_papers(claim: pd.Series) -> bool:
    """Whether the paper makes the claim; others it implies, are controls of ours, or are claims of neighbours."""
    return claim["id"].startswith("C") and not re.search(r"\bours\b|not the paper's|implied|sequel", claim["paper"])


def _where(own: pd.DataFrame) -> str:
    """``✓ model (scenes, accounts); ✗ model (scenes)``: where a claim came out which way."""
    parts = []
    for verdict in (REPRODUCED, NOT_REPRODUCED):
        places = own[own["verdict"] == verdict].groupby("model", sort=False)["instrument"]
        parts += [f"{MARKS[verdict]} " + ", ".join(f"{model} ({', '.join(sets)})" for model, sets in places)]
    return "; ".join(parts)


U_CURVES = {"cosine": "C6.u", "noise_cosine": "C6.u_null", "ratio": "C6.u_ratio"}
"""The three curves of the question, and the claim on each."""
U_IDS = (*U_CURVES.values(), "C6.space")


def u_answer(tables: dict[str, pd.DataFrame]) -> str:
    """Whose the U over depth is, as Markdown: where cosine, space and R have their best layer, and the verdicts.

    In brackets the layer at which the smoothed curve turns, where it is another one.
    """
    verdicts = tables["claims"].set_index(["model", "instrument", "id"])["verdict"].map(MARKS)
    located = tables["localisation"].set_index(["model", "instrument", "pooling", "criterion"])
    rows = [
        "| model | passages | pooling | cosine lowest at | space alone lowest at | R highest at | U of the cosine "
        "| U of the space alone | R, upside down | left unexplained by the space |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in tables["space"].itertuples():
        key = (row.model, row.instrument, row.pooling)
        curves = [located.loc[(*key, criterion)] for criterion in U_CURVES]
        mark = {id: verdicts.get((row.model, row.instrument, f"{id}.{row.pooling}"), "") for id in U_IDS}
        depths = [_turn(curve) for curve in curves]
        nets = [
            f"{format_number(curve['u'])} ({format_interval(curve['u_low'], curve['u_high'])}) {mark[id]}"
            for curve, id in zip(curves, U_CURVES.values(), strict=True)
        ]
        left = f"{format_number(row.value)} ({format_interval(row.low, row.high)}) {mark['C6.space']}"
        rows.append("| " + " | ".join([*key, *depths, *nets, left]) + " |")
    return "\n".join(rows)


def _turn(curve: pd.Series) -> str:
    lowest, turn = float(curve["depth"]), float(curve["turn"])
    return f"{lowest:.2f}" if abs(turn - lowest) < 0.1 else f"{lowest:.2f} ({turn:.2f})"


def transfer_rows(table: pd.DataFrame) -> str:
    """How well vectors of one set of passages decode the other's texts, beside their own and words, as Markdown."""
    rows = [
        "| model | pooling | vectors of | texts of | decoded | by their own author, other topics | by words |",
        "|---|---|---|---|---|---|---|",
    ]
    words = table[table["pooling"] == "words"].set_index(["model", "train", "test"])["value"]
    chosen = table[table["chosen"].eq(True)]
    within = chosen[chosen["metric"] == "within"].set_index(["model", "train", "test", "pooling"])
    for row in chosen[chosen["metric"] == "accuracy"].itertuples():
        own = within.loc[(row.model, row.train, row.test, row.pooling)]
        cells = [
            *(row.model, row.pooling, row.train, row.test),
            f"{format_number(row.value)} ({format_interval(row.low, row.high)})",
            f"{format_number(own['value'])} ({format_interval(own['low'], own['high'])})",
            format_number(words[row.model, row.train, row.test]),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def confirmed_rows(tables: dict[str, pd.DataFrame]) -> str:
    """How often the outside judge confirms the feeling (C9), by what it was given, as Markdown: one column a model."""
    models = list(dict.fromkeys(tables["verification"]["model"]))
    shares = {model: confirmed_shares(of_model(tables, model)) for model in models}
    rows = ["| what was judged | " + " | ".join(models) + " |", "|---|" + "---|" * len(models)]
    for words in dict.fromkeys(words for own in shares.values() for words in own):
        cells = []
        for model in models:
            share = shares[model].get(words)
            # 3 of 40 is 0.075, which as a float lies below it.
            value, low, high = (part + 1e-9 for part in share) if share else (0.0, 0.0, 0.0)
            cells.append(f"{value:.2f} ({low:.2f} to {high:.2f})" if share else "")
        rows.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
