"""How often the rules on steering err (C8, C9, C10): simulated readings and counts through the shipped measures.

Sizes are those of a full run: 20 emotions, 8 prompts, 12 permuted-label directions, 3 texts a prompt and dose under an
emotion's own vector and one under a control. The noise is about that of the packaged models: see ``NOISE``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from emotrace.study.effects import breaking, claims, contrasts, dose, success
from emotrace.study.effects.arms import EMOTION, GAUSSIAN, PERMUTED
from emotrace.study.effects.crossed import crossed_mean, crossed_rate
from emotrace.study.verdicts import Estimate, Rule

from . import Draw, Simulation

EMOTIONS, PROMPTS, DIRECTIONS = 20, 8, 12
STRENGTHS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0])


class Noise(NamedTuple):
    """Standard deviations of one reading, for one unit of strength: of single texts, and of effects over emotions,
    over prompts, and over control directions."""

    text: float
    emotion: float
    prompt: float
    direction: float


NOISE = {
    "beyond_skip": Noise(0.005, 0.02, 0.01, 0.01),
    "kin_log_probability": Noise(0.1, 0.8, 0.5, 0.8),
    "classifier": Noise(0.2, 0.1, 0.05, 0.06),
    "kin_share": Noise(0.02, 0.003, 0.001, 0.001),
}
"""Of the order that a quick run of SmolLM2-135M-Instruct shows; of ``kin_share``, all 0 there, a guess."""
EFFECTS = {"beyond_skip": 0.03, "kin_log_probability": 1.2, "classifier": 0.15, "kin_share": 0.015}
"""The paper gives a sign and no size: three times the smallest effect of interest; of the next token, whose noise is
larger, six times, about what that run shows."""


def sweep(
    rng: np.random.Generator, noise: Noise, effect: float, shared: float = 0.0, emotions: float = 1.0
) -> dose.Curves:
    """Readings that change in proportion to strength: by ``effect`` under an emotion's own vector (in a share
    ``emotions`` of them), by ``shared`` under any direction."""

    def under(count: int, own: bool) -> np.ndarray:
        directions = rng.normal(shared, noise.direction, (count, EMOTIONS, 1, 1))
        prompts = rng.normal(0, noise.prompt, (1, EMOTIONS, 1, PROMPTS)) if own else 0.0
        slopes = directions + prompts + np.zeros((count, EMOTIONS, 1, PROMPTS))
        if own:
            gain = rng.normal(effect, noise.emotion, EMOTIONS) * (np.arange(EMOTIONS) < emotions * EMOTIONS)
            of_prompts = rng.normal(0, noise.prompt, PROMPTS)
            for index in range(EMOTIONS):
                slopes[index, index, 0] += gain[index] + of_prompts
        texts = np.where(own & (np.abs(STRENGTHS) <= 1), 3, 1)[:, None]
        read = rng.normal(0, noise.text, (count, EMOTIONS, len(STRENGTHS), PROMPTS)) / np.sqrt(texts)
        curve = slopes * STRENGTHS[:, None] + read
        curve[:, :, STRENGTHS == 0] = 0
        return curve

    blocks = {EMOTION: under(EMOTIONS, True), PERMUTED: under(DIRECTIONS, False)}
    blocks[GAUSSIAN] = np.empty((0, *blocks[PERMUTED].shape[1:]))
    return dose.Curves(STRENGTHS, 1.0, blocks, tuple(f"e{number}" for number in range(EMOTIONS)))


def estimate(found: dose.Curves, kind: str) -> Estimate:
    made = contrasts.contrast(found, PERMUTED, kind)
    assert made is not None
    return Estimate(made.value, made.low, made.high, EMOTIONS, made.p)


def signed(reading: str, kind: str, effect: float, shared: float = 0.0) -> Draw:
    rule, sign = claims.signed_rule(reading, kind), 1 if kind == contrasts.TOWARDS else -1

    def draw(rng: np.random.Generator) -> str:
        return rule.verdict(estimate(sweep(rng, NOISE[reading], effect, sign * shared), kind))

    return draw


def monotonic(reading: str, effect: float, shared: float = 0.0, emotions: float = 1.0) -> Draw:
    def draw(rng: np.random.Generator) -> str:
        found = sweep(rng, NOISE[reading], effect, shared, emotions)
        rule = claims.monotonic_rule(pd.DataFrame(dose.tested(found)))
        return rule.verdict(estimate(found, contrasts.RHO))

    return draw


def equal_harm(reading: str, effect: float) -> Draw:
    """The control breaks texts at half the strength that an emotion's vector needs, and broken texts read higher."""
    rule = claims.signed_rule(reading, contrasts.TOWARDS)

    def draw(rng: np.random.Generator) -> str:
        found = sweep(rng, NOISE[reading], effect)
        harm = sweep(rng, Noise(0.3, 0.1, 0.1, 0.1), 0.0)
        size = np.abs(STRENGTHS)[:, None]
        for source, factor in ((EMOTION, 1.0), (PERMUTED, 2.0)):
            harm.under[source] += factor * size
            found.under[source] += 2 * claims.SMALLEST[reading] * factor * size
        harm.under[PERMUTED][:] = harm.under[PERMUTED][:, :1]  # a text's harm is the same whatever emotion is read
        harm.under[EMOTION][:] = harm.under[EMOTION][:, :1]
        made, _ = contrasts.matched(found, PERMUTED, harm, 1.0)
        return rule.verdict(Estimate(made.value, made.low, made.high, EMOTIONS, made.p))

    return draw


