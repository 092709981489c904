"""How often the rules on steering err (C8; C9 and C10 in ``effects_texts``): simulated readings, the shipped measures.

Sizes are those of a full run: 20 emotions, 8 prompts, 12 permuted-label directions (8 in the author's arm), 3 texts a
prompt and dose under an emotion's own vector and one under a control. The noise is about that of the packaged models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from emotrace.study.effects import claims, contrasts, dose
from emotrace.study.effects.arms import EMOTION, GAUSSIAN, PERMUTED
from emotrace.study.verdicts import Estimate

from . import Draw, Simulation
from .effects_texts import EMOTIONS, PROMPTS, TEXT_SIMULATIONS


class Noise(NamedTuple):
    """Standard deviations of one reading, for one unit of strength: of single texts, and of effects over emotions,
    over prompts, over directions in each emotion's reading, and over directions in all emotions' readings together."""

    text: float
    emotion: float
    prompt: float
    direction: float
    common: float = 0.0


NOISE = {
    "beyond_skip": Noise(0.005, 0.02, 0.01, 0.01),
    "kin_log_probability": Noise(0.1, 0.8, 0.5, 0.8),
    "classifier": Noise(0.2, 0.1, 0.05, 0.06),
    "kin_share": Noise(0.02, 0.003, 0.001, 0.001),
}
"""Of the order that a quick run of SmolLM2-135M-Instruct shows; of ``kin_share``, all 0 there, a guess."""
PUBLISHED_NOISE = {
    "kin_log_probability": Noise(0.1, 1.2, 1.0, 2.1, 1.8),
    "classifier": Noise(0.15, 0.1, 0.05, 0.125, 0.06),
    "kin_share": Noise(0.006, 0.002, 0.001, 0.001, 0.0006),
}
"""Of the author's arm, from ``dose_response.csv`` of the three packaged models at its strength: the spread of the
emotions' excess, of the prompts, and (from the ranges of the eight control directions) of a direction in one emotion's
reading and in the mean over all. The half-widths that follow are those measured (``tests/test_verdict_rates.py``)."""
EFFECTS = {"beyond_skip": 0.03, "kin_log_probability": 1.2, "classifier": 0.15, "kin_share": 0.015}
"""The paper gives a sign and no size: three times the smallest effect of interest; of the next token, whose noise is
larger, six times, about what that run shows."""
MEASURED = {"kin_log_probability": 3.0}
"""In the author's arm, about what the three packaged models show there (1.9 to 4.2), where it is beyond ``EFFECTS``."""


class Arm(NamedTuple):
    """One way of steering: how its claims' ids begin, its control directions, strengths, and the noise by reading."""

    prefix: str
    directions: int
    strengths: tuple[float, ...]
    noise: dict[str, Noise]


CALIBRATED = Arm("C8", 12, (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0), NOISE)
PUBLISHED = Arm("C8.published", 8, (-1.0, -0.25, 0.0, 0.25, 1.0, 4.0), PUBLISHED_NOISE)
ARMS = (CALIBRATED, PUBLISHED)


def sweep(
    rng: np.random.Generator, arm: Arm, noise: Noise, effect: float, shared: float = 0.0, emotions: float = 1.0
) -> dose.Curves:
    """Readings that change in proportion to strength: by ``effect`` under an emotion's own vector (in a share
    ``emotions`` of them), by ``shared`` under any direction."""
    strengths = np.array(arm.strengths)

    def under(count: int, own: bool) -> np.ndarray:
        directions = rng.normal(shared, noise.direction, (count, EMOTIONS, 1, 1))
        if noise.common:
            directions = directions + rng.normal(0, noise.common, (count, 1, 1, 1))
        prompts = rng.normal(0, noise.prompt, (1, EMOTIONS, 1, PROMPTS)) if own else 0.0
        slopes = directions + prompts + np.zeros((count, EMOTIONS, 1, PROMPTS))
        if own:
            gain = rng.normal(effect, noise.emotion, EMOTIONS) * (np.arange(EMOTIONS) < emotions * EMOTIONS)
            of_prompts = rng.normal(0, noise.prompt, PROMPTS)
            for index in range(EMOTIONS):
                slopes[index, index, 0] += gain[index] + of_prompts
        texts = np.where(own & (np.abs(strengths) <= 1), 3, 1)[:, None]
        read = rng.normal(0, noise.text, (count, EMOTIONS, len(strengths), PROMPTS)) / np.sqrt(texts)
        curve = slopes * strengths[:, None] + read
        curve[:, :, strengths == 0] = 0
        return curve

    blocks = {EMOTION: under(EMOTIONS, True), PERMUTED: under(arm.directions, False)}
    blocks[GAUSSIAN] = np.empty((0, *blocks[PERMUTED].shape[1:]))
    return dose.Curves(strengths, 1.0, blocks, tuple(f"e{number}" for number in range(EMOTIONS)))


def estimate(found: dose.Curves, kind: str) -> Estimate:
    made = contrasts.contrast(found, PERMUTED, kind)
    assert made is not None
    return Estimate(made.value, made.low, made.high, EMOTIONS, made.p)


def signed(arm: Arm, reading: str, kind: str, effect: float, shared: float = 0.0) -> Draw:
    rule, sign = claims.signed_rule(reading, kind), 1 if kind == contrasts.TOWARDS else -1

    def draw(rng: np.random.Generator) -> str:
        return rule.verdict(estimate(sweep(rng, arm, arm.noise[reading], effect, sign * shared), kind))

    return draw


