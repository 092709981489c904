"""The dose sweep: every emotion and random directions beside it, written at every strength and read in three ways.

None of the three readings can stand for another:

* ``projection``: the residual stream at a *later* layer than the edit, at the prompt's last token, along the emotion's
  vector of that layer, in units of that layer's mean residual norm. What the layers between have made of the edit.
* ``kin_log_probability``: the log-probability that the next token is one of the emotion's kin words.
* ``classifier``: an outside judge's score of the emotion's labels in the text that is written.

Beside them stand token statistics of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.activations import residual_norms
from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.classifiers import Classifier, emotion_scores, known_labels
from emotrace.scoring import score
from emotrace.steered_texts import Row, row_directions, write
from emotrace.steering import Edit, random_like
from emotrace.study.steered import Steering
from emotrace.tokens import Writing

if TYPE_CHECKING:
    from emotrace.models import Model

EMOTION_METRICS = ("projection", "kin_log_probability", "classifier", "kin_share")
TEXT_METRICS = ("perplexity_ratio", "distinct_2", "longest_loop", "real_words", "n_tokens")

# Unsteered texts a prompt, for the perplexity ratio and its null.
PLAIN_SEEDS = 4
_SCORED_ROWS = 64


@dataclass(frozen=True)
class Sweep:
    """What was measured of every text of a sweep.

    Attributes:
        texts: one row a text: ``prompt, emotion`` (the direction added), ``control`` (whether it is a random one),
            ``strength, seed, text, tokens, n_tokens`` and the measures of ``regimes.measure``; strength 0 once a
            prompt.
        values: metric → ``[text, emotion]``, each emotion's reading of each text (``EMOTION_METRICS``).
        emotions: the names along that second axis.
    """

    texts: pd.DataFrame
    values: dict[str, np.ndarray]
    emotions: tuple[str, ...]

    @property
    def random(self) -> list[str]:
        """The names of the random directions."""
        return list(dict.fromkeys(self.texts["emotion"][self.texts["control"]]))

    @property
    def strengths(self) -> list[float]:
        """In ascending order, 0 among them."""
        return sorted({*self.texts["strength"]})


def sweep(steering: Steering) -> tuple[Sweep, pd.DataFrame]:
    """Writes and measures every emotion and random directions at every dose on every prompt of the dose response.

    How many of each is in the run's settings (``doses``, ``dose_prompts``, ``dose_random``, ``tokens``).

    Returns:
        The sweep, and the unsteered texts with their own measures (each against the others on its prompt).

    Raises:
        EmotraceError: vectors of another model, or without one of the layers; a label that the judge does not have.
    """
    study, model, settings = steering.study, steering.model, steering.study.settings
    vectors = steering.vectors.check(model)
    seed, prompts = settings.seed, corpus.prompts("dose")[: settings.dose_prompts]
    random = random_like(vectors, settings.dose_random, seed)
    writing = Writing(max_new_tokens=settings.tokens, temperature=0.7)
    zeros = [Row(prompt, vectors, vectors.emotions[0], 0.0, seed) for prompt in prompts]
    unsteered = [row._replace(seed=seed + number) for row in zeros for number in range(PLAIN_SEEDS)]
    steered = [
        Row(prompt, source, name, dose * steering.strength, seed)
        for source in (vectors, random)
        for name in source.emotions
        for dose in settings.doses
        for prompt in prompts
    ]
    rows = unsteered + steered
    facts = pd.DataFrame(
        [(row.prompt, row.emotion, row.vectors is random, row.strength, row.seed) for row in rows],
        columns=["prompt", "emotion", "control", "strength", "seed"],
    )

    def progress(done: int) -> None:
        study.progress("dose response: texts", done, len(rows))

    texts = write(model, rows, [steering.layer], writing, cache=study.run, progress=progress)
    table = pd.concat([facts, texts], axis=1)
    plain = table[: len(unsteered)].assign(emotion="")
    references = regimes.references(model, plain)
    plain = regimes.measure_plain(plain, references)
    measured = regimes.measure(model, table[len(unsteered) :], references)
    # One unsteered text a prompt, of the same seed, is the sweep's strength 0.
    table = pd.concat([plain[plain["seed"] == seed], measured], ignore_index=True)
    values = {
        **_next_token(steering, zeros + steered, writing.positions),
        "classifier": _classified(steering.classifier, list(table["text"]), vectors.emotions),
        "kin_share": _kin_share(list(table["text"]), vectors.emotions),
    }
    return Sweep(table, values, tuple(vectors.emotions)), plain


def _classified(classifier: Classifier, texts: Sequence[str], emotions: Sequence[str]) -> np.ndarray:
    """The classifier's scores ``[text, emotion]``; unknown for an emotion of which it has no label."""
    scores = emotion_scores(classifier, texts, known_labels(classifier))
    return scores.reindex(columns=list(emotions)).to_numpy(dtype=np.float64)


def _next_token(steering: Steering, rows: Sequence[Row], positions: str) -> dict[str, np.ndarray]:
    """``projection`` and ``kin_log_probability`` of every row, at the prompt's last token: ``[row, emotion]``."""
    model, read_layer, norms = steering.model, steering.read_layer, residual_norms(steering.model)
    units = steering.vectors.unit().at(read_layer).astype(np.float64)
    kin = [_kin_tokens(model, name) for name in steering.vectors.emotions]
    projections, probabilities = [], []
    for start in range(0, len(rows), _SCORED_ROWS):
        batch = rows[start : start + _SCORED_ROWS]
        edit = Edit(row_directions(batch, [steering.layer], norms), positions=positions)
        scores = score(model, [row.prompt for row in batch], edit, read_layers=[read_layer], groups=kin)
        projections.append(scores["stream"][:, 0].astype(np.float64) @ units.T / norms[read_layer])
        probabilities.append(scores["log_probabilities"])
    return {"projection": np.concatenate(projections), "kin_log_probability": np.concatenate(probabilities)}


def _kin_tokens(model: Model, emotion: str) -> list[int]:
    """Tokens that by themselves are one of the emotion's kin words, with the space before it."""
    words = corpus.emotions()["kin"].to_dict()[emotion]
    ids = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    return sorted({tokens[0] for tokens in ids if len(tokens) == 1})


def _kin_share(texts: Sequence[str], emotions: Sequence[str]) -> np.ndarray:
    """The share of each text's words that are kin of each emotion: ``[text, emotion]``."""
    kin = corpus.emotions()["kin"].to_dict()
    words_of = [corpus.words(text) for text in texts]
    return np.array(
        [[sum(word in kin[name] for word in words) / max(len(words), 1) for name in emotions] for words in words_of]
    )
