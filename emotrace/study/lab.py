"""One model, one run folder, every experiment: the few calls that a notebook's cells are made of.

    lab = emotrace.Lab("smollm2-135m-instruct", quick=True)
    lab.show("separation_over_depth")
    lab.claims("C6")

Each call runs what it needs through the same functions as ``emotrace run`` and keeps it in a run folder, so that
nothing is computed twice, in whichever notebook it is asked for; ``emotrace run --resume`` can go on with that folder.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.instrument.instrument import of_passages
from emotrace.judges.classifiers import DEFAULT_CLASSIFIER
from emotrace.models import DEFAULT_MODEL, Model, load
from emotrace.study import experiments, guidelines, notebook
from emotrace.study.effects.figures import texts_shown
from emotrace.study.experiment import Experiment, Results, Tables, of_instrument
from emotrace.study.folder import RunFolder, file_name, read_manifest, select
from emotrace.study.pipeline import run_settings
from emotrace.study.study import Settings, Study, read
from emotrace.study.style import plt
from emotrace.study.verdicts import claims_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emotrace.vectors import EmotionVectors

Known = TypeVar("Known")


class Lab:
    """A model, and what was measured on it.

    Args:
        model: what :func:`emotrace.load` takes.
        quick: the same experiments with fewer texts and resamples (``Settings.quick``).
        remote: passed on to :func:`emotrace.load`.
        folder: the run folder; default ``runs/notebooks/MODEL[-quick]…`` in the checkout, or below ``EMOTRACE_RUNS``.
        seed: of every random draw.
        passages: a file like ``data/passages.csv`` in place of it.
        classifier: the judge of steered texts.

    Attributes:
        folder: the run folder.

    Raises:
        EmotraceError: a passages file that cannot be used; later, whatever loading or an experiment refuses.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        quick: bool = True,
        remote: bool | str = False,
        folder: str | Path | None = None,
        seed: int = 0,
        passages: str | Path | None = None,
        classifier: str = DEFAULT_CLASSIFIER,
    ) -> None:
        self._source, self._quick, self._remote, self._classifier = model, quick, remote, classifier
        self._settings = Settings.quick(seed) if quick else Settings(seed)
        self._instruments = of_passages(passages)
        for source in self._instruments.values():
            for note in corpus.imbalances(source.passages, self._settings.topics):
                print(f"emotrace: {note}", file=sys.stderr)
        self.folder = Path(folder) if folder else runs_folder() / self._folder_name(own_passages=passages is not None)
        self._model: Model | None = None
        self._study: Study | None = None
        self._results = Results()
        self._measured: list[Experiment] = []

    def __repr__(self) -> str:
        size = "quick" if self._quick else "full"
        measured = ", ".join(experiment.name for experiment in self._measured) or "nothing yet"
        return f"Lab of {self._source} ({size} settings, seed {self._settings.seed}); measured here: {measured}"

    @property
    def model(self) -> Model:
        """The model, loaded at first use."""
        if self._model is None:
            self._model = load(self._source, remote=self._remote)
        return self._model

    @property
    def passages(self) -> pd.DataFrame:
        """The passages of the main instrument, as the model reads them."""
        return corpus.quick_subset(next(iter(self._instruments.values())).passages, self._settings.topics)

    def table(self, name: str, instrument: str | None = None) -> pd.DataFrame:
        """A table of ``docs/tables.md``, measured now if it was not before: the rows of one instrument.

        Args:
            name: its name.
            instrument: default: the main one.

        Raises:
            EmotraceError: no such table, or none on this model (a base model writes no stories).
        """
        self._measure(_known("table", name, experiments.TABLES))
        tables = of_instrument(self._results.tables, instrument or next(iter(self._instruments)))
        return self._existing(tables, name)

    def texts(self, name: str) -> pd.DataFrame:
        """Texts that the model wrote: ``stories``, ``steered`` or ``scenarios``.

        Raises:
            EmotraceError: no such texts, or none of this model.
        """
        self._measure(_known("set of texts", name, experiments.TEXTS))
        return self._existing(self._results.texts, name)

    def row(self, table: str, **values: Any) -> pd.Series:
        """The one row of a table whose columns have these values.

        Raises:
            EmotraceError: there is none, or more than one.
        """
        return _only(select(self.table(table), **values), f"rows of {table} have {values}")

    def vectors(self, pooling: str = "mean", method: str = "comprehension") -> EmotionVectors:
        """The emotion vectors of a method (``comprehension`` or ``generation``) and pooling (``last`` or ``mean``).

        Raises:
            EmotraceError: there are none such.
        """
        # Those of comprehension as they were read: the calibration that steering adds is not always there.
        vectors = self._reading().vectors()
        if method == "generation":
            self._measure(experiments.by_name("method_comparison"))
            vectors = self._results.vectors | vectors
        return _known("vectors", f"{method}, {pooling}", {", ".join(key): one for key, one in vectors.items()})

    def figure(self, name: str) -> Figure:
        """One of the report's figures, to look at or to change; :meth:`show` displays it with its caption.

        Raises:
            EmotraceError: no such figure, or nothing to draw in it.
        """
        picture = _known("figure", name, experiments.PICTURES)
        self._measure(experiments.TABLES[picture.table], beside=True)
        tables = of_instrument(self._results.tables, next(iter(self._instruments)))
        figure = picture.figure(tables, self.vectors("mean") if picture.vectors else None)
        if figure is None:
            raise EmotraceError(f"{self._source} has nothing to draw in {name}")
        return figure

    def show(self, *names: str) -> None:
        """Displays figures, each with its caption."""
        for name in names:
            figure = self.figure(name)
            notebook.show_figure(figure, name, experiments.PICTURES[name].caption)
            plt.close(figure)

    def claims(self, *ids: str) -> notebook.Table:
        """What the paper claims (``"C6"``, ``"C6.u"``, …: the beginning of an id) beside what was measured; or all.

        Raises:
            EmotraceError: no claim has such an id.
        """
        return notebook.claims_table(self._claims(*ids))

    def claim(self, id: str) -> pd.Series:
        """The claim of this id (``docs/claims.md``) on the main instrument, a row of ``claims.csv``.

        Raises:
            EmotraceError: there is no such claim, or this model has none.
        """
        rows = select(self._claims(id), id=id).drop_duplicates("id")
        return _only(rows, f"claims have the id {id!r}")

    def published(self, *ids: str) -> notebook.Table:
        """The claims on the packaged models as ``docs/results`` has them, one column a model.

        Raises:
            EmotraceError: the package is installed without the checkout that holds them.
        """
        results = corpus.data_dir().parent / "docs" / "results"
        if not (results / "tables" / "claims.csv").exists():
            raise EmotraceError("the published results are in a checkout only: docs/results/tables/claims.csv")
        claims = pd.read_csv(results / "tables" / "claims.csv")
        claims = claims[claims["id"].isin(_beginning_with(claims["id"], ids))]
        quick = {name: f"{name} (quick)" for name in read_manifest(results).get("quick", [])}
        return notebook.claims_of_models(claims.replace({"model": quick}))

    def guidelines(self) -> notebook.Table:
        """What to do (C12, the rules are ours), and what was measured here of each."""
        claims = self._claims()  # which measures everything
        stated = guidelines.rules({**self._results.tables, "claims": claims})
        rows = [
            {"rule": rule["rule"], "measured here": finding["measured"], "borne out": finding["verdict"]}
            for rule in stated
            for finding in rule["findings"]
        ]
        return notebook.Table(pd.DataFrame(rows, columns=["rule", "measured here", "borne out"]))

    def examples(self, count: int = 4) -> notebook.Table:
        """Scenarios spread over the table, not picked by outcome: plain and steered text side by side."""
        rows = pd.DataFrame(texts_shown(self.texts("scenarios"), self.table("verification"), count))
        rows["success"] = rows["success"].map({True: "yes", False: "no"})
        return notebook.Table(
            rows.rename(
                columns={"plain": "… plain", "target": "… steered", "prompted": "… asked", "rise": "rise of the score"}
            )
        )

    def _reading(self) -> Study:
        """What the model held when it read the texts; read at first use."""
        if self._study is None:
            model = self.model
            with self._run_folder() as (run, progress):
                self._study = read(model, self._settings, run, progress, self._instruments, self._classifier)
        return self._study

    def _measure(self, *wanted: Experiment, beside: bool = False) -> None:
        """Runs experiments and what they need, or takes them from the run folder, unless that was done before."""
        plan = [one for one in experiments.planned(wanted, beside=beside) if one not in self._measured]
        if not plan:
            return
        study = self._reading()
        with self._run_folder() as (run, progress):
            study.keep_in(run, progress)
            experiments.measure(plan, study, self._results)
            for name, table in self._results.tables.items():
                if experiments.TABLES[name] in plan:
                    study.run.write_table(name, table)
        self._measured += plan

    def _claims(self, *ids: str) -> pd.DataFrame:
        """The rows of ``claims.csv`` whose ids begin so; all without any."""
        wanted = _beginning_with(experiments.CLAIMS, ids)
        for id in ids:
            if not _beginning_with(wanted, (id,)):
                raise unknown("claim", id, experiments.CLAIMS)
        self._measure(*(experiments.CLAIMS[id] for id in wanted), beside=True)
        study = self._reading()
        claims = claims_table(study.model_name, experiments.claims(self._results.tables, study.family))
        return claims[claims["id"].isin(wanted)]

    def _existing(self, tables: Tables, name: str) -> pd.DataFrame:
        if name not in tables or tables[name].empty:
            raise EmotraceError(f"{self._source} has no {name}: a base model writes no stories")
        return tables[name]

    @contextlib.contextmanager
    def _run_folder(self) -> Iterator[tuple[RunFolder, notebook.Progress]]:
        """The run folder, held only while something is computed: several notebooks may be open on it."""
        settings = run_settings(
            [self._source], list(experiments.NAMES), self._quick, self._settings, self._classifier, self._instruments
        )
        run, progress = RunFolder(self.folder, settings, resume=True), notebook.Progress()
        try:
            yield run, progress
        finally:
            progress.close()
            run.close()

    def _folder_name(self, own_passages: bool) -> str:
        parts = [file_name(Path(self._source).name if Path(self._source).exists() else self._source)]
        parts += ["quick"] * self._quick + ["remote"] * bool(self._remote)
        parts += [f"seed{self._settings.seed}"] * bool(self._settings.seed)
        return "-".join(
            parts + [corpus.fingerprint(next(iter(self._instruments.values())).passages)[:8]] * own_passages
        )


def runs_folder() -> Path:
    """Where notebooks keep their runs, whichever directory a kernel was started in.

    ``EMOTRACE_RUNS``, or ``runs/notebooks`` of the checkout (of the working directory, where the package is installed
    without one).
    """
    if given := os.environ.get("EMOTRACE_RUNS"):
        return Path(given)
    return (corpus.checkout() or Path()) / "runs" / "notebooks"


def _known(kind: str, name: str, known: Mapping[str, Known]) -> Known:
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def _only(rows: pd.DataFrame, description: str) -> pd.Series:
    if len(rows) != 1:
        raise EmotraceError(f"{len(rows)} {description}, not one")
    return rows.iloc[0]


def _beginning_with(ids: Iterable[str], beginnings: tuple[str, ...]) -> list[str]:
    """The ids that begin with one of these (``C6.u.last`` with ``C6`` and ``C6.u``); all without any."""
    return [id for id in ids if not beginnings or any(f"{id}.".startswith(f"{first}.") for first in beginnings)]
