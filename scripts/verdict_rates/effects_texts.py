"""How often the rules on the texts of steering err (C9, C10): simulated counts through the shipped measures.

A part of ``effects``, which lists them. Sizes are those of a full run: 20 emotions, 8 prompts, 40 scenarios.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from emotrace.study.effects import breaking, success
from emotrace.study.effects.crossed import crossed_mean, crossed_rate
from emotrace.study.verdicts import Estimate, Rule

from . import Draw, Simulation

EMOTIONS, PROMPTS = 20, 8

# -- C9 ---------------------------------------------------------------------------------------------------------------


def scenarios(rng: np.random.Generator, rate: float, together: float = 10.0) -> pd.DataFrame:
    """40 scenarios, two an emotion: an emotion's rate is drawn from a beta distribution of this mean (and ``together``
    as the sum of its parameters: a correlation of 1/11 between its two scenarios)."""
    rates = rng.beta(together * rate, together * (1 - rate), EMOTIONS) if 0 < rate < 1 else np.full(EMOTIONS, rate)
    successes = rng.random((EMOTIONS, 2)) < rates[:, None]
    return pd.DataFrame({"emotion": np.repeat(np.arange(EMOTIONS).astype(str), 2), "success": successes.ravel()})


def strict(rate: float) -> Draw:
    rule = success.strict_rule()

    def draw(rng: np.random.Generator) -> str:
        return rule.verdict(Estimate(*success.rate(scenarios(rng, rate), "success"), n=40))

    return draw


def of_ceiling(share: float, highest: float) -> Draw:
    """An emotion's scenarios are confirmed at ``share`` of what the judge confirms of its passages."""
    rule = success.strict_rule()

    def draw(rng: np.random.Generator) -> str:
        ceilings = rng.beta(6 * highest, 6 * (1 - highest), EMOTIONS)
        successes = rng.random((EMOTIONS, 2)) < share * ceilings[:, None]
        names = np.arange(EMOTIONS).astype(str)
        rows = pd.DataFrame({"emotion": np.repeat(names, 2), "success": successes.ravel()})
        table = pd.DataFrame({"texts": "cut", "emotion": names, "value": ceilings})
        return rule.verdict(success.of_ceiling(rows, table))

    return draw


def contrast(effect: float) -> Draw:
    rule = success.contrast_rule()

    def draw(rng: np.random.Generator) -> str:
        rise = rng.normal(effect, 0.1, EMOTIONS)[:, None] + rng.normal(0, 0.2, (EMOTIONS, 2))
        rows = scenarios(rng, 0.5).assign(rise=rise.ravel(), permuted_mean=rng.normal(0, 0.05, 2 * EMOTIONS))
        return rule.verdict(success.contrast_estimate(rows))

    return draw


def over_prompting(steering: float, prompting: float) -> Draw:
    rule = success.prompting_rule()

    def draw(rng: np.random.Generator) -> str:
        own, asked = (success.clustered(scenarios(rng, rate), "success") for rate in (steering, prompting))
        value, low, high, p = crossed_mean((own - asked)[:, None])
        return rule.verdict(Estimate(value, low, high, EMOTIONS, p))

    return draw


# -- C10 --------------------------------------------------------------------------------------------------------------


SPREAD = 0.5
"""Standard deviation of emotions, and of prompts, in logits."""


