"""The claims on what an outside judge confirms (C9), and on what asking for the feeling would have done.

Rules are ours. Scenarios come two an emotion and share its vector: every interval is over emotions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emotrace.measures.statistics import Interval
from emotrace.study.effects.arms import CALIBRATED, PUBLISHED
from emotrace.study.effects.ceilings import CUT, WHOLE
from emotrace.study.effects.claims import SMALLEST
from emotrace.study.effects.contrasts import BREAKS
from emotrace.study.effects.crossed import crossed, crossed_mean, crossed_rate
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import Claim, Estimate, Rule, at_least, exceeds, format_interval, significant

IDS = (
    *("C9.strict", "C9.of_ceiling", "C9.contrast"),
    *("C9.published.strict", "C9.published.of_ceiling", "C9.published.contrast"),
    "C9.over_prompting",
)
PAPER_SUCCESS = 37 / 40
SUCCESS_MARGIN = 0.175
"""Down to three scenarios of four it is still the paper's finding. With fewer allowed than that, 40 scenarios could
hardly bear out 37 of 40 itself."""
SMALLEST_ADVANTAGE = 0.1
"""One scenario in ten more than by asking: less is not worth an intervention in the model."""


def verification_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """C9: an outside classifier sees the emotion in the text; and what asking for it would have done."""
    claims = []
    for arm, prefix in ((CALIBRATED, "C9."), (PUBLISHED, "C9.published.")):
        rows = select(tables["verification"], arm=arm)
        if len(rows):
            ceiling = select(tables["judge_ceiling"], arm=arm)
            claims += [_strict(rows, ceiling, prefix), _of_ceiling(rows, ceiling, prefix), _contrast(rows, prefix)]
    prompting = select(tables["prompting"], where="scenarios") if "prompting" in tables else pd.DataFrame()
    if len(prompting):
        claims.append(_over_prompting(prompting))
    return claims


def _setting(prefix: str) -> str:
    return "" if prefix == "C9." else " (the author's setting, every layer at once)"


def clustered(rows: pd.DataFrame, column: str) -> np.ndarray:
    """The mean of a column for each emotion: its scenarios share a vector and are one cluster."""
    return rows[column].astype(float).groupby(rows["emotion"], sort=False).mean().to_numpy()


def rate(rows: pd.DataFrame, column: str) -> Interval:
    """A rate over scenarios, its interval over emotions."""
    return crossed_rate(clustered(rows, column)[:, None], len(rows))


def strict_rule() -> Rule:
    """The paper's rate, or less than ``SUCCESS_MARGIN`` below."""
    return at_least(PAPER_SUCCESS, SUCCESS_MARGIN)


def testable(ceiling: pd.DataFrame) -> bool:
    """Whether the judge confirms as many texts that do carry the feeling, whole or cut, as the paper reports."""
    return bool((select(ceiling, emotion="all")["high"] >= PAPER_SUCCESS).any())


def of_ceiling(rows: pd.DataFrame, ceiling: pd.DataFrame) -> Estimate:
    """The rate of successes over that at which the judge confirms passages of the same length.

    Interval over emotions, whose rates and ceilings go together.
    """
    successes = rows["success"].astype(float).groupby(rows["emotion"], sort=False).mean()
    highest = select(ceiling, texts=CUT).set_index("emotion")["value"].reindex(successes.index).to_numpy()
    confirmed = successes.to_numpy()

    def ratio(weights: np.ndarray, directions: np.ndarray) -> float:
        most = float(weights[:, 0] @ highest)
        return float(weights[:, 0] @ confirmed) / most if most else np.nan

    value, low, high, _ = crossed(ratio, len(confirmed), 1)
    return Estimate(value, max(low, 0.0), high, len(successes))  # Student's interval knows nothing of the ratio's end


def _ceiling_words(ceiling: pd.DataFrame) -> str:
    rows = select(ceiling, emotion="all").set_index("texts")
    parts = []
    for kind, words in ((WHOLE, "whole"), (CUT, "cut to the length of a steered text")):
        value, low, high = rows.loc[kind, ["value", "low", "high"]]
        parts.append(f"{words} {value:.0%} ({format_interval(low, high)})")
    return f"by the same rule the judge confirms our own passages of the emotions, {', '.join(parts)}"


def _of_ceiling(rows: pd.DataFrame, ceiling: pd.DataFrame, prefix: str) -> Claim:
    return Claim(
        id=f"{prefix}of_ceiling",
        claim=f"C9 as large a share of what the judge can confirm{_setting(prefix)}",
        paper="implied by 37 of 40 (92%), if its judge saw every feeling",
        estimate=of_ceiling(rows, ceiling),
        rule=strict_rule(),
        how="rate of C9.strict over the judge's ceiling, the rate at which it confirms passages cut to the length of a "
        f"steered text; interval over emotions; {_ceiling_words(ceiling)}",
    )


