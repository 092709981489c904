"""The command line: arguments in, one call, a file or a table out. Heavy imports wait until a command needs them."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer import Argument, Option

from emotrace import __version__, arguments, cli_arguments, commands
from emotrace.cli_arguments import (
    DEFAULT_MODEL,
    Columns,
    Instruct,
    InstrumentPath,
    Instruments,
    Norms,
    Passages,
    Remote,
    Topics,
    loads_a_model,
)
from emotrace.cli_output import loaded_model, print_claims, print_table
from emotrace.errors import EmotraceError, missing_extra
from emotrace.progress import bars
from emotrace.redaction import redacted

if TYPE_CHECKING:
    from emotrace.instrument.instrument import Instrument

HELP = "Emotion representations in open-weight language models: extract, compare, report."
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)


def main() -> None:
    """Runs the command line; an error that the user can mend is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks, bars say, must not end the work
            stream.reconfigure(errors="replace")
    try:
        app()
    except (EmotraceError, ModuleNotFoundError) as error:
        told = missing_extra(error.name or "") if isinstance(error, ModuleNotFoundError) else error
        if told is None:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
            sys.exit(1)
        print(f"emotrace: {told}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
@loads_a_model
def run(
    models: Annotated[list[str] | None, Argument(help=f"Models; default {DEFAULT_MODEL}.")] = None,
    out: Annotated[Path, Option(help="Folder of the run.")] = Path("runs/latest"),
    experiments: Annotated[
        str, Option(help="Comma-separated; all: but estimators, estimator_steering, layer_strength and precision.")
    ] = "all",
    passages: Passages = None,
    instrument: Instruments = None,
    columns: Columns = None,
    norms: Norms = None,
    classifier: Annotated[
        str, Option(help="The judge of steered texts: a hub id or folder of a text-classification model.")
    ] = "minilm-goemotions",
    quick: Annotated[bool, Option("--quick", help="The same experiments, fewer texts and resamples.")] = False,
    resume: Annotated[bool, Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
    topics: Topics = None,
    seed: Annotated[int, Option(help="Seed of every random draw.")] = 0,
    instruct: Instruct = None,
    remote: Remote = False,
    *,
    how: dict[str, Any],
) -> None:
    """Run the paper's experiments on one or more models: tables, figures, one report.

    Exit code 1: some of several models failed, the others are in the report.
    """
    from emotrace.study import pipeline
    from emotrace.study.folder import read_manifest

    own = cli_arguments.instruments(instrument, columns, norms)
    try:
        with bars() as progress:
            report = pipeline.run(
                models or [DEFAULT_MODEL],
                out,
                chosen=experiments,
                passages=passages,
                instruments=own,
                classifier=classifier,
                quick=quick,
                resume=resume,
                topics=cli_arguments.topics(topics),
                seed=seed,
                remote=remote,
                instruct=instruct,
                how=how,
                progress=progress,
            )
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is kept: --out {out} --resume goes on with it", file=sys.stderr)
        raise typer.Exit(130) from None
    print_claims(out / "tables" / "claims.csv")
    print(f"\nreport: {report}")
    if failures := read_manifest(out).get("failures"):
        print(f"emotrace: without {', '.join(failures)}; --out {out} --resume tries again", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
@loads_a_model
def extract(
    model: Annotated[str, Argument(help="A model.")] = DEFAULT_MODEL,
    out: Annotated[Path, Option(help="The safetensors file to write.")] = Path("vectors.safetensors"),
    method: Annotated[
        str, Option(help="comprehension or generation (the model writes stories: minutes).")
    ] = "comprehension",
    continuation: Annotated[bool, Option("--continuation", help="Let a base model generate, without a chat.")] = False,
    remove_neutral: Annotated[
        float | None, Option(help="Project out neutral components up to this share of variance, 0.5 say.")
    ] = None,
    estimator: Annotated[str, Option(help="How vectors are computed from activations.")] = "mean_difference",
    pooling: Annotated[str, Option(help="last or mean.")] = "last",
    layers: Annotated[str, Option(help="Layer indices, comma-separated, or all.")] = "all",
    emotions: Annotated[str, Option(help="Emotions, comma-separated, or all.")] = "all",
    passages: Passages = None,
    instrument: InstrumentPath = None,
    columns: Columns = None,
    gguf: Annotated[Path | None, Option(help="Also write llama.cpp control vectors, one an emotion, here.")] = None,
    instruct: Instruct = None,
    remote: Remote = False,
    *,
    how: dict[str, Any],
) -> None:
    """Extract a model's emotion vectors from texts that it reads, or from stories that it writes."""
    from emotrace.extraction import extract as extract_vectors

    names = None if emotions.strip() == "all" else arguments.split(emotions)
    own, table = cli_arguments.texts_to_extract(instrument, columns, passages, names, method)
    indices, unrelated = cli_arguments.layers(layers), bool(remove_neutral) or estimator == "neutral_removed"
    cli_arguments.check_gguf(gguf, indices)
    with loaded_model(model, remote, out, instruct, how=how) as (loaded, progress):
        vectors = extract_vectors(
            loaded,
            method=method,
            pooling=pooling,
            layers=loaded.check_layers(indices),
            emotions=names,
            instrument=own,
            passages=table,
            continuation=continuation,
            remove_neutral=remove_neutral,
            estimator=estimator,
            progress=lambda done: progress("texts", done, _count_texts(method, own, table, unrelated)),
        )
    vectors.save(out)
    print(f"{len(vectors.emotions)} emotions × {len(vectors.layers)} layers × {vectors.d_model} dimensions: {out}")
    if gguf:
        for emotion in vectors.emotions:
            vectors.export_gguf(gguf / f"{emotion.replace('/', '--')}.gguf", emotion)
        print(f"llama.cpp control vectors: {gguf}")


def _count_texts(method: str, own: Instrument | None, passages: Sized | None, unrelated: bool) -> int:
    """How many texts are written and read: stories once each, and the unrelated texts where their components go."""
    from emotrace.instrument.instrument import default

    used = own or default()
    texts = len(used.passages if passages is None else passages) + (0 if used.has_neutral else len(used.unfelt))
    if method == "generation":
        texts = 2 * len(used.topics) * (len(used.emotions) + 1)
    return texts + (len(used.baseline_texts) if unrelated else 0)


@app.command(help="Which emotions does the residual stream hold at each token of a text, and in the whole of it?")
@loads_a_model
def read(
    text: Annotated[str, Argument(help="The text.")],
    emotion: Annotated[
        str | None, Option(help="Show this emotion, or a mixture: happy=1,calm=0.5; default: the strongest.")
    ] = None,
    model: Annotated[str, Option(help="The model that reads it.")] = DEFAULT_MODEL,
    vectors: Annotated[
        Path | None, Option(help="Vectors from `emotrace extract`; default: extracted now, kept.")
    ] = None,
    instrument: InstrumentPath = None,
    columns: Columns = None,
    layer: Annotated[str | None, Option(help="Layer index, or all; default: calibrated, else half depth.")] = None,
    top: Annotated[int, Option(help="How many emotions of the whole text to print.")] = 20,
    html: Annotated[Path | None, Option(help="Also write the coloured text to this page.")] = None,
    remote: Remote = False,
    *,
    how: dict[str, Any],
) -> None:
    from emotrace.whatif.text_reading import project_text, vectors_for
    from emotrace.whatif.token_reading import read_emotions

    own, index = cli_arguments.instrument(instrument, columns), cli_arguments.layer(layer)
    top = arguments.integer(top, "--top", at_least=0)
    mixture = None if emotion is None else _emotion(emotion, own, vectors)
    with loaded_model(model, remote, html, how=how) as (loaded, progress):
        directions = vectors_for(loaded, vectors, progress, own, index)
        tokens = read_emotions(
            loaded, text, mixture, layer=index, vectors=directions, instrument=own, progress=progress
        )
        whole = project_text(loaded, text, vectors=directions, layer=None if isinstance(index, str) else index)
    page = tokens.to_html(html) if html else None  # before what is printed, which a pipe may end
    longest = whole["z"].abs().max() or 1
    for name, z in whole.head(top)[["emotion", "z"]].itertuples(index=False):
        print(f"{name:>14}  {z:+6.2f}  {'█' * round(24 * max(z, 0) / longest)}".rstrip())
    print(f"\nthe whole text, layer {whole['layer'].iloc[0]} of {loaded.name}; {whole.attrs['unit']}\n\n{tokens}")
    if page:
        print(f"\npage: {page}")


def _emotion(text: str, own: Instrument | None, vectors: Path | None) -> str | dict[str, float]:
    """An emotion of the instrument, or of the vectors in a file."""
    from emotrace.instrument.instrument import from_names
    from emotrace.vectors import EmotionVectors

    return cli_arguments.emotion(text, from_names(EmotionVectors.load(vectors).emotions) if vectors else own)


@app.command()
@loads_a_model
def whatif(
    prompt: Annotated[str, Argument(help="What to continue.")],
    emotion: Annotated[str, Option(help="An emotion, or a mixture: happy=1,calm=0.5.")],
    strength: Annotated[
        float | None, Option(help="Multiple of the residual norm; negative steers away; default: calibrated.")
    ] = None,
    model: Annotated[str, Option(help="A model.")] = DEFAULT_MODEL,
    instrument: InstrumentPath = None,
    columns: Columns = None,
    layer: Annotated[int | None, Option(help="Layer index; default: calibrated, else half depth.")] = None,
    tokens: Annotated[int, Option(help="At most so many new tokens.")] = 60,
    temperature: Annotated[float | None, Option(help="0 is greedy; default: as calibrated (0.7), else greedy.")] = None,
    seed: Annotated[int, Option(help="Seed of the sampling.")] = 0,
    chat: Annotated[bool, Option("--chat", help="Put the prompt into the chat template.")] = False,
    control: Annotated[
        int,
        Option(help="Also so many texts under vectors of permuted labels, what any direction does; 19 for p = 0.05."),
    ] = 0,
    no_judge: Annotated[bool, Option("--no-judge", help="Without the outside classifier's opinion.")] = False,
    live: Annotated[bool, Option("--live", help="The steered text alone, with all emotions, as it grows.")] = False,
    html: Annotated[Path | None, Option(help="Also write a page.")] = None,
    remote: Remote = False,
    *,
    how: dict[str, Any],
) -> None:
    """Continue a prompt plain and steered by an emotion, and show what changes."""
    from emotrace.tokens import Writing
    from emotrace.whatif.compare import what_if

    own = cli_arguments.instrument(instrument, columns)
    target = cli_arguments.emotion(emotion, own)
    writing = Writing(max_new_tokens=tokens, temperature=temperature, chat=chat, seeds=(seed,))
    if live:
        commands.watch(prompt, target, strength, model, layer, writing, bool(html or remote or control), own, how)
        return
    with loaded_model(model, remote, html, how=how) as (loaded, progress):
        asked: dict[str, Any] = {"instrument": own, "layer": layer, "writing": writing, "control": control}
        asked["judge"] = not no_judge
        result = what_if(loaded, prompt, target, strength, progress=progress, **asked)
    page = result.to_html(html) if html else None  # before what is printed, which a pipe may end
    print(result)
    if page:
        print(f"\npage: {page}")


@app.command()
def models() -> None:
    """List the models that have a short name, and what can be loaded here and now."""
    from emotrace.hosts.sources import availability
    from emotrace.instrument import corpus

    table = Table("name", "family", "kind", "parameters", "float32", "state", "licence", "paper's nine*", box=None)
    for row in corpus.model_registry().reset_index().to_dict("records"):
        millions = row["parameters_millions"]
        size = f"{millions:.0f}M", f"{millions * 4 / 1000:.1f} GB"
        about = row["licence"], "yes" if row["paper_nine"] == "ours" else ""
        table.add_row(row["name"], row["family"], row["kind"], *size, availability(row["name"]), *about)
    print_table(table)
    print("\nAlso: any hub id (org/name) of these families, a folder that save_pretrained wrote, or a .gguf file.")
    print("* The full text of the paper could not be read here: this list is our reading.")


@app.command()
def doctor(model: Annotated[str, Argument(help="A model, by its short name or hub id.")] = DEFAULT_MODEL) -> None:
    """Is NDIF (or the server that NDIF_HOST names) ready for remote runs, and if not, what to do.

    Exit code 1: something is wrong.
    """
    from emotrace import doctor as checks
    from emotrace.hosts import remote

    wrong = False
    for check in checks.examine(model, remote.address(True)):
        wrong |= check.good is False
        print(check)
    if wrong:
        raise typer.Exit(1)


for command in (commands.check, commands.transfer, commands.compare, commands.lens, commands.setup):
    app.command()(command)
app.add_typer(commands.vectors, name="vectors")


@app.command()
def report(folder: Annotated[Path, Argument(help="A run folder.")]) -> None:
    """Draw a run's figures and write its report again."""
    from emotrace.study import pipeline

    print(pipeline.report(folder))
