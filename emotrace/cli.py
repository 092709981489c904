"""The command line, thin: arguments in, one call, a file or a table out. Heavy imports wait until a command needs them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Annotated

import typer

from emotrace import __version__
from emotrace.errors import EmotraceError

DEFAULT_MODEL = "smollm2-135m-instruct"

Remote = Annotated[bool, typer.Option("--remote", help="On NDIF, or on the server that NDIF_HOST names.")]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Emotion representations in open-weight language models: extract, compare, report.",
)  # fmt: skip


def main() -> None:
    """Runs the command line; an error that the user can mend is one line and exit code 2."""
    try:
        app()
    except EmotraceError as error:
        print(f"emotrace: {error}", file=sys.stderr)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    models: Annotated[list[str] | None, typer.Argument(help=f"Models; default {DEFAULT_MODEL}.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/latest"),
    experiments: Annotated[str, typer.Option(help="Which experiments, comma-separated; default all.")] = "all",
    passages: Annotated[Path | None, typer.Option(help="A file like data/passages.csv in place of it.")] = None,
    classifier: Annotated[
        str, typer.Option(help="The judge of steered texts: a hub id or folder of a text-classification model.")
    ] = "minilm-goemotions",
    quick: Annotated[bool, typer.Option("--quick", help="The same experiments, fewer texts and resamples.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    remote: Remote = False,
) -> None:
    """Run the paper's experiments on one or more models: tables, figures, one report.

    Exit code 1: some of several models failed, the others are in the report.
    """
    from emotrace.study import pipeline
    from emotrace.study.folder import read_manifest

    try:
        with _progress() as progress:
            report = pipeline.run(
                models or [DEFAULT_MODEL], out, chosen=experiments, passages=passages,
                classifier=classifier, quick=quick, resume=resume, seed=seed, remote=remote, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is kept: --out {out} --resume goes on with it", file=sys.stderr)
        raise typer.Exit(130) from None
    _print_claims(out)
    print(f"\nreport: {report}")
    if failures := read_manifest(out).get("failures"):
        print(f"emotrace: without {', '.join(failures)}; --out {out} --resume tries again", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def extract(
    model: Annotated[str, typer.Argument(help="A model.")] = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("vectors.safetensors"),
    method: Annotated[
        str, typer.Option(help="comprehension or generation (the model writes stories: minutes).")
    ] = "comprehension",
    continuation: Annotated[
        bool, typer.Option("--continuation", help="Let a base model generate, without a chat.")
    ] = False,
    remove_neutral: Annotated[
        float | None, typer.Option(help="Project out neutral components up to this share of variance, 0.5 say.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="last or mean.")] = "last",
    layers: Annotated[str, typer.Option(help="Layer indices, comma-separated, or all.")] = "all",
    emotions: Annotated[str, typer.Option(help="Emotions, comma-separated, or all.")] = "all",
    passages: Annotated[Path | None, typer.Option(help="A file like data/passages.csv in place of it.")] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="Also write llama.cpp control vectors, one an emotion, here.")
    ] = None,
    remote: Remote = False,
) -> None:
    """Extract a model's emotion vectors from passages that it reads, or from stories that it writes."""
    from emotrace.extraction import extract as extract_vectors
    from emotrace.instrument import corpus
    from emotrace.models import load
    from emotrace.study.folder import ensure_writable

    chosen = corpus.check_emotions(emotions.split(",")) if emotions != "all" else None
    table = corpus.passages(passages)
    ensure_writable(out)
    loaded = load(model, remote=remote)
    indices = loaded.check_layers(_layers(layers))
    with _progress() as progress:
        vectors = extract_vectors(
            loaded, method=method, pooling=pooling, layers=indices, emotions=chosen, passages=table,
            continuation=continuation, remove_neutral=remove_neutral,
            progress=lambda done: progress("texts", done, _texts(method, table, remove_neutral)),
        )  # fmt: skip
    vectors.save(out)
    print(f"{len(vectors.emotions)} emotions × {len(vectors.layers)} layers × {vectors.d_model} dimensions: {out}")
    if gguf:
        for emotion in vectors.emotions:
            vectors.export_gguf(gguf / f"{emotion}.gguf", emotion)
        print(f"llama.cpp control vectors: {gguf}")


def _texts(method: str, table: Sized, remove_neutral: float | None) -> int:
    """How many texts are written and read: stories once each, and the unrelated texts where their components go."""
    from emotrace.instrument import corpus

    texts = len(table) if method == "comprehension" else 2 * len(corpus.topics()) * len(corpus.emotions())
    return texts + (len(corpus.baseline_texts()) if remove_neutral else 0)


def _layers(text: str) -> list[int] | None:
    if text == "all":
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise EmotraceError(f"layers are numbers with commas between, or all, not {text!r}") from None


