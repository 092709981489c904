"""What steering does beyond a control, at equal norm and at equal harm: planted effects in closed form."""

import numpy as np
import pytest
from planted_sweeps import EMOTIONS, PERMUTEDS, UNIT, noisy, own_slope, planted

from emotrace.study.effects import contrasts
from emotrace.study.folder import select


def effect(table, contrast: str, control: str = "permuted", match: str = "norm", metric: str = "classifier"):
    return select(table, metric=metric, contrast=contrast, control=control, match=match).iloc[0]


def test_effects_of_equal_norm_are_differences_from_the_control_in_both_directions():
    slopes = dict.fromkeys(PERMUTEDS, 0.5)
    table = contrasts.effects(
        planted(noisy(lambda direction, emotion: slopes.get(direction, own_slope(direction, emotion))))
    )
    for contrast, expected in (("towards", 1.5 * UNIT), ("away", -1.5 * UNIT), ("slope", 1.5 * UNIT), ("rho", 1.0)):
        row = effect(table, contrast)
        assert row["value"] == pytest.approx(expected)
        assert (row["n"], row["prompts"], row["directions"]) == (3, 5, 5)
    assert effect(table, "towards", "gaussian")["value"] == pytest.approx(2.0 * UNIT)
    assert effect(table, "towards", "others")["value"] == pytest.approx(2.0 * UNIT)
    assert not table["control_breaks"].any()


def test_a_dose_response_that_is_perfect_everywhere_has_an_interval_all_the_same():
    row = effect(contrasts.effects(planted(noisy(own_slope))), "rho")
    assert row["value"] == 1  # in each of three emotions, and whatever is left out
    # A share q of other emotions leaves 3 of 3 with probability (1 - q)^3 = 0.025 at q = 0.7076; each has -1 at worst.
    assert (row["low"], row["high"]) == pytest.approx((1 - 2 * 0.70760, 1.0), abs=1e-4)
    assert row["p"] == 0.25
    assert contrasts.at_the_end(-1.0, 20) == pytest.approx((-1, -1, -0.6632, 2**-19), abs=1e-4)


def test_the_interval_covers_controls_that_differ():
    slopes = dict(zip(PERMUTEDS, (-2, -1, 0, 1, 2), strict=True))
    row = effect(contrasts.effects(planted(noisy(lambda d, e: slopes.get(d, own_slope(d, e))))), "towards")
    half = 2.776445 * np.std([-2, -1, 0, 1, 2], ddof=1) / np.sqrt(5) * UNIT  # Student's, 4 degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((2 * UNIT - half, 2 * UNIT + half), rel=1e-5)


def test_a_control_that_breaks_the_text_is_flagged():
    """At the strength of interest the Gaussian directions leave no text whole; nothing else breaks."""
    table = contrasts.effects(planted(noisy(own_slope), lambda source, s: source == "gaussian" and abs(s) > 0.3))
    for contrast in ("towards", "away"):
        row = effect(table, contrast, "gaussian")
        assert row["control_breaks"]
        assert (row["coherent"], row["control_coherent"]) == (1.0, 0.0)
    assert not select(table, control="permuted")["control_breaks"].any()


def test_equal_harm_takes_the_control_at_the_strength_that_does_as_much():
    """Readings fall by what was broken, under any direction; own vectors break at twice the strength that controls do.

    At equal norm the emotions' vectors seem to add 0.5; at the strength where the control breaks as much, nothing.
    """

    def harm(direction: str, strength: float) -> float:
        return abs(strength) if direction in EMOTIONS else 2 * abs(strength)

    swept = planted(lambda direction, emotion, strength, prompt: -harm(direction, strength) if direction else 0.0)
    ratios = [np.exp(harm(row.emotion, row.strength)) if row.emotion else 1.0 for row in swept.texts.itertuples()]
    swept = contrasts.Sweep(swept.texts.assign(perplexity_ratio=ratios), swept.values, EMOTIONS, UNIT)
    table = contrasts.effects(swept)
    assert effect(table, "towards")["value"] == pytest.approx(UNIT)
    matched = effect(table, "towards", match="perplexity")
    assert matched["relative"] == pytest.approx(0.5)
    assert matched["value"] == pytest.approx(0, abs=1e-12)


def test_a_control_that_is_never_as_harmful_is_taken_at_its_largest_strength():
    swept = planted(noisy(own_slope), lambda source, s: source == "emotion" and s > 0.3)
    matched = effect(contrasts.effects(swept), "towards", match="perplexity")
    assert matched["relative"] == pytest.approx(4)
    assert matched["value"] == pytest.approx(2 * UNIT)
    assert matched["control_breaks"]


def test_equal_coherence_interpolates_between_the_strengths_written():
    """All texts of controls are whole up to 0.4 and none at 0.8; under own vectors half of the texts break at 0.4."""
    slopes = dict.fromkeys(PERMUTEDS, 1.0)
    swept = planted(
        noisy(lambda d, e: slopes.get(d, own_slope(d, e))), lambda source, s: source == "permuted" and s > 0.5
    )
    half = (swept.texts["source"] == "emotion") & (swept.texts["strength"] == UNIT) & (swept.texts["seed"] == 0)
    texts = swept.texts.assign(regime=swept.texts["regime"].mask(half, "explosive"))
    matched = effect(
        contrasts.effects(contrasts.Sweep(texts, swept.values, EMOTIONS, UNIT)), "towards", match="coherence"
    )
    assert matched["relative"] == pytest.approx(1.5)  # halfway from 0.4 to 0.8
    assert (matched["coherent"], matched["control_coherent"]) == pytest.approx((0.5, 0.5))
    assert matched["value"] == pytest.approx(2 * UNIT - 1.5 * UNIT)
