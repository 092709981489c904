"""The model writes: a prompt that asks for a feeling without its word → stories, sampled, judged, kept (C3).

A story is rejected and asked for again, with the next seed, where it names its own feeling (a kin word of
``data/emotions.csv``), talks about being an assistant, or is next to nothing. The requests are in
:mod:`emotrace.instrument.stories`.

A story's seed comes from (seed, topic, emotion, story, attempt) alone, so that neither the batch, nor an interruption,
nor which other stories are asked for changes its text. (Batches of other sizes round the last bits of the logits
differently; a draw that falls within them, about one in a hundred thousand tokens, may come out otherwise.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from emotrace import arguments
from emotrace.errors import EmotraceError, unknown
from emotrace.files import Cache
from emotrace.hosts.open_edits import open_edits
from emotrace.hosts.remote import answers
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.instrument.stories import RULES, request, status, until_sentence_end
from emotrace.measures.randomness import seed_from
from emotrace.steering import generate
from emotrace.tokens import Writing, chat_ids, encode, in_batches

if TYPE_CHECKING:
    from emotrace.models import Model

BATCH_ROWS = 64
STORY = Writing(max_new_tokens=80, temperature=0.8)


class Cell(NamedTuple):
    """One story to be written: its topic, its emotion, and its number among those of the same two."""

    topic: str
    emotion: str
    story: int


@arguments.checked
def request_ids(
    model: Model,
    topic: str,
    emotion: str,
    *,
    named: bool = True,
    continuation: bool = False,
    instrument: Instrument | None = None,
) -> tuple[int, ...]:
    """The token ids of :func:`request`, in the model's chat template unless it is a continuation.

    Raises:
        EmotraceError: the model is a base model; an unknown class.
    """
    text = request(topic, emotion, named=named, continuation=continuation, instrument=instrument)
    if continuation:
        return encode(model, [text])[0].ids
    check_instruct(model)
    return chat_ids(model, text)


def check_instruct(model: Model) -> None:
    """Raises an :class:`EmotraceError` for a model that has no chat template."""
    if model.tokenizer.chat_template is None or not model.instruct:
        raise EmotraceError(
            f"{model.name} is a base model: generation needs an instruct model, or continuation=True, which has a base "
            "model go on with the beginning of a page instead of answering a request"
        )


def seed_of(seed: int, cell: Cell, attempt: int) -> int:
    """The seed of one attempt, which depends on nothing else."""
    return seed_from(seed, *cell, attempt)


@arguments.checked
def write_stories(
    model: Model,
    *,
    topics: Sequence[str] | None = None,
    emotions: Sequence[str] | None = None,
    per_cell: int = 1,
    seed: int = 0,
    writing: Writing = STORY,
    attempts: int = 8,
    continuation: bool = False,
    instrument: Instrument | None = None,
    batch_rows: int = BATCH_ROWS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Has the model write ``per_cell`` stories for each topic and class, and judges them.

    All cells are written at once; those rejected are written again with their next seed, up to ``attempts`` times. A
    cell that still has none is left empty: :func:`rates` reports it. A text that reaches ``max_new_tokens`` is cut back
    to its last sentence end; none is ever forced past its own end.

    Args:
        model: an instruct model, or any with ``continuation``.
        topics: of the instrument's; default all.
        emotions: of the instrument's, and *neutral*; default all.
        per_cell: stories wanted for each topic and class.
        seed: of everything.
        writing: length and temperature, which is above 0, since every attempt at 0 is the same.
        attempts: at most, for each story.
        continuation: ask by the beginning of a page, without a chat template (for base models).
        instrument: whose emotions and topics are asked for, and whose kin words no story may use; default: those of
            ``data/``.
        batch_rows: stories written together.
        cache: keeps finished batches by content.
        progress: called with the number of stories just settled (kept, or given up).

    Returns:
        One row an attempt, by story and attempt: ``topic, emotion, story, attempt, seed, prompt, text, n_tokens`` (as
        written), ``kept_tokens`` (that make up the text after the cut), ``ended`` (by end-of-text), ``cut``, ``leaks``
        (kin words of its own class, joined by ``|``), ``other_leaks`` (of any other), ``status`` (one of ``STATUSES``).

    Raises:
        EmotraceError: a base model without ``continuation``, an unknown topic or class, a size that is none, a prompt
            too long for the model.
    """
    known = list(corpus.topics().index if instrument is None else instrument.topics)
    classes = corpus.emotions().index if instrument is None else (*instrument.emotions, corpus.NEUTRAL)
    topics = known if topics is None else arguments.names(topics, "topic")
    emotions = list(classes) if emotions is None else arguments.names(emotions, "emotion")
    per_cell, attempts, batch_rows = (
        arguments.integer(size, name, at_least=1)
        for name, size in (("per_cell", per_cell), ("attempts", attempts), ("batch_rows", batch_rows))
    )
    seed = arguments.integer(seed, "a seed")
    for topic in set(topics).difference(known):
        raise unknown("topic", topic, known)
    if not topics or not emotions:
        raise EmotraceError("nothing is to be written: a topic and an emotion are needed at least")
    if not writing.temperature:
        raise EmotraceError(f"stories are sampled at a temperature above 0, not {writing.temperature or 0}")
    asked: dict[str, Any] = {"continuation": continuation, "instrument": instrument}
    prompts = {(t, e): request_ids(model, t, e, **asked) for t in topics for e in emotions}
    longest = max(map(len, prompts.values()), default=0)
    if longest + writing.max_new_tokens > model.context:
        raise EmotraceError(
            f"{longest} tokens of prompt and {writing.max_new_tokens} of story exceed what {model.name} takes"
        )
    cells = [Cell(topic, emotion, story + 1) for topic in topics for emotion in emotions for story in range(per_cell)]
    order = {cell: index for index, cell in enumerate(cells)}
    rows: list[dict[str, Any]] = []
    unsettled = cells
    for attempt in range(1, attempts + 1):
        # Prompts of like length share a batch.
        unsettled = sorted(unsettled, key=lambda cell: (-len(prompts[cell.topic, cell.emotion]), order[cell]))
        failed: list[Cell] = []

        def write(batch: list[Cell], attempt: int = attempt) -> list[dict[str, Any]]:
            ids, seeds = [prompts[cell[:2]] for cell in batch], [seed_of(seed, cell, attempt) for cell in batch]
            return _write_batch(model, batch, ids, seeds, attempt, writing, asked, cache)

        for batch, stories in answers(model.remote, in_batches(unsettled, batch_rows), write):
            rows += stories
            rejected = [cell for cell, row in zip(batch, stories, strict=True) if row["status"] != "kept"]
            failed += rejected
            if progress:
                progress(len(batch) - len(rejected) * (attempt < attempts))
        if not (unsettled := failed):
            break
    rows.sort(key=lambda row: (order[Cell(row["topic"], row["emotion"], row["story"])], row["attempt"]))
    return pd.DataFrame(rows)


