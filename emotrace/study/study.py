"""One model in a run: the sizes of the work, what the model held when it read, where finished units are kept."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent import futures
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from emotrace.activations import POOLINGS, read_activations
from emotrace.hosts import threads
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument, default, of_passages
from emotrace.judges.classifiers import DEFAULT_CLASSIFIER, Classifier, load_classifier
from emotrace.measures import geometry, statistics
from emotrace.measures.randomness import generator
from emotrace.readings import Reading, read_texts
from emotrace.study.settings import Settings

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.study.folder import RunFolder
    from emotrace.vectors import EmotionVectors

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it was just done, and how much of it there is."""
Shared = TypeVar("Shared")

# The centroids' noise depends on the texts a centroid; the matched anisotropy baseline groups as many.
GROUP_REPEATS = 20


@dataclass
class Study:
    """One model in a run: all that an experiment is given.

    Attributes:
        model_name, family, n_layers, instruct: facts of the model that outlive its weights.
        reading: its activations on the passages.
        baseline: pooling → its activations on unrelated texts, ``[text, layer, d_model]``.
        settings: the sizes of the work.
        run: where finished units are kept.
        progress: told of the work done.
        loaded: the model itself, until :meth:`release`.
        passages: the whole table of passages, of which the model read those on the topics of ``settings``.
        instrument: the name of that set of passages.
        source: the instrument itself: its emotions, their words and norms, and its prompts.
        instruments: name → the study of each set of passages that the model read; this one's is the first.
        classifier_name: the judge of steered texts.
    """

    model_name: str
    family: str
    n_layers: int
    instruct: bool
    reading: Reading
    baseline: dict[str, np.ndarray]
    settings: Settings
    run: RunFolder
    progress: Progress
    loaded: Model | None = None
    passages: pd.DataFrame = field(default_factory=corpus.passages)
    classifier_name: str = DEFAULT_CLASSIFIER
    instrument: str = corpus.MAIN_INSTRUMENT
    source: Instrument = field(default_factory=default)
    instruments: dict[str, Study] = field(default_factory=dict, repr=False)
    _shared: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)
    _measured: dict[Hashable, futures.Future[Any]] = field(default_factory=dict, init=False, repr=False)
    _asking: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.instruments = {self.instrument: self, **self.instruments}

    @property
    def model(self) -> Model:
        """The model.

        Raises:
            RuntimeError: it was released; only experiments with ``uses_model`` may ask for it.
        """
        if self.loaded is None:
            raise RuntimeError(f"the weights of {self.model_name} are not in memory any more")
        return self.loaded

    def keep_in(self, run: RunFolder, progress: Progress) -> None:
        """Keeps finished units in this run folder from now on, and tells of the work there."""
        for study in self.instruments.values():
            study.run, study.progress = run, progress

    def release(self) -> None:
        """Lets go of the model and of what was made with it: the next one may need the memory.

        What was measured on its activations stays.
        """
        for study in self.instruments.values():
            study.loaded = None
            study._shared.clear()

    @cached_property
    def classifier(self) -> Classifier:
        """The judge of steered texts, loaded at first use."""
        return load_classifier(self.classifier_name)

    def once(self, make: Callable[[Study], Shared]) -> Shared:
        """``make(self)``, made at first use and shared by the experiments that need it."""
        if make not in self._shared:
            self._shared[make] = make(self)
        return self._shared[make]

    def measured(self, what: Hashable, compute: Callable[[], Shared]) -> Shared:
        """``compute()``, of this name; several tables need what takes long to compute from the activations.

        A thread that asks for what another computes waits for it.
        """
        with self._asking:
            begun = what in self._measured
            found = self._measured.setdefault(what, futures.Future())
        if not begun:
            try:
                found.set_result(compute())
            except BaseException as error:
                del self._measured[what]
                found.set_exception(error)
        return found.result()

    def rng(self, *purpose: object) -> np.random.Generator:
        """The generator of one purpose, independent of every other and of the order of work."""
        return generator(self.settings.seed, *purpose)

    @cached_property
    def emotional(self) -> np.ndarray:
        """Which texts are of an emotion, not neutral: bool ``[text]``."""
        return (self.reading.labels["emotion"] != corpus.NEUTRAL).to_numpy()

    @cached_property
    def names(self) -> list[str]:
        """The emotions that were read, in the instrument's order."""
        return [name for name in self.source.emotions if name in set(self.reading.labels["emotion"])]

    @cached_property
    def emotions(self) -> np.ndarray:
        """The emotion of each emotional text: str ``[text]``."""
        return self.reading.labels["emotion"].to_numpy(dtype=str)[self.emotional]

    @cached_property
    def topics(self) -> np.ndarray:
        """The topic of each emotional text: str ``[text]``."""
        return self.reading.labels["topic"].to_numpy(dtype=str)[self.emotional]

    @cached_property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The topics split in two at random: the first half chooses, the second reports. Bool ``[topic]`` each."""
        n = len(set(self.topics))
        first = np.zeros(n, dtype=bool)
        first[self.rng("halves").permutation(n)[: n // 2]] = True
        return first, ~first

    def in_half(self, half: np.ndarray) -> np.ndarray:
        """Which emotional texts belong to the topics of ``half``."""
        order = list(dict.fromkeys(self.topics))
        return np.isin(self.topics, [topic for topic, inside in zip(order, half, strict=True) if inside])

    def vectors(self) -> dict[tuple[str, str], EmotionVectors]:
        """(``comprehension``, pooling) → the vectors of every pooling that was read."""
        return {("comprehension", name): self.reading.vectors(name) for name in POOLINGS if name in self.reading.pooled}

    def layer(self, pooling: str, layer: int) -> np.ndarray:
        """The emotional texts' activations at one layer: ``[text, d_model]``."""
        return self.reading.pooled[pooling][self.emotional, self.reading.layers.index(layer)]

    def decoded(self, decoder: str, pooling: str, layer: int, half: int | None = None) -> np.ndarray:
        """Which emotional texts this decoder gets right, each with its topic held out: bool ``[text]``.

        ``half``: of the topics of one half alone, and learnt from them alone.
        """

        def decode() -> np.ndarray:
            inside = slice(None) if half is None else self.in_half(self.halves[half])
            texts = self.layer(pooling, layer)[inside]
            return geometry.decode(texts, self.emotions[inside], self.topics[inside], decoder)

        return self.measured(("decoded", decoder, pooling, layer, half), decode)

    def names_in(self, half: np.ndarray | None) -> list[str]:
        """The emotions that have a text on the topics of ``half`` (bool ``[topic]``; None: all)."""
        inside = set(self.emotions if half is None else self.emotions[self.in_half(half)])
        return [name for name in self.names if name in inside]

    def group_sizes(self, half: np.ndarray | None = None) -> list[int]:
        """The texts of each of those emotions, at most half as many as there are unrelated texts to group."""
        emotions = self.emotions if half is None else self.emotions[self.in_half(half)]
        room = min(len(activations) for activations in self.baseline.values()) // 2
        return [min(int((emotions == name).sum()), room) for name in self.names_in(half)]

    def cells(self, pooling: str, layer: int, half: np.ndarray | None = None) -> geometry.Cells:
        """Those activations summed by topic and emotion; of the emotions of ``half`` alone, with all topics."""
        return geometry.cells(self.layer(pooling, layer), self.topics, self.emotions, self.names_in(half))

    def draws(self, half: np.ndarray | None = None) -> np.ndarray:
        """Bootstrap weights of topics ``[draw, topic]``, the same at every layer so that curves can be compared."""
        inside = np.ones(len(set(self.topics)), dtype=bool) if half is None else half
        count, rng = self.settings.bootstrap, self.rng("bootstrap", list(inside))
        draws = np.zeros((count, len(inside)))
        draws[:, inside] = statistics.topic_draws(int(inside.sum()), count, rng)
        return draws

    def each_layer(self, purpose: str, compute: Callable[[str, int], list[dict[str, Any]]]) -> pd.DataFrame:
        """``compute(pooling, layer)`` for every pooling and layer, each kept as one unit of work."""
        parts = itertools.product(self.reading.pooled, self.reading.layers)
        units = {f"{purpose} {pooling} {layer}": partial(compute, pooling, layer) for pooling, layer in parts}
        return pd.DataFrame(self.units(purpose, units))

    def units(self, told: str, computes: Mapping[str, Callable[[], list[dict[str, Any]]]]) -> list[dict[str, Any]]:
        """The rows of several units of work, in order; as many at once as there are cores, one thread each.

        The matrices of one are too small for several threads to gain by them. numpy computes without Python's lock.
        """
        rows: list[dict[str, Any]] = []
        # OpenMP's number of threads is each thread's own, BLAS's the process's.
        alone = futures.ThreadPoolExecutor(threads.cores(), initializer=threadpool_limits, initargs=(1,))
        with threadpool_limits(1), alone as pool:
            try:
                for found in pool.map(self.unit, computes, computes.values()):
                    rows += found
                    self.progress(f"{told}, {self.instrument}", 1, len(computes))
            except BaseException:  # an interrupt as well: what is under way is kept, nothing more is begun
                pool.shutdown(cancel_futures=True)
                raise
        return rows

    def unit(self, purpose: str, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The rows of one unit of work: of this purpose, these settings and this reading; kept in the run folder."""
        return self.run.rows({"what": purpose, "settings": asdict(self.settings), **self.reading.provenance}, compute)

    def row(self, pooling: str, layer: float, **values: Any) -> dict[str, Any]:
        """A table row with the columns that every table has."""
        return {
            "model": self.model_name,
            "instrument": self.instrument,
            "method": "comprehension",
            "pooling": pooling,
            "layer": layer,
            "depth": layer / self.n_layers,
            **values,
        }


def read(
    model: Model,
    settings: Settings,
    run: RunFolder,
    progress: Progress,
    instruments: dict[str, Instrument] | None = None,
    classifier: str = DEFAULT_CLASSIFIER,
) -> Study:
    """The model reads each set of passages and the first one's baseline texts; both poolings, all layers.

    Returns:
        The study of the first set, with those of the others in its ``instruments``.
    """
    chosen = instruments or of_passages()
    unrelated = list(next(iter(chosen.values())).baseline_texts["text"])
    # Every k-th text, so that a quick run keeps all kinds.
    unrelated = unrelated[:: max(1, len(unrelated) // settings.baseline_texts)][: settings.baseline_texts]
    baseline = read_activations(
        model, unrelated, cache=run, progress=lambda done: progress("reading baseline texts", done, len(unrelated))
    )

    def study(name: str, source: Instrument) -> Study:
        table = corpus.quick_subset(source.passages, settings.topics)
        beside = 0 if source.default or corpus.NEUTRAL in set(table["emotion"]) else len(source.unfelt)
        report = partial(_report, progress, f"reading {name}", len(table) + beside)
        return Study(
            model.name,
            model.family,
            model.n_layers,
            model.instruct,
            read_texts(model, table, instrument=source, cache=run, progress=report),
            baseline,
            settings,
            run,
            progress,
            loaded=model,
            passages=source.passages,
            classifier_name=classifier,
            instrument=name,
            source=source,
        )

    main, *others = (study(name, source) for name, source in chosen.items())
    main.instruments |= {part.instrument: part for part in others}
    return main


def notes_on(source: Instrument, topics: int) -> list[str]:
    """What a reader should know of an instrument's texts, a sentence each."""
    notes = corpus.imbalances(source.passages, topics, source.emotions)
    if source.default:
        return notes
    kept, of = len(corpus.quick_subset(source.passages, topics)), source.passages["topic"].nunique()
    if kept < len(source.passages):
        kind, more = "topics" if source.has_topics else "folds", "; --topics all reads all"
        notes.append(
            f"{kept} of {len(source.passages)} texts are read: those on the first {topics} of {of} {kind}{more}"
        )
    folds = "no topics: 'topic' in every table is a fold of texts, and no emotion is told from its topics"
    return [f"{source.name}: {note}" for note in (*notes, *([folds] if not source.has_topics else []))]


def _report(progress: Progress, what: str, of: int, done: int) -> None:
    progress(what, done, of)


def choose_layer(study: Study, pooling: str, decoder: str, half: int = 0) -> int:
    """The layer that decodes best on one half of the topics alone; the other half is left for reporting."""

    def accuracy(layer: int) -> float:
        return float(study.decoded(decoder, pooling, layer, half).mean())

    return max(study.reading.layers[1:], key=accuracy)  # of equal ones the first
