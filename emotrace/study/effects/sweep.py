"""The dose sweep: every emotion and control directions, written at every strength and read in four ways.

None of the readings can stand for another:

* ``beyond_skip``: the residual stream at a *later* layer than the edit, at the prompt's last token, along the emotion's
  vector of that layer, in units of that layer's mean residual norm (``projection``), minus what the residual connection
  alone carries there: strength × ratio of the two layers' norms × cosine of the two vectors. What the layers between
  have made of the edit. A control direction is read along *its* vector of the later layer: does the model take an
  emotion's direction any further than it takes others?
* ``kin_log_probability``: the log-probability that the next token is one of the emotion's kin words.
* ``classifier``: an outside judge's score of the emotion's labels in the text that is written.
* ``kin_share``: the share of the words written that are kin words.

Beside them stand token statistics of the texts. The first two are read in one pass without sampling, so that seeds do
not matter to them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.activations import residual_norms
from emotrace.judges import regimes
from emotrace.judges.classifiers import emotion_scores, known_labels
from emotrace.scoring import score
from emotrace.steered_texts import Row, row_directions, write
from emotrace.steering import Edit
from emotrace.study.effects.arms import EMOTION, GAUSSIAN, Arm
from emotrace.study.steered import Steering
from emotrace.study.study import Study

if TYPE_CHECKING:
    from emotrace.instrument.instrument import Instrument
    from emotrace.models import Model

EMOTION_METRICS = ("projection", "beyond_skip", "kin_log_probability", "classifier", "kin_share")
TEXT_METRICS = ("perplexity_ratio", "distinct_2", "longest_loop", "real_words", "n_tokens")

# Unsteered texts a prompt, for the perplexity ratio and its null.
PLAIN_SEEDS = 4
_SCORED_ROWS = 64


@dataclass(frozen=True)
class Sweep:
    """What was measured of every text of a sweep.

    Attributes:
        texts: one row a text: ``prompt, emotion`` (the direction added; empty for none), ``source`` (of ``SOURCES``;
            empty for none), ``strength, seed, text, tokens, n_tokens`` and the measures of ``regimes.measure``.
        values: metric → ``[text, emotion]``, each emotion's reading of each text (``EMOTION_METRICS``).
        emotions: the names along that second axis.
        strength: the one at which effects are read.
    """

    texts: pd.DataFrame
    values: dict[str, np.ndarray]
    emotions: tuple[str, ...]
    strength: float

    def directions(self, source: str) -> list[str]:
        """The names of the directions of a source."""
        return list(dict.fromkeys(self.texts["emotion"][self.texts["source"] == source]))

    @property
    def strengths(self) -> list[float]:
        """In ascending order, 0 among them."""
        return sorted({*self.texts["strength"]})


def sweep(steering: Steering, arm: Arm) -> Sweep:
    """Writes and measures every direction of an arm at every dose on every prompt of the dose response.

    How many of each is in the run's settings (``doses``, ``dose_prompts``, ``dose_seeds``, ``tokens`` …).

    Raises:
        EmotraceError: vectors of another model, or without one of the layers; a label that the judge does not have.
    """
    study, model, settings = steering.study, steering.model, steering.study.settings
    arm.vectors.check(model)
    prompts = study.source.prompts("dose")[: settings.dose_prompts]
    rows, facts = _rows(arm, prompts, settings.seed, settings.dose_seeds)
    writing = arm.writing(settings.tokens)
    written = _progress(study, arm, "texts", len(rows))
    texts = write(model, rows, arm.layers, writing, on_the_fly=arm.on_the_fly, cache=study.run, progress=written)
    table = pd.concat([facts, texts], axis=1)
    unsteered = table["strength"] == 0
    references = regimes.references(model, table[unsteered])
    scored = _progress(study, arm, "texts scored", int((~unsteered).sum()))
    measured = [
        regimes.measure_plain(table[unsteered], references),
        regimes.measure(model, table[~unsteered], references, progress=scored),
    ]
    table = pd.concat(measured, ignore_index=True)
    values = {**_next_token(steering, arm, rows), **text_readings(study, list(table["text"]), arm.vectors.emotions)}
    return Sweep(table, values, tuple(arm.vectors.emotions), arm.strength)


def _progress(study: Study, arm: Arm, stage: str, total: int) -> Callable[[int], None]:
    return lambda done: study.progress(f"dose response, {arm.name}: {stage}", done, total)


def _rows(arm: Arm, prompts: Sequence[str], seed: int, seeds: int) -> tuple[list[Row], pd.DataFrame]:
    """The texts to be written, unsteered ones first, and what each is.

    An emotion's own vector has ``seeds`` texts on each prompt within the strength at which effects are read; controls,
    of which there are many, and larger strengths have one.
    """
    emotions = arm.vectors
    rows = [
        Row(prompt, emotions, emotions.emotions[0], 0.0, seed + n) for prompt in prompts for n in range(PLAIN_SEEDS)
    ]
    facts: list[tuple[str, str, str, float, int]] = [(row.prompt, "", "", 0.0, row.seed) for row in rows]
    for source, vectors in arm.directions.items():
        for name, strength, prompt in itertools.product(vectors.emotions, arm.strengths, prompts):
            within = abs(strength) <= arm.strength * (1 + 1e-9)
            for sample in range(seed, seed + (seeds if source == EMOTION and within else 1)):
                rows.append(Row(prompt, vectors, name, strength, sample))
                facts.append((prompt, name, source, strength, sample))
    return rows, pd.DataFrame(facts, columns=["prompt", "emotion", "source", "strength", "seed"])


def text_readings(study: Study, texts: Sequence[str], emotions: Sequence[str]) -> dict[str, np.ndarray]:
    """The readings that a text alone gives, ``[text, emotion]``: what the judge sees, and kin words."""
    return {"classifier": _classified(study, texts, emotions), "kin_share": _kin_share(study.source, texts, emotions)}


def _classified(study: Study, texts: Sequence[str], emotions: Sequence[str]) -> np.ndarray:
    """The judge's scores ``[text, emotion]``; unknown for an emotion of which it has no label."""
    if not any(study.source.labels.get(name) for name in emotions):  # none of an own instrument's: no judge is loaded
        return np.full((len(texts), len(emotions)), np.nan)
    scores = emotion_scores(study.classifier, texts, known_labels(study.classifier, study.source.labels))
    return scores.reindex(columns=list(emotions)).to_numpy(dtype=np.float64)


