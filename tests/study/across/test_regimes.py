"""Regimes of several models: shares at common strengths, contrasts of how they break."""

import numpy as np
import pandas as pd
import pytest
from planted_streams import EMOTIONS, FACTS

from emotrace.judges.regimes import EXPLOSIVE, REPETITIVE, SHORT, SURGICAL
from emotrace.study.across import regimes as across_regimes
from emotrace.study.folder import select


def regime_table() -> pd.DataFrame:
    rows = []
    shares = {"a": (0.5, 0.5, 0.0), "b": (0.0, 0.25, 0.75), "c": (0.75, 0.0, 0.25)}
    for model, relative in [("a", 1), ("a", 4), ("b", 1), ("b", 4), ("c", 1), ("c", 4), ("c", 2)]:
        for emotion in (*EMOTIONS[:3], "all", "permuted", "permuted-1", "random", "random-1", "unsteered"):
            surgical, collapse, explosive = shares[model] if relative == 4 else (1.0, 0.0, 0.0)
            rows.append(
                {
                    "model": model,
                    "arm": "calibrated",
                    "relative": relative + 1e-9,
                    "strength": relative / 10,
                    "emotion": emotion,
                    "n": 8,
                    "surgical": surgical,
                    "repetitive_collapse": collapse,
                    "explosive": explosive,
                    "too_short": 0.0,
                }
            )
    return pd.DataFrame(rows)


def test_shares_of_the_regimes_at_common_strengths():
    table = regime_table()
    both = pd.concat([table, table.assign(arm="published", relative=1.0, surgical=0.0)])
    counts = across_regimes.regime_counts(both, list(FACTS))
    assert set(counts["relative"]) == {1, 4}  # 2 was given to one model only
    assert set(counts["emotion"]) == {*EMOTIONS[:3], "permuted", "random"}
    shares = across_regimes.regime_shares(counts, 50, 0)
    assert set(shares["direction"]) == {"emotions", "permuted", "random"}
    row = select(shares, model="b", relative=4, direction="emotions").set_index("regime")
    assert row["value"].to_dict() == {
        SURGICAL: 0,
        REPETITIVE: 0.25,
        EXPLOSIVE: 0.75,
        SHORT: 0,
        across_regimes.BROKEN: 0.25,
    }
    assert row.loc[REPETITIVE, "n"] == 24
    assert row.loc[REPETITIVE, "low"] < 0.25 < row.loc[REPETITIVE, "high"]
    broken = select(shares, model="a", relative=1, direction="random", regime=across_regimes.BROKEN).iloc[0]
    assert broken["n"] == 0
    assert np.isnan(broken["value"])


def test_contrasts_of_how_models_break():
    counts = across_regimes.regime_counts(regime_table(), list(FACTS))
    table = across_regimes.regime_contrasts(counts, FACTS, 50, 0)
    # Model c has 6 broken texts, too few; nothing breaks at 1.
    assert table[["model_a", "model_b", "relative"]].to_numpy().tolist() == [["a", "b", 4.0]]
    row = table.iloc[0]
    assert row["value"] == pytest.approx(1.0 - 0.25)
    assert (row["n_a"], row["n_b"], row["size_ratio"], row["same_family"]) == (12, 24, 3.0, False)
    assert row["p"] == pytest.approx(0.25, abs=0.15)  # of three emotions, 2 of 8 exchanges differ as much


def test_the_p_of_a_contrast_takes_emotions_for_the_unit():
    always, never = np.tile([9.0, 0.0], (12, 1)), np.tile([0.0, 9.0], (12, 1))
    assert across_regimes._exchanged_p(always, never, 1999, 0) == 1 / 2000
    one = np.where(np.arange(12)[:, None] == 3, always, never)  # nine texts under a single emotion
    assert across_regimes._exchanged_p(one, never, 1999, 0) == 1
    rng = np.random.default_rng(0)
    p = []
    for _ in range(200):  # emotions break each in their own way, texts under one alike; models do not differ
        shares = rng.beta(0.3, 0.3, size=(2, 12))
        broken = np.stack([rng.binomial(9, shares), 9 - rng.binomial(9, shares)], axis=-1).astype(float)
        p.append(across_regimes._exchanged_p(broken[0], broken[1], 199, 0))
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean(np.array(p) <= 0.3) > 0.15
