"""The one list of experiments. To add one: a folder with its record, and a line here (``docs/extending.md``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd
from threadpoolctl import threadpool_limits

from emotrace import arguments
from emotrace.errors import unknown
from emotrace.study.effects.experiments import EXPERIMENTS as EFFECTS
from emotrace.study.estimators.experiments import EXPERIMENTS as ESTIMATORS
from emotrace.study.experiment import STAGES, Experiment, Results, Tables, instruments, of_instrument
from emotrace.study.languages.experiments import EXPERIMENTS as LANGUAGES
from emotrace.study.methods.experiments import EXPERIMENTS as METHODS
from emotrace.study.reading.experiments import EXPERIMENTS as READING
from emotrace.study.separation.experiments import EXPERIMENTS as SEPARATION
from emotrace.study.study import Study
from emotrace.study.verdicts import Claim

EXPERIMENTS: tuple[Experiment, ...] = (*SEPARATION, *METHODS, *EFFECTS, *LANGUAGES, *READING, *ESTIMATORS)
NAMES = tuple(experiment.name for experiment in EXPERIMENTS if experiment.selectable)
ALL = tuple(experiment.name for experiment in EXPERIMENTS if experiment.selectable and not experiment.extra)
"""What ``all`` stands for."""
"""What ``emotrace run --experiments`` takes."""
CLAIMS_FIRST = (
    "localisation",
    "anisotropy",
    "geometry",
    "method_comparison",
    "factorial",
    "dose_response",
    "verification",
    "regimes",
)
"""Experiments whose claims lead ``claims.csv``; those of others follow in the order of the list."""

_BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}
# Which experiment makes what.
TABLES = {table: experiment for experiment in EXPERIMENTS for table in experiment.tables}
TEXTS = {texts: experiment for experiment in EXPERIMENTS for texts in experiment.texts}
CLAIMS = {id: experiment for experiment in EXPERIMENTS for id in experiment.claim_ids}
PICTURES = {picture.name: picture for experiment in EXPERIMENTS for picture in experiment.pictures}


def names_in(chosen: str) -> list[str]:
    """``separation,precision`` or ``all,precision`` → the names, each once."""
    asked = arguments.split(chosen) or [chosen]
    return list(dict.fromkeys(each for name in asked for each in (ALL if name == "all" else (name,))))


def by_name(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        EmotraceError: there is none that users can ask for.
    """
    if name not in NAMES:
        raise unknown("experiment", name, NAMES)
    return _BY_NAME[name]


def planned(experiments: Iterable[Experiment], *, beside: bool = False) -> list[Experiment]:
    """These experiments and all that they need or bring, each after what it needs, in the order of the stages.

    Args:
        experiments: what is asked for.
        beside: also those whose tables they show beside their own.
    """
    order: list[Experiment] = []

    def add(experiment: Experiment) -> None:
        for name in (*experiment.needs, *(experiment.beside if beside else ())):
            if _BY_NAME[name] not in order:
                add(_BY_NAME[name])
        if experiment not in order:
            order.append(experiment)
            for name in experiment.brings:
                add(_BY_NAME[name])

    for experiment in experiments:
        add(experiment)
    plan = sorted(order, key=lambda experiment: STAGES.index(experiment.stage))
    for number, experiment in enumerate(plan):
        if late := set(experiment.needs) - {before.name for before in plan[:number]}:
            raise RuntimeError(f"{experiment.name} needs {', '.join(sorted(late))}, which would run after it")
    return plan


def measure(
    experiments: Iterable[Experiment],
    study: Study,
    results: Results,
    finished: Callable[[Experiment], None] = lambda experiment: None,
) -> None:
    """Runs experiments on one model and adds what they measure to ``results``, whose tables they may need.

    An experiment that an instrument lacks something for is left out there, and so is what needs it; ``results`` say
    why. ``finished`` is told of each.
    """
    plan = list(experiments)
    for experiment in plan:
        users = [one for one in plan if experiment.name in one.needs]
        if users and not experiment.selectable and all(one.requires(study.source) for one in users):
            continue  # nobody asked for it, and those that need it are left out
        if not (parts := _able(experiment, study, results)):
            continue
        # Matrices of the analysis are small: more threads only wait for one another, up to a hundred times longer on a
        # busy machine.
        with contextlib.nullcontext() if experiment.uses_model else threadpool_limits(1):
            results.add(_run(experiment, parts, results.tables))
        finished(experiment)


def _able(experiment: Experiment, study: Study, results: Results) -> list[Study]:
    """The studies that have what the experiment needs: of the main set of passages, or of each."""
    able = []
    for part in study.instruments.values() if experiment.per_instrument else [study]:
        gone = (name for name in experiment.needs if part.instrument in results.left_out.get(name, {}))
        needed = next(gone, "")
        reason = experiment.requires(part.source) or (f"needs {needed}, which is left out" if needed else "")
        if reason:
            results.left_out.setdefault(experiment.name, {})[part.instrument] = reason
        else:
            able.append(part)
    return able


def _run(experiment: Experiment, parts: list[Study], tables: Tables) -> Results:
    """On the main set of passages or on each, the rows of the second below those of the first."""
    made = [experiment.run(part, of_instrument(tables, part.instrument)) for part in parts]
    if not experiment.per_instrument:
        return made[0]
    together = {name: pd.concat([part.tables[name] for part in made], ignore_index=True) for name in made[0].tables}
    return replace(made[0], tables=together)


def over_models(tables: Tables) -> Tables:
    """The experiments' tables over models, from the tables of all models of a run."""
    return {name: table for experiment in EXPERIMENTS for name, table in experiment.over_models(tables).items()}


def claims(tables: Tables, family: str) -> list[Claim]:
    """The claims that the tables of one model speak to, in the order of ``claims.csv``."""
    names = dict.fromkeys((*CLAIMS_FIRST, *_BY_NAME))
    made = [_BY_NAME[name] for name in names if any(table in tables for table in _BY_NAME[name].tables)]
    return [
        replace(claim, instrument=instrument)
        for experiment in made
        for instrument in instruments({name: tables[name] for name in experiment.tables if name in tables}) or [""]
        for claim in experiment.claims(of_instrument(tables, instrument), family)
    ]
