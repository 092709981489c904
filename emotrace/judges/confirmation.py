"""When a judge confirms a feeling, and how often it can: the rule of C9 and the ceiling that it sets.

A text that was steered to an emotion is confirmed if the judge's score of that emotion rises over the unsteered text,
and by more than under nearly all control directions. A judge that misses the feeling in texts which do carry it cannot
confirm perfect steering either: the rate among such texts is the ceiling of any count by this rule (definition ours).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from emotrace import arguments
from emotrace.errors import EmotraceError
from emotrace.judges.classifiers import Classifier, emotion_scores, known_labels
from emotrace.measures import statistics

# Sets of texts whose mean is formed at most; where there are more, so many are drawn.
_MOST_SETS = 5000
DRAWS = 1000


@dataclass(frozen=True)
class Rule:
    """The rule of a verdict.

    Attributes:
        texts: what a score is the mean over (a scenario's seeds).
        controls: directions of equal norm, judged on the same prompts and seeds.
        alpha: the largest p, ``(b + 1) / (controls + 1)`` with ``b`` controls whose rise is at least as large.
    """

    texts: int = 2
    controls: int = 19
    alpha: float = 0.05

    def __post_init__(self) -> None:
        arguments.integer(self.texts, "the number of texts of a score", at_least=1)
        arguments.integer(self.controls, "the number of controls", at_least=0)

    def p(self, rise: float, null: np.ndarray) -> float:
        """The permutation p of a rise against those of the controls."""
        return statistics.permutation_p(rise, null, "greater")

    def confirms(self, rise: float, null: np.ndarray) -> bool:
        """Whether the rise is positive and its p at most ``alpha``."""
        return bool(rise > 0 and self.p(rise, null) <= self.alpha + 1e-12)  # p can equal alpha up to rounding: 1 / 20

    @property
    def allowed(self) -> int:
        """How many controls may rise as much; -1 where none of the verdicts can be a success."""
        return int(np.floor(self.alpha * (self.controls + 1) + 1e-9)) - 1


C9 = Rule()


@dataclass(frozen=True)
class Ceiling:
    """How often a rule confirms texts that carry the feeling.

    Attributes:
        rate: of confirmed sets of texts, the mean over emotions, with its 95% interval: whole emotions and, since all
            are compared with the same neutral texts, neutral texts resampled.
        rises: the rate of sets that score above a neutral one, whatever the controls say.
        by_emotion: ``emotion, rate, rises, n`` (texts).
        neutral: number of neutral texts.
    """

    rate: statistics.Interval
    rises: statistics.Interval
    by_emotion: pd.DataFrame
    neutral: int
    rule: Rule = field(default=C9)


@arguments.checked
def ceiling(
    classifier: Classifier,
    texts: Mapping[str, Sequence[str]],
    neutral: Sequence[str],
    rule: Rule = C9,
    *,
    emotion_labels: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Ceiling:
    """The rate at which ``rule`` confirms texts that carry a feeling, neutral texts in the place of the controls'.

    A set of the emotion's texts takes the place of the steered ones, sets of neutral texts that of the unsteered and of
    each control. The rate is the exact mean over all such choices: with ``q`` the share of neutral sets that score at
    least as high as the emotion's, ``(1 - q) * P(Binomial(controls, q) <= allowed)``, mean over the emotion's sets.

    Args:
        classifier: the judge.
        texts: the texts that carry each emotion.
        neutral: texts of the same kind and length that carry none.
        rule: how many texts a score is the mean over, how many controls, the largest p.
        emotion_labels: the judge's labels that stand for each emotion; default as in
            :func:`~emotrace.judges.classifiers.known_labels`. Emotions without any are left out.
        seed: of the bootstrap, and of the sets that are drawn where there are more than 5000.

    Raises:
        EmotraceError: no emotion that the judge has a label of, or fewer texts of one than ``rule.texts``.
    """
    given = known_labels(classifier) if emotion_labels is None else emotion_labels
    labels = {emotion: own for emotion, own in given.items() if own}
    emotions = [emotion for emotion in texts if emotion in labels]
    if not emotions:
        raise EmotraceError(f"{classifier.name} has a label of none of the emotions: {', '.join(texts)}")
    for name, some in [("neutral", neutral), *((emotion, texts[emotion]) for emotion in emotions)]:
        _check_number(name, 0 if isinstance(some, str) else len(some), rule)
    scored = emotion_scores(
        classifier,
        [*neutral, *(text for emotion in emotions for text in texts[emotion])],
        {emotion: labels[emotion] for emotion in emotions},
    ).to_numpy()
    plain, starts = scored[: len(neutral)], np.cumsum([len(neutral), *(len(texts[emotion]) for emotion in emotions)])
    own = [scored[start:stop, place] for place, (start, stop) in enumerate(itertools.pairwise(starts))]
    return ceiling_of_scores(dict(zip(emotions, own, strict=True)), plain, rule, seed=seed)


def ceiling_of_scores(own: Mapping[str, np.ndarray], plain: np.ndarray, rule: Rule = C9, *, seed: int = 0) -> Ceiling:
    """:func:`ceiling` of scores that are known.

    Args:
        own: of each emotion the scores of its own texts on it.
        plain: the neutral texts' scores ``[text, emotion]``, columns as in ``own``.
        rule: the rule.
        seed: of the bootstrap.

    Raises:
        EmotraceError: a score that is not finite, or fewer scores of one than ``rule.texts``.
    """
    own = {name: arguments.array(scores, f"the scores of {name}", None) for name, scores in own.items()}
    plain = arguments.array(plain, "the neutral texts' scores", None, len(own))
    for name, scores in [("neutral", plain), *own.items()]:
        _check_number(name, len(scores), rule)
    rng = np.random.default_rng(seed)
    sets = [_sets(len(scores), rule.texts, rng) for scores in own.values()]
    means = [scores[chosen].mean(axis=1) for scores, chosen in zip(own.values(), sets, strict=True)]
    neutral_sets = _sets(len(plain), rule.texts, rng)
    # By the number of neutral sets that score at least as high: the chance to be confirmed, and to rise at all.
    reached = np.arange(len(neutral_sets) + 1) / len(neutral_sets)
    chances = np.stack([(1 - reached) * stats.binom.cdf(rule.allowed, rule.controls, reached), 1 - reached], axis=1)

    def rates(columns: np.ndarray) -> np.ndarray:
        """``[emotion, 2]``: confirmed and merely risen, against the neutral ``columns [text, emotion]``."""
        null = np.sort(columns[neutral_sets].mean(axis=1), axis=0)
        return np.array([_rates(mean, column, chances) for mean, column in zip(means, null.T, strict=True)])

    found = rates(plain)
    draws = np.empty((DRAWS, 2))
    for draw in range(DRAWS):
        resampled = rates(plain[rng.integers(len(plain), size=len(plain))])
        draws[draw] = resampled[rng.integers(len(means), size=len(means))].mean(axis=0)
    rate, rises = (_interval(*columns) for columns in zip(found.mean(axis=0), draws.T, strict=True))
    table = pd.DataFrame({"emotion": list(own), "rate": found[:, 0], "rises": found[:, 1]})
    table["n"] = [len(scores) for scores in own.values()]
    return Ceiling(rate, rises, table, len(plain), rule)


def _check_number(name: str, texts: int, rule: Rule) -> None:
    if texts < rule.texts:
        raise EmotraceError(f"a ceiling needs {rule.texts} texts or more of each emotion, in a list: see {name}")


def _interval(value: float, draws: np.ndarray) -> statistics.Interval:
    """Centred: a resample lacks a third of the neutral texts, so that its highest is lower and the rate too high."""
    low, high = np.clip(statistics.centred_interval(value, draws)[1:], 0, 1)
    return statistics.Interval(float(value), float(low), float(high))


def _sets(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Choices of ``size`` of ``n`` texts, ``[set, size]``: all of them, or 5000 drawn by chance."""
    chosen = list(itertools.islice(itertools.combinations(range(n), size), _MOST_SETS + 1))
    if len(chosen) <= _MOST_SETS:
        return np.array(chosen)
    return np.array([rng.choice(n, size, replace=False) for _ in range(_MOST_SETS)])


def _rates(means: np.ndarray, null: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """``[2]``: the mean ``chances`` of sets with these ``means``, against the sorted means ``null`` of neutral sets."""
    # As in permutation_p, what equals the observation up to rounding counts as reaching it.
    slack = statistics.rounding(means, null)
    return chances[len(null) - np.searchsorted(null, means - slack, side="left")].mean(axis=0)
