"""From what was read and written under edits to the rows of ``crosslingual.csv``: values, intervals, nulls, p (C11).

Which metric is which stands in :mod:`emotrace.study.languages.measure`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logit

from emotrace.measures import statistics
from emotrace.measures.randomness import generator
from emotrace.study.languages.lexicon import EXAMPLES, LexiconTokens
from emotrace.study.languages.readout import Sizes
from emotrace.study.languages.writing_systems import GROUPS

Row = dict[str, Any]
Measured = list[Row]
"""What one unit of work measured, a row a direction or a row a text."""
Count = Callable[[Row], float]
"""What is counted of one text."""


def own_minus_others(z: np.ndarray, owner: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Each direction's score of each lexicon minus that of the other lexicons: ``[direction, emotion]``.

    Args:
        z: read-outs ``[direction, token]``, the emotions' directions first, in the order that ``owner`` counts.
        owner: each token's emotion, ``[token]``.
        weights: how often each token counts, ``[token]``; default once.
    """
    n = int(owner.max()) + 1
    weights = np.ones(len(owner)) if weights is None else weights
    member = (owner[:, None] == np.arange(n)) * weights[:, None]
    scores = z @ (member / member.sum(axis=0))
    scores = scores - scores[:n].mean(axis=0)  # a lexicon of words that every vector raises gains nothing by it
    return scores - (scores.sum(axis=1, keepdims=True) - scores) / (n - 1)


