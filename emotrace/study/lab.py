"""One model, one run folder, every experiment: the few calls that a notebook's cells are made of.

    lab = emotrace.Lab("smollm2-135m-instruct", quick=True)
    lab.show("separation_over_depth")
    lab.claims("C6")

Each call runs what it needs through the same functions as ``emotrace run`` and keeps it in a run folder, so that nothing
is computed twice, in whichever notebook it is asked for; ``emotrace run --resume`` can go on with that folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.judges.classifiers import DEFAULT_CLASSIFIER
from emotrace.models import DEFAULT_MODEL
from emotrace.study import notebook
from emotrace.study.folder import read_manifest, select
from emotrace.study.on_demand import OnDemand

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

MADE_BY = {
    "separation": "separation", "anisotropy": "separation", "geometry": "geometry", "localisation": "localisation",
    **dict.fromkeys((
        "method_comparison", "method_by_layer", "story_rates", "factorial", "factorial_effects", "factorial_decoding", "factorial_rdm",
    ), "factorial"),
    **dict.fromkeys(("calibration", "dose_response", "monotonicity", "regimes", "regime_sensitivity"), "dose_response"),
    "verification": "verification", "crosslingual": "crosslingual", "crosslingual_tokens": "crosslingual",
}  # fmt: skip
"""Tables of ``docs/tables.md``, and the experiment that each needs."""
_TEXTS = {"stories": "factorial", "steered": "dose_response", "scenarios": "verification"}
CLAIMS = {
    "C5": ("factorial",), "C6": ("localisation",), "C7": ("localisation",), "C8": ("dose_response",),
    # C9 names the regimes that its controls fall into.
    "C9": ("dose_response", "verification"), "C10": ("dose_response",), "C11": ("crosslingual",),
    "neighbour": ("localisation", "geometry"),
}  # fmt: skip
"""The claims that are measured, and the experiments that each rests on."""


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
        self._all = OnDemand(
            model, quick=quick, remote=remote, folder=folder, seed=seed, passages=passages, classifier=classifier
        )

    def __repr__(self) -> str:
        size = "quick" if self._all.quick else "full"
        done = ", ".join(self._all.done) or "nothing yet"
        return f"Lab of {self._all.source} ({size} settings, seed {self._all.settings.seed}); measured here: {done}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._all.folder

    @property
    def model(self) -> Model:
        """The model, loaded at first use."""
        return self._all.model

    @property
    def passages(self) -> pd.DataFrame:
        """The passages that the model reads."""
        return corpus.quick_subset(self._all.passages, self._all.settings.topics)

    def table(self, name: str) -> pd.DataFrame:
        """A table of ``docs/tables.md``, measured now if it was not before.

        Raises:
            EmotraceError: no such table, or none on this model (a base model writes no stories).
        """
        if name not in MADE_BY:
            raise unknown("table", name, MADE_BY)
        self._all.need(MADE_BY[name])
        return self._found(self._all.tables, name)

    def texts(self, name: str) -> pd.DataFrame:
        """Texts that the model wrote: ``stories``, ``steered`` or ``scenarios``.

        Raises:
            EmotraceError: no such texts, or none of this model.
        """
        if name not in _TEXTS:
            raise unknown("set of texts", name, _TEXTS)
        self._all.need(_TEXTS[name])
        return self._found(self._all.texts, name)

    def _found(self, tables: dict[str, pd.DataFrame], name: str) -> pd.DataFrame:
        if name not in tables or tables[name].empty:
            raise EmotraceError(f"{self._all.source} has no {name}: a base model writes no stories")
        return tables[name]

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
        if self._all.study and method == "generation":
            self._all.need("factorial")
        found = self._all.vectors
        if (method, pooling) not in found:
            raise unknown("vectors", f"{method}, {pooling}", [", ".join(key) for key in found])
        return found[method, pooling]

    def figure(self, name: str) -> Figure:
        """One of the report's figures, to look at or to change; :meth:`show` displays it with its caption.

        Raises:
            EmotraceError: no such figure, or nothing to draw in it.
        """
        from emotrace.study import figures
        from emotrace.study.separation import figures as plots

        if name in plots.VECTOR_FIGURES:
            self._all.need("localisation")
            layer = figures.best_layer(self._all.tables, self._all.study.model, "mean")
            return plots.VECTOR_FIGURES[name](self.vectors("mean"), layer)
        if name not in figures.TABLE_FIGURES:
            raise unknown("figure", name, [*figures.TABLE_FIGURES, *plots.VECTOR_FIGURES])
        draw, needs = figures.TABLE_FIGURES[name]
        self.table(needs)
        figure = draw(self._all.tables)
        if figure is None:
            raise EmotraceError(f"{self._all.source} has nothing to draw in {name}")
        return figure

    def show(self, *names: str) -> None:
        """Displays figures, each with its caption."""
        from emotrace.study import figures
        from emotrace.study.separation import figures as plots

        for name in names:
            figure = self.figure(name)
            notebook.show_figure(figure, name, figures.CAPTIONS[name])
            plots.plt.close(figure)

    def claims(self, *numbers: str) -> notebook.Table:
        """What the paper claims (``"C6"``, …) beside what was measured; without a number, every claim."""
        return notebook.claims_table(self._claims(*numbers))

    def claim(self, beginning: str) -> pd.Series:
        """The one claim that begins so: ``claim, paper, measured, low, high, n, verdict, how``."""
        rows = self._claims(_number(beginning))
        return _only(rows[rows["claim"].str.startswith(beginning)], f"claims begin with {beginning!r}")

    def _claims(self, *numbers: str) -> pd.DataFrame:
        from emotrace.study.separation.claims import claims

        for number in numbers or CLAIMS:
            if number not in CLAIMS:
                raise unknown("claim", number, CLAIMS)
            for experiment in CLAIMS[number]:
                self._all.need(experiment)
        study = self._all.study
        return _of_numbers(claims(study.model, study.family, self._all.tables), numbers)

    def published(self, *numbers: str) -> notebook.Table:
        """The claims on the packaged models as ``docs/results`` has them, one column a model.

        Raises:
            EmotraceError: the package is installed without the checkout that holds them.
        """
        results = corpus.data_dir().parent / "docs" / "results"
        if not (results / "tables" / "claims.csv").exists():
            raise EmotraceError("the published results are in a checkout only: docs/results/tables/claims.csv")
        claims = _of_numbers(pd.read_csv(results / "tables" / "claims.csv"), numbers)
        quick = {name: f"{name} (quick)" for name in read_manifest(results).get("quick", [])}
        return notebook.claims_of_models(claims.replace({"model": quick}))

    def guidelines(self) -> notebook.Table:
        """What to do (C12, the rules are ours), and what was measured here of each."""
        from emotrace.study.guidelines import rules

        claims = self._claims()  # which needs, and so runs, every experiment
        found = rules({**self._all.tables, "claims": claims})
        rows = [{"rule": rule["rule"], **finding} for rule in found for finding in rule["findings"]]
        shown = pd.DataFrame(rows, columns=["rule", "measured", "verdict"])
        return notebook.Table(shown.rename(columns={"measured": "measured here", "verdict": "borne out"}))

    def examples(self, count: int = 4) -> notebook.Table:
        """Scenarios spread over the table, not picked by outcome: plain and steered text side by side."""
        from emotrace.study.effects.figures import texts_shown

        shown = pd.DataFrame(texts_shown(self.texts("scenarios"), self.table("verification"), count))
        shown["success"] = shown["success"].map({True: "yes", False: "no"})
        return notebook.Table(
            shown.rename(columns={"plain": "… plain", "target": "… steered", "rise": "rise of the score"})
        )


def _only(rows: pd.DataFrame, what: str) -> pd.Series:
    if len(rows) != 1:
        raise EmotraceError(f"{len(rows)} {what}, not one")
    return rows.iloc[0]


def _of_numbers(claims: pd.DataFrame, numbers: tuple[str, ...]) -> pd.DataFrame:
    """The rows of these claims; all of them without any number."""
    return claims[claims["claim"].map(_number).isin(numbers)] if numbers else claims


def _number(claim: str) -> str:
    """``C6`` of *C6 emotions separate …*, ``neighbour`` of *neighbour: …*."""
    return claim.split()[0].rstrip(":")