def centre(share: float) -> float:
    """The logit about which emotions and prompts have to differ for a mean share of ``share`` over all there are."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def excess(logit: float) -> float:
        shares = 1 / (1 + np.exp(-logit - np.sqrt(2) * SPREAD * nodes))
        return float(weights @ shares / weights.sum()) - share

    return float(brentq(excess, -20, 20))


def coherent(rng: np.random.Generator, logit: float, texts: int) -> tuple[np.ndarray, int]:
    """Shares of coherent texts ``[emotion, prompt]``, both of which differ about a :func:`centre`."""
    logit = logit + rng.normal(0, SPREAD, (EMOTIONS, 1)) + rng.normal(0, SPREAD, (1, PROMPTS))
    shares = 1 / (1 + np.exp(-logit))
    return rng.binomial(texts, shares) / texts, texts * EMOTIONS * PROMPTS


def window(share: float) -> Draw:
    rule, logit = breaking.window_rule(), centre(share)

    def draw(rng: np.random.Generator) -> str:
        return rule.verdict(Estimate(*crossed_rate(*coherent(rng, logit, 3))))

    return draw


def three(repetitive: float, explosive: float) -> Draw:
    logits = [centre(share) for share in (repetitive, explosive)]

    def draw(rng: np.random.Generator) -> str:
        shares = [crossed_rate(*coherent(rng, logit, 1)) for logit in logits]
        found, rule = breaking.three_rule(*shares)
        return rule.verdict(found)

    return draw


def _simulation(
    name: str, ids: tuple[str, ...], rule: Rule, smallest: str, null: tuple[str, Draw], effect: tuple[str, Draw]
) -> Simulation:
    return Simulation(name, ids, rule.words, smallest, null[0], null[1], effect[0], effect[1])


def _both(name: str) -> tuple[str, ...]:
    return f"C9.{name}", f"C9.published.{name}"


TEXT_SIMULATIONS = (
    _simulation(
        "strict",
        _both("strict"),
        success.strict_rule(),
        f"{success.SUCCESS_MARGIN:g} below the paper's rate: three scenarios of four",
        ("40 scenarios, two an emotion, confirmed with probability 0.75", strict(0.75)),
        ("with probability 0.925, the paper's", strict(0.925)),
    ),
    _simulation(
        "of_ceiling",
        _both("of_ceiling"),
        success.strict_rule(),
        f"{success.SUCCESS_MARGIN:g} below the paper's rate",
        ("scenarios confirmed at 0.75 of a ceiling of 0.7", of_ceiling(0.75, 0.7)),
        ("confirmed as often as passages are, ceiling 0.7", of_ceiling(1.0, 0.7)),
    ),
    _simulation(
        "of_ceiling.weak_judge",
        _both("of_ceiling"),
        success.strict_rule(),
        f"{success.SUCCESS_MARGIN:g} below the paper's rate",
        ("scenarios confirmed at 0.75 of a ceiling of 0.3, about the packaged judge's", of_ceiling(0.75, 0.3)),
        ("confirmed as often as passages are, ceiling 0.3", of_ceiling(1.0, 0.3)),
    ),
    _simulation(
        "contrast",
        _both("contrast"),
        success.contrast_rule(),
        "0.05: five points of a hundred on the judge's scale",
        ("no rise beyond the controls; standard deviation 0.1 over emotions, 0.2 over scenarios", contrast(0.0)),
        ("a rise of 0.2, about what 92% of scenarios above all 19 controls needs", contrast(0.2)),
    ),
    _simulation(
        "over_prompting",
        ("C9.over_prompting",),
        success.prompting_rule(),
        f"{success.SMALLEST_ADVANTAGE:g}: one scenario in ten",
        ("both confirmed in half of the scenarios", over_prompting(0.5, 0.5)),
        ("steering as the paper says (0.925), asking in half", over_prompting(0.925, 0.5)),
    ),
    _simulation(
        "window",
        ("C10.window", "C10.surgical"),
        breaking.window_rule(),
        f"{breaking.WINDOW_MARGIN:g} below the calibration's {breaking.WINDOW_TARGET:g}: one text in ten",
        ("a true share of 0.8 where emotions and prompts differ", window(0.8)),
        ("0.93", window(0.93)),
    ),
    _simulation(
        "three",
        ("C10.three",),
        breaking.three_rule(crossed_rate(np.eye(2), 4), crossed_rate(np.eye(2), 4))[1],
        f"{breaking.SMALLEST_REGIME:g}: one text in ten",
        ("half of the texts collapse, one in ten explodes: the margin itself", three(0.5, 0.1)),
        ("half collapse, a quarter explodes", three(0.5, 0.25)),
    ),
    _simulation(
        "three.absent",
        ("C10.three",),
        breaking.three_rule(crossed_rate(np.eye(2), 4), crossed_rate(np.eye(2), 4))[1],
        f"{breaking.SMALLEST_REGIME:g}: one text in ten",
        ("half collapse, 2% explode", three(0.5, 0.02)),
        ("half collapse, 16% explode, about what was measured", three(0.5, 0.16)),
    ),
)
