"""How long a run will take here: what there is to write and to read, at the pace of a short trial.

Machines differ several times in float32 products, and models by their size; so the trial is on the model itself, before
the run. The judge, and the analysis, which needs no model, are not in the estimate.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from emotrace.activations import residual_norms
from emotrace.instrument import corpus
from emotrace.instrument.instrument import of_passages
from emotrace.instrument.stories import STORED, request, stored
from emotrace.judges import layer_choice, regimes
from emotrace.readings import read_texts
from emotrace.steered_texts import Row, write
from emotrace.stories import STORY
from emotrace.study.effects import sweep, verification
from emotrace.study.estimators import steering as by_estimator
from emotrace.study.methods.design import AUTHORS, FRAMES
from emotrace.tokens import Writing

if TYPE_CHECKING:
    from emotrace.instrument.instrument import Instrument
    from emotrace.models import Model
    from emotrace.study.settings import Settings

TRIAL_TEXTS, TRIAL_ROWS = 7, 32
TRIAL_WRITING = Writing(max_new_tokens=8, temperature=0.7, positions="generated")
CALIBRATED_SIDES, STRENGTHS_TRIED = 4, 4
"""Two settings, both signs; strengths that the search for a window tried on each with SmolLM2."""
TEMPLATE_WORDS = 30
"""What a chat template adds to a request, in words of about a token: SmolLM2's, with its own system prompt."""


@dataclass(frozen=True)
class Work:
    """What a run does with a model.

    Attributes:
        read: texts that it reads; one of twice a passage's words counts twice.
        written: tokens that it writes, unsteered ones included.
        measured: texts of its own that it reads again, for their perplexity.
    """

    read: float
    written: int
    measured: int


@dataclass(frozen=True)
class Pace:
    """Seconds for a text read, a token written (in a batch of many rows), a text measured."""

    read: float
    written: float
    measured: float

    def seconds(self, work: Work) -> float:
        """What that work takes."""
        return work.read * self.read + work.written * self.written + work.measured * self.measured


def work(
    settings: Settings, experiments: Iterable[str], writes_stories: bool, instruments: Iterable[Instrument] = ()
) -> Work:
    """The work of these experiments on one model that writes stories, or (a base model) does not.

    ``instruments``: what it reads, the main one first; default: those of ``data/``.
    """
    names, sources = set(experiments), list(instruments) or list(of_passages().values())
    emotions = len(sources[0].emotions)
    parts = reading(settings, names, writes_stories, sources)
    read, stories, texts = sum(parts.values()), 0, 0
    if "method_comparison" in names and writes_stories:
        stories = (emotions + 1) * settings.story_topics
    if "calibration" in names:
        texts += CALIBRATED_SIDES * STRENGTHS_TRIED * settings.calibration_texts
    if "dose_response" in names:
        texts += _dose_texts(settings, emotions)
    if "precision" in names:
        read += 4 * settings.topics * (emotions + 1)
    if "estimator_steering" in names:  # harm is done on every passage with and without an edit
        texts += 8 * by_estimator.PROMPTS * (sweep.PLAIN_SEEDS + 2 * (by_estimator.MOST_EMOTIONS + 3))
        read += 8 * 3 * 2 * layer_choice.HARM_TEXTS * layer_choice.HARM_EMOTIONS
    if "layer_strength" in names:
        read += 2 * layer_choice.CANDIDATES * 3 * 3 * layer_choice.HARM_TEXTS * layer_choice.HARM_EMOTIONS
    if "verification" in names:
        texts += _scenario_texts(settings, 0 if sources[0].scenarios is None else len(sources[0].scenarios))
    return Work(read, stories * STORY.max_new_tokens + texts * settings.tokens, texts)


