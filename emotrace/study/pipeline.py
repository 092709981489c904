"""The whole job: models × experiments → a run folder with tables, vectors, figures, manifest and report."""

from __future__ import annotations

import errno
import gc
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from emotrace import __version__
from emotrace.errors import EmotraceError, WriteError, unknown
from emotrace.hosts import cpu_matmul
from emotrace.instrument import corpus
from emotrace.judges.classifiers import DEFAULT_CLASSIFIER, load_classifier
from emotrace.models import Model, load
from emotrace.study import report as reports
from emotrace.study.separation import claims
from emotrace.study.across import geometry as across_geometry
from emotrace.study.across import measure as across_models
from emotrace.study.across import steering as across_steering
from emotrace.study.effects import measure as steering_experiments
from emotrace.study.folder import RunFolder, file_name, read_manifest
from emotrace.study.methods import measure as method_experiments
from emotrace.study.separation import measure as experiments
from emotrace.study.separation.measure import run_all
from emotrace.study.study import Progress, Settings, read, vectors_of

EXPERIMENTS = (*experiments.EXPERIMENTS, *method_experiments.EXPERIMENTS, *steering_experiments.EXPERIMENTS)
"""What ``emotrace run --experiments`` takes."""


def run(
    models: list[str],
    out: Path,
    *,
    chosen: str = "all",
    passages: Path | None = None,
    classifier: str = DEFAULT_CLASSIFIER,
    quick: bool = False,
    resume: bool = False,
    seed: int = 0,
    remote: bool | str = False,
    progress: Progress = lambda what, done, of: None,
) -> Path:
    """Runs the experiments on each model in turn, one in memory at a time, and writes the report.

    Of several models, one that fails is named with its reason on standard error and in the manifest (``failures``), and the
    others go on; ``resume`` tries it again.

    Returns:
        The path of ``report.html``.

    Raises:
        EmotraceError: an unknown experiment, a passages file that cannot be used, an output folder that cannot be written
            or holds another run; no model of the run could be used.
    """
    names = _chosen(chosen)
    table = corpus.passages(passages)
    sizes = _settings(quick, seed)
    settings = {
        "emotrace": __version__, "models": models, "experiments": names, "quick": quick,
        "sizes": json.loads(json.dumps(asdict(sizes))), "classifier": classifier,
        "passages": corpus.fingerprint(table), "baseline_texts": corpus.fingerprint(corpus.baseline_texts()),
        **({"remote": True} if remote else {}),
    }  # fmt: skip
    folder = RunFolder(out, settings, resume=resume)
    folder.manifest.pop("failures", None)
    try:
        folder.manifest["machine"] = f"{platform.machine()}, Python {platform.python_version()}, {cpu_matmul.choose()}"
        finished: dict[tuple[str, str], list[pd.DataFrame]] = {}
        for name in models:
            told = progress if len(models) == 1 else _named(progress, name)
            try:
                found = _run_model(name, table, names, sizes, classifier, remote, folder, told)
            except Exception as error:
                if len(models) == 1 or _stops_all(error):
                    raise
                _note_failure(folder, name, error)
                continue
            for place, rows in found.items():
                finished.setdefault(place, []).append(rows)
            for (kind, table_name), parts in finished.items():
                folder.write_table(table_name, pd.concat(parts, ignore_index=True), kind)
        if not finished:
            raise EmotraceError("; ".join(f"{name} failed: {why}" for name, why in folder.manifest["failures"].items()))
        together = method_experiments.over_models(
            {name: pd.concat(parts, ignore_index=True) for (kind, name), parts in finished.items() if kind == "tables"}
        )
        for table_name, rows in together.items():
            folder.write_table(table_name, rows)
        across_models.write(folder)
        folder.manifest["complete"] = "failures" not in folder.manifest
        folder.save_manifest()
        with folder.timed("report"):
            progress("report", 0, 1)
            path = reports.write_report(folder)
            progress("report", 1, 1)
        return path
    finally:
        folder.close()


