"""The experiments on how emotions separate over depth, from what the model read alone (C6, C7)."""

from __future__ import annotations

from emotrace.study.experiment import FIRST, Experiment, Results, norms
from emotrace.study.separation import axes, claims, figures, localisation, measure, transfer, vectors

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="separation",
        stage=FIRST,
        per_instrument=True,
        question="Separation and localisation",
        tables=("separation",),
        run=lambda study, tables: Results({"separation": measure.separation(study)}),
        beside=("anisotropy",),
        pictures=figures.SEPARATION,
        notebook="02",
    ),
    Experiment(
        name="anisotropy",
        stage=FIRST,
        question="Anisotropy and geometry",
        tables=("anisotropy",),
        run=lambda study, tables: Results({"anisotropy": measure.anisotropy(study)}),
        claims=claims.anisotropy_claims,
        claim_ids=("C7.gemma",),
        pictures=figures.ANISOTROPY,
        notebook="06",
    ),
    Experiment(
        name="geometry",
        per_instrument=True,
        question="Anisotropy and geometry",
        tables=("geometry",),
        run=lambda study, tables: Results({"geometry": axes.geometry_table(study)}),
        requires=norms,
        claims=claims.geometry_claims,
        claim_ids=tuple(f"neighbour.valence.{pooling}" for pooling in claims.POOLINGS),
        pictures=figures.GEOMETRY,
        notebook="02",
    ),
    Experiment(
        name="reliability",
        per_instrument=True,
        question="Separation and localisation",
        tables=("reliability",),
        run=lambda study, tables: Results({"reliability": vectors.reliability_table(study)}),
        notebook="02",
    ),
    Experiment(
        name="localisation",
        per_instrument=True,
        question="Separation and localisation",
        tables=("localisation", "space", "learning_curve"),
        run=lambda study, tables: Results(
            {
                "localisation": localisation.localisation(study, tables),
                "space": localisation.space(study),
                "learning_curve": vectors.learning_curve(study),
            }
        ),
        needs=("separation", "anisotropy"),
        brings=(transfer.EXPERIMENT,),
        claims=claims.localisation_claims,
        claim_ids=tuple(f"{name}.{pooling}" for pooling in claims.POOLINGS for name in claims.LOCALISATION),
        pictures=figures.LOCALISATION,
        notebook="05",
    ),
    Experiment(
        name=transfer.EXPERIMENT,
        question="From one instrument to another",
        tables=("transfer",),
        run=transfer.run,
        extra=True,  # all brings it by localisation
        pictures=figures.TRANSFER,
        notebook="05",
    ),
)
