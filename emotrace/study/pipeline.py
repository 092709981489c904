"""The whole job: models × experiments → a run folder with tables, vectors, figures, manifest and report."""

from __future__ import annotations

import errno
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from emotrace import __version__, arguments
from emotrace.errors import EmotraceError, WriteError
from emotrace.hosts import checkpoints, cpu_matmul
from emotrace.hosts.sources import run_names
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument, of_passages
from emotrace.judges.classifiers import DEFAULT_CLASSIFIER
from emotrace.models import Model, load
from emotrace.study import experiments, pace
from emotrace.study import report as reports
from emotrace.study.across.facts import millions
from emotrace.study.across.geometry import keep_topics
from emotrace.study.across.measure import write as write_over_models
from emotrace.study.experiment import ANALYSE, FIRST, GENERATE, STAGES, STEER, Experiment, Results, together
from emotrace.study.folder import RunFolder, file_name, read_manifest
from emotrace.study.settings import FEWEST_TOPICS, Settings, sized
from emotrace.study.study import Progress, notes_on, read
from emotrace.study.verdicts import claims_table


def run(
    models: list[str],
    out: Path,
    *,
    chosen: str = "all",
    passages: Path | None = None,
    instruments: Sequence[Instrument] = (),
    classifier: str = DEFAULT_CLASSIFIER,
    quick: bool = False,
    resume: bool = False,
    topics: int | str | None = None,
    seed: int = 0,
    remote: bool | str = False,
    instruct: bool | None = None,
    how: Mapping[str, Any] | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Path:
    """Runs the experiments on each model in turn, one in memory at a time, and writes the report.

    Of several models, one that fails is named with its reason on standard error and in the manifest (``failures``), and
    the others go on; ``resume`` tries it again. Where there is no run to resume it starts afresh, and says so.

    An experiment for which an instrument lacks something is left out there, with a line on standard error and its
    reason in the manifest (``left_out``) and the report. ``topics``: how many of each instrument's are read, or
    ``all``; default: the first 12, 6 of a quick run. ``how`` is what else ``load`` takes, of every model.

    Returns:
        The path of ``report.html``.

    Raises:
        EmotraceError: an unknown experiment, a model or an instrument's name that is given twice, passages beside
            instruments, texts that cannot be used, an output folder that cannot be written or holds another run; no
            model of the run could be used.
    """
    names = experiments.names_in(chosen)
    plan = experiments.planned([experiments.by_name(name) for name in names])
    seed = arguments.integer(seed, "a seed", at_least=0)
    _check_models(models, out)  # before the folder is made
    sets = _sets(passages, instruments)
    settings = sized(Settings.quick(seed) if quick else Settings(seed), topics, sets.values())
    identity = run_settings(models, names, quick, settings, classifier, sets, bool(remote), instruct, how)
    _say_if_afresh(out, resume)
    folder = RunFolder(out, identity, resume=resume)
    folder.manifest.pop("failures", None)
    _say_notes(folder, sets, settings.topics)
    try:
        folder.manifest["machine"] = f"{platform.machine()}, Python {platform.python_version()}, {cpu_matmul.choose()}"
        finished: dict[str, Results] = {}
        for source, model_name in zip(models, run_names(models), strict=True):
            named = progress if len(models) == 1 else _named(progress, model_name)
            try:
                loading, early = dict(how or {}, remote=remote, instruct=instruct), _SoFar(folder, finished, model_name)
                finished[model_name] = _run_model(
                    source, model_name, loading, plan, folder, settings, sets, classifier, named, early
                )
            except Exception as error:
                if len(models) == 1 or _stops_all(error):
                    raise
                _note_failure(folder, model_name, error)
                _forget(folder, [*finished.values()], plan)
                continue
            _write(folder, [*finished.values()])
        if not finished:
            raise EmotraceError("; ".join(f"{name} failed: {why}" for name, why in folder.manifest["failures"].items()))
        for name, rows in experiments.over_models(together([results.tables for results in finished.values()])).items():
            folder.write_table(name, rows)
        write_over_models(folder)
        folder.manifest["complete"] = "failures" not in folder.manifest
        folder.save_manifest()
        with folder.timed("report"):
            progress("report", 0, 1)
            path = reports.write_report(folder)
            progress("report", 1, 1)
        return path
    finally:
        folder.close()


def _sets(passages: Path | None, named: Sequence[Instrument]) -> dict[str, Instrument]:
    """The instruments by their names, the first of which is the main one."""
    if not named:
        return of_passages(passages)
    if passages is not None:
        raise EmotraceError("texts are named by instruments or by passages, not by both")
    names = [source.name for source in named]
    if names.count(twice := max(names, key=names.count)) > 1:
        raise EmotraceError(f"two instruments are called {twice!r}: give their files different names")
    for source in named:
        if not source.passages.empty and (count := source.passages["topic"].nunique()) < FEWEST_TOPICS:
            what = "topics" if source.has_topics else "folds, as few as an emotion has texts"
            raise EmotraceError(
                f"{source.name}: a run needs four topics or more, two to choose a layer on and two to report on, and "
                f"finds {count} {what}"
            )
    return dict(zip(names, named, strict=True))


def _say_notes(folder: RunFolder, sets: dict[str, Instrument], topics: int) -> None:
    """What a reader should know of the texts: on standard error and in the manifest."""
    if notes := [note for source in sets.values() for note in notes_on(source, topics)]:
        folder.manifest["passages"] = notes
        print("\n".join(f"emotrace: {note}" for note in notes), file=sys.stderr)


def _say_if_afresh(out: Path, resume: bool) -> None:
    if resume and not (Path(out) / "manifest.json").exists():
        print(f"emotrace: there is no run in {out} to go on with: it starts afresh", file=sys.stderr)


def _write(folder: RunFolder, parts: list[Results]) -> None:
    """The texts and tables of several models."""
    for name, texts in together([results.texts for results in parts]).items():
        folder.write_table(name, texts, "texts")
    for name, rows in together([results.tables for results in parts]).items():
        folder.write_table(name, rows)


class _SoFar:
    """Tables and report of what there is so far: the models before, and of this one what was measured.

    At once after the first experiment, then at most every half a minute: a figure takes a second to draw.
    """

    EVERY = 30.0

    def __init__(self, folder: RunFolder, finished: dict[str, Results], name: str) -> None:
        self._folder, self._finished, self._name = folder, finished, name
        self._waiting: list[str] = []
        self._shown: float | None = None

    def __call__(self, family: str, partly: Results, made: Experiment) -> None:
        self._waiting += made.tables
        if self._shown is not None and time.monotonic() - self._shown < self.EVERY:
            return
        claims = claims_table(self._name, experiments.claims(partly.tables, family))
        tables = partly.tables | ({"claims": claims} if len(claims) else {})
        _write(self._folder, [*self._finished.values(), Results(tables, partly.texts)])
        path = reports.write_report(self._folder, self._waiting, [*self._finished, self._name])
        if self._shown is None:
            print(f"{self._name}: first figures in {path}; reload it while the run goes on", file=sys.stderr)
        self._waiting, self._shown = [], time.monotonic()


def _forget(folder: RunFolder, finished: list[Results], plan: list[Experiment]) -> None:
    """Takes back what was shown of a model that failed later."""
    _write(folder, finished)
    kept = {name for results in finished for name in results.tables}
    for name in {"claims", *(table for experiment in plan for table in experiment.tables)} - kept:
        (folder.path / "tables" / f"{name}.csv").unlink(missing_ok=True)


def _check_models(models: list[str], out: Path) -> None:
    """Refuses a model that is given twice, and an output folder within a model's own."""
    run_names(models)
    for source in models:
        if Path(source).is_dir() and Path(out).resolve().is_relative_to(Path(source).resolve()):
            raise EmotraceError(f"{out} lies in the model's own folder {source}: name another --out")


def report(path: Path) -> Path:
    """Writes the tables over models, the figures and the report of a run folder again."""
    folder = RunFolder(path, read_manifest(path)["settings"], resume=True)
    try:
        write_over_models(folder)
        return reports.write_report(folder)
    finally:
        folder.close()


def run_settings(
    models: list[str],
    names: list[str],
    quick: bool,
    settings: Settings,
    classifier: str,
    instruments: dict[str, Instrument],
    remote: bool = False,
    instruct: bool | None = None,
    how: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What makes a run this run and no other: the ``settings`` of its manifest."""
    own = {name: source.identity for name, source in instruments.items() if not source.default}
    return {
        "emotrace": __version__,
        "models": run_names(models),  # however their folders are spelt
        "experiments": names,
        "quick": quick,
        "sizes": json.loads(json.dumps(asdict(settings))),
        "classifier": classifier,
        "passages": {name: corpus.fingerprint(source.passages) for name, source in instruments.items()},
        "baseline_texts": corpus.fingerprint(next(iter(instruments.values())).baseline_texts),
        **({"instruments": own} if own else {}),
        **({"remote": True} if remote else {}),
        **({} if instruct is None else {"instruct": instruct}),
        **{name: str(value) for name, value in (how or {}).items() if name != "device_map"},
    }


def _run_model(
    source: str,
    name: str,
    loading: dict[str, Any],
    plan: list[Experiment],
    folder: RunFolder,
    settings: Settings,
    instruments: dict[str, Instrument],
    classifier: str,
    progress: Progress,
    show: Callable[[str, Results, Experiment], None],
) -> Results:
    """The tables, claims among them, and texts of one model, by its name in this run; its vectors are written.

    ``show`` is told of each experiment that needs no other, or the model, as soon as it is measured.
    """
    with folder.timed(f"{name}: load"):
        model = load(source, **loading)
    model.name = name
    kept = folder.manifest["models"].get(name, model.provenance)
    if checkpoints.content(kept) != checkpoints.content(model.provenance):
        raise EmotraceError(f"{folder.path} holds a run of other weights of {name}: name another --out")
    _say_how_long(model, plan, settings, instruments)
    with folder.timed(f"{name}: read"):
        study = read(model, settings, folder, progress, instruments, classifier)
    folder.manifest["models"][name] = facts = _facts(
        model, sum(len(part.reading.labels) for part in study.instruments.values())
    )
    folder.save_manifest()
    results = Results(vectors=study.vectors())
    stages = {stage: [experiment for experiment in plan if experiment.stage == stage] for stage in STAGES}
    for stage in (FIRST, GENERATE, STEER):
        if stages[stage]:
            with folder.timed(f"{name}: {stage}"):
                experiments.measure(stages[stage], study, results, partial(show, study.family, results))
    if model.remote:
        facts["traffic"] = vars(model.remote.traffic)
    del model  # the weights are not needed any more; the next model may need the memory
    study.release()
    for (method, pooling), vectors in results.vectors.items():
        vectors.save(folder.path / "vectors" / f"{file_name(name)}-{method}-{pooling}.safetensors")
    for instrument, part in list(study.instruments.items())[1:]:
        for (method, pooling), vectors in part.vectors().items():
            file = f"{file_name(name)}-{method}-{pooling}-{instrument}.safetensors"
            vectors.save(folder.path / "vectors" / file)
    with folder.timed(f"{name}: {ANALYSE}"):
        experiments.measure(stages[ANALYSE], study, results)
        keep_topics(study)
    _note_left_out(folder, results.left_out)
    results.tables["claims"] = claims_table(name, experiments.claims(results.tables, study.family))
    return results


def _say_how_long(
    model: Model, plan: list[Experiment], settings: Settings, instruments: Mapping[str, Instrument]
) -> None:
    """One line on standard error before the work, where there is any that takes long."""
    sources = list(instruments.values())
    plan = [experiment for experiment in plan if not experiment.requires(sources[0])]
    if model.remote or not any(experiment.uses_model for experiment in plan):
        return
    names = [experiment.name for experiment in plan]
    speed = pace.trial(model)

    def said(sizes: Settings) -> str:
        return pace.in_words(speed.seconds(pace.work(sizes, names, model.instruct, sources)))

    quick = Settings.quick(settings.seed)
    shorter = "" if settings == quick else f"; --quick would take {said(quick)}"
    print(f"{model.name}: reading and writing take {said(settings)} on this machine{shorter}", file=sys.stderr)


def _facts(model: Model, texts: int) -> dict[str, Any]:
    """What the manifest says of a model."""
    return {
        **model.provenance,
        "family": model.family,
        "kind": "instruct" if model.instruct else "base",
        "parameters": round(1e6 * millions(model.name, sum(part.numel() for part in model.nn._module.parameters()))),
        "layers": model.n_layers,
        "d_model": model.d_model,
        "texts": texts,
    }


def _named(progress: Progress, model: str) -> Progress:
    """The same progress, its stages told apart by the model's name."""
    return lambda what, done, of: progress(f"{model}: {what}", done, of)


def _stops_all(error: Exception) -> bool:
    """Whether no other model would fare better: nothing can be written any more."""
    return isinstance(error, WriteError) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def _note_left_out(folder: RunFolder, left_out: dict[str, dict[str, str]]) -> None:
    """A line on standard error for each experiment left out, once a run; all of them in the manifest."""
    known = folder.manifest.get("left_out", {})
    for experiment, reasons in left_out.items():
        for instrument, reason in reasons.items():
            if known.get(experiment, {}).get(instrument) != reason:
                print(f"emotrace: without {experiment} on {instrument}: {reason}", file=sys.stderr)
    if left_out:
        folder.manifest["left_out"] = left_out


def _note_failure(folder: RunFolder, name: str, error: Exception) -> None:
    """One line on standard error and in the manifest; the memory of the model that failed is given back."""
    first = next(iter(str(error).strip().splitlines()), "")
    reason = first if isinstance(error, EmotraceError) else f"{type(error).__name__}: {first}"
    folder.manifest.setdefault("failures", {})[name] = reason
    folder.manifest["models"].pop(name, None)
    folder.save_manifest()
    print(f"emotrace: {name} failed, the other models go on: {reason}", file=sys.stderr)
    error.__traceback__ = None
    gc.collect()
