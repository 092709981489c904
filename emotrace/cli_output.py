"""What the command line shows: tables, and progress bars on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emotrace.progress import Progress, bars

if TYPE_CHECKING:
    from emotrace.models import Model


def print_claims(path: Path) -> None:
    """The claims of a run, a table row each."""
    import pandas as pd

    from emotrace.study.verdicts import format_interval, format_number

    if not path.exists():
        return
    claims = pd.read_csv(path)
    several = claims["instrument"].nunique() > 1
    texts = ["texts"] if several else []
    table = Table("claim", *texts, "paper", "measured", "95% interval", "verdict", box=None)
    for model, rows in claims.groupby("model", sort=False):
        table.add_section()
        table.add_row(f"[bold]{escape(str(model))}[/]")
        for row in rows.to_dict("records"):
            measured, interval = format_number(row["measured"]), format_interval(row["low"], row["high"])
            texts = ["" if pd.isna(row["instrument"]) else row["instrument"]] if several else []
            table.add_row(
                escape(row["claim"]), *map(escape, texts), escape(str(row["paper"])), measured, interval, row["verdict"]
            )
    print_table(table)


def print_table(table: Table) -> None:
    """A table as wide as the terminal, or 160 characters where there is none."""
    Console(width=None if sys.stdout and sys.stdout.isatty() else 160).print(table)


@contextlib.contextmanager
def loaded_model(
    name: str, remote: bool, out: Path | None, instruct: bool | None = None, *, how: Mapping[str, Any]
) -> Iterator[tuple[Model, Progress]]:
    """The model, loaded only if ``out`` can be written, and the progress bars of what is done with it; ``how`` as
    :func:`~emotrace.cli_arguments.loads_a_model` gives it."""
    from emotrace.files import ensure_writable
    from emotrace.models import load

    if out:
        ensure_writable(out)
    model = load(name, remote=remote, instruct=instruct, **how)
    with bars() as progress:
        yield model, progress
