"""What is typed on the command line → what functions take."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Option

from emotrace import arguments
from emotrace.errors import EmotraceError, require

if TYPE_CHECKING:
    import pandas as pd

    from emotrace.instrument.instrument import Instrument

T = TypeVar("T")
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

LOADING = {
    "revision": Annotated[str | None, Option(help="Branch, tag or commit of a hub model.")],
    "dtype": Annotated[str | None, Option(help="auto, float32, bfloat16, float16 or float64.")],
    "quantization": Annotated[
        str | None, Option(help="Fewer bits: bitsandbytes-8bit, bitsandbytes-4bit or torchao-int8.")
    ],
    "device_map": Annotated[
        str | None, Option(help='Several devices: auto, or module to device as JSON: {"model.layers.0": 0, …}.')
    ],
    "trust_remote_code": Annotated[
        bool, Option("--trust-remote-code", help="Run the code beside the weights: read it first.")
    ],
}
"""The options of every command that loads a model, by the parameters of :func:`emotrace.load`."""

DEFAULT_MODEL = "smollm2-135m-instruct"
LEFT_OUT_SHOWN = 20


def loads_a_model(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of ``LOADING``; what is given of them comes as its parameter ``how``."""
    own = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name == "trust_remote_code" else None,
            annotation=kind,
        )
        for name, kind in LOADING.items()
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        how = {name: given.pop(name) for name in LOADING}
        command(**given, how=_given(how))

    kept = [parameter for name, parameter in own.parameters.items() if name != "how"]
    run.__signature__ = own.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    return run


def _given(how: dict[str, Any]) -> dict[str, Any]:
    """What :func:`emotrace.load` takes of the options, those alone that were given."""
    chosen = {name: value for name, value in how.items() if value}
    if chosen.get("device_map", "").lstrip().startswith("{"):
        try:
            chosen["device_map"] = json.loads(chosen["device_map"])
        except ValueError as error:
            raise EmotraceError(f"a device map is auto, or module to device as JSON: {error}") from None
    return chosen


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
    return _once([(role.strip(), column.strip()) for role, _, column in parts])


def _once(pairs: list[tuple[str, T]]) -> dict[str, T]:
    """Names and what was given for each.

    Raises:
        EmotraceError: one is named twice.
    """
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EmotraceError(f"{twice[0]!r} is given twice")
    return dict(pairs)


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
        mixture = _once([(name.strip(), float(weight) if sign else 1.0) for name, sign, weight in parts])
    except ValueError:
        raise EmotraceError(f"a mixture is written happy=1,calm=0.5, not {text!r}") from None
    (own.check_emotions if own else corpus.check_emotions)(list(mixture) or [text])
    return mixture if "=" in text or len(mixture) > 1 else next(iter(mixture))


def texts_to_extract(
    source: str | None, columns: str | None, passages: Path | None, names: list[str] | None, method: str
) -> tuple[Instrument | None, pd.DataFrame | None]:
    """The instrument that is named, or emotions by name alone for a model to write of; else the passages."""
    from emotrace.instrument import corpus
    from emotrace.instrument.instrument import from_names

    if source is not None and passages is not None:
        raise EmotraceError("texts are named by --instrument or by --passages, not by both")
    if (own := instrument(source, columns)) is not None:
        own.check_emotions(names or [])
        return own, None
    if method == "generation" and names and not set(names) <= set(corpus.emotion_names()):
        own = from_names(names)
        show(own)
        return own, None
    corpus.check_emotions(names or [])
    if method == "generation":
        if passages is not None:
            raise EmotraceError("--passages are read by --method comprehension; stories are written of an --instrument")
        return None, None
    return None, corpus.passages(passages)


def check_gguf(folder: Path | None, layers: list[int] | None) -> None:
    """Refuses at once what would fail after minutes of reading: a folder for control vectors, layers that have none."""
    from emotrace.files import ensure_writable
    from emotrace.hosts import control_vectors

    if folder:
        require("embedded")
        ensure_writable(folder / "_")
        control_vectors.check_layers([layer for layer in layers or [2] if layer >= control_vectors.FIRST_LAYER])