@dataclass
class RowBuilder:
    """Turns measurements, a row a direction, into table rows.

    Attributes:
        row: makes a row from its columns.
        names: the emotions, whose directions come first; those of permuted labels follow, then random ones.
        sizes: seed and resamples.
    """

    row: Callable[..., Row]
    names: list[str]
    sizes: Sizes

    def _rng(self, *purpose: object) -> np.random.Generator:
        return generator(self.sizes.seed, *purpose)

    # -- read-outs ----------------------------------------------------------------------------------------------------

    def readout(
        self, kind: str, strength: float, readouts: Sequence[Measured], tokens: dict[str, LexiconTokens]
    ) -> list[Row]:
        """Alignment, ranks and scripts of a read-out; the mean over several strengths where several are given."""

        def values(value: Count | Callable[[Row], list[float]]) -> np.ndarray:
            """``[strength, direction, …]``"""
            n = len(self.names) + self.sizes.permuted + self.sizes.random
            return np.array([[value(row) for row in directions[:n]] for directions in readouts])

        common: Row = {"strength": strength, "readout": kind}
        rows: Measured = []
        for language, words in tokens.items():
            z = values(lambda row, language=language: row[language]).mean(axis=0)
            rows += self._alignment(z, words.owner, {**common, "language": language})
        for emotion, examples in EXAMPLES.items():
            for word in examples if emotion in self.names and "zh" in tokens else ():
                ranks = np.median(values(lambda row, word=word: row["ranks"][word]), axis=0)
                rows += self._ranks(emotion, word, ranks, {**common, "language": "zh"})
                z = values(lambda row, word=word: row["z"][word]).mean(axis=0)
                rows.append(self._rise(emotion, word, z, {**common, "language": "zh"}))
        top = values(lambda row: row["han_top"]).mean(axis=0)[:, None] / 100
        shares = self.ratios("han_share_of_top_100", top, np.ones_like(top), **common)
        return [*rows, *(row for row in shares if row["emotion"] not in self.names)]

    def _alignment(self, z: np.ndarray, owner: np.ndarray, common: Row) -> list[Row]:
        present, owner = np.unique(owner, return_inverse=True)  # emotions that have usable words
        n, sizes = len(present), self.sizes
        z = np.concatenate([z[present], z[len(self.names) :]])
        scores, rng = own_minus_others(z, owner), self._rng("words")
        draws = np.empty((sizes.bootstrap, n))
        for draw in draws:
            weights = np.zeros(len(owner))
            for emotion in range(n):
                words = np.flatnonzero(owner == emotion)
                weights[words] = rng.multinomial(len(words), np.full(len(words), 1 / len(words)))
            draw[:] = np.diagonal(own_minus_others(z, owner, weights))
        common, rows = {**common, "metric": "alignment"}, []
        for index, emotion in enumerate(present):
            interval = statistics.centred_interval(scores[index, index], draws[:, index])
            n_words = int((owner == index).sum())
            null = scores[n : n + sizes.permuted, index]
            rows.append(self._tested(self.names[emotion], interval, n_words, null, "greater", **common))
        null = self._exchanged(scores[:n], "whose lexicon")
        interval = statistics.centred_interval(np.diagonal(scores).mean(), draws.mean(axis=1))
        return [*rows, self._tested("all", interval, len(owner), null, "greater", **common)]

    def _exchanged(self, scores: np.ndarray, purpose: str) -> np.ndarray:
        """The mean of ``scores [emotion, emotion]`` where each row is given another's column at random: ``[draw]``."""
        n, rng = len(scores), self._rng(purpose)
        return np.array([scores[np.arange(n), rng.permutation(n)].mean() for _ in range(self.sizes.permutations)])

    def _ranks(self, emotion: str, word: str, ranks: np.ndarray, common: Row) -> list[Row]:
        own, rows = self.names.index(emotion), []
        for metric, column in zip(("rank_all", "rank_han"), ranks.T, strict=True):
            value, null = statistics.Interval(float(column[own]), np.nan, np.nan), column[self._permuted]
            row = self._tested(emotion, value, 1, null, "less", metric=metric, word=word, **common)
            rows.append({**row, "null": float(np.median(null))})
        return rows

    def _rise(self, emotion: str, word: str, z: np.ndarray, common: Row) -> Row:
        """The read-out of a word beyond the permuted-label vectors', tested as one more of them would be (t)."""
        null = z[self._permuted]
        excess, m = float(z[self.names.index(emotion)] - null.mean()), len(null)
        error = float(null.std(ddof=1) * np.sqrt(1 + 1 / m)) if m > 1 else np.nan
        half = float(stats.t.ppf(0.975, m - 1)) * error
        p = float(stats.t.sf(excess / error, m - 1)) if m > 1 and error > 0 else np.nan
        interval = {"value": excess, "low": excess - half, "high": excess + half}
        return self.row(emotion=emotion, metric="example_rise", word=word, **interval, n=m, p=p, m=m, **common)

    @property
    def _permuted(self) -> slice:
        """Where the directions of permuted labels stand."""
        return slice(len(self.names), len(self.names) + self.sizes.permuted)

    def next_token(self, strength: float, readouts: Sequence[Measured]) -> list[Row]:
        """The groups' probability at the next token; the mean over several strengths where several are given."""
        # [strength, direction, prompt, group], the unedited model last.
        masses = np.array([[row["masses"] for row in directions] for directions in readouts])
        odds = logit(np.clip(masses, 1e-12, 1 - 1e-6))
        change = (odds[:, :-1] - odds[:, -1:]).mean(axis=0)
        common: Row = {"strength": strength, "where": "next_token"}
        rows, ones = [], np.ones(change.shape[:2])
        for index, group in enumerate(GROUPS):
            rows += self.ratios(f"{group}_mass", masses[:, :-1, :, index].mean(axis=0), ones, **common)
            rows += self.ratios(f"{group}_logit_change", change[..., index], ones, **common)
            unedited = masses[0, -1:, :, index]
            rows.append(self._unsteered(f"{group}_mass", unedited, np.ones_like(unedited), where="next_token"))
        return rows

    # -- texts --------------------------------------------------------------------------------------------------------

    def texts(self, strength: float, texts: Measured, plain: Measured) -> list[Row]:
        """What was written: the groups' probability over its steps, its letters, and the words of emotions in it."""
        steered, unsteered, rows = _by_direction(texts), _by_direction(plain), []
        common = {"strength": strength, "where": "written"}

        def shares(
            metric: str, above: Count, below: Count = lambda text: 1, rate: bool = False, **columns: int
        ) -> None:
            """Rows of what is counted, of how much, in steered and in unsteered texts."""
            over, under, plain_over, plain_under = (
                np.array([[count(text) for text in direction] for direction in written], float)
                for written in (steered, unsteered)
                for count in (above, below)
            )
            rows.extend(self.ratios(metric, over, under, rate, **common, **columns))
            rows.append(self._unsteered(metric, plain_over, plain_under, rate, where="written", **columns))

        for index, group in enumerate(GROUPS):
            shares(f"{group}_mass", partial(_mass, group=index), lambda text: len(text["steps"]))
        for step in range(max(len(text["steps"]) for text in plain)):
            shares("han_mass_at_step", partial(_han_mass_at, step=step), partial(_has_step, step=step), step=step)
        shares("han_letters", lambda text: text["han"], lambda text: text["letters"])
        shares("other_script_letters", lambda text: text["other_script"], lambda text: text["letters"])
        shares("texts_with_han", lambda text: text["han"] > 0, rate=True)
        shares("missed_any", lambda text: bool(text["chinese"]) and not text["english"], rate=True)
        own: dict[str, Callable[[Row, str], bool]] = {
            "english_own": lambda text, name: name in text["english"],
            "chinese_own": lambda text, name: name in text["chinese"],
            "missed_own": lambda text, name: name in text["chinese"] and not text["english"],
        }
        for metric, names_it in own.items():
            flags = [
                [[names_it(text, name) for name in self.names] for text in direction]
                for direction in steered[: len(self.names)]
            ]
            rows.append(self._own(metric, np.array(flags, dtype=float), common))
        # At a single step only the groups, not each emotion, have texts enough.
        return [row for row in rows if row["metric"] != "han_mass_at_step" or row["emotion"] not in self.names]

    def _own(self, metric: str, flags: np.ndarray, common: Row) -> Row:
        """The rate at which texts have a property of their own emotion: ``flags [emotion, prompt, emotion]``."""
        rates, texts = flags.mean(axis=1), len(self.names) * flags.shape[1]
        interval = statistics.wilson(round(float(np.diagonal(rates).mean()) * texts), texts)
        null = self._exchanged(rates, "whose words")
        return self._tested("all", interval, texts, null, "greater", metric=metric, **common)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def ratios(self, metric: str, above: np.ndarray, below: np.ndarray, rate: bool = False, **common: Any) -> list[Row]:
        """Sums over prompts of ``above`` by those of ``below``, both ``[direction, prompt]``, for each emotion, for all
        of them, for the permuted-label vectors, the random directions, and the excess of the first over the second;
        ``rate``: shares of texts, with Wilson intervals but for the excess."""
        n, common = len(self.names), {"metric": metric, **common}
        value, draws = _ratio(above, below), self._prompt_draws(above, below)
        null_values = value[self._permuted]
        parts = {"all": slice(0, n), "permuted": self._permuted, "random": slice(self._permuted.stop, len(value))}
        over_directions = {name: self._direction_draws(name, draws[:, part]) for name, part in parts.items()}

        def counted(part: slice) -> int:  # texts, prompts, or where prompts were averaged before, directions
            return above[part].size if rate or above.shape[1] == 1 else above.shape[1]

        def interval(part: slice, resampled: np.ndarray) -> statistics.Interval:
            if rate:
                return statistics.wilson(int(above[part].sum()), above[part].size)
            return statistics.percentile_interval(float(value[part].mean()), resampled)

        rows = []
        for index, name in enumerate(self.names):
            part = slice(index, index + 1)
            own = interval(part, draws[:, index])
            rows.append(self._tested(name, own, counted(part), null_values, "greater", **common))
        of = {name: interval(part, over_directions[name]) for name, part in parts.items() if len(value[part])}
        test = self._exchange(value[: self._permuted.stop], of["permuted"])
        excess = statistics.percentile_interval(
            of["all"].value - of["permuted"].value, over_directions["all"] - over_directions["permuted"]
        )
        rows.append(self.row(emotion="all", **of["all"]._asdict(), n=counted(parts["all"]), **test, **common))
        rows.append(self.row(emotion="excess", **excess._asdict(), n=counted(parts["all"]), **test, **common))
        for name in ("permuted", "random"):
            if name in of:
                rows.append(self.row(emotion=name, **of[name]._asdict(), n=counted(parts[name]), **common))
        return rows

    def _exchange(self, value: np.ndarray, of_permuted: statistics.Interval) -> Row:
        """The test of the emotions' directions against those of permuted labels, ``[direction]``, by exchange."""
        n, rng = len(self.names), self._rng("emotions or permuted labels")
        orders = [rng.permutation(len(value)) for _ in range(self.sizes.permutations)]
        null = np.array([value[order[:n]].mean() - value[order[n:]].mean() for order in orders])
        return {
            **dict(zip(("null", "null_low", "null_high"), of_permuted, strict=True)),
            "p": statistics.permutation_p(value[:n].mean() - value[n:].mean(), null, "greater"),
            "m": len(null),
        }

    def _prompt_draws(self, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        """The ratios in bootstrap resamples of the prompts: ``[draw, direction]``."""
        n = above.shape[1]
        weights = self._rng("prompts").multinomial(n, np.full(n, 1 / n), size=self.sizes.bootstrap)
        return _ratio((weights @ above.T)[..., None], (weights @ below.T)[..., None])

    def _direction_draws(self, name: str, draws: np.ndarray) -> np.ndarray:
        """The mean over directions, they too resampled: ``draws [draw, direction]`` → ``[draw]``."""
        n = draws.shape[1]
        weights = self._rng("directions", name).multinomial(n, np.full(n, 1 / n), size=len(draws))
        return (draws * weights).sum(axis=1) / n

    def _unsteered(self, metric: str, above: np.ndarray, below: np.ndarray, rate: bool = False, **common: Any) -> Row:
        interval = statistics.percentile_interval(
            float(_ratio(above, below)[0]), self._prompt_draws(above, below)[:, 0]
        )
        if rate:
            interval = statistics.wilson(int(above.sum()), above.size)
        columns = {"emotion": "unsteered", "strength": 0.0, "metric": metric, **common}
        return self.row(**columns, **interval._asdict(), n=above.shape[1])

    def _tested(
        self, emotion: str, interval: statistics.Interval, n: int, null: np.ndarray, alternative: str, **common: Any
    ) -> Row:
        """A row beside its null: the mean and the central 95% of the draws or of the other directions."""
        low, high = np.percentile(null, [2.5, 97.5])
        p = statistics.permutation_p(interval.value, null, alternative)
        test = {"null": float(null.mean()), "null_low": low, "null_high": high, "p": p, "m": len(null)}
        return self.row(emotion=emotion, **interval._asdict(), n=n, **test, **common)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Sums along the last axis, divided; 0 where there is nothing to count."""
    return above.sum(axis=-1) / np.maximum(below.sum(axis=-1), 1e-12)


def _mass(text: Row, group: int) -> float:
    return sum(step[group] for step in text["steps"])


def _han_mass_at(text: Row, step: int) -> float:
    return text["steps"][step][0] if _has_step(text, step) else 0.0


def _has_step(text: Row, step: int) -> bool:
    return len(text["steps"]) > step


def _by_direction(texts: Measured) -> list[Measured]:
    """Texts, a list for each direction in order of appearance; prompts are in the same order in each."""
    directions: dict[str, Measured] = defaultdict(list)
    for text in texts:
        directions[text["emotion"]].append(text)
    return list(directions.values())
