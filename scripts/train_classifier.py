"""Trains the embedded emotion classifier on GoEmotions, measures it and writes its card.

    .venv/bin/python scripts/train_classifier.py DATA_DIR [--out data/classifier/goemotions-minilm.safetensors]

DATA_DIR holds ``train.tsv``, ``dev.tsv`` and ``test.tsv`` (text, comma-separated label ids, comment id; no header) and
``labels.txt`` (one label a line, in the order of the ids). The data stay where they are. About 12 minutes of two cores
to train; what was trained is kept in emotrace's cache, so that measuring again (on other passages, say) takes two. With
``--measure`` the weights are those of the file that is there.

The same data, encoder and versions give the same bytes on the same kind of processor.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from classifier_training import data, evaluation, fitting
from classifier_training.card import card, label_table, passage_table
from classifier_training.fitting import Fitted, Recipe
from rich.progress import Progress
from scipy.special import logit

from emotrace.errors import EmotraceError
from emotrace.files import write_file
from emotrace.judges import classifiers
from emotrace.judges.classifiers import EmbeddedClassifier
from emotrace.judges.encoder import ENCODER_TOKENS, POOLING, Head, load_encoder


def train(folder: Path, out: Path, recipe: Recipe, measure: bool = False) -> Head:
    """Trains, measures and writes the head with its adapter, and the card beside it."""
    labels = data.read_labels(folder)
    splits = {name: data.read_split(folder, name, len(labels)) for name in data.SPLITS}
    if measure:
        old = Head.load(out)
        fitted, recipe_header = Fitted(old.adapter, old.weight, old.bias), old.header["recipe"]
    else:
        fitted, recipe_header = _fit(splits["train"], labels, recipe), asdict(recipe)
    # From here on the weights are those that the file holds: the adapter in float16.
    encoder = load_encoder(device="cpu", changes=fitted.adapter)
    header = {
        "labels": labels,
        "encoder": {"name": encoder.name, "sha256": encoder.sha256, "pooling": POOLING, "tokens": ENCODER_TOKENS},
        "training": data.header(splits, labels),
        "recipe": recipe_header,
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
    head = Head(fitted.weight, fitted.bias, header, fitted.adapter)
    with fitting.deterministic():
        dev = head.probabilities(encoder.embed(splits["dev"].texts))
        if not measure:
            slope, offsets = fitting.calibrate(logit(dev), splits["dev"].positive)
            weight = (slope * fitted.weight.astype(np.float64)).astype(np.float32)
            head = Head(weight, (slope * fitted.bias + offsets).astype(np.float32), header, fitted.adapter)
        judge = EmbeddedClassifier("trained", encoder, head)
        header["dev_macro_auc"] = round(float(evaluation.label_auc(dev, splits["dev"].positive).mean()), 4)
        header |= evaluation.evaluate(judge.scores(splits["test"].texts), splits, labels)
        header["passages"] = evaluation.evaluate_passages(judge)
    head = Head(head.weight, head.bias, header, head.adapter)
    head.save(out)
    write_file(out.with_name("README.md"), card(head, out).encode())
    return head


def _fit(split: data.Split, labels: list[str], recipe: Recipe) -> Fitted:
    with Progress() as progress:
        task = progress.add_task("training", total=1.0)
        return fitting.cached_fit(
            load_encoder(device="cpu"),
            split,
            labels.index("neutral"),
            recipe,
            lambda share: progress.update(task, completed=share),
        )


def main(arguments: list[str] | None = None, recipe: Recipe | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--out", type=Path, default=classifiers.head_file())
    parser.add_argument("--measure", action="store_true", help="do not train: measure what is in --out again")
    options = parser.parse_args(arguments)
    try:
        head = train(options.data, options.out, recipe or Recipe(), options.measure)
    except EmotraceError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(label_table(head.header), passage_table(head.header), f"written: {options.out}", sep="\n\n")


if __name__ == "__main__":
    main()
