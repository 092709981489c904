"""What a model holds at the last token before it replies → tables: the rank of an implied emotion, and ρ with a dose.

A message is put into the model's chat template, or, for a base model, into :data:`FRAME`, and read at the last token
before the reply. The vectors are those of the passages at the layer that one half of the topics chose (nearest
centroid); messages and passages share no text. Ours, after EmotionScope, whose results the claims name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.activations import read_activations
from emotrace.instrument import corpus
from emotrace.study.experiment import Results
from emotrace.study.reading import graded, implicit
from emotrace.study.reading.implicit import EMBEDDINGS, TFIDF, VECTORS, Rows
from emotrace.study.reading.projection import Texts
from emotrace.study.study import Study, choose_layer
from emotrace.tokens import Tokens, chat_ids, encode

if TYPE_CHECKING:
    from emotrace.models import Model

FRAME = "Message: {message}\n\nReply:"
CRITERION = "nearest_centroid"


def before_reply(model: Model, message: str) -> Tokens:
    """The tokens of a message up to where the reply begins; their last is what ``last`` pooling reads."""
    if model.instruct and model.tokenizer.chat_template is not None:
        ids = chat_ids(model, message)
        return Tokens(ids, 0, len(ids))
    return encode(model, [FRAME.format(message=message)])[0]


def _read(study: Study, messages: Sequence[str], layer: int) -> np.ndarray:
    """What the last token before the reply holds at one layer: float32 ``[message, d_model]``.

    All layers are read and kept, so that no message is read again for another pooling or instrument.
    """
    tokens = [before_reply(study.model, message) for message in messages]
    return read_activations(study.model, tokens, poolings=("last",), cache=study.run)["last"][:, layer]


def _tables(names: Sequence[str], rows: Rows) -> Results:
    """Rows that say in ``table`` to which table they belong; a table without rows is empty."""
    return Results({name: pd.DataFrame([_without(row) for row in rows if row["table"] == name]) for name in names})


def _without(row: dict) -> dict:
    return {column: value for column, value in row.items() if column != "table"}


# -- implicit scenarios -----------------------------------------------------------------------------------------------


def implicit_scenarios(study: Study) -> Results:
    """Where the implied emotion ranks (``implicit``), and how often it is in the top 3 (``implicit_rates``).

    Column ``reader``: the model's ``vectors``, for each pooling of the passages; and words without context, as mean
    ``embeddings`` or as ``tfidf``, which learn from the passages and rank the scenarios in the same way. Metrics:
    ``top3``, its interval Wilson's; ``top3_near``, an emotion near the target counts too; ``rank``, the mean;
    ``top3_over_embeddings`` and ``top3_over_tfidf``, the paired difference from what words alone give.
    ``clustered_low``, ``clustered_high``: bootstrap over emotions. ``null``, ``p``: labels of the passages shuffled
    within topics; ``shuffled_null``, ``shuffled_p``: targets shuffled over scenarios.
    """
    table = corpus.implicit_scenarios()
    table = table[table["emotion"].isin(study.names)].reset_index(drop=True)
    if len(table) < 2:
        return _tables(("implicit", "implicit_rates"), [])
    version = corpus.fingerprint(table)
    rows = study.unit(f"implicit words {version}", partial(_words_only, study, table))
    words = list(rows)
    for pooling in study.reading.pooled:
        layer = choose_layer(study, pooling, CRITERION)
        compute = partial(_implied, study, table, words, pooling, layer)
        rows = rows + study.unit(f"implicit {pooling} {layer} {version}", compute)
        study.progress(f"implicit scenarios, {study.instrument}", 1, len(study.reading.pooled))
    return _tables(("implicit", "implicit_rates"), rows)


def _ranked(
    study: Study, table: pd.DataFrame, reader: str, pooling: str, layer: int, passages: np.ndarray, states: np.ndarray
) -> Rows:
    """The rows of one reader, from features of the emotional passages and of the scenarios."""
    texts = Texts(passages, study.topics, study.emotions, study.names)
    rng = partial(study.rng, "implicit", reader, pooling)
    sizes = study.settings.permutations, study.settings.bootstrap
    scenarios, rates = implicit.ranked(table, texts, states, *sizes, rng)
    row = partial(study.row, pooling, layer, reader=reader)
    made = (("implicit", scenarios), ("implicit_rates", rates))
    return [{"table": name, **row(**values)} for name, rows in made for values in rows]


def _words_only(study: Study, table: pd.DataFrame) -> Rows:
    """The rows of the two readers that see words without their context."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer, messages = TfidfVectorizer(sublinear_tf=True), list(table["prompt"])
    passages = vectorizer.fit_transform(study.reading.labels["text"].to_numpy()[study.emotional]).toarray()
    rows = _ranked(study, table, TFIDF, "", 0, passages, vectorizer.transform(messages).toarray())
    if "mean" in study.reading.pooled:
        read = read_activations(study.model, messages, layers=[0], poolings=("mean",), cache=study.run)["mean"][:, 0]
        rows += _ranked(study, table, EMBEDDINGS, "mean", 0, study.layer("mean", 0), read)
    return rows


def _implied(study: Study, table: pd.DataFrame, words: Rows, pooling: str, layer: int) -> Rows:
    """The rows of one pooling of the model's vectors, compared with those of ``words`` alone."""
    states = _read(study, list(table["prompt"]), layer)
    rows = _ranked(study, table, VECTORS, pooling, layer, study.layer(pooling, layer), states)
    own = [row for row in rows if row["table"] == "implicit"]
    for reader in (EMBEDDINGS, TFIDF):
        others = [row for row in words if row["table"] == "implicit" and row["reader"] == reader]
        if others:
            rng = partial(study.rng, "implicit", reader, pooling)
            values = implicit.over_words(own, others, f"top3_over_{reader}", study.settings.bootstrap, rng)
            rows.append({"table": "implicit_rates", **study.row(pooling, layer, reader=VECTORS), **values})
    return rows


# -- graded intensity -------------------------------------------------------------------------------------------------


def graded_prompts(study: Study) -> Results:
    """How far each message lies along the vectors (``graded``), and whether that follows the dose (``graded_scales``).

    What the rows hold: :func:`emotrace.study.reading.graded.levels` and :func:`~emotrace.study.reading.graded.scales`.
    """
    table = corpus.graded_prompts()
    read = table["emotion"].isin(study.names) & table["control_emotion"].isin(study.names)
    table = table[read].reset_index(drop=True)
    if table["scale"].nunique() < 2:
        return _tables(("graded", "graded_scales"), [])
    rows: Rows = []
    for pooling in study.reading.pooled:
        layer = choose_layer(study, pooling, CRITERION)
        compute = partial(_graded, study, table, pooling, layer)
        rows += study.unit(f"graded {pooling} {layer} {corpus.fingerprint(table)}", compute)
        study.progress(f"graded prompts, {study.instrument}", 1, len(study.reading.pooled))
    return _tables(("graded", "graded_scales"), rows)


def _graded(study: Study, table: pd.DataFrame, pooling: str, layer: int) -> Rows:
    states = _read(study, list(table["prompt"]), layer)
    texts = Texts(study.layer(pooling, layer), study.topics, study.emotions, study.names)
    scales = graded.scales(table, texts, states, study.settings.permutations, study.rng("graded", pooling))
    made = (("graded", graded.levels(table, texts, states)), ("graded_scales", scales))
    return [{"table": name, **study.row(pooling, layer), **values} for name, rows in made for values in rows]
