"""What is typed on the command line → what functions take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from emotrace import arguments
from emotrace.errors import EmotraceError

if TYPE_CHECKING:
    from emotrace.instrument.instrument import Instrument

InstrumentPath = Annotated[
    str | None, Option("--instrument", help="Any emotions and any texts: a file or folder; see docs/your_texts.md.")
]
Columns = Annotated[
    str | None, Option(help="Its columns where they have other names than the usual: text=story,emotion=mood.")
]
Norms = Annotated[Path | None, Option(help="Its emotions' valence and arousal: a file of published norms.")]

Instruments = Annotated[
    list[str] | None,
    Option("--instrument", help="Any emotions and any texts: a file or folder; again for several, the first is main."),
]

Topics = Annotated[str | None, Option(help="How many topics of each to read, or all; default 12, 6 with --quick.")]
Passages = Annotated[Path | None, Option(help="A file like data/passages.csv in place of it.")]
Instruct = Annotated[
    bool | None, Option("--instruct/--base", help="Instruction-tuned or not; default: by registry or chat template.")
]
Remote = Annotated[bool, Option("--remote", help="On NDIF, or on the server that NDIF_HOST names.")]

DEFAULT_MODEL = "smollm2-135m-instruct"
LEFT_OUT_SHOWN = 20


def instruments(sources: list[str] | None, columns: str | None, norms: Path | None) -> list[Instrument]:
    """The instruments at several paths, all with the same columns; none for the default."""
    loaded = [instrument(source, columns, norms) for source in sources or (None,)]
    return [one for one in loaded if one is not None]


def instrument(source: str | None, columns: str | None = None, norms: Path | None = None) -> Instrument | None:
    """The instrument at a path, with one line of what was understood, and a line for each row left out.

    Raises:
        EmotraceError: columns or norms without an instrument; what ``load_instrument`` refuses.
    """
    from emotrace.instrument.loading import load_instrument

    if source is None:
        if columns or norms:
            raise EmotraceError("--columns and --norms are of an --instrument, and none is named")
        return None
    loaded = load_instrument(source, columns=mapping(columns), norms=norms)
    show(loaded)
    return loaded


def show(loaded: Instrument) -> None:
    """Says on standard error what was understood, and which rows were left out."""
    print(f"emotrace: {loaded.summary}", file=sys.stderr)
    for row in loaded.left_out[:LEFT_OUT_SHOWN]:
        print(f"emotrace: left out: {row}", file=sys.stderr)
    if (more := len(loaded.left_out) - LEFT_OUT_SHOWN) > 0:
        print(f"emotrace: left out: {more} more; `emotrace check` lists all", file=sys.stderr)


def mapping(text: str | None) -> dict[str, str] | None:
    """``text=story,emotion=mood`` as a mapping; ``topic=`` says that there is none."""
    if text is None:
        return None
    parts = [part.partition("=") for part in arguments.split(text)]
    if not parts or not all(sign and role.strip() for role, sign, _ in parts):
        raise EmotraceError(f"columns are written text=story,emotion=mood, not {text!r}")
    return {role.strip(): column.strip() for role, _, column in parts}


def topics(text: str | None) -> int | str | None:
    """``30`` as a number, ``all`` as it is."""
    if text is None or text.strip() == "all":
        return text and "all"
    if not text.strip().isdecimal():
        raise EmotraceError(f"topics are a number or all, not {text!r}")
    return int(text)


def layers(text: str) -> list[int] | None:
    """``3,5`` as layers, ``all`` as None."""
    if text.strip() == "all":
        return None
    try:
        return [int(part) for part in arguments.split(text)]
    except ValueError:
        raise EmotraceError(f"layers are numbers with commas between, or all, not {text!r}") from None


def layer(text: str | None) -> int | str | None:
    """``3`` or ``all``; None stays None."""
    try:
        return None if text is None else "all" if text.strip() == "all" else int(text)
    except ValueError:
        raise EmotraceError(f"a layer is a number or all, not {text!r}") from None


def emotion(text: str, own: Instrument | None = None) -> str | dict[str, float]:
    """``happy`` unchanged, ``happy=1,calm=0.5`` as a mixture; unknown names are refused before a model is loaded."""
    from emotrace.instrument import corpus

    parts = [part.partition("=") for part in arguments.split(text)]
    try:
        mixture = {name.strip(): float(weight) if sign else 1.0 for name, sign, weight in parts}
    except ValueError:
        raise EmotraceError(f"a mixture is written happy=1,calm=0.5, not {text!r}") from None
    (own.check_emotions if own else corpus.check_emotions)(list(mixture) or [text])
    return mixture if "=" in text or len(mixture) > 1 else next(iter(mixture))
