"""Does what one instrument's texts teach hold for another's? ``transfer.csv``, from what was read of both alone."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pandas as pd

from emotrace.errors import EmotraceError, WriteError
from emotrace.study.experiment import Results, Tables
from emotrace.study.study import Study
from emotrace.transfers import COLUMNS, Side, both_ways, common_emotions

EXPERIMENT = "transfer"


def run(study: Study, tables: Tables) -> Results:
    """``transfer`` of every two instruments of the run (:func:`emotrace.transfers.transfer`); none of a single one.

    Two with fewer than three emotions in common are left out, with that reason, under the second one's name.
    """
    rows: list[dict[str, Any]] = []
    apart: dict[str, list[str]] = {}
    results = Results()
    for first, second in itertools.combinations(study.instruments.values(), 2):
        purpose = f"transfer {first.instrument} {second.instrument} {second.reading.provenance['texts']}"
        try:
            rows += study.unit(purpose, partial(_between, first, second))
        except WriteError:
            raise
        except EmotraceError as error:
            apart.setdefault(second.instrument, []).append(str(error))
    if apart:
        results.left_out[EXPERIMENT] = {name: f"was not measured ({'; '.join(why)})" for name, why in apart.items()}
    if rows:
        results.tables["transfer"] = pd.DataFrame(rows).reindex(columns=COLUMNS)
    return results


def _between(first: Study, second: Study) -> list[dict[str, Any]]:
    names = common_emotions(first.instrument, first.names, second.instrument, second.names)
    sizes, seed = first.settings, first.settings.seed
    sides = [
        Side(part.model_name, part.n_layers, part.source, part.instrument, names, part.reading, seed, sizes.bootstrap)
        for part in (first, second)
    ]
    rows: list[dict[str, Any]] = both_ways(sides[0], sides[1], names, seed, sizes.permutations).to_dict("records")
    return rows
