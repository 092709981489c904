"""The experiments on generation against comprehension (C5)."""

from __future__ import annotations

from emotrace.instrument.instrument import Instrument
from emotrace.study.experiment import GENERATE, Experiment, Results, Tables
from emotrace.study.methods import claims, design, figures, measure
from emotrace.study.study import Study

COMPARISON = ("method_comparison", "method_by_layer", "story_rates")
FACTORIAL = ("factorial", "factorial_effects", "factorial_decoding", "factorial_rdm")


def _topics(instrument: Instrument) -> str:
    """Stories are asked for on topics; folds of texts are none."""
    least = design.FEWEST_TOPICS
    if instrument.has_topics and len(instrument.topics) >= least:
        return ""
    return f"needs {least} topics that the model can write stories on"


def _method_comparison(study: Study, tables: Tables) -> Results:
    both = study.once(measure.measure_methods)
    made = {name: both.tables[name] for name in COMPARISON if name in both.tables}
    return Results(made, both.texts, both.vectors)


def _factorial(study: Study, tables: Tables) -> Results:
    both = study.once(measure.measure_methods)
    return Results({name: both.tables[name] for name in FACTORIAL if name in both.tables})


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="method_comparison",
        question="Comprehension and generation",
        tables=COMPARISON,
        run=_method_comparison,
        texts=("stories",),
        stage=GENERATE,
        claims=claims.comparison_claims,
        claim_ids=tuple(f"C5.separation.{pooling}" for pooling in claims.POOLINGS),
        pictures=figures.COMPARISON,
        over_models=measure.over_models,
        requires=_topics,
        notebook="03",
    ),
    Experiment(
        name="factorial",
        question="Comprehension and generation",
        tables=FACTORIAL,
        run=_factorial,
        needs=("method_comparison",),
        stage=GENERATE,
        claims=claims.factorial_claims,
        claim_ids=("C5.authorship",),
        pictures=figures.FACTORIAL,
        requires=_topics,
        notebook="04",
    ),
)