def _ids(name: str, reading: str) -> tuple[str, ...]:
    """Of a claim in both arms; ``beyond_skip`` is not read where every layer is edited."""
    return (f"C8.{name}.{reading}", *([f"C8.published.{name}.{reading}"] if reading != "beyond_skip" else []))


def _signed_simulations(reading: str) -> list[Simulation]:
    smallest, noise = claims.SMALLEST[reading], NOISE[reading]
    spread = (
        f"standard deviations: {noise.text:g} of a text, {noise.emotion:g} over emotions, {noise.prompt:g} over "
        f"prompts, {noise.direction:g} over control directions"
    )
    return [
        Simulation(
            name=f"{kind}.{reading}",
            claims=_ids(kind, reading),
            rule=claims.signed_rule(reading, kind).words,
            smallest=_smallest(reading),
            null=f"every direction moves the reading by the smallest effect, an emotion's own no more; {spread}",
            draw_null=signed(reading, kind, 0.0, smallest),
            effect=f"the own vector adds {EFFECTS[reading]:g} (the paper gives a sign, no size)",
            draw_effect=signed(reading, kind, EFFECTS[reading]),
        )
        for kind in (contrasts.TOWARDS, contrasts.AWAY)
    ]


def _monotonic_simulations(reading: str) -> list[Simulation]:
    smallest = claims.SMALLEST[reading]
    rho = f"ρ = {claims.SMALLEST_RHO:g}: at 0.4 and below one dose of four stands two places off"
    ids, rule = _ids("monotonic", reading), claims.MONOTONIC_WORDS
    return [
        Simulation(
            name=f"monotonic.{reading}",
            claims=ids,
            rule=rule,
            smallest=rho,
            null="every direction raises the reading alike, noise as above",
            draw_null=monotonic(reading, 0.0, smallest),
            effect=f"a slope of {2 * EFFECTS[reading]:g} in every emotion",
            draw_effect=monotonic(reading, 2 * EFFECTS[reading]),
            draws=100,
        ),
        Simulation(
            name=f"monotonic.few.{reading}",
            claims=ids,
            rule=rule,
            smallest=rho,
            null=f"a slope of {2 * EFFECTS[reading]:g} in a quarter of the emotions, none in the others",
            draw_null=monotonic(reading, 2 * EFFECTS[reading], emotions=0.25),
            draws=100,
        ),
    ]


def _harm_simulation(reading: str) -> Simulation:
    effect = EFFECTS[reading]
    return Simulation(
        name=f"equal_harm.{reading}",
        claims=(f"C8.equal_harm.{reading}",),
        rule=claims.signed_rule(reading, contrasts.TOWARDS).words,
        smallest=_smallest(reading),
        null="broken texts read higher, whatever broke them, and the control breaks them at half the strength",
        draw_null=equal_harm(reading, 0.0),
        effect=f"the same, and the own vector adds {effect:g}",
        draw_effect=equal_harm(reading, effect),
        draws=200,
    )


def _smallest(reading: str) -> str:
    return f"{claims.SMALLEST[reading]:g} at the strength of interest: {_WHY[reading]}"


_WHY = {
    "beyond_skip": "a hundredth of the stream's length",
    "kin_log_probability": "a kin word becomes a fifth more probable",
    "classifier": "five points of a hundred on the judge's scale of probabilities",
    "kin_share": "one text of ten names its emotion",
}

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


def coherent(rng: np.random.Generator, share: float, texts: int) -> tuple[np.ndarray, int]:
    """Shares of coherent texts ``[emotion, prompt]``, both of which differ (0.5 in logits each)."""
    logit = np.log(share / (1 - share)) + rng.normal(0, 0.5, (EMOTIONS, 1)) + rng.normal(0, 0.5, (1, PROMPTS))
    shares = 1 / (1 + np.exp(-logit))
    return rng.binomial(texts, shares) / texts, texts * EMOTIONS * PROMPTS


def window(share: float) -> Draw:
    rule = breaking.window_rule()

    def draw(rng: np.random.Generator) -> str:
        return rule.verdict(Estimate(*crossed_rate(*coherent(rng, share, 3))))

    return draw


def three(repetitive: float, explosive: float) -> Draw:
    def draw(rng: np.random.Generator) -> str:
        shares = [crossed_rate(*coherent(rng, share, 1)) for share in (repetitive, explosive)]
        found, rule = breaking.three_rule(*shares)
        return rule.verdict(found)

    return draw


def _simulation(
    name: str, ids: tuple[str, ...], rule: Rule, smallest: str, null: tuple[str, Draw], effect: tuple[str, Draw]
) -> Simulation:
    return Simulation(name, ids, rule.words, smallest, null[0], null[1], effect[0], effect[1])


def _both(name: str) -> tuple[str, ...]:
    return f"C9.{name}", f"C9.published.{name}"


SIMULATIONS = (
    *(simulation for reading in claims.READINGS for simulation in _signed_simulations(reading)),
    *(simulation for reading in claims.READINGS for simulation in _monotonic_simulations(reading)),
    *(_harm_simulation(reading) for reading in claims.MATCHED_READINGS),
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
        ("half of the texts collapse, 2% explode", three(0.5, 0.02)),
        ("half collapse, a quarter explodes", three(0.5, 0.25)),
    ),
)
