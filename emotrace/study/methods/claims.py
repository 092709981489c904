"""The claim that generation separates emotions better (C5), against what was measured; every rule is ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import Claim, Estimate, exceeds, significant

# The paper reads generation while it is written and comprehension at the last token; both poolings are shown.
POOLINGS = {"last": "last token", "mean": "mean over tokens"}
SEPARATION = significant(exceeds(0.02))
"""Of interest from 2% of the variance among texts on one topic on."""
AUTHORSHIP = exceeds(0.05)
"""Of interest from one text in twenty on, which is chance."""


def comparison_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether generation separates better than comprehension; none for a model that wrote no stories."""
    if not len(tables.get("method_comparison", ())):
        return ()
    return [_separation(tables["method_comparison"], pooling) for pooling in POOLINGS]


def _separation(table: pd.DataFrame, pooling: str) -> Claim:
    ours = select(table, sample="intraclass_chosen", pooling=pooling).set_index("metric")
    row = ours.loc["intraclass_difference"]
    half = _row(table, "intraclass_half_depth", pooling, "intraclass_difference")
    cosine, u, d = (
        _row(table, "pairs_chosen", pooling, metric) for metric in ("difference", "mann_whitney_u", "cohens_d")
    )
    return Claim(
        id=f"C5.separation.{pooling}",
        claim=f"C5 generation separates the emotions better than comprehension ({POOLINGS[pooling]})",
        paper="yes: Mann–Whitney p = 0.007, d = −107.5, 7 of 7",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"], row["p"], row["m"] - 1),
        rule=SEPARATION if np.isfinite(row["p"]) else None,  # of two topics a half, none can be left out
        how="intraclass correlation, the emotion's share of the variance among texts on one topic, generation minus "
        f"comprehension (R: {ours.loc['ratio_generation', 'value']:.2f} against "
        f"{ours.loc['ratio_comprehension', 'value']:.2f}), each at the layer that half of the topics chose, on the "
        "other half, both ways round; jackknife interval over topics, p by exchanging the methods topic by topic (m = "
        f"{row['m']:.0f}); at half depth, where nothing is chosen, {half['value']:+.3f} ({half['low']:+.3f} to "
        f"{half['high']:+.3f}, p = {half['p']:.2g}). The paper's measure, the raw cosine between centroids (negative: "
        f"better), {cosine['value']:+.4f} ({cosine['low']:+.4f} to {cosine['high']:+.4f}, p = {cosine['p']:.2g}), on "
        f"{u['n_generation']:.0f} pairs of emotions Mann–Whitney p = {u['p']:.2g} (takes pairs for independent), "
        f"Cohen's d = {d['value']:.2f}"
        + ("" if np.isfinite(row["p"]) else "; too few topics, or stories, for its test"),
    )


def _row(table: pd.DataFrame, sample: str, pooling: str, metric: str) -> pd.Series:
    return select(table, sample=sample, pooling=pooling, metric=metric).iloc[0]


def factorial_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether it is the model's own authorship; none where the difference cannot be taken apart (no stories)."""
    parts = select(tables["factorial_effects"], kind="decomposition", metric="nearest_centroid")
    if parts.empty:
        return ()
    row = select(parts, factor="author").iloc[0]
    others = ", ".join(
        f"{part.factor} {part.value:+.2f} ({part.low:+.2f} to {part.high:+.2f})"
        for part in parts[parts["factor"] != "author"].itertuples()
    )
    ours = row.get("instrument", corpus.MAIN_INSTRUMENT) in corpus.INSTRUMENTS
    claim = Claim(
        id="C5.authorship",
        claim="C5 it is the model's own authorship that makes generation better",
        paper="implied",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"]),
        rule=AUTHORSHIP,
        how="contribution of who wrote the texts (the model itself against "
        f"{'our passages' if ours else 'these texts'}) to the difference in accuracy "
        "on held-out topics between generation and comprehension, averaged over the orders in which author, frame and "
        f"pooling can be changed; bootstrap interval over topics; the other parts: {others}. Author is confounded: "
        f"{_OURS if ours else _THEIRS}. "
        "So a negative value says how well a model of this size writes to a request, not what self-generation does",
    )
    return [claim]


_OURS = (
    "our passages were written to the emotion's definition, alike in length, balanced in person and tense, free of kin "
    "words; the model's stories vary in all of these and are what a filter of kin words left of its attempts"
)
_THEIRS = (
    "the model's stories have about 50 words and are what a filter of kin words left of its attempts; these texts may "
    "differ from them in length, kind and words"
)