def _write_batch(
    model: Model,
    cells: list[Cell],
    prompts: list[tuple[int, ...]],
    seeds: list[int],
    attempt: int,
    writing: Writing,
    request_of: dict[str, Any],
    cache: Cache | None,
) -> list[dict[str, Any]]:
    """One story a cell, judged; from the cache if they are there."""
    limit, continuation, instrument = writing.max_new_tokens, request_of["continuation"], request_of["instrument"]

    def compute() -> list[dict[str, Any]]:
        texts = generate(model, prompts, None, replace(writing, chat=not continuation), seeds)
        rows = []
        for cell, seed, tokens in zip(cells, seeds, texts, strict=True):
            asked = {"attempt": attempt, "seed": seed, "prompt": request(*cell[:2], **request_of)}
            rows.append({**cell._asdict(), **asked, **judge(model, tokens, cell.emotion, limit, instrument)})
        return rows

    if cache is None or open_edits(model):  # no key tells of them
        return compute()
    key: dict[str, Any] = {"what": "stories", "model": model.identity, "dtype": model.provenance["dtype"]}
    key |= {"max_new_tokens": limit, "temperature": writing.temperature, "continuation": continuation}
    key["rules"] = RULES
    if instrument is not None:
        key["kin"] = sorted(instrument.kin.items())
    return cache.rows({**key, "cells": cells, "prompts": prompts, "seeds": seeds, "attempt": attempt}, compute)


def judge(
    model: Model, tokens: list[int], emotion: str, limit: int, instrument: Instrument | None = None
) -> dict[str, Any]:
    """What was written as a story: its text, cut back if it reached ``limit`` tokens, and whether it is kept."""
    whole = model.tokenizer.decode(tokens, skip_special_tokens=True)
    ended = len(tokens) < limit
    text = (whole if ended else until_sentence_end(whole)).strip()
    leaks_of, words_of = (instrument.leaks, instrument.words) if instrument else (corpus.leaks, corpus.words)
    own = leaks_of(text, [emotion])
    others, cut = sorted(set(leaks_of(text)) - set(own)), not ended and text != whole.strip()
    size = {"n_tokens": len(tokens), "kept_tokens": _tokens_of(model, tokens, text), "ended": ended, "cut": cut}
    leaks = {"leaks": "|".join(own), "other_leaks": "|".join(others)}
    return {"text": text, **size, **leaks, "status": status(text, bool(own), words_of)}


def _tokens_of(model: Model, tokens: list[int], text: str) -> int:
    """How many of the leading tokens make up ``text``."""
    low, high = 0, len(tokens)
    while low < high:  # a longer prefix never decodes to less
        middle = (low + high) // 2
        decoded = model.tokenizer.decode(tokens[:middle], skip_special_tokens=True).lstrip()
        low, high = (low, middle) if len(decoded) >= len(text) and decoded.startswith(text) else (middle + 1, high)
    return low


@arguments.checked
def kept(stories: pd.DataFrame) -> pd.DataFrame:
    """The stories that passed, one row a story."""
    corpus.check_columns(stories, "the table of stories", ("status",))
    return stories[stories["status"] == "kept"].reset_index(drop=True)
