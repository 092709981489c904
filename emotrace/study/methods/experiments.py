"""The experiments on generation against comprehension (C5)."""

from __future__ import annotations

from emotrace.study.experiment import GENERATE, Experiment, Results, Tables, only_data
from emotrace.study.methods import claims, figures, measure
from emotrace.study.study import Study

COMPARISON = ("method_comparison", "method_by_layer", "story_rates")
FACTORIAL = ("factorial", "factorial_effects", "factorial_decoding", "factorial_rdm")


def _method_comparison(study: Study, tables: Tables) -> Results:
    both = study.once(measure.measure_methods)
    made = {name: both.tables[name] for name in COMPARISON if name in both.tables}
    return Results(made, both.texts, both.vectors)


def _factorial(study: Study, tables: Tables) -> Results:
    both = study.once(measure.measure_methods)
    return Results({name: both.tables[name] for name in FACTORIAL})


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
        requires=only_data("stories of another author on its topics"),
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
        requires=only_data("stories of another author on its topics"),
        notebook="04",
    ),
)
