"""Do small models lay emotions out as published 7B and 8B models do, on the same corpus, or do its words alone?

    python scripts/published_vectors.py CORPUS VECTORS --out FOLDER smollm2-135m-instruct gemma-3-270m

CORPUS is what ``foreign_corpus.py`` takes, VECTORS a folder with a folder a model and ``raw_vectors.npz`` in it, as
emotion-vector-bench's ``corpus/stories`` and ``results`` (MIT licence) are. The models named read one text of each
emotion on a few topics of that corpus (mean over tokens). What is written is ``published_vectors.csv``: Spearman's ρ
between the emotions' pairwise distances (1 − cosine) of every two sets, at equal depths fixed beforehand; what remains
of it given the distances between the emotions' words (TF-IDF of the whole corpus); and those words' own agreement, and
that of the token embeddings' mean, which is the floor: a high ρ may be the corpus' and not the models'. The texts and
vectors stay where they are.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from foreign_corpus import crossed, read_corpus
from rich.progress import Progress
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer

import emotrace
from emotrace.activations import read_activations
from emotrace.errors import EmotraceError
from emotrace.instrument.corpus import any_words, fingerprint
from emotrace.measures.geometry import rdm
from emotrace.measures.randomness import generator
from emotrace.measures.rdm_agreement import centred, rdm_reliability
from emotrace.study.folder import FLOAT_FORMAT, RunFolder

DEPTHS = (0.28, 0.5, 0.64, 0.8)
"""The shares of depth whose layers emotion-vector-bench's ``extract.py`` reads: block ⌊N · share⌋, counted from 0."""
SPLITS = 200


@dataclass
class Laid:
    """One set's distances between the emotions.

    Attributes:
        kind: ``published``, ``ours``, ``words`` or ``embeddings``; the last two are the same at every depth.
        layers: depth → the layer in our counting.
        distances: depth → ``[emotion, emotion]``.
        reliability: depth → ρ between halves of the topics by Spearman and Brown; 1 where the texts are not at hand.
    """

    kind: str
    layers: dict[float, int]
    distances: dict[float, np.ndarray]
    reliability: dict[float, float]


def of_published(folder: Path, names: list[str]) -> Laid:
    """A model's published vectors, of the emotions ``names``, at :data:`DEPTHS`."""
    vectors = emotrace.EmotionVectors.load(folder / "raw_vectors.npz", layers_are="block-output")
    if missing := [name for name in names if name not in vectors.emotions]:
        raise EmotraceError(f"{folder.name} has no vector of {', '.join(missing)}")
    if len(vectors.layers) != len(DEPTHS):
        raise EmotraceError(f"{folder.name} has {len(vectors.layers)} layers, not one for each of {DEPTHS}")
    values = centred(vectors.values[[vectors.emotions.index(name) for name in names]])
    return Laid(
        "published",
        dict(zip(DEPTHS, vectors.layers, strict=True)),
        dict(zip(DEPTHS, map(rdm, values), strict=True)),
        dict.fromkeys(DEPTHS, 1.0),
    )


def of_texts(kind: str, texts: pd.DataFrame, layers: dict[float, int], values: np.ndarray, seed: int) -> Laid:
    """The distances that texts have, from their rows ``values [text, layer, d]``, and how far they repeat."""
    topics, at = np.unique(texts["topic"], return_inverse=True)
    names, of = np.unique(texts["emotion"], return_inverse=True)
    counts = np.zeros((len(topics), len(names)))
    np.add.at(counts, (at, of), 1)
    distances, reliability = {}, {}
    for depth, layer in layers.items():
        if layer == 0 and distances:  # without layers: the same at every depth
            distances[depth], reliability[depth] = distances[DEPTHS[0]], reliability[DEPTHS[0]]
            continue
        sums = np.zeros((len(topics), len(names), values.shape[-1]))
        rows = values[:, layer].astype(np.float64)
        np.add.at(sums, (at, of), rows - rows.mean(axis=0))
        means = sums.sum(axis=0) / counts.sum(axis=0)[:, None]
        distances[depth] = rdm(means - means.mean(axis=0))
        gram = np.einsum("ted,sfd->tesf", sums, sums, optimize=True)
        reliability[depth] = rdm_reliability(gram, counts, SPLITS, generator(seed, "published halves"))
    return Laid(kind, layers, distances, reliability)


def of_words(texts: pd.DataFrame, seed: int) -> Laid:
    """TF-IDF of single words, an emotion's texts averaged: no model, no word order."""
    rows = TfidfVectorizer(analyzer=any_words).fit_transform(texts["text"]).toarray()
    return of_texts("words", texts, dict.fromkeys(DEPTHS, 0), rows[:, None], seed)