def reading(
    settings: Settings, names: Iterable[str], writes_stories: bool, sources: Sequence[Instrument] = ()
) -> dict[str, float]:
    """What is read before anything is steered, in texts of a passage's length: part of the run → how many."""
    sources = sources or list(of_passages().values())
    length, main = lengths(), sources[0]
    unit = _words(corpus.passages()["text"])
    parts = {}
    for source in sources:
        texts = corpus.quick_subset(source.passages, settings.topics)["text"]
        parts[source.name] = len(texts) * _words(texts) / unit
    parts["baseline texts"] = min(settings.baseline_texts, len(main.baseline_texts)) * length["baseline texts"]
    if "method_comparison" in names:
        classes = len(main.emotions) + 1
        cells = (classes - 1) * settings.story_topics
        plain = 1 + length["story"]
        if writes_stories:
            plain += length["story"]  # its own
            framed = (len(FRAMES) - 1) * (plain + len(AUTHORS) * length["request"])
            parts["factorial"] = cells * (plain + framed)
            parts["its stories"] = classes * settings.story_topics * (length["story"] + length["request"])
        else:
            parts["factorial"] = cells * plain
    return parts


@functools.cache
def lengths() -> dict[str, float]:
    """The mean length of what is read beside passages, in words, over that of a passage of the main set."""
    stories = pd.concat([stored(author)["text"] for author in STORED])
    words = {"baseline texts": _words(corpus.baseline_texts()["text"]), "story": _words(stories)}
    words["request"] = len(request("cooking", "afraid").split()) + TEMPLATE_WORDS
    unit = _words(corpus.passages()["text"])
    return {name: count / unit for name, count in words.items()}


def _words(texts: pd.Series[str]) -> float:
    return float(texts.str.split().str.len().mean())


def _dose_texts(settings: Settings, emotions: int) -> int:
    """Rows of both arms' sweeps: several seeds within the window, one beyond it and of each control."""
    total = 0
    for doses, largest, controls in (
        (settings.doses, 1.0, settings.dose_permuted + settings.dose_random),
        (settings.published_doses, 0.02, settings.published_permuted),
    ):
        within = sum(abs(dose) <= largest for dose in doses)
        own = within * settings.dose_seeds + len(doses) - within
        total += settings.dose_prompts * (sweep.PLAIN_SEEDS + emotions * own + controls * len(doses))
    return total


def _scenario_texts(settings: Settings, scenarios: int) -> int:
    """Rows of both arms, and those that are asked for the feeling or without one, where there are so many scenarios."""
    one = 2 + verification.N_PERMUTED
    more = verification.N_HELD_OUT + verification.N_GAUSSIAN + verification.N_WRONG + 2
    counts = [min(scenarios, wanted) for wanted in (settings.scenarios, settings.published_scenarios)]
    return counts[0] * settings.scenario_seeds * (one + more) + counts[1] * one


def trial(model: Model) -> Pace:
    """Reads some passages, writes a few tokens of many rows under an edit and measures them, each timed."""
    passages = corpus.passages().drop_duplicates("emotion").tail(TRIAL_TEXTS)  # neutral among them
    residual_norms(model)  # what is done once is not the pace
    start = time.perf_counter()
    reading = read_texts(model, passages)
    read = time.perf_counter() - start
    vectors, prompts = reading.vectors("mean"), corpus.prompts("dose")
    rows = [
        Row(prompts[n % len(prompts)], vectors, vectors.emotions[n % len(vectors.emotions)], 0.05, n)
        for n in range(TRIAL_ROWS)
    ]
    start = time.perf_counter()
    texts = write(model, rows, [max(1, model.n_layers // 2)], TRIAL_WRITING)
    written = time.perf_counter() - start
    table = texts.assign(prompt=[row.prompt for row in rows])
    start = time.perf_counter()
    regimes.references(model, table)
    measured = time.perf_counter() - start
    tokens = int(texts["n_tokens"].sum())
    return Pace(read / len(reading.labels), written / max(1, tokens), measured / TRIAL_ROWS)


def in_words(seconds: float) -> str:
    """``about 25 minutes``; under two minutes in seconds."""
    if seconds < 100:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"
