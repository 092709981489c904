"""The prompting baseline: the same texts, unsteered, after a request that asks for the feeling.

A model that would write the feeling when simply asked needs no steering for it. An instruct model is asked in its chat
template and its answer begins with the text to be continued; a base model reads a sentence before it. The same request
without a feeling stands beside each, so that what is compared is what the feeling's name adds. The words are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.steered_texts import rows_at_once
from emotrace.steering import generate
from emotrace.study.effects.crossed import crossed_mean
from emotrace.tokens import Writing, chat_ids, encode, in_batches, in_parts, text_after

if TYPE_CHECKING:
    from emotrace.models import Model

_ASKED = "Continue this text, so that the person in it feels {emotion}."
_PLAIN = "Continue this text, in the same manner."
_SENTENCE = "In these lines somebody feels {emotion}.\n\n"
_PLAIN_SENTENCE = "In these lines somebody goes on.\n\n"


def request(model: Model, prompt: str, emotion: str) -> tuple[int, ...]:
    """The token ids of a request that asks for an emotion (or, if empty, for none), up to where the text goes on."""
    if not model.instruct:
        sentence = _SENTENCE.format(emotion=emotion) if emotion else _PLAIN_SENTENCE
        return encode(model, [sentence + prompt], prompts=True)[0].ids
    asked = _ASKED.format(emotion=emotion) if emotion else _PLAIN
    begun = encode(model, [prompt])[0]
    return (*chat_ids(model, f"{asked}\n\n{prompt}"), *begun.ids[begun.start :])


def write(model: Model, cases: Sequence[tuple[str, str, int]], tokens: int) -> pd.DataFrame:
    """One text for each (prompt, emotion, seed); an empty emotion asks for none.

    Returns:
        Columns ``text, tokens, n_tokens``, in the order of ``cases``.
    """
    writing = Writing(max_new_tokens=tokens, temperature=0.7, chat=model.instruct)
    ids = [request(model, prompt, emotion) for prompt, emotion, _ in cases]
    # Requests of one length share a batch, which then needs no padding.
    order = sorted(range(len(cases)), key=lambda row: (len(ids[row]), ids[row]))
    written: dict[int, list[int]] = {}

    def part(rows: Sequence[int]) -> list[list[int]]:
        return generate(model, [ids[row] for row in rows], None, writing, [cases[row][2] for row in rows])

    for rows in in_batches(order, rows_at_once(model, ids, tokens)):
        texts = [one for some in in_parts(model, rows, part) for one in some]
        written.update(zip(rows, texts, strict=True))
    facts = [
        {"text": text_after(model, ids[row], written[row]), "tokens": written[row], "n_tokens": len(written[row])}
        for row in range(len(cases))
    ]
    return pd.DataFrame(facts, columns=["text", "tokens", "n_tokens"])


def compared(where: str, metric: str, emotions: Sequence[str], steered: np.ndarray, asked: np.ndarray) -> pd.DataFrame:
    """Rows of ``prompting.csv``: what steering and asking each add, and their difference, emotion by emotion and all.

    Args:
        where: on what texts.
        metric: of what.
        emotions: names of the rows.
        steered, asked: what each adds, ``[emotion, prompt]``, on the same prompts; one column where an emotion's
            prompts are its own.

    Returns:
        ``where, metric, emotion`` (``all``: the mean); ``steering, prompting``; ``value``, steering minus prompting,
        with an interval and two-sided p for ``all``, over emotions and, where they share them, prompts; ``n``.
    """
    key = {"where": where, "metric": metric}
    means = zip(emotions, steered.mean(axis=1), asked.mean(axis=1), strict=True)
    rows = [
        {**key, "emotion": name, "steering": own, "prompting": other, "value": own - other}
        for name, own, other in means
    ]
    together = {"emotion": "all", "steering": steered.mean(), "prompting": asked.mean(), "n": len(emotions)}
    return pd.DataFrame([*rows, {**key, **together, **crossed_mean(steered - asked)._asdict()}])
