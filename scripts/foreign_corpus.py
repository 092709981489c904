"""Is the U over depth the emotions' on somebody else's texts? Raw cosine, its null and R, layer by layer.

    python scripts/foreign_corpus.py CORPUS --out FOLDER smollm2-135m-instruct gemma-3-270m

CORPUS is a JSON, JSON Lines or CSV file, or a folder of such, with ``emotion``, ``topic`` and ``text`` of each text;
emotion-vector-bench's ``corpus/stories`` (MIT licence) is one. As many topics as are asked for are taken, spread over
the list of those that every emotion has a text on, and of each emotion and topic the first text. The texts stay where
they are: what is written are ``foreign.csv`` and ``foreign.png``. The quantities and intervals are those of
``separation.csv`` (``docs/tables.md``), on all topics: nothing is chosen here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import Progress
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

import emotrace
from emotrace.activations import read_activations
from emotrace.errors import EmotraceError
from emotrace.instrument.corpus import fingerprint
from emotrace.measures import spread, statistics
from emotrace.measures.randomness import generator
from emotrace.study.folder import FLOAT_FORMAT, RunFolder, select
from emotrace.study.style import BLUE, GREEN, GREY, ORANGE, POOLING_TITLES, PURPLE

SHUFFLES = 24
"""Shuffles of which each resample has its null; the null as measured has all permutations."""
CURVES = {"cosine": (BLUE, "centroid cosine"), "shuffled_cosine": (ORANGE, "its null: labels shuffled within topics")}
READERS = {".csv": pd.read_csv, ".json": pd.read_json, ".jsonl": lambda file: pd.read_json(file, lines=True)}


def read_corpus(path: Path) -> pd.DataFrame:
    """The texts of a file, or of all files of a folder: columns ``emotion, topic, text``."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    tables = [READERS[file.suffix](file) for file in files if file.suffix in READERS]
    if not tables:
        raise EmotraceError(f"{path} holds no {', '.join(READERS)}")
    table = pd.concat(tables, ignore_index=True)
    if missing := [name for name in ("emotion", "topic", "text") if name not in table]:
        raise EmotraceError(f"{path} has no column {', '.join(missing)}")
    return table[["emotion", "topic", "text"]].dropna()


