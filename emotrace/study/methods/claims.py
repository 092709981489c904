"""The claim that generation separates emotions better (C5), against what was measured; every rule is ours."""

from __future__ import annotations

from typing import Any

import pandas as pd

from emotrace.study.folder import select

# The paper reads generation while it is written and comprehension at the last token; both poolings are shown.
_POOLINGS = {"last": "last token", "mean": "mean over tokens"}


def rows(tables: dict[str, pd.DataFrame], verdict: Any) -> list[dict[str, Any]]:
    """The rows of one model. ``verdict`` turns a bool into a verdict's words."""
    found: list[dict[str, Any]] = []
    if len(tables.get("method_comparison", ())):
        found += [
            _separation(tables["method_comparison"], pooling, words, verdict) for pooling, words in _POOLINGS.items()
        ]
    if len(tables.get("factorial_effects", ())):
        found += _parts(tables["factorial_effects"], verdict)
    return found


def _separation(table: pd.DataFrame, pooling: str, words: str, verdict: Any) -> dict[str, Any]:
    rows = select(table, sample="pairs_chosen", pooling=pooling).set_index("metric")
    row, d, u = rows.loc["difference"], rows.loc["cohens_d"], rows.loc["mann_whitney_u"]
    half = select(table, sample="pairs_half_depth", pooling=pooling, metric="difference").iloc[0]
    return {
        "claim": f"C5 generation separates the emotions better than comprehension ({words})",
        "paper": "yes: Mann–Whitney p = 0.007, d = −107.5, 7 of 7", "measured": row["value"], "low": row["low"],
        "high": row["high"], "n": row["n"], "verdict": verdict(row["high"] < 0 and row["p"] < 0.05),
        "how": f"mean pairwise cosine of the emotions' centroids, generation minus comprehension, each at the layer that half of the topics "
        f"chose, on the other half (negative: better); bootstrap interval over topics; texts swapped within cells p = {row['p']:.3g} "
        f"(m = {row['m']:.0f}); on the {u['n_generation']:.0f} pairs Mann–Whitney p = {u['p']:.2g} (takes pairs for independent), Cohen's "
        f"d = {d['value']:.2f}; at half depth, where nothing is chosen, the difference is {half['value']:+.3g} "
        f"({half['low']:+.3g} to {half['high']:+.3g}, p = {half['p']:.3g}); reproduced if the interval is below 0 and the permutation p < 0.05",
    }  # fmt: skip


def _parts(table: pd.DataFrame, verdict: Any) -> list[dict[str, Any]]:
    """How much of the difference in decoding is author, frame and pooling: the factorial's decomposition."""
    rows = select(table, kind="decomposition", metric="nearest_centroid")
    found = []
    for row in rows.itertuples():
        if row.factor == "author":
            found.append({
                "claim": "C5 it is the model's own authorship that makes generation better", "paper": "implied",
                "measured": row.value, "low": row.low, "high": row.high, "n": row.n, "verdict": verdict(row.low > 0),
                "how": "contribution of who wrote the texts (the model itself against our passages) to the difference in accuracy on held-out "
                "topics between generation and comprehension, averaged over the orders in which author, frame and pooling can be changed; "
                "bootstrap interval over topics; the other parts: " + ", ".join(
                    f"{other.factor} {other.value:+.2f} ({other.low:+.2f} to {other.high:+.2f})"
                    for other in rows.itertuples() if other.factor != "author"
                ) + "; reproduced if the interval is above 0",
            })  # fmt: skip
    return found