@app.command()
def read(
    text: Annotated[str, typer.Argument(help="The text.")],
    emotion: Annotated[
        str | None, typer.Option(help="Show this emotion, or a mixture: happy=1,calm=0.5; default: the strongest.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model that reads it.")] = DEFAULT_MODEL,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors from `emotrace extract`; default: extracted now, kept.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer index, or all; default: calibrated, else half depth.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many emotions of the whole text to print.")] = 20,
    html: Annotated[Path | None, typer.Option(help="Also write the coloured text to this page.")] = None,
    remote: Remote = False,
) -> None:
    """Which emotions does the model's residual stream hold when it reads a text: token by token, and in the whole text?"""
    from emotrace.models import load
    from emotrace.study.folder import ensure_writable
    from emotrace.whatif import text_reading as reading
    from emotrace.whatif.token_reading import read_emotions

    number = layer if layer in (None, "all") else _layer(layer)
    if html:
        ensure_writable(html)
    loaded = load(model, remote=remote)
    with _progress() as progress:
        found = reading.vectors_for(loaded, vectors, progress)
        tokens = read_emotions(loaded, text, _emotion(emotion), layer=number, vectors=found, progress=progress)
        whole = reading.project_text(loaded, text, vectors=found, layer=None if number == "all" else number)
    width = max(abs(whole["z"].min()), abs(whole["z"].max())) or 1
    for row in whole.head(top).itertuples():
        print(f"{row.emotion:>14}  {row.z:+6.2f}  {'█' * round(24 * max(row.z, 0) / width)}".rstrip())
    print(f"\nthe whole text, layer {whole['layer'].iloc[0]} of {loaded.name}; {whole.attrs['unit']}\n\n{tokens}")
    if html:
        print(f"\npage: {tokens.to_html(html)}")


def _layer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise EmotraceError(f"a layer is a number or all, not {text!r}") from None


@app.command()
def whatif(
    prompt: Annotated[str, typer.Argument(help="What to continue.")],
    emotion: Annotated[str, typer.Option(help="An emotion, or a mixture: happy=1,calm=0.5.")],
    strength: Annotated[
        float | None, typer.Option(help="Multiple of the residual norm; negative steers away; default: calibrated.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model.")] = DEFAULT_MODEL,
    layer: Annotated[int | None, typer.Option(help="Layer index; default: calibrated, else half depth.")] = None,
    tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 60,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the chat template.")] = False,
    no_judge: Annotated[bool, typer.Option("--no-judge", help="Without the outside classifier's opinion.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
    remote: Remote = False,
) -> None:
    """Continue a prompt plain and steered by an emotion, and show what changes."""
    from emotrace.models import load
    from emotrace.study.folder import ensure_writable
    from emotrace.whatif.compare import what_if

    chosen = _emotion(emotion)
    if html:
        ensure_writable(html)
    loaded = load(model, remote=remote)
    with _progress() as progress:
        result = what_if(
            loaded, prompt, chosen, strength, layer=layer, max_new_tokens=tokens, temperature=temperature, seed=seed,
            chat=chat, judge=not no_judge, progress=progress,
        )  # fmt: skip
    print(result)
    if html:
        print(f"\npage: {result.to_html(html)}")


def _emotion(text: str | None) -> str | dict[str, float] | None:
    """An emotion's name, a mixture, or nothing; refused before a model is loaded if it is unknown."""
    if text is None:
        return None
    from emotrace.instrument import corpus

    chosen = _mixture(text)
    corpus.check_emotions(list(chosen))
    return chosen if "=" in text or "," in text else text


def _mixture(text: str) -> dict[str, float]:
    """``happy`` → {happy: 1}; ``happy=1,calm=0.5`` → both with their weights."""
    parts = [part.partition("=") for part in text.split(",")]
    try:
        return {name.strip(): float(weight) if sign else 1.0 for name, sign, weight in parts}
    except ValueError:
        raise EmotraceError(f"a mixture is written happy=1,calm=0.5, not {text!r}") from None


@app.command()
def models() -> None:
    """List the models that have a short name, and what can be loaded here and now."""
    from rich.console import Console
    from rich.table import Table

    from emotrace.instrument import corpus
    from emotrace.models import availability

    table = Table("name", "family", "kind", "parameters", "float32", "state", "licence", "paper's nine*", box=None)
    for name, row in corpus.model_registry().iterrows():
        millions = row["parameters_millions"]
        nine = "yes" if row["paper_nine"] == "ours" else ""
        table.add_row(
            name, row["family"], row["kind"], f"{millions:.0f}M", f"{millions * 4 / 1000:.1f} GB", availability(name),
            row["licence"], nine,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print("\nAlso: any hub id (org/name) of these families, a folder that save_pretrained wrote, or a .gguf file.")
    print("* The paper's list of models is not public: this is our reading of it.")


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="A model, by its short name or hub id.")] = DEFAULT_MODEL,
) -> None:
    """Is NDIF (or the server that NDIF_HOST names) ready for remote runs, and if not, what to do.

    Exit code 1: something is wrong.
    """
    from emotrace import doctor as checks
    from emotrace.hosts import remote

    where = remote.address(True)
    wrong = False
    for check in checks.examine(model, where):
        wrong |= check.good is False
        mark = {True: "ok  ", False: "BAD ", None: "?   "}[check.good]
        print(f"{mark} {check.what:<13} {check.found}" + (f"\n{'':19}→ {check.advice}" if check.advice else ""))
    if wrong:
        raise typer.Exit(1)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Draw a run's figures and write its report again."""
    from emotrace.study import pipeline

    print(pipeline.report(folder))


def _print_claims(out: Path) -> None:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from emotrace.study.verdicts import format_interval, format_number

    path = out / "tables" / "claims.csv"
    if not path.exists():
        return
    table = Table("claim", "paper", "measured", "95% interval", "verdict", box=None)
    for model, rows in pd.read_csv(path).groupby("model", sort=False):
        table.add_section()
        table.add_row(f"[bold]{model}[/]")
        for row in rows.itertuples():
            interval = format_interval(row.low, row.high)
            table.add_row(row.claim, str(row.paper), format_number(row.measured), interval, row.verdict)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@contextlib.contextmanager
def _progress() -> Iterator:
    """A progress bar for each kind of work, on standard error; ``progress(what, done, of)`` advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, int] = {}

        def progress(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.advance(tasks[what], done)

        yield progress