def crossed(corpus: pd.DataFrame, topics: int) -> pd.DataFrame:
    """One text of each emotion on each of ``topics`` topics, which are spread over those that every emotion has."""
    each = corpus.drop_duplicates(["emotion", "topic"])
    counts = each["topic"].value_counts()
    common = [name for name in each["topic"].unique() if counts[name] == each["emotion"].nunique()]
    if len(common) < 4:
        raise EmotraceError(f"four topics or more must have a text of every emotion, not {len(common)}")
    topics = min(topics, len(common))
    kept = [common[number * len(common) // topics] for number in range(topics)]
    return each[each["topic"].isin(kept)].reset_index(drop=True)


def separation(texts: pd.DataFrame, activations: np.ndarray, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one layer, from its activations ``[text, d_model]``: cosine, null, R and the emotions' share."""
    labels = texts["topic"].to_numpy(str), texts["emotion"].to_numpy(str)
    crossed = spread.Crossed.of(*labels, sorted(set(labels[1])))
    products, n = crossed.products(activations), crossed.shape[0]
    orders = crossed.orders(options.permutations, generator(options.seed, "foreign shuffle"))
    whole = np.ones(n, dtype=bool)
    shuffled = spread.whole_cosines(products, crossed, orders, whole)[1:]
    if shuffled.mean() >= 1 - 1e-12:  # all texts alike, as full stops before any layer
        return []
    draws = statistics.topic_draws(n, options.bootstrap, generator(options.seed, "foreign bootstrap"))
    weights = np.vstack([whole, draws]).astype(float)
    few = spread.centroid_cosines(products, crossed, orders[: 1 + min(SHUFFLES, len(shuffled))], weights)
    null = few[1:].mean(axis=0)
    null = 1 - (1 - null) * (1 - shuffled.mean()) / (1 - null[0])
    curves = {
        "cosine": few[0],
        "shuffled_cosine": null,
        "ratio": spread.ratio(few[0], null, crossed.effective(weights)),
        "intraclass": spread.intraclass(products.gram, crossed, weights),
    }
    p = {"p": statistics.permutation_p(float(few[0, 0]), shuffled, "less"), "m": len(shuffled), "n": n}
    return [
        {"metric": metric, **statistics.centred_interval(float(values[0]), values[1:])._asdict(), **p}
        for metric, values in curves.items()
    ]


def measure(name: str, texts: pd.DataFrame, options: argparse.Namespace, run: RunFolder) -> pd.DataFrame:
    """All layers and poolings of one model."""
    model = emotrace.load(name)
    with Progress() as bar:
        task = bar.add_task(f"{name} reads", total=len(texts))
        read = read_activations(model, list(texts["text"]), cache=run, progress=lambda done: bar.advance(task, done))
    rows = []
    with threadpool_limits(1):
        for pooling, activations in read.items():
            for layer in range(1, model.n_layers + 1):
                front = {"model": name, "pooling": pooling, "layer": layer, "depth": layer / model.n_layers}
                rows += [{**front, **row} for row in separation(texts, activations[:, layer], options)]
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Cosine and null on one axis, R on another, over depth: a row a pooling, two columns a model."""
    models, poolings = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["pooling"]))
    size = (7.2 * len(models), 3.2 * len(poolings))
    figure, axes = plt.subplots(len(poolings), 2 * len(models), figsize=size, squeeze=False, sharex=True)
    for row, pooling in enumerate(poolings):
        for column, model in enumerate(models):
            part = select(table, model=model, pooling=pooling)
            left, right = axes[row, 2 * column : 2 * column + 2]
            for metric, (colour, label) in CURVES.items():
                _curve(left, select(part, metric=metric), colour, label)
            _curve(right, select(part, metric="ratio"), GREEN, "R")
            right.axhline(1, color=GREY, lw=0.8)
            left.set_ylabel(POOLING_TITLES[pooling] if column == 0 else "")
            if row == 0:
                left.set_title(f"{model}: cosine", loc="left", fontsize=9)
                right.set_title("R = (1 − cosine) / (1 − null)", loc="left", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9)
    figure.supxlabel(f"depth (layer / number of layers); {int(table['n'].max())} topics; 95% bands; dots: the extreme")
    return figure


def _curve(ax: Any, rows: pd.DataFrame, colour: str, label: str) -> None:
    rows = rows.sort_values("depth")
    ax.plot(rows["depth"], rows["value"], color=colour, label=label)
    ax.fill_between(rows["depth"], rows["low"], rows["high"], color=colour, alpha=0.18, lw=0)
    extreme = rows.iloc[rows["value"].argmax() if label == "R" else rows["value"].argmin()]
    ax.plot(extreme["depth"], extreme["value"], "o", color=PURPLE, ms=5)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Where each curve is extreme, and how far the cosine's course is its null's: a row a model and pooling."""
    rows = []
    for (model, pooling), part in table.groupby(["model", "pooling"], sort=False):
        wide = part.pivot(index="depth", columns="metric", values="value")
        rows.append(
            {
                "model": model,
                "pooling": pooling,
                "cosine lowest at": wide["cosine"].idxmin(),
                "null lowest at": wide["shuffled_cosine"].idxmin(),
                "r": np.corrcoef(wide["cosine"], wide["shuffled_cosine"])[0, 1],
                "Spearman": spearmanr(wide["cosine"], wide["shuffled_cosine"]).statistic,
                "R highest at": wide["ratio"].idxmax(),
                "R": wide["ratio"].max(),
                "R least": wide["ratio"].min(),
                "p worst": part["p"].max(),
            }
        )
    return pd.DataFrame(rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="a folder; finished batches are kept in it")
    parser.add_argument("--topics", type=int, default=15)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--bootstrap", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    texts = crossed(read_corpus(options.corpus), options.topics)
    settings = {"corpus": fingerprint(texts), "models": options.models}
    run = RunFolder(options.out, settings, resume=True)
    print(f"{len(texts)} texts: {texts['emotion'].nunique()} emotions × {texts['topic'].nunique()} topics")
    table = pd.concat([measure(name, texts, options, run) for name in options.models], ignore_index=True)
    table.to_csv(options.out / "foreign.csv", index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    draw(table).savefig(options.out / "foreign.png", dpi=150)
    print(summary(table).to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    try:
        main(parse(sys.argv[1:]))
    except EmotraceError as error:
        sys.exit(f"foreign_corpus: {error}")
