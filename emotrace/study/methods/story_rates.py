"""How often a model's stories passed the check, and why not: ``story_rates.csv`` (C3)."""

from __future__ import annotations

import pandas as pd

from emotrace.instrument.stories import STATUSES
from emotrace.measures.statistics import wilson


def story_rates(stories: pd.DataFrame) -> pd.DataFrame:
    """How often what happened: one row a class (and ``all``) and metric, with Wilson's 95% interval.

    Metrics over attempts: each of ``STATUSES``, ``leaks_any`` (a kin word of any class), ``ended`` (by end-of-text),
    ``cut``. Over stories asked for: ``filled``, those that were kept in the end.
    """
    rows = []
    for emotion, part in [("all", stories), *stories.groupby("emotion", sort=False)]:
        events = {status: part["status"] == status for status in STATUSES}
        events["leaks_any"] = (part["leaks"] != "") | (part["other_leaks"] != "")
        events |= {"ended": part["ended"], "cut": part["cut"]}
        events["filled"] = events["kept"].groupby([part["topic"], part["emotion"], part["story"]]).any()
        for metric, event in events.items():
            interval = wilson(int(event.sum()), len(event))
            rows.append({"emotion": emotion, "metric": metric, **interval._asdict(), "n": len(event)})
    return pd.DataFrame(rows)
