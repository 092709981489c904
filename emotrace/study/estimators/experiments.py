"""The experiments on how vectors are computed and at what precision."""

from __future__ import annotations

from collections.abc import Callable

from emotrace.judges.classifiers import known_labels
from emotrace.judges.layer_choice import readable
from emotrace.study.estimators import claims, figures, layers, measure, precision, steering
from emotrace.study.experiment import STEER, Experiment, Results, Tables, only_data
from emotrace.study.study import Study


def _precision(study: Study, tables: Tables) -> Results:
    """Nothing on a server, whose weights stay as they are."""
    return Results() if study.model.remote else Results({"precision": precision.precision_table(study)})


def steering_by_estimator(study: Study, tables: Tables) -> Results:
    """``estimator_effects``, of a model and a judge that both know an emotion by a word."""

    def lacking() -> str:
        labels, names = known_labels(study.classifier), readable(study.model, study.names)
        return "" if set(names) & set(labels) else "no emotion has kin words of one token and a label of the judge"

    return _unless(lacking, "estimator_steering", study, lambda: {"estimator_effects": steering.effects_table(study)})


def layer_by_effect(study: Study, tables: Tables) -> Results:
    """``layer_strength`` and ``damage``, of a model whose next token can be an emotion's word."""

    def lacking() -> str:
        return "" if readable(study.model, study.names) else "no emotion has kin words of one token"

    def measured() -> Tables:
        return {"layer_strength": layers.layers_table(study), "damage": layers.damage_table(study)}

    return _unless(lacking, "layer_strength", study, measured)


def _unless(lacking: Callable[[], str], experiment: str, study: Study, measured: Callable[[], Tables]) -> Results:
    """What is measured; of a model that lacks something for it nothing, with the reason."""
    if reason := lacking():
        return Results(left_out={experiment: {study.instrument: f"was not measured ({study.model_name}: {reason})"}})
    return Results(measured())


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="estimators",
        question="Estimators and precision",
        tables=("estimators",),
        run=lambda study, tables: Results({"estimators": measure.estimators_table(study)}),
        stage=STEER,  # the embeddings of the emotions' names are the model's
        extra=True,
        claims=claims.gain_claims,
        claim_ids=claims.GAIN_IDS,
        pictures=figures.ESTIMATED,
        notebook="02",
    ),
    Experiment(
        name="precision",
        question="Estimators and precision",
        tables=("precision",),
        run=_precision,
        stage=STEER,
        extra=True,  # reads all texts again at every precision
        claims=claims.precision_claims,
        claim_ids=claims.PRECISION_IDS,
        pictures=figures.PRECISION,
        notebook="06",
    ),
    Experiment(
        name="estimator_steering",
        question="Estimators and precision",
        requires=only_data("words by which the layers of its emotions are compared"),
        tables=("estimator_effects",),
        run=steering_by_estimator,
        needs=("calibration",),
        stage=STEER,
        extra=True,  # writes some texts under every estimator
        claims=claims.steering_claims,
        claim_ids=claims.STEERING_IDS,
        pictures=figures.STEERED,
        notebook="02",
    ),
    Experiment(
        name="layer_strength",
        question="Estimators and precision",
        requires=only_data("words by which the layers of its emotions are compared"),
        tables=("layer_strength", "damage"),
        run=layer_by_effect,
        needs=("calibration",),
        stage=STEER,
        extra=True,  # finds a strength of equal harm at every layer
        claims=claims.layer_claims,
        claim_ids=claims.LAYER_IDS,
        pictures=figures.LAYERS,
        notebook="07",
    ),
)