def monotonic(arm: Arm, reading: str, effect: float, shared: float = 0.0, emotions: float = 1.0) -> Draw:
    def draw(rng: np.random.Generator) -> str:
        found = sweep(rng, arm, arm.noise[reading], effect, shared, emotions)
        return claims.MONOTONIC.verdict(estimate(found, contrasts.RHO))

    return draw


def equal_harm(reading: str, effect: float) -> Draw:
    """The control breaks texts at half the strength that an emotion's vector needs, and broken texts read higher."""
    rule = claims.signed_rule(reading, contrasts.TOWARDS)

    def draw(rng: np.random.Generator) -> str:
        found = sweep(rng, CALIBRATED, NOISE[reading], effect)
        harm = sweep(rng, CALIBRATED, Noise(0.3, 0.1, 0.1, 0.1), 0.0)
        size = np.abs(found.strengths)[:, None]
        for source, factor in ((EMOTION, 1.0), (PERMUTED, 2.0)):
            harm.under[source] += factor * size
            found.under[source] += 2 * claims.SMALLEST[reading] * factor * size
        harm.under[PERMUTED][:] = harm.under[PERMUTED][:, :1]  # a text's harm is the same whatever emotion is read
        harm.under[EMOTION][:] = harm.under[EMOTION][:, :1]
        made, _ = contrasts.matched(found, PERMUTED, harm, 1.0)
        return rule.verdict(Estimate(made.value, made.low, made.high, EMOTIONS, made.p))

    return draw


def _name(arm: Arm) -> str:
    """In front of a simulation's name, which seeds its draws; nothing for the calibrated arm."""
    return "published." if arm == PUBLISHED else ""


def _signed_simulations(arm: Arm, reading: str) -> list[Simulation]:
    smallest, effect, noise = claims.SMALLEST[reading], EFFECTS[reading], arm.noise[reading]
    spread = (
        f"standard deviations: {noise.text:g} of a text, {noise.emotion:g} over emotions, {noise.prompt:g} over "
        f"prompts, {noise.direction:g} over control directions"
    )
    if noise.common:
        spread += f" in one emotion's reading and {noise.common:g} in all of them, {arm.directions} directions"
    made = [
        Simulation(
            name=f"{_name(arm)}{kind}.{reading}",
            claims=(f"{arm.prefix}.{kind}.{reading}",),
            rule=claims.signed_rule(reading, kind).words,
            smallest=_smallest(reading),
            null=f"every direction moves the reading by the smallest effect, an emotion's own no more; {spread}",
            draw_null=signed(arm, reading, kind, 0.0, smallest),
            effect=f"the own vector adds {effect:g} (the paper gives a sign, no size)",
            draw_effect=signed(arm, reading, kind, effect),
        )
        for kind in (contrasts.TOWARDS, contrasts.AWAY)
    ]
    if arm == PUBLISHED and reading in MEASURED:
        measured = MEASURED[reading]
        made += [
            _stronger(one, measured, signed(arm, reading, kind, measured))
            for one, kind in zip(made, (contrasts.TOWARDS, contrasts.AWAY), strict=True)
        ]
    return made


def _stronger(one: Simulation, size: float, draw: Draw) -> Simulation:
    """The same with an effect of the size that was measured."""
    words = f"{size:g} a unit of strength, about what was measured"
    return replace(one, name=f"{one.name}.measured", null="", draw_null=None, effect=words, draw_effect=draw)


def _monotonic_simulations(arm: Arm, reading: str) -> list[Simulation]:
    smallest, slope = claims.SMALLEST[reading], 2 * EFFECTS[reading]
    made = Simulation(
        name=f"{_name(arm)}monotonic.{reading}",
        claims=(f"{arm.prefix}.monotonic.{reading}",),
        rule=claims.MONOTONIC.words,
        smallest=f"ρ = {claims.SMALLEST_RHO:g}: at 0.4 and below one dose of four stands two places off",
        null="every direction raises the reading alike, noise as above",
        draw_null=monotonic(arm, reading, 0.0, smallest),
        effect=f"a slope of {slope:g} in every emotion",
        draw_effect=monotonic(arm, reading, slope),
        draws=100,
    )
    few = replace(
        made,
        name=f"{_name(arm)}monotonic.few.{reading}",
        null=f"a slope of {slope:g} in a quarter of the emotions, none in the others",
        draw_null=monotonic(arm, reading, slope, emotions=0.25),
        effect="",
        draw_effect=None,
    )
    if arm == PUBLISHED and reading in MEASURED:
        return [made, few, _stronger(made, MEASURED[reading], monotonic(arm, reading, MEASURED[reading]))]
    return [made, few]


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


SIMULATIONS = (
    *(simulation for arm in ARMS for reading in arm.noise for simulation in _signed_simulations(arm, reading)),
    *(simulation for arm in ARMS for reading in arm.noise for simulation in _monotonic_simulations(arm, reading)),
    *(_harm_simulation(reading) for reading in claims.MATCHED_READINGS),
    *TEXT_SIMULATIONS,
)
NOTES = """In the author's arm (`C8.published.*`) a control direction raises or lowers the kin words of all emotions
together, and eight of them average that out little, whatever the number of emotions and prompts. An effect of 1.2 nats,
six times the smallest of interest, is seldom found there: *inconclusive* is the usual answer. `C8.monotonic.*` rests on
the mean ρ alone; where it is 1 in every emotion the interval is that of so many emotions alike. `C10.three` asks for
intervals above the margin, and leaves a share of 0.16 open more often than not.
"""