def _strict(rows: pd.DataFrame, ceiling: pd.DataFrame, prefix: str) -> Claim:
    first, measured = rows.iloc[0], rate(rows, "success")
    blind = "" if testable(ceiling) else "; not testable with this judge, which could not confirm 92% of anything"
    controls = "".join(
        f"; of {words} {_successes(rows, column)} pass it"
        for column, words in (("held_out", "held-out permuted-label directions"), ("wrong", "wrong emotions"))
        if rows[column].fillna(0).sum()
    )
    asked = ""
    if "prompted_success" in rows and rows["prompted_success"].notna().all():
        share = rate(rows, "prompted_success")
        asked = f"; unsteered texts that were asked for the feeling pass it in {share.value:.0%} "
        asked += f"({format_interval(share.low, share.high)})"
    return Claim(
        id=f"{prefix}strict",
        claim=f"C9 an outside classifier confirms the steering{_setting(prefix)}",
        paper="37 of 40 (92%)",
        estimate=Estimate(*measured, n=rows["emotion"].nunique()),
        rule=None if blind else strict_rule(),
        how=f"share of scenarios ({int(rows['success'].sum())} of {len(rows)}) in which the target's score rises more "
        f"than under any of {first['m']:.0f} permuted-label vectors of equal norm (p ≤ 0.05), mean over "
        f"{first['n']:.0f} text(s) a scenario; interval over emotions{controls}{asked}; mean rank of the target "
        f"{rows['rank'].mean():.1f} of {first['ranked']:.0f} (chance {(first['ranked'] + 1) / 2:.1f}); coherent texts "
        f"{rows['coherent'].mean():.0%}, under the controls {rows['control_coherent'].mean():.0%}; "
        f"{_ceiling_words(ceiling)}{blind}",
    )


def _successes(table: pd.DataFrame, control: str) -> str:
    """How many directions of a control pass the same test."""
    successes, tested = int(table[f"{control}_successes"].sum()), int(table[control].sum())
    return f"{successes} of {tested} ({successes / tested:.0%})"


def contrast_rule() -> Rule:
    """Of the rise over permuted-label vectors in a scenario: as C8's classifier reading."""
    return significant(exceeds(SMALLEST["classifier"]))


def contrast_estimate(rows: pd.DataFrame) -> Estimate:
    """The rise minus the mean rise under permuted-label vectors, scenario by scenario; interval over emotions."""
    means = clustered(rows.assign(excess=rows["rise"] - rows["permuted_mean"]), "excess")
    value, low, high, p = crossed_mean(means[:, None])
    return Estimate(value, low, high, len(means), p)


def _contrast(rows: pd.DataFrame, prefix: str) -> Claim:
    beside = "".join(
        f"; against {words} {(rows['rise'] - rows[column]).mean():.3g}"
        for column, words in (("random_mean", "Gaussian directions"), ("wrong_mean", "other emotions' vectors"))
        if rows[column].notna().any()
    )
    broken = abs(rows["coherent"].mean() - rows["control_coherent"].mean()) > BREAKS
    return Claim(
        id=f"{prefix}contrast",
        claim=f"C9 the classifier's score rises with steering beyond controls{_setting(prefix)}",
        paper="implied by 37 of 40",
        estimate=contrast_estimate(rows),
        rule=contrast_rule(),
        how="rise of the target's score minus the mean rise under permuted-label vectors of equal norm, mean over "
        f"{len(rows)} scenarios, interval over emotions; it rises at all in {(rows['rise'] > 0).mean():.0%}, under "
        f"the controls in {rows['permuted_positive'].mean():.0%}{beside}"
        + ("; [the control breaks the text otherwise]" if broken else ""),
    )


def prompting_rule() -> Rule:
    """Steering has to be confirmed in one scenario in ten more than asking is."""
    return significant(exceeds(SMALLEST_ADVANTAGE))


def _over_prompting(prompting: pd.DataFrame) -> Claim:
    row = select(prompting, metric="success", emotion="all").iloc[0]
    rise = select(prompting, metric="classifier", emotion="all").iloc[0]
    return Claim(
        id="C9.over_prompting",
        claim="C9 steering is confirmed more often than asking for the feeling",
        paper="not the paper's; AxBench (2025): a prompt beats steering",
        estimate=Estimate(*(float(row[column]) for column in ("value", "low", "high", "n", "p"))),
        rule=prompting_rule(),
        how=f"share of scenarios that pass the test of C9.strict, steered ({row['steering']:.0%}) minus unsteered "
        f"after a request for the feeling ({row['prompting']:.0%}; rise over the same request without one), paired, "
        f"interval over emotions; rise of the score {rise['steering']:.3g} against {rise['prompting']:.3g} (difference "
        f"{rise['value']:.3g}, {format_interval(rise['low'], rise['high'])})",
    )