def _next_token(steering: Steering, arm: Arm, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """The readings that need no text, of every row, at the prompt's last token: ``[row, emotion]``.

    Rows that differ by their seed alone are read once.
    """
    model, read_layer, norms = steering.model, steering.read_layer, residual_norms(steering.model)
    kin = [_kin_tokens(model, steering.study.source.kin[name]) for name in arm.vectors.emotions]
    scale = np.ones_like(norms) if arm.on_the_fly else norms
    keys = [(row.prompt, row.emotion if row.strength else "", row.strength) for row in rows]
    different = list(dict(zip(keys, rows, strict=True)).values())
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    streams, probabilities, edits = [], [], []
    read = _progress(steering.study, arm, "next tokens read", len(different))
    for start in range(0, len(different), _SCORED_ROWS):
        batch = different[start : start + _SCORED_ROWS]
        directions = row_directions(batch, arm.layers, scale)
        edit = Edit(directions, on_the_fly=arm.on_the_fly, positions=arm.positions)
        scores = score(model, [row.prompt for row in batch], edit, read_layers=[read_layer], groups=kin)
        streams.append(scores["stream"][:, 0].astype(np.float64) / norms[read_layer])
        probabilities.append(scores["log_probabilities"])
        edits.append(directions[arm.layers[0]].double().numpy() / norms[read_layer])
        read(len(batch))
    order = [place[key] for key in keys]
    readings = {"kin_log_probability": np.concatenate(probabilities)[order]}
    if len(arm.layers) > 1:
        return readings
    stream, edit_of = np.concatenate(streams), np.concatenate(edits)
    plain = stream[[place[row.prompt, "", 0.0] for row in different]]
    units = np.stack([arm.vectors.direction(name, read_layer) for name in arm.vectors.emotions])
    beyond = (stream - plain - edit_of) @ units.T
    for number, row in enumerate(different):
        if row.strength and row.vectors is not arm.vectors:
            beyond[number] = (stream[number] - plain[number] - edit_of[number]) @ _own_reading(arm, row, read_layer)
    return {"projection": (stream @ units.T)[order], "beyond_skip": beyond[order], **readings}


def _own_reading(arm: Arm, row: Row, read_layer: int) -> np.ndarray:
    """Along what the stream is read under a control direction: its own vector of the later layer.

    Of Gaussian directions, whose layers have nothing to do with one another, the very direction that was added.
    """
    gaussian = row.vectors is arm.directions.get(GAUSSIAN)
    return row.vectors.direction(row.emotion, arm.layers[0] if gaussian else read_layer)


def _kin_tokens(model: Model, words: Sequence[str]) -> list[int]:
    """Tokens that by themselves are one of an emotion's kin words, with the space before it."""
    ids = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    return sorted({tokens[0] for tokens in ids if len(tokens) == 1})


def _kin_share(source: Instrument, texts: Sequence[str], emotions: Sequence[str]) -> np.ndarray:
    """The share of each text's words that are kin of each emotion: ``[text, emotion]``."""
    kin, words_of = source.kin, [source.words(text) for text in texts]
    return np.array(
        [[sum(word in kin[name] for word in words) / max(len(words), 1) for name in emotions] for words in words_of]
    )
