"""What several commands share: options, how a layer or an emotion is written, a loaded model, progress bars."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from typer import Option

from emotrace import arguments
from emotrace.errors import EmotraceError
from emotrace.progress import Progress, bars

if TYPE_CHECKING:
    from emotrace.models import Model

DEFAULT_MODEL = "smollm2-135m-instruct"

Passages = Annotated[Path | None, Option(help="A file like data/passages.csv in place of it.")]
Instruct = Annotated[
    bool | None, Option("--instruct/--base", help="Instruction-tuned or not; default: by registry or chat template.")
]
Remote = Annotated[bool, Option("--remote", help="On NDIF, or on the server that NDIF_HOST names.")]


def layers_of(text: str) -> list[int] | None:
    if text.strip() == "all":
        return None
    try:
        return [int(part) for part in arguments.split(text)]
    except ValueError:
        raise EmotraceError(f"layers are numbers with commas between, or all, not {text!r}") from None


def layer_of(text: str | None) -> int | str | None:
    try:
        return None if text is None else "all" if text.strip() == "all" else int(text)
    except ValueError:
        raise EmotraceError(f"a layer is a number or all, not {text!r}") from None


def emotion_of(text: str) -> str | dict[str, float]:
    """``happy`` unchanged, ``happy=1,calm=0.5`` as a mixture; unknown names are refused before a model is loaded."""
    from emotrace.instrument import corpus

    parts = [part.partition("=") for part in arguments.split(text)]
    try:
        mixture = {name.strip(): float(weight) if sign else 1.0 for name, sign, weight in parts}
    except ValueError:
        raise EmotraceError(f"a mixture is written happy=1,calm=0.5, not {text!r}") from None
    corpus.check_emotions(list(mixture) or [text])
    return mixture if "=" in text or len(mixture) > 1 else next(iter(mixture))


def print_table(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@contextlib.contextmanager
def loaded_model(
    name: str, remote: bool, out: Path | None, instruct: bool | None = None
) -> Iterator[tuple[Model, Progress]]:
    """The model, loaded only if ``out`` can be written, and the progress bars of what is done with it."""
    from emotrace.files import ensure_writable
    from emotrace.models import load

    if out:
        ensure_writable(out)
    model = load(name, remote=remote, instruct=instruct)
    with bars() as progress:
        yield model, progress


def print_claims(path: Path) -> None:
    """The claims of a run, model by model."""
    import pandas as pd

    from emotrace.study.verdicts import format_interval, format_number

    if not path.exists():
        return
    table = Table("claim", "paper", "measured", "95% interval", "verdict", box=None)
    for model, rows in pd.read_csv(path).groupby("model", sort=False):
        table.add_section()
        table.add_row(f"[bold]{model}[/]")
        for row in rows.to_dict("records"):
            measured, interval = format_number(row["measured"]), format_interval(row["low"], row["high"])
            table.add_row(row["claim"], str(row["paper"]), measured, interval, row["verdict"])
    print_table(table)
