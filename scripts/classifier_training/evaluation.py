"""What the judge can tell: AUCs on GoEmotions' test split and on our passages, and the ceiling that it sets to C9."""

from __future__ import annotations

import numpy as np
import pandas as pd

from classifier_training.data import Split, unseen
from emotrace.instrument import corpus
from emotrace.judges import classifiers, confirmation
from emotrace.judges.classifiers import EmbeddedClassifier
from emotrace.measures import statistics

DRAWS, SEED = 1000, 0
# The length of a steered text, in tokens of the encoder.
CONTINUATION = 24
WHOLE, CUT, PROMPTED = "whole", "24 tokens", "prompt and 24 tokens"
BINS = 10


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


def within_topics(scores: np.ndarray, own: np.ndarray, topics: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Each emotion's AUC over pairs of texts on one topic, ``[draw, emotion]``.

    Args:
        scores: ``[text, emotion]``.
        own: bool ``[text, emotion]``, whether the text was written to show the emotion.
        topics: the number of each text's topic, from 0.
        weights: how often each topic counts, ``[draw, topic]``.
    """
    wins, pairs = (np.zeros((weights.shape[1], scores.shape[1])) for _ in range(2))
    for topic in range(weights.shape[1]):
        for emotion in range(scores.shape[1]):
            here, mine = scores[topics == topic, emotion], own[topics == topic, emotion]
            difference = here[mine][:, None] - here[~mine][None]
            wins[topic, emotion] = (difference > 0).sum() + 0.5 * (difference == 0).sum()
            pairs[topic, emotion] = difference.size
    return (weights @ wins) / (weights @ pairs)


# -- GoEmotions -------------------------------------------------------------------------------------------------------


def evaluate(scores: np.ndarray, splits: dict[str, Split], labels: list[str]) -> dict[str, object]:
    """The test figures for the header and the card: intervals are bootstraps over the test comments."""
    positive, fresh = splits["test"].positive, unseen(splits)
    n = len(scores)
    weights = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    draws = np.array([weighted_auc(*columns, weights) for columns in zip(scores.T, positive.T, strict=True)])
    areas = label_auc(scores, positive)
    each = [_rounded(statistics.percentile_interval(*pair), 4) for pair in zip(areas, draws, strict=True)]
    macro = _rounded(statistics.percentile_interval(areas.mean(), np.nanmean(draws, axis=0)), 4)
    return {
        "test_auc": {label: interval[0] for label, interval in zip(labels, each, strict=True)},
        "test_auc_95": {label: interval[1:] for label, interval in zip(labels, each, strict=True)},
        "test_macro_auc": macro[0],
        "test_macro_auc_95": macro[1:],
        "test_texts_seen_in_training": int((~fresh).sum()),
        "test_macro_auc_without_them": round(float(label_auc(scores[fresh], positive[fresh]).mean()), 4),
        "test_calibration_error": round(calibration_error(scores, positive), 4),
    }


def calibration_error(scores: np.ndarray, positive: np.ndarray) -> float:
    """How far scores lie from the share of positive texts, the mean over labels and ten bins of equal width.

    Positive and negative texts of a label weigh the same, as in the scores' meaning; a bin counts with its weight.
    """
    errors = []
    for column, truth in zip(scores.T, positive.T, strict=True):
        weights = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
        bins = np.minimum((column * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bins, weights * column, BINS) - np.bincount(bins, weights * truth, BINS)
        errors.append(np.abs(gaps).sum())
    return float(np.mean(errors))


# -- our passages -----------------------------------------------------------------------------------------------------


def readings(judge: EmbeddedClassifier, table: pd.DataFrame) -> dict[str, list[str]]:
    """The passages whole, cut to a steered text's length, and so cut behind a neutral prompt on another topic."""
    texts, topics = list(table["text"]), sorted(set(table["topic"]))
    following = dict(zip(topics, [*topics[1:], topics[0]], strict=True))
    neutral = table[table["emotion"] == corpus.NEUTRAL].set_index("topic")["text"]
    cut = [_cut(judge, text) for text in texts]
    prompts = {topic: _cut(judge, neutral[following[topic]]).rstrip(" ,;:.") + ". " for topic in topics}
    prompted = [prompts[topic] + text for topic, text in zip(table["topic"], cut, strict=True)]
    return {WHOLE: texts, CUT: cut, PROMPTED: prompted}


def _cut(judge: EmbeddedClassifier, text: str) -> str:
    """The text up to the end of its 24th token."""
    offsets = judge.encoder.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    return text[: offsets[:CONTINUATION][-1][1]]


def evaluate_passages(judge: EmbeddedClassifier) -> dict[str, dict[str, object]]:
    """How well each emotion's score tells its own passages from others, for each instrument and length.

    The passages show an emotion without naming it, a register that GoEmotions lacks. Intervals of AUCs resample topics.
    """
    return {name: _instrument(judge, table) for name, table in corpus.instruments().items()}


def _instrument(judge: EmbeddedClassifier, table: pd.DataFrame) -> dict[str, object]:
    lengths = {length: _reading(judge, table, texts) for length, texts in readings(judge, table).items()}
    return {"fingerprint": corpus.fingerprint(table), "texts": len(table), "lengths": lengths}


def _reading(judge: EmbeddedClassifier, table: pd.DataFrame, texts: list[str]) -> dict[str, object]:
    known = {name: labels for name, labels in classifiers.known_labels(judge).items() if name != corpus.NEUTRAL}
    scores = classifiers.emotion_scores(judge, texts, known).to_numpy()
    emotion = table["emotion"].to_numpy()
    own = emotion[:, None] == np.array(list(known))
    codes, topics = pd.factorize(table["topic"])
    weights = statistics.topic_draws(len(topics), DRAWS, np.random.default_rng(SEED))
    against_all = np.array(
        [weighted_auc(*columns, weights[:, codes]) for columns in zip(scores.T, own.T, strict=True)]
    ).mean(axis=0)
    areas = within_topics(scores, own, codes, np.ones((1, len(topics))))[0]
    drawn = within_topics(scores, own, codes, weights)
    mine = {name: scores[emotion == name, place] for place, name in enumerate(known)}
    ceiling = confirmation.ceiling_of_scores(mine, scores[emotion == corpus.NEUTRAL], seed=SEED)
    macro = statistics.percentile_interval(label_auc(scores, own).mean(), against_all)
    return {
        "auc": {name: round(float(area), 3) for name, area in zip(known, areas, strict=True)},
        "macro_auc": _rounded(statistics.percentile_interval(areas.mean(), drawn.mean(axis=1)), 3),
        "macro_auc_against_all": _rounded(macro, 3),
        "ceiling": _rounded(ceiling.rate, 3),
        "rises": _rounded(ceiling.rises, 3),
        "ceilings": {row.emotion: round(row.rate, 2) for row in ceiling.by_emotion.itertuples()},
    }


def _rounded(interval: statistics.Interval, digits: int) -> list[float]:
    return [round(float(value), digits) for value in interval]
