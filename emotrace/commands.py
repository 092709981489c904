"""The commands that need no run of experiments: what an instrument says by itself."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument, Option

from emotrace import cli_arguments
from emotrace.cli_arguments import Columns, Norms

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