def _named(progress: Progress, model: str) -> Progress:
    """The same progress, its stages told apart by the model's name."""
    return lambda what, done, of: progress(f"{Path(model).name}: {what}", done, of)


def _stops_all(error: Exception) -> bool:
    """Whether no other model would fare better: nothing can be written any more."""
    return isinstance(error, WriteError) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def _note_failure(folder: RunFolder, name: str, error: Exception) -> None:
    """One line on standard error and in the manifest; the memory of the model that failed is given back."""
    first = next(iter(str(error).strip().splitlines()), "")
    reason = first if isinstance(error, EmotraceError) else f"{type(error).__name__}: {first}"
    folder.manifest.setdefault("failures", {})[name] = reason
    folder.save_manifest()
    print(f"emotrace: {name} failed, the other models go on: {reason}", file=sys.stderr)
    error.__traceback__ = None
    gc.collect()


def _run_model(
    source: str,
    table: pd.DataFrame,
    chosen: list[str],
    sizes: Settings,
    classifier: str,
    remote: bool | str,
    folder: RunFolder,
    progress: Progress,
) -> dict[tuple[str, str], pd.DataFrame]:
    """(``tables`` or ``texts``, name) → rows of one model."""
    with folder.timed(f"{source}: load"):
        model: Model | None = load(source, remote=remote)
    name = model.name
    with folder.timed(f"{name}: read"):
        study = read(model, sizes, folder, progress, table)
    folder.manifest["models"][name] = {
        **model.provenance, "family": model.family, "kind": "instruct" if model.instruct else "base",
        "parameters": sum(weights.numel() for weights in model.nn._module.parameters()),
        "layers": model.n_layers, "d_model": model.d_model, "texts": len(study.reading.labels),
    }  # fmt: skip
    folder.save_manifest()
    vectors = {("comprehension", pooling): each for pooling, each in vectors_of(study).items()}
    tables, texts = {}, {}
    if any(each in method_experiments.EXPERIMENTS for each in chosen):
        with folder.timed(f"{name}: generate"):
            tables, texts, written = method_experiments.run(study, model, table)
            vectors |= {("generation", pooling): each for pooling, each in written.items()}
    steering = [each for each in chosen if each in steering_experiments.EXPERIMENTS]
    if steering:
        with folder.timed(f"{name}: steer"):
            judge = load_classifier(classifier)
            found, told, calibrated = steering_experiments.run(study, model, judge, steering)
            tables, texts = tables | found, texts | told
            tables["residual_norms"] = across_steering.residual_norms(study, model)
            vectors["comprehension", steering_experiments.POOLING] = calibrated
    if model.remote:
        folder.manifest["models"][name]["traffic"] = vars(model.remote.traffic)
    model = None  # the weights are not needed any more; the next model may need the memory
    for (method, pooling), each in vectors.items():
        each.save(folder.path / "vectors" / f"{file_name(name)}-{method}-{pooling}.safetensors")
    with folder.timed(f"{name}: analyse"):
        tables |= run_all(study, [each for each in chosen if each in experiments.EXPERIMENTS])
        across_geometry.keep_topics(study)
    tables["claims"] = claims.claims(name, study.family, tables)
    return {("tables", each): rows for each, rows in tables.items()} | {
        ("texts", each): rows for each, rows in texts.items()
    }


def _chosen(names: str) -> list[str]:
    if names == "all":
        return list(EXPERIMENTS)
    for name in names.split(","):
        if name not in EXPERIMENTS:
            raise unknown("experiment", name, EXPERIMENTS)
    return names.split(",")


def _settings(quick: bool, seed: int) -> Settings:
    return Settings.quick(seed) if quick else Settings(seed)


def report(path: Path) -> Path:
    """Writes the tables over models, the figures and the report of a run folder again."""
    manifest = read_manifest(path)
    folder = RunFolder(path, manifest["settings"], resume=True)
    try:
        across_models.write(folder)
        return reports.write_report(folder)
    finally:
        folder.close()
