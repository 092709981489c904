"""The experiments of one model, each run when it is first asked for, kept in a run folder, through the code of a run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from emotrace import __version__
from emotrace.instrument import corpus
from emotrace.judges.classifiers import DEFAULT_CLASSIFIER
from emotrace.study import notebook
from emotrace.study.folder import RunFolder, file_name
from emotrace.study.separation.measure import run_all
from emotrace.study.study import Settings, Study, read, vectors_of

if TYPE_CHECKING:
    from emotrace.judges.classifiers import Classifier
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

EXPERIMENTS = {
    # What separation is drawn beside comes with it, and the regimes with the texts of the dose response.
    "separation": ("separation", "anisotropy"), "localisation": ("localisation",), "geometry": ("geometry",),
    "factorial": ("method_comparison", "factorial"),
    "dose_response": ("dose_response", "regimes"), "verification": ("verification",), "crosslingual": ("crosslingual",),
}  # fmt: skip
"""What can be asked for, and the experiments of ``emotrace run`` in it."""


class OnDemand:
    """A model and what was measured on it so far.

    Args:
        source: what :func:`emotrace.load` takes.
        quick: ``Settings.quick``.
        remote: passed on to :func:`emotrace.load`.
        folder: the run folder; default: one by model and settings in :func:`runs_folder`.
        seed: of every random draw.
        passages: a file like ``data/passages.csv`` in place of it.
        classifier: the judge of steered texts.

    Attributes:
        tables, texts, vectors: what was measured; the vectors by method and pooling.
        done: the experiments that were run.
    """

    def __init__(
        self,
        source: str,
        *,
        quick: bool = True,
        remote: bool | str = False,
        folder: str | Path | None = None,
        seed: int = 0,
        passages: str | Path | None = None,
        classifier: str = DEFAULT_CLASSIFIER,
    ) -> None:
        self.source, self.quick, self._remote, self._classifier = source, quick, remote, classifier
        self.settings = Settings.quick(seed) if quick else Settings(seed)
        self.passages = corpus.passages(passages)
        self.folder = Path(folder) if folder else runs_folder() / self._folder_name(own=passages is not None)
        self.tables: dict[str, pd.DataFrame] = {}
        self.texts: dict[str, pd.DataFrame] = {}
        self.vectors: dict[tuple[str, str], EmotionVectors] = {}
        self.done: list[str] = []
        self._model: Model | None = None
        self._study: Study | None = None
        self._judge: Classifier | None = None

    def _folder_name(self, own: bool) -> str:
        parts = [file_name(Path(self.source).name if Path(self.source).exists() else self.source)]
        parts += ["quick"] * self.quick + ["remote"] * bool(self._remote)
        parts += [f"seed{self.settings.seed}"] * bool(self.settings.seed)
        return "-".join(parts + [corpus.fingerprint(self.passages)[:8]] * own)

    @property
    def model(self) -> Model:
        """The model, loaded at first use."""
        if self._model is None:
            from emotrace.models import load

            self._model = load(self.source, **({"remote": self._remote} if self._remote else {}))
        return self._model

    @property
    def study(self) -> Study:
        """What the model held when it read the texts; read at first use."""
        if self._study is None:
            model = self.model
            with self._run() as (run, progress):
                self._study = read(model, self.settings, run, progress, self.passages)
            self.vectors |= {("comprehension", pooling): each for pooling, each in vectors_of(self._study).items()}
        return self._study

    def need(self, experiment: str) -> None:
        """Runs an experiment, or takes it from the run folder, unless it was done before."""
        if experiment in self.done:
            return
        study = self.study
        with self._run() as (run, progress):
            study.run, study.progress = run, progress
            tables = self._measure(experiment, study)
            for name, table in tables.items():
                run.write_table(name, table)
        self.tables |= tables
        self.done.append(experiment)

    def _measure(self, experiment: str, study: Study) -> dict[str, pd.DataFrame]:
        from emotrace.study.effects import measure as steering_experiments
        from emotrace.study.methods import measure as method_experiments

        names = list(EXPERIMENTS[experiment])
        if experiment == "factorial":
            tables, texts, written = method_experiments.run(study, self.model, self.passages)
            self.vectors |= {("generation", pooling): each for pooling, each in written.items()}
        elif experiment in steering_experiments.EXPERIMENTS:
            tables, texts, _ = steering_experiments.run(study, self.model, self._classifier_loaded(), names)
        else:
            tables, texts = run_all(study, names), {}
        self.texts |= texts
        return tables

    def _classifier_loaded(self) -> Classifier:
        if self._judge is None:
            from emotrace.judges.classifiers import load_classifier

            self._judge = load_classifier(self._classifier)
        return self._judge

    @contextlib.contextmanager
    def _run(self) -> Iterator[tuple[RunFolder, notebook.Progress]]:
        """The run folder, held only while something is computed: several notebooks may be open on it."""
        run, progress = RunFolder(self.folder, self._run_settings(), resume=True), notebook.Progress()
        try:
            yield run, progress
        finally:
            progress.close()
            run.close()

    def _run_settings(self) -> dict[str, Any]:
        """The settings that ``emotrace run`` would write, so that it can go on with this folder."""
        from emotrace.study.pipeline import EXPERIMENTS as ALL

        return {
            "emotrace": __version__, "models": [self.source], "experiments": list(ALL), "quick": self.quick,
            "sizes": json.loads(json.dumps(asdict(self.settings))), "classifier": self._classifier,
            "passages": corpus.fingerprint(self.passages), "baseline_texts": corpus.fingerprint(corpus.baseline_texts()),
        }  # fmt: skip


def runs_folder() -> Path:
    """Where notebooks keep their runs, whichever directory a kernel was started in: ``EMOTRACE_RUNS``, or
    ``runs/notebooks`` of the checkout (of the working directory, where the package is installed without one)."""
    if given := os.environ.get("EMOTRACE_RUNS"):
        return Path(given)
    return (corpus.checkout() or Path()) / "runs" / "notebooks"
