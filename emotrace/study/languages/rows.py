"""From what was read and written under edits to the rows of ``crosslingual.csv``: values, intervals, nulls, p (C11).

Which metric is which is told at :func:`emotrace.study.languages.measure.crosslingual`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logit

from emotrace.measures import statistics
from emotrace.study.languages.lexicon import ANECDOTES, Tokens
from emotrace.study.languages.readout import Sizes
from emotrace.study.languages.writing_systems import GROUPS

Measured = list[dict[str, Any]]
"""What one unit of work measured, a row a direction."""


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
class Rows:
    """Turns measurements, a row a direction, into table rows. ``names``: the emotions, whose directions come first."""

    row: Callable[..., dict[str, Any]]
    names: list[str]
    sizes: Sizes

    def readout(self, kind: str, strength: float, measured: list[Measured], tokens: dict[str, Tokens]) -> list[dict]:
        """Alignment, ranks and scripts of a read-out; the mean over several strengths where several are given."""
        count = len(self.names) + self.sizes.random
        common, rows = {"strength": strength, "readout": kind}, []
        for language, chosen in tokens.items():
            z = np.mean([[row[language] for row in each[:count]] for each in measured], axis=0)
            rows += self._alignment(z, chosen.owner, {**common, "language": language})
        for emotion, words in ANECDOTES.items():
            for word in words if emotion in self.names and "zh" in tokens else ():
                found = np.median([[row["ranks"][word] for row in each[:count]] for each in measured], axis=0)
                rows += self._ranks(emotion, word, found, {**common, "language": "zh"})
        top = np.mean([[row["han_top"] for row in each[:count]] for each in measured], axis=0)[:, None] / 100
        shares = self.ratios("han_share_of_top_100", top, np.ones_like(top), **common)
        return [*rows, *(row for row in shares if row["emotion"] in ("all", "random"))]

    def _alignment(self, z: np.ndarray, owner: np.ndarray, common: dict[str, Any]) -> list[dict]:
        present, owner = np.unique(owner, return_inverse=True)  # emotions that have usable words
        n, sizes = len(present), self.sizes
        z = np.concatenate([z[present], z[len(self.names) :]])
        scores, rng = own_minus_others(z, owner), sizes.rng("words")
        draws = np.empty((sizes.bootstrap, n))
        for draw in draws:
            weights = np.zeros(len(owner))
            for emotion in range(n):
                inside = np.flatnonzero(owner == emotion)
                weights[inside] = rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)))
            draw[:] = np.diagonal(own_minus_others(z, owner, weights))
        rows = []
        for place, emotion in enumerate(present):
            interval = statistics.centred_interval(scores[place, place], draws[:, place])
            others = np.delete(scores[:, place], place)
            words = int((owner == place).sum())
            rows.append(
                self._tested(self.names[emotion], interval, words, others, "greater", metric="alignment", **common)
            )
        rng = sizes.rng("whose lexicon")
        null = np.array([scores[np.arange(n), rng.permutation(n)].mean() for _ in range(sizes.permutations)])
        interval = statistics.centred_interval(np.diagonal(scores).mean(), draws.mean(axis=1))
        return [*rows, self._tested("all", interval, len(owner), null, "greater", metric="alignment", **common)]

    def _ranks(self, emotion: str, word: str, found: np.ndarray, common: dict[str, Any]) -> list[dict]:
        own, rows = self.names.index(emotion), []
        for metric, column in zip(("rank_all", "rank_han"), found.T, strict=True):
            value = statistics.Interval(float(column[own]), np.nan, np.nan)
            row = self._tested(emotion, value, 1, np.delete(column, own), "less", metric=metric, word=word, **common)
            rows.append({**row, "null": float(np.median(np.delete(column, own)))})
        return rows

    def next_token(self, strength: float, measured: list[Measured]) -> list[dict]:
        """The groups' probability at the next token; the mean over several strengths where several are given."""
        masses = np.array(
            [[row["masses"] for row in each] for each in measured]
        )  # [strength, direction, prompt, group]
        odds = logit(np.clip(masses, 1e-12, 1 - 1e-6))
        change, common = (odds[:, :-1] - odds[:, -1:]).mean(axis=0), {"strength": strength, "where": "next_token"}
        rows, ones = [], np.ones(change.shape[:2])
        for place, group in enumerate(GROUPS):
            rows += self.ratios(f"{group}_mass", masses[:, :-1, :, place].mean(axis=0), ones, **common)
            rows += self.ratios(f"{group}_logit_change", change[..., place], ones, **common)
            plain = masses[0, -1:, :, place]
            rows.append(self._unsteered(f"{group}_mass", plain, np.ones_like(plain), where="next_token"))
        return rows

    def texts(self, strength: float, texts: list[dict[str, Any]], plain: list[dict[str, Any]]) -> list[dict]:
        """What was written: the groups' probability over its steps, its letters, and the words of emotions in it."""
        steered, unsteered, rows = _by_direction(texts), _by_direction(plain), []
        common = {"strength": strength, "where": "written"}

        def both(metric: str, above: Callable[[dict], float], below: Callable[[dict], float], **more: Any) -> None:
            tables = [
                [[[f(text) for text in row] for row in each] for f in (above, below)] for each in (steered, unsteered)
            ]
            (over, under), (over_plain, under_plain) = ((np.array(a, float), np.array(b, float)) for a, b in tables)
            rows.extend(self.ratios(metric, over, under, **common, **more))
            step = {"step": more["step"]} if "step" in more else {}
            rows.append(
                self._unsteered(metric, over_plain, under_plain, more.get("rate", False), where="written", **step)
            )

        for place, group in enumerate(GROUPS):
            both(
                f"{group}_mass", lambda text, g=place: sum(s[g] for s in text["steps"]), lambda text: len(text["steps"])
            )
        for step in range(self.sizes.new_tokens):
            if any(len(text["steps"]) > step for text in plain):
                both(
                    "han_mass_at_step",
                    lambda text, t=step: text["steps"][t][0] if len(text["steps"]) > t else 0.0,
                    lambda text, t=step: len(text["steps"]) > t,
                    step=step,
                )
        both("han_letters", lambda text: text["han"], lambda text: text["letters"])
        both("other_script_letters", lambda text: text["other_script"], lambda text: text["letters"])
        both("texts_with_han", lambda text: text["han"] > 0, lambda text: 1, rate=True)
        both("missed_any", lambda text: bool(text["chinese"]) and not text["english"], lambda text: 1, rate=True)
        named = {
            "english_own": lambda text, name: name in text["english"],
            "chinese_own": lambda text, name: name in text["chinese"],
            "missed_own": lambda text, name: name in text["chinese"] and not text["english"],
        }
        for metric, holds in named.items():
            flags = [[[holds(text, name) for name in self.names] for text in row] for row in steered[: len(self.names)]]
            rows.append(self._own(metric, np.array(flags, dtype=float), common))
        # At a single step only the groups, not each emotion, have texts enough.
        return [row for row in rows if row["metric"] != "han_mass_at_step" or row["emotion"] not in self.names]

    def _own(self, metric: str, flags: np.ndarray, common: dict[str, Any]) -> dict[str, Any]:
        """The rate at which texts have a property of their own emotion: ``flags [emotion, prompt, emotion]``."""
        rates, rng, n = flags.mean(axis=1), self.sizes.rng("whose words"), len(self.names)
        null = np.array([rates[np.arange(n), rng.permutation(n)].mean() for _ in range(self.sizes.permutations)])
        texts = n * flags.shape[1]
        interval = statistics.wilson(round(float(np.diagonal(rates).mean()) * texts), texts)
        return self._tested("all", interval, texts, null, "greater", metric=metric, **common)

    def ratios(
        self, metric: str, above: np.ndarray, below: np.ndarray, rate: bool = False, **common: Any
    ) -> list[dict]:
        """Sums over prompts of ``above`` by those of ``below``, both ``[direction, prompt]``, for each emotion, all of
        them and the random directions; ``rate``: shares of texts, with Wilson intervals."""
        n, common = len(self.names), {"metric": metric, **common}

        def counted(part: slice) -> int:  # texts, prompts, or where prompts were averaged before, directions
            return above[part].size if rate or above.shape[1] == 1 else above.shape[1]

        value, draws = _ratio(above, below), self._prompt_draws(above, below)
        random, rows = value[n:], []

        def interval(part: slice, resampled: np.ndarray) -> statistics.Interval:
            if rate:
                return statistics.wilson(int(above[part].sum()), above[part].size)
            return statistics.percentile_interval(float(value[part].mean()), resampled)

        for place, name in enumerate(self.names):
            found = interval(slice(place, place + 1), draws[:, place])
            rows.append(self._tested(name, found, counted(slice(place, place + 1)), random, "greater", **common))
        groups = {"all": slice(0, n), "random": slice(n, len(value))}
        resampled = {name: self._directions_drawn(name, draws[:, part]) for name, part in groups.items()}
        rng = self.sizes.rng("emotions or random")
        orders = [rng.permutation(len(value)) for _ in range(self.sizes.permutations)]
        null = np.array([value[order[:n]].mean() - value[order[n:]].mean() for order in orders])
        p = statistics.permutation_p(value[:n].mean() - random.mean(), null, "greater")
        of_random = interval(groups["random"], resampled["random"])
        rows.append(self.row(
            emotion="all", **interval(groups["all"], resampled["all"])._asdict(), n=counted(groups["all"]), null=of_random.value,
            null_low=of_random.low, null_high=of_random.high, p=p, m=len(null), **common,
        ))  # fmt: skip
        rows.append(self.row(emotion="random", **of_random._asdict(), n=counted(groups["random"]), **common))
        return rows

    def _prompt_draws(self, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        """The ratios in bootstrap resamples of the prompts: ``[draw, direction]``."""
        n = above.shape[1]
        weights = self.sizes.rng("prompts").multinomial(n, np.full(n, 1 / n), size=self.sizes.bootstrap)
        return _ratio((weights @ above.T)[..., None], (weights @ below.T)[..., None])

    def _directions_drawn(self, name: str, draws: np.ndarray) -> np.ndarray:
        """The mean over directions, they too resampled: ``draws [draw, direction]`` → ``[draw]``."""
        n = draws.shape[1]
        weights = self.sizes.rng("directions", name).multinomial(n, np.full(n, 1 / n), size=len(draws))
        return (draws * weights).sum(axis=1) / n

    def _unsteered(
        self, metric: str, above: np.ndarray, below: np.ndarray, rate: bool = False, **common: Any
    ) -> dict[str, Any]:
        value = float(_ratio(above, below)[0])
        interval = statistics.percentile_interval(value, self._prompt_draws(above, below)[:, 0])
        if rate:
            interval = statistics.wilson(int(above.sum()), above.size)
        return self.row(
            emotion="unsteered", strength=0.0, metric=metric, **interval._asdict(), n=above.shape[1], **common
        )

    def _tested(
        self, emotion: str, interval: statistics.Interval, n: int, null: np.ndarray, alternative: str, **common: Any
    ) -> dict[str, Any]:
        """A row beside its null: the mean and the central 95% of the draws or of the other directions."""
        low, high = np.percentile(null, [2.5, 97.5])
        p = statistics.permutation_p(interval.value, null, alternative)
        return self.row(
            emotion=emotion, **interval._asdict(), n=n, null=float(null.mean()), null_low=low, null_high=high, p=p,
            m=len(null), **common,
        )  # fmt: skip


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Sums along the last axis, divided; 0 where there is nothing to count."""
    return above.sum(axis=-1) / np.maximum(below.sum(axis=-1), 1e-12)


def _by_direction(texts: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Texts, a list for each direction in order of appearance; prompts are in the same order in each."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for text in texts:
        found[text["emotion"]].append(text)
    return list(found.values())