def read(name: str, texts: pd.DataFrame, run: RunFolder, seed: int) -> dict[str, Laid]:
    """Of one model: its layers at :data:`DEPTHS`, and its token embeddings, which know no other word of the text."""
    model = emotrace.load(name)
    with Progress() as bar:
        task = bar.add_task(f"{name} reads", total=len(texts))
        values = read_activations(
            model, list(texts["text"]), poolings=["mean"], cache=run, progress=lambda done: bar.advance(task, done)
        )["mean"]
    layers = {depth: 1 + int(model.n_layers * depth) for depth in DEPTHS}
    return {
        name: of_texts("ours", texts, layers, values, seed),
        f"{name}, embeddings": of_texts("embeddings", texts, dict.fromkeys(DEPTHS, 0), values, seed),
    }


def compared(sets: dict[str, Laid], words: np.ndarray, permutations: int, seed: int) -> pd.DataFrame:
    """A row for every two sets and each depth.

    Args:
        sets: by name.
        words: the emotions' distances by words, ``[emotion, emotion]``; ``partial`` is given these.
        permutations: of the emotions of the first set, for the one-sided p of both.
    """
    rows = []
    for (a, first), (b, second) in itertools.combinations(sets.items(), 2):
        for depth in DEPTHS:
            rng = generator(seed, "published", a, b, depth)
            found = agreement(first.distances[depth], second.distances[depth], words, permutations, rng)
            rho, p, partial, partial_p = found
            given = {} if "words" in (first.kind, second.kind) else {"partial": partial, "partial_p": partial_p}
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "kinds": f"{first.kind}, {second.kind}",
                    "depth": depth,
                    "layer_a": first.layers[depth],
                    "layer_b": second.layers[depth],
                    "rho": rho,
                    "p": p,
                    "ceiling": float(np.sqrt(first.reliability[depth] * second.reliability[depth])),
                    **given,
                    "n": len(words),
                }
            )
    return pd.DataFrame(rows)


def agreement(
    first: np.ndarray, second: np.ndarray, given: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Spearman's ρ between two matrices of distances, its Mantel p, the partial ρ given a third, and its p.

    The partial Mantel test permutes the emotions of the first matrix alone (Smouse, Long & Sokal 1986).
    """
    upper = np.triu_indices(len(first), 1)
    other, third = (_ranks(part[upper]) for part in (second, given))
    known = float((other * third).mean())

    def both(order: np.ndarray) -> np.ndarray:
        one = _ranks(first[np.ix_(order, order)][upper])
        rho, shared = (one * other).mean(), (one * third).mean()
        return np.array([rho, (rho - shared * known) / np.sqrt(max(1e-12, (1 - shared**2) * (1 - known**2)))])

    observed = both(np.arange(len(first)))
    drawn = np.array([both(rng.permutation(len(first))) for _ in range(permutations)])
    p = (1 + (drawn >= observed - 1e-12).sum(axis=0)) / (1 + permutations)
    return float(observed[0]), float(p[0]), float(observed[1]), float(p[1])


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values)
    return (ranks - ranks.mean()) / ranks.std()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """At half depth: each set against the published ones, least, mean and most."""
    half = table[table["depth"] == 0.5]
    rows = []
    for name in dict.fromkeys([*half["a"], *half["b"]]):
        own = half[((half["a"] == name) | (half["b"] == name)) & half["kinds"].str.contains("published")]
        other = own["kinds"].where(own["a"] == name, own["kinds"].str.split(", ").str[::-1].str.join(", "))
        own = own[other.str.endswith("published")]
        if len(own):
            values = {"least": own["rho"].min(), "mean": own["rho"].mean(), "most": own["rho"].max()}
            rows.append({"set": name, **values, "ceiling": own["ceiling"].mean(), "given words": own["partial"].mean()})
    return pd.DataFrame(rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="a folder; finished batches are kept in it")
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--permutations", type=int, default=999)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    corpus = read_corpus(options.corpus)
    texts = crossed(corpus, options.topics)
    names = sorted(texts["emotion"].unique())
    published = sorted(file.parent for file in options.vectors.glob("*/raw_vectors.npz"))
    if not published:
        raise EmotraceError(f"{options.vectors} has no folder with raw_vectors.npz")
    run = RunFolder(options.out, {"corpus": fingerprint(texts), "models": options.models}, resume=True)
    print(f"{len(texts)} texts: {len(names)} emotions × {texts['topic'].nunique()} topics; {len(corpus)} for the words")
    words = of_words(corpus, options.seed)
    sets = {folder.name: of_published(folder, names) for folder in published}
    for name in options.models:
        sets |= read(name, texts, run, options.seed)
    sets |= {"words": words, "words of the texts read": of_words(texts, options.seed)}
    table = compared(sets, words.distances[DEPTHS[0]], options.permutations, options.seed)
    file = options.out / "published_vectors.csv"
    table.to_csv(file, index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    print(summary(table).to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    try:
        main(parse(sys.argv[1:]))
    except EmotraceError as error:
        sys.exit(f"published_vectors: {error}")
