"""The claims on steering's dose response (C8) against what was measured; C9 in ``success``, C10 in ``breaking``.

Every rule is ours and stands in ``how``; only claims whose experiment was run appear. An effect is what steering does
*beyond* vectors of permuted labels of equal norm, on the same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emotrace.study.effects.arms import CALIBRATED, GAUSSIAN, PERMUTED, PUBLISHED, PUBLISHED_STRENGTH
from emotrace.study.effects.contrasts import AWAY, COHERENCE, NORM, PERPLEXITY, RHO, SLOPE, TOWARDS
from emotrace.study.effects.dose import OTHERS, holm
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import Claim, Estimate, Rule, exceeds, format_estimate, significant

READINGS = {
    "beyond_skip": "the residual stream at a later layer, beyond what the skip connection carries",
    "kin_log_probability": "the next token being a kin word",
    "classifier": "the outside classifier's score of the text",
    "kin_share": "the share of kin words in the text",
}
PUBLISHED_READINGS = ("kin_log_probability", "classifier", "kin_share")
MATCHED_READINGS = PUBLISHED_READINGS

DOSE_IDS = (
    *(f"C8.{claim}.{reading}" for reading in READINGS for claim in ("monotonic", TOWARDS, AWAY)),
    *(f"C8.equal_harm.{reading}" for reading in MATCHED_READINGS),
    *(f"C8.published.{claim}.{reading}" for reading in PUBLISHED_READINGS for claim in ("monotonic", TOWARDS, AWAY)),
)

SMALLEST = {
    # A hundredth of the stream's length: an edit of a tenth to half of it (what was calibrated on the packaged models)
    # that changes by less is passed on as it was.
    "beyond_skip": 0.01,
    # A kin word becomes a fifth more probable (e^0.2 = 1.22).
    "kin_log_probability": 0.2,
    # Five points of a hundred on the judge's scale, which is one of probabilities.
    "classifier": 0.05,
    # One kin word more in 200 words, that is in one text of ten at the length written.
    "kin_share": 0.005,
}
"""The smallest effects of interest of C8, at the strength where effects are read."""
SMALLEST_RHO, FEW_RHO = 0.5, 0.25
"""Of four doses in order by a reading, ρ of 0.8 and 0.6 have neighbours exchanged; at 0.4 one stands two places off.
A quarter is the mean over emotions if one in four responds and the others do as control directions do, whose curves
rise or fall by chance: the interval has to exclude it."""
MONOTONIC = significant(exceeds(SMALLEST_RHO - FEW_RHO, FEW_RHO))
"""Of the mean ρ alone. Single emotions are counted beside it and decide nothing: Page's test has the prompts as units,
which share a direction's slope, so that a random direction passes it too; and beyond the slopes of a dozen random
directions hardly an emotion stands out by itself. Both counts stand in ``how``."""


# -- C8 ---------------------------------------------------------------------------------------------------------------


def dose_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """C8 in both arms: each reading grows with strength, and moves both ways with its sign, beyond controls."""
    claims = []
    for arm, readings in ((CALIBRATED, tuple(READINGS)), (PUBLISHED, PUBLISHED_READINGS)):
        effects = select(tables["steering_effects"], arm=arm)
        for reading in readings:
            rows = select(effects, metric=reading)
            if rows.empty:  # no kin word is one token, or the arm was not run
                continue
            trends = select(tables["monotonicity"], arm=arm, metric=reading)
            steps = _at_every_step(select(tables["dose_response"], arm=arm, metric=reading))
            made = [
                _monotonic(rows, trends, reading, steps),
                _signed(rows, reading, TOWARDS),
                _signed(rows, reading, AWAY),
            ]
            if arm == CALIBRATED and reading in MATCHED_READINGS:
                made.append(_matched(rows, reading))
            claims += [claim for claim in made if claim]
    return claims


def _prefix(rows: pd.DataFrame) -> str:
    return "C8." if rows["arm"].iloc[0] == CALIBRATED else "C8.published."


def _where(rows: pd.DataFrame) -> str:
    if rows["arm"].iloc[0] == CALIBRATED:
        return "the calibrated strength"
    return f"{PUBLISHED_STRENGTH:g} norms at every layer (the author's setting)"


def _setting(rows: pd.DataFrame) -> str:
    """What a title adds where the arm is not the calibrated one."""
    return "" if rows["arm"].iloc[0] == CALIBRATED else ", the author's setting, every layer at once"


def _row(rows: pd.DataFrame, contrast: str, control: str = PERMUTED, match: str = NORM) -> pd.Series | None:
    found = select(rows, contrast=contrast, control=control, match=match)
    return found.iloc[0] if len(found) else None


def _estimate(row: pd.Series) -> Estimate:
    return Estimate(*(float(row[column]) for column in ("value", "low", "high", "n", "p")))


def _beside(rows: pd.DataFrame, contrast: str) -> str:
    """The other controls, and the flag of those that break the text, for ``how``."""
    parts = []
    for control, words in ((GAUSSIAN, "Gaussian directions"), (OTHERS, "the other emotions' vectors")):
        row = _row(rows, contrast, control)
        if row is not None:
            flag = _flag(row)
            parts.append(f"against {words} {format_estimate(row)}{flag}")
    return "".join(f"; {part}" for part in parts)


def _flag(row: pd.Series) -> str:
    if not bool(row["control_breaks"]):
        return ""
    return (
        f" [this control breaks the text otherwise: {row['control_coherent']:.0%} of its texts are coherent, "
        f"{row['coherent']:.0%} under the emotions' vectors]"
    )


def _single(trends: pd.DataFrame) -> str:
    """How many emotions rise by themselves: by a test that a random direction may pass, and by one that it does not."""
    apart, single = (trends["beyond"] < 0.05).sum(), (holm(list(trends["beyond"])) < 0.05).sum()
    return (
        f"of {len(trends)} emotions by themselves {apart} have a slope that one more permuted-label direction would "
        f"have with p < 0.05, {single} after Holm's correction; {(trends['p_holm'] < 0.05).sum()} rise by Page's test "
        "over prompts (Holm), which a random direction with a slope of its own may pass too: the mean |ρ| of their "
        f"curves is {trends['permuted_abs_rho'].mean():.2f}"
    )


def _at_every_step(doses: pd.DataFrame) -> str:
    """How many emotions' mean readings, minus the controls', rise from each strength to the next, as monotony asks."""
    inside = doses[(doses["emotion"] != "all") & (doses["relative"].abs() <= 1 + 1e-9)]
    excess = inside.assign(excess=inside["value"] - inside["permuted"]).sort_values("relative")
    rises = [(np.diff(rows["excess"]) > 0).all() for _, rows in excess.groupby("emotion")]
    return f"{sum(rises)} of {len(rises)} emotions rise at every step"


def _monotonic(rows: pd.DataFrame, trends: pd.DataFrame, reading: str, steps: str) -> Claim | None:
    row, slope = _row(rows, RHO), _row(rows, SLOPE)
    if row is None or slope is None or trends.empty:
        return None
    return Claim(
        id=f"{_prefix(rows)}monotonic.{reading}",
        claim=f"C8 the dose response rises with strength, on average ({READINGS[reading]}{_setting(rows)})",
        paper="monotonic",
        estimate=_estimate(row),
        rule=MONOTONIC,
        how=f"Spearman's ρ with strength, up to {_where(rows)}, of an emotion's reading under its own vector minus "
        f"under permuted-label vectors of equal norm (mean of {row['directions']:.0f}) over {row['prompts']:.0f} "
        f"prompts; mean over {len(trends)} emotions, interval over emotions, prompts and control directions; slope of "
        f"the difference {format_estimate(slope)} a unit of strength"
        f"{_flag(row)}; {steps}; {_single(trends)}",
    )


def signed_rule(reading: str, contrast: str) -> Rule:
    """An effect of the direction's sign, no smaller than the reading's smallest effect of interest."""
    return significant(exceeds(SMALLEST[reading] * (1 if contrast == TOWARDS else -1)))


def _signed(rows: pd.DataFrame, reading: str, contrast: str) -> Claim | None:
    """Steering towards an emotion raises its reading, steering away lowers it."""
    row = _row(rows, contrast)
    if row is None:
        return None
    steering = "towards an emotion raises" if contrast == TOWARDS else "away from an emotion lowers"
    return Claim(
        id=f"{_prefix(rows)}{contrast}.{reading}",
        claim=f"C8 steering {steering} {READINGS[reading]}{_setting(rows)}",
        paper="both directions of sign",
        estimate=_estimate(row),
        rule=signed_rule(reading, contrast),
        how=f"an emotion's reading under its own vector minus under permuted-label vectors of equal norm "
        f"({row['directions']:.0f} of them), at {'+' if contrast == TOWARDS else '−'}1 × {_where(rows)}, same prompts "
        f"({row['prompts']:.0f}); mean over {row['n']:.0f} emotions, interval over emotions, prompts and control "
        f"directions{_flag(row)}{_beside(rows, contrast)}",
    )


def _matched(rows: pd.DataFrame, reading: str) -> Claim | None:
    row, coherence = _row(rows, TOWARDS, match=PERPLEXITY), _row(rows, TOWARDS, match=COHERENCE)
    if row is None or coherence is None:
        return None
    return Claim(
        id=f"C8.equal_harm.{reading}",
        claim=f"C8 steering towards an emotion raises {READINGS[reading]} at equal harm",
        paper="implied",
        estimate=_estimate(row),
        rule=signed_rule(reading, TOWARDS),
        how="an emotion's reading at the calibrated strength minus that under permuted-label vectors at the strength "
        f"at which *their* texts have the same mean log perplexity ratio ({row['relative']:.2g} × the emotion's, "
        f"interpolated); where the same share of texts is coherent ({coherence['relative']:.2g} ×): "
        f"{format_estimate(coherence)}; interval over "
        f"{row['n']:.0f} emotions, {row['prompts']:.0f} prompts and {row['directions']:.0f} control directions",
    )


def calibration_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """C8: the largest strength when every layer is edited at once, with our vectors."""
    row = select(tables["calibration"], setting="all layers").iloc[0]
    every_layer = Claim(
        id="C8.all_layers",
        claim="C8 strengths that work when every layer is edited",
        paper="flip at 0.02–0.03, saturation past 0.05 (GPT-2)",
        estimate=Estimate(row["window_high"], n=row["n"]),
        rule=None,
        how="the paper's figures are GPT-2's. Here: the largest strength at which at least 90% of texts are surgical "
        "when the vector of each layer is added at every layer; towards the negative side "
        f"{row['window_low']:.3g}. Mean-pooled vectors and one norm a layer: the author's own setting is C8.published",
    )
    return [every_layer]
