"""The rule of C9 and its ceiling: closed forms, a simulation of the rule itself, and judges whose answer is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from emotrace.errors import EmotraceError
from emotrace.judges.confirmation import C9, Rule, ceiling, ceiling_of_scores


class Listed:
    """A judge that reads its scores off the text: "joy=0.3 fear=0.1"."""

    name, labels = "listed", ("joy", "fear", "neutral")

    def scores(self, texts):
        given = [dict(part.split("=") for part in text.split()) for text in texts]
        return np.array([[float(one.get(label, 0)) for label in self.labels] for one in given])


LABELS = {"happy": ["joy"], "afraid": ["fear"]}


def simulated(own: np.ndarray, plain: np.ndarray, rule: Rule, draws: int, rng: np.random.Generator) -> float:
    """How often the rule itself confirms sets that are drawn."""

    def mean(scores):
        return scores[rng.choice(len(scores), rule.texts, replace=False)].mean()

    def one() -> bool:
        unsteered = mean(plain)
        return rule.confirms(mean(own) - unsteered, np.array([mean(plain) - unsteered for _ in range(rule.controls)]))

    return float(np.mean([one() for _ in range(draws)]))


# -- the rule ---------------------------------------------------------------------------------------------------------


def test_the_rule_asks_for_more_than_all_19_controls():
    null = np.arange(19) / 100
    assert C9.confirms(0.181, null)
    assert C9.p(0.181, null) == pytest.approx(1 / 20)
    assert not C9.confirms(0.18, null)  # a tie counts against
    assert not C9.confirms(0.175, null)
    assert not C9.confirms(-0.01, null - 1)  # no rise at all
    assert C9.allowed == 0


@pytest.mark.parametrize(
    ("controls", "alpha", "allowed"), [(19, 0.05, 0), (39, 0.05, 1), (99, 0.05, 4), (18, 0.05, -1), (9, 0.1, 0)]
)
def test_how_many_controls_may_rise_as_much(controls, alpha, allowed):
    rule = Rule(controls=controls, alpha=alpha)
    assert rule.allowed == allowed
    null = np.r_[np.full(max(allowed, 0), 2.0), np.zeros(controls - max(allowed, 0))]
    assert rule.confirms(1.0, null) == (allowed >= 0)
    one_more = np.r_[np.full(allowed + 1, 2.0), np.zeros(controls - allowed - 1)]
    assert not rule.confirms(1.0, one_more)


# -- the ceiling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [C9, Rule(texts=1), Rule(texts=3, controls=39)])
def test_the_rate_is_that_of_the_rule(rule):
    rng = np.random.default_rng(0)
    own, plain = 0.9 + stats.norm.ppf(np.arange(1, 10) / 10), stats.norm.ppf(np.arange(1, 13) / 13)
    found = ceiling_of_scores({"happy": own}, plain[:, None], rule)
    draws = 4000
    assert found.rate.value == pytest.approx(simulated(own, plain, rule, draws, rng), abs=4 * (0.25 / draws) ** 0.5)
    assert 0.1 < found.rate.value < found.rises.value < 1


def test_one_text_a_set_in_closed_form():
    # Of 4 neutral texts own ones exceed 4, 3 and 0: q = 0, 1/4, 1.
    plain = np.array([[0.1], [0.2], [0.3], [0.4]])
    found = ceiling_of_scores({"happy": np.array([0.5, 0.35, 0.05])}, plain, Rule(texts=1))
    assert found.rate.value == pytest.approx((1 + 0.75**20) / 3)
    assert found.rises.value == pytest.approx((1 + 0.75) / 3)
    table = found.by_emotion.iloc[0]
    assert (table["emotion"], table["n"], found.neutral) == ("happy", 3, 4)


def test_texts_that_carry_nothing_are_confirmed_as_often_as_chance():
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(300):
        scores = rng.normal(size=40)
        rates.append(ceiling_rate(scores[:20], scores[20:]))
    # The highest of 21 equal ones: 1 in 21; sets share texts, so that the mean is a little higher.
    assert np.mean(rates) == pytest.approx(1 / 21, abs=0.025)


def ceiling_rate(own: np.ndarray, plain: np.ndarray) -> float:
    sets = [np.array(list(itertools.combinations(range(len(scores)), 2))) for scores in (own, plain)]
    means, null = (scores[chosen].mean(axis=1) for scores, chosen in zip((own, plain), sets, strict=True))
    reached = (null[None] >= means[:, None]).mean(axis=1)
    return float(((1 - reached) * stats.binom.cdf(0, 19, reached)).mean())


def test_ties_count_against():
    assert ceiling_of_scores({"happy": np.full(3, 0.2)}, np.full((4, 1), 0.2)).rate.value == 0
    assert ceiling_of_scores({"happy": np.full(3, 0.3)}, np.full((4, 1), 0.2)).rate.value == 1


def test_the_interval_is_as_wide_as_emotions_differ():
    rng = np.random.default_rng(2)
    plain = rng.normal(size=(12, 20))
    told, missed = rng.normal(9, 0.1, size=12), rng.normal(-9, 0.1, size=12)
    mixed = ceiling_of_scores({f"e{number}": told if number % 2 else missed for number in range(20)}, plain)
    assert mixed.rate.value == pytest.approx(0.5)
    # Of 20 emotions, half told: the binomial's interval.
    low, high = stats.binom.ppf([0.025, 0.975], 20, 0.5) / 20
    assert (mixed.rate.low, mixed.rate.high) == pytest.approx((low, high), abs=0.051)
    alike = ceiling_of_scores({f"e{number}": told for number in range(20)}, plain)
    assert alike.rate == (1, 1, 1)


def test_the_interval_holds_the_rate_of_all_emotions_and_texts():
    """Coverage over data sets: emotions that differ, 12 texts of each, 12 neutral texts that all emotions share."""
    rng, truths, covered, trials = np.random.default_rng(3), [], 0, 60

    def data(emotions: int, neutral: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        shifts = rng.normal(2, 1, size=emotions)
        own = {f"e{place}": rng.normal(shift, 1, size=12) for place, shift in enumerate(shifts)}
        return own, rng.normal(size=(neutral, emotions))

    own, plain = data(1500, 60)
    null = np.sort(np.array([plain[list(pair)].mean(axis=0) for pair in itertools.combinations(range(60), 2)]), axis=0)
    for (_, scores), column in zip(own.items(), null.T, strict=True):
        means = np.array([scores[list(pair)].mean() for pair in itertools.combinations(range(12), 2)])
        reached = 1 - np.searchsorted(column, means) / len(column)
        truths.append(((1 - reached) ** 20).mean())
    for _ in range(trials):
        rate = ceiling_of_scores(*data(20, 12)).rate
        covered += rate.low <= np.mean(truths) <= rate.high
    assert covered / trials >= 0.85  # nominal 0.95; of 60 trials


def test_ceiling_reads_texts_by_emotion():
    texts = {"happy": ["joy=0.9", "joy=0.8 fear=0.1", "joy=0.1"], "afraid": ["fear=0.9"] * 3, "proud": ["joy=1"]}
    neutral = ["joy=0.2 fear=0.3", "joy=0.3", "fear=0.2 joy=0.25", "joy=0.2"]
    found = ceiling(Listed(), texts, neutral, emotion_labels=LABELS)
    assert list(found.by_emotion["emotion"]) == ["happy", "afraid"]  # the judge has no label of "proud"
    assert list(found.by_emotion["rate"]) == pytest.approx([1.0, 1.0])  # also 0.45 and 0.5 exceed all of the neutral
    assert found.rate.value == 1
    single = ceiling(Listed(), texts, neutral, Rule(texts=1), emotion_labels=LABELS)
    assert list(single.by_emotion["rate"]) == pytest.approx([2 / 3, 1.0])
    assert found.rate == ceiling(Listed(), texts, neutral, emotion_labels=LABELS).rate


def test_what_a_ceiling_cannot_be_had_of():
    neutral = ["joy=0.2", "joy=0.1"]
    with pytest.raises(EmotraceError, match="has a label of none of the emotions: proud"):
        ceiling(Listed(), {"proud": ["joy=1", "joy=1"]}, neutral, emotion_labels=LABELS)
    with pytest.raises(EmotraceError, match="2 texts or more of each emotion, in a list: see happy"):
        ceiling(Listed(), {"happy": ["joy=1"]}, neutral, emotion_labels=LABELS)
    with pytest.raises(EmotraceError, match="see neutral"):
        ceiling(Listed(), {"happy": ["joy=1", "joy=1"]}, ["joy=0"], emotion_labels=LABELS)
    for own, plain in (([0.5, np.nan, 0.9], [0.1, 0.2, 0.3]), ([0.5, 0.6, 0.9], [0.1, np.inf, 0.3])):
        with pytest.raises(EmotraceError, match="finite numbers"):
            ceiling_of_scores({"happy": np.array(own)}, np.array(plain)[:, None])
    with pytest.raises(EmotraceError, match="see happy"):
        ceiling_of_scores({"happy": np.array([0.5])}, np.array([[0.1], [0.2]]))
    with pytest.raises(EmotraceError, match="the number of texts of a score is 1 or more, not 0"):
        Rule(texts=0)


def test_an_emotion_without_labels_is_left_out():
    texts, neutral = {"envy": ["joy=0"] * 2, "happy": ["joy=1", "joy=0.9"]}, ["joy=0.2", "joy=0.1"]
    found = ceiling(Listed(), texts, neutral, emotion_labels={"envy": (), **LABELS})
    assert list(found.by_emotion["emotion"]) == ["happy"]
    # A score counts in its own unit.
    small = [scores * 1e-13 for scores in (np.array([5.0, 6.0, 7.0]), np.array([[0.1], [0.2], [0.3]]))]
    assert ceiling_of_scores({"happy": small[0]}, small[1]).rate.value == 1
