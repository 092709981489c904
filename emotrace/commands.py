"""The commands that need no run of experiments: what an instrument says by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from typer import Argument, Option

from emotrace import cli_arguments
from emotrace.cli_arguments import DEFAULT_MODEL, Columns, Norms
from emotrace.cli_output import loaded_model, print_table

if TYPE_CHECKING:
    import pandas as pd

MARKS = {True: "kept", False: "broken", None: ""}


def check(
    path: Annotated[str, Argument(help="A file or folder of labelled texts, or scenes or accounts of data/.")],
    columns: Columns = None,
    norms: Norms = None,
    strict: Annotated[bool, Option("--strict", help="Exit code 1 where a promise is broken.")] = False,
) -> None:
    """What texts say without a model: counts, balance, leakage, near-duplicates, what words alone decode.

    Exit code 1 with --strict: one of the promises that our own texts keep is broken.
    """
    from emotrace.instrument.loading import load_instrument
    from emotrace.instrument.report import examine

    instrument = load_instrument(path, columns=cli_arguments.mapping(columns), norms=norms)
    print(instrument.summary)
    broken = 0
    for finding in examine(instrument):
        broken += finding.kept is False
        print(f"{MARKS[finding.kept]:>6}  {finding.what}: {finding.said}")
        for line in finding.details:
            print(f"          {line}")
    if strict and broken:
        raise typer.Exit(1)


def transfer(
    first: Annotated[str, Argument(help="An instrument: a file or folder, or scenes or accounts of data/.")],
    second: Annotated[str, Argument(help="Another one, with three or more of its emotions.")],
    model: Annotated[str, Option(help="The model that reads both.")] = DEFAULT_MODEL,
    out: Annotated[Path, Option(help="The table to write.")] = Path("transfer.csv"),
    columns: Columns = None,
    seed: Annotated[int, Option(help="Seed of every random draw.")] = 0,
) -> None:
    """Decode each instrument's texts by the other's vectors, beside what its words carry over."""
    from emotrace.files import write_file
    from emotrace.instrument.loading import load_instrument
    from emotrace.transfers import transfer as measure

    pair = [load_instrument(path, columns=cli_arguments.mapping(columns)) for path in (first, second)]
    for one in pair:
        cli_arguments.show(one)
    texts = sum(len(one.passages) for one in pair)
    with loaded_model(model, False, out) as (loaded, progress):
        table = measure(loaded, *pair, seed=seed, progress=lambda done: progress("texts", done, texts))
    write_file(out, table.to_csv(index=False, float_format="%.6g").encode())
    print_table(_transferred(table))
    print(f"\nevery layer: {out}")


def _transferred(table: pd.DataFrame) -> Table:
    """The accuracies at the layer that the training texts chose, and the words'."""
    from emotrace.study.verdicts import format_interval, format_number

    shown = Table("vectors of", "texts of", "pooling", "layer", "what", "value", "95% interval", "chance", box=None)
    names = {"accuracy": "decoded by the other's vectors", "within": "by its own texts, topics held out"}
    for row in table[(table["chosen"] == True) | (table["pooling"] == "words")].to_dict("records"):  # noqa: E712
        words = row["pooling"] == "words"
        what = "decoded by the other's words" if words else names[row["metric"]]
        at = "" if words else f"{row['layer']:.0f}"
        value, interval = format_number(row["value"]), format_interval(row["low"], row["high"])
        shown.add_row(row["train"], row["test"], row["pooling"], at, what, value, interval, format_number(row["null"]))
    return shown
