"""The run folder of a model, for notebooks: what the study's experiments measured, measured now where it is not there.

    lab = emotrace.Lab(emotrace.load("smollm2-135m-instruct"), quick=True)
    lab.table("separation")
    lab.claims("C6")

Each call runs what it needs through the same functions as ``emotrace run`` and keeps it in the folder, so that nothing
is computed twice, in whichever notebook it is asked for; ``emotrace run --resume`` can go on with that folder.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.instrument.instrument import of_passages
from emotrace.judges.classifiers import DEFAULT_CLASSIFIER
from emotrace.study import experiments, notebook
from emotrace.study.experiment import Experiment, Results, Tables, of_instrument
from emotrace.study.folder import RunFolder, file_name
from emotrace.study.pipeline import run_settings
from emotrace.study.settings import Settings
from emotrace.study.study import Study, read
from emotrace.study.style import plt
from emotrace.study.verdicts import claims_table

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

Known = TypeVar("Known")


class Lab:
    """What was measured on a model. It is a :class:`~emotrace.files.Cache`, so that ``cache=lab`` keeps finished work.

    Args:
        model: from :func:`emotrace.load`.
        quick: the same experiments with fewer texts and resamples (``Settings.quick``).
        instrument: the set of passages whose rows are shown; default: the main one.
        folder: the run folder; default ``runs/notebooks/MODEL[-quick]…`` in the checkout, or below ``EMOTRACE_RUNS``.
        seed: of every random draw.
        passages: a file like ``data/passages.csv`` in place of it.
        classifier: the judge of steered texts.

    Attributes:
        folder: the run folder.

    Raises:
        EmotraceError: an unknown instrument, a passages file that cannot be used; later, what an experiment refuses.
    """

    @arguments.checked
    def __init__(
        self,
        model: Model,
        *,
        quick: bool = True,
        instrument: str | None = None,
        folder: str | Path | None = None,
        seed: int = 0,
        passages: str | Path | None = None,
        classifier: str = DEFAULT_CLASSIFIER,
    ) -> None:
        self._model, self._quick = model, quick
        self._classifier = arguments.text(classifier, "a classifier's name")
        seed = arguments.integer(seed, "a seed", at_least=0)
        self._settings = Settings.quick(seed) if quick else Settings(seed)
        self._instruments = of_passages(passages)
        self._instrument = instrument or next(iter(self._instruments))
        if self._instrument not in self._instruments:
            raise corpus.unknown_instrument(self._instrument, self._instruments)
        for source in self._instruments.values():
            for note in corpus.imbalances(source.passages, self._settings.topics):
                print(f"emotrace: {note}", file=sys.stderr)
        self.folder = Path(folder) if folder else runs_folder() / self._folder_name(own_passages=passages is not None)
        self._study: Study | None = None
        self._results = Results()
        self._measured: list[Experiment] = []

    def __repr__(self) -> str:
        size = "quick" if self._quick else "full"
        measured = ", ".join(experiment.name for experiment in self._measured) or "nothing yet"
        return f"run folder of {self._model.name} ({size} settings, seed {self._settings.seed}); used here: {measured}"

    # -- what the experiments measured --------------------------------------------------------------------------

    def table(self, name: str, instrument: str | None = None) -> pd.DataFrame:
        """A table of ``docs/tables.md``, measured now if it was not before: the rows of one instrument.

        Args:
            name: its name.
            instrument: default: the lab's own.

        Raises:
            EmotraceError: no such table, or none on this model (a base model writes no stories).
        """
        self._measure(_known("table", name, experiments.TABLES))
        tables = of_instrument(self._results.tables, instrument or self._instrument)
        return self._existing(tables, name)

    @property
    def tables(self) -> Tables:
        """What was asked for so far, by name, with the rows of every instrument."""
        return dict(self._results.tables)

    def texts(self, name: str) -> pd.DataFrame:
        """Texts that the model wrote: ``stories``, ``steered`` or ``scenarios``.

        Raises:
            EmotraceError: no such texts, or none of this model.
        """
        self._measure(_known("set of texts", name, experiments.TEXTS))
        return self._existing(self._results.texts, name)

    def vectors(self, pooling: str = "mean", method: str = "comprehension") -> EmotionVectors:
        """The emotion vectors of a method (``comprehension`` or ``generation``) and pooling (``last`` or ``mean``).

        Raises:
            EmotraceError: there are none such.
        """
        # Those of comprehension as they were read: the calibration that steering adds is not always there.
        vectors = self._reading().instruments[self._instrument].vectors()
        if method == "generation":
            self._measure(experiments.by_name("method_comparison"))
            vectors = self._results.vectors | vectors
        return _known("vectors", f"{method}, {pooling}", {", ".join(key): one for key, one in vectors.items()})

    def claims(self, *ids: str) -> pd.DataFrame:
        """The rows of ``claims.csv`` of these claims (``"C6"``, ``"C6.u"``, …: the beginning of an id), or of
        all but those whose experiments ``all`` leaves out.

        Those that rest on a set of passages are there once for each.

        Raises:
            EmotraceError: no claim has such an id.
        """
        wanted = _beginning_with(experiments.CLAIMS, ids)
        if not ids:
            wanted = [id for id in wanted if not experiments.CLAIMS[id].extra]
        for id in ids:
            if not _beginning_with(wanted, (id,)):
                raise unknown("claim", id, experiments.CLAIMS)
        self._measure(*(experiments.CLAIMS[id] for id in wanted), beside=True)
        claims = claims_table(self._model.name, experiments.claims(self._results.tables, self._model.family))
        return claims[claims["id"].isin(wanted)]

    def claim(self, id: str) -> pd.Series:
        """One row of :meth:`claims`, on the lab's own instrument.

        Raises:
            EmotraceError: there is no such claim, or this model has none.
        """
        rows = self.claims(id)
        rows = rows[(rows["id"] == id) & rows["instrument"].isin(["", self._instrument])]
        if len(rows) != 1:
            raise EmotraceError(f"{len(rows)} claims have the id {id!r}, not one")
        return rows.iloc[0]

    def show(self, *names: str) -> None:
        """Displays figures of the report, each with its caption.

        Raises:
            EmotraceError: no such figure, or nothing to draw in it.
        """
        for name in names:
            picture = _known("figure", name, experiments.PICTURES)
            self._measure(experiments.TABLES[picture.table], beside=True)
            tables = of_instrument(self._results.tables, self._instrument)
            figure = picture.figure(tables, self.vectors("mean") if picture.vectors else None)
            if figure is None:
                raise EmotraceError(f"{self._model.name} has nothing to draw in {name}")
            notebook.show_figure(figure, name, picture.caption)
            plt.close(figure)

    # -- a cache of one's own work ------------------------------------------------------------------------------

    def arrays(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array kept under ``key`` in the folder; computed and kept first if there is none."""
        with self._run_folder() as (run, _):
            return run.arrays(key, compute)

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The table rows kept under the content of ``key`` in the folder; computed and kept first if there are none."""
        with self._run_folder() as (run, _):
            return run.rows(key, compute)

    # -- measuring ----------------------------------------------------------------------------------------------

    def _reading(self) -> Study:
        """What the model held when it read the texts; read at first use."""
        if self._study is None:
            with self._run_folder() as (run, progress):
                self._study = read(self._model, self._settings, run, progress, self._instruments, self._classifier)
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

    def _existing(self, tables: Tables, name: str) -> pd.DataFrame:
        if name not in tables or tables[name].empty:
            maker = (experiments.TABLES | experiments.TEXTS)[name].name
            said = next(iter(self._results.left_out.get(maker, {}).values()), None)
            one = "there is one set of texts alone" if name == "transfer" else "a base model writes no stories"
            why = said or one
            raise EmotraceError(f"{self._model.name} has no {name}: {why}")
        return tables[name]

    @contextlib.contextmanager
    def _run_folder(self) -> Iterator[tuple[RunFolder, notebook.Progress]]:
        """The run folder, held only while something is computed: several notebooks may be open on it."""
        settings = run_settings(
            [self._model.name], list(experiments.ALL), self._quick, self._settings, self._classifier, self._instruments
        )
        run, progress = RunFolder(self.folder, settings, resume=True), notebook.Progress()
        try:
            yield run, progress
        finally:
            progress.close()
            run.close()

    def _folder_name(self, own_passages: bool) -> str:
        parts = [file_name(self._model.name)]
        on_a_server = (
            self._model.remote is not None and self._model.remote.where != "local"
        )  # simulated: the same model
        parts += ["quick"] * self._quick + ["remote"] * on_a_server
        parts += [f"seed{self._settings.seed}"] * bool(self._settings.seed)
        weights, dtype = (self._model.provenance[name] for name in ("weights_id", "dtype"))
        parts += [weights.partition(":")[2][:8]] * weights.startswith("memory:")  # whatever its owner calls it
        parts += [dtype] * (dtype != "float32")
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
    if not isinstance(name, str) or name not in known:
        raise unknown(kind, name, known)
    return known[name]


def _beginning_with(ids: Iterable[str], beginnings: tuple[str, ...]) -> list[str]:
    """The ids that begin with one of these (``C6.u.last`` with ``C6`` and ``C6.u``); all without any."""
    return [id for id in ids if not beginnings or any(f"{id}.".startswith(f"{first}.") for first in beginnings)]
