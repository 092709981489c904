"""The model writes: a prompt that asks for a feeling without its word → stories, sampled, judged, kept (C3).

The paper's prompts are not public; these are ours. All 21 classes share one frame, so that only the feeling differs:
*neutral* is asked to feel nothing in particular. A story is rejected and asked for again, with the next seed, where it
names its own feeling (a kin word of ``data/emotions.csv``), talks about being an assistant, or is next to nothing.

A story's seed comes from (seed, topic, emotion, story, attempt) alone, so that neither the batch, nor an interruption,
nor which other stories are asked for changes its text. (Batches of other sizes round the last bits of the logits
differently; a draw that falls within them, about one in a hundred thousand tokens, may come out otherwise.)
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pandas as pd

from emotrace.activations import encode
from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.measures.statistics import wilson

if TYPE_CHECKING:
    from emotrace.models import Model

_SCENE = "Write a very short story, about 50 words, about this everyday scene: {scene}."
PROMPT = _SCENE + (
    " The main character feels {emotion}. Show it by what they do and by what happens around them."
    ' Do not use the word "{emotion}" or any word like it.'
)
NEUTRAL_PROMPT = _SCENE + (
    " The main character feels nothing in particular. Tell plainly what they do and what happens around them."
    " Do not use any word for a feeling."
)
UNNAMED_PROMPT = _SCENE
"""The same request without its feeling: the frame of a chat without the label in it (see :mod:`emotrace.study.methods.factorial`)."""

_OPENING = "Here is a very short story, about 50 words, about this everyday scene: {scene}."
CONTINUATION = _OPENING + (
    " The main character feels {emotion}, which shows only in what they do and in what happens around them.\n\n"
)
NEUTRAL_CONTINUATION = _OPENING + (
    " The main character feels nothing in particular; it tells plainly what they do and what happens around them.\n\n"
)

STATUSES = ("kept", "leaks", "empty", "refusal")
# Below this a text is a remark, not a story.
MIN_WORDS = 12
BATCH_ROWS = 64

_REFUSAL = re.compile(
    r"\b(as an? (ai|artificial|language model|digital)|i'?m an? (\w+ )?(ai|artificial|language model|digital)"
    r"|an ai (language model|assistant)|i am an? (\w+ )?(ai|artificial|language model|digital)"
    r"|i('?m| am) sorry,? (but )?(i|as)\b|i (can'?t|cannot|am unable to|'m unable to) (write|assist|help|fulfil|provide|create))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)*\]]*(?=\s|$)")


class RowCache(Protocol):
    """Keeps finished batches by content (``runs.RunFolder`` is one)."""

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]: ...


class Cell(NamedTuple):
    """One story to be written: its topic, its emotion, and its number among those of the same two."""

    topic: str
    emotion: str
    story: int


def request(topic: str, emotion: str, *, named: bool = True, continuation: bool = False) -> str:
    """What the model is asked.

    Args:
        topic: of ``data/topics.csv``.
        emotion: one of the 21 classes.
        named: with the feeling in it; otherwise the bare scene, the same for every class.
        continuation: the beginning of a page that a base model would go on with, instead of a request.

    Raises:
        EmotraceError: an unknown topic or class.
    """
    for kind, name, known in (("topic", topic, corpus.topics().index), ("emotion", emotion, corpus.emotions().index)):
        if name not in known:
            raise unknown(kind, name, known)
    description = corpus.topics().loc[topic, "description"]
    scene = description[0].lower() + description[1:]
    if not named:
        return (_OPENING + "\n\n" if continuation else UNNAMED_PROMPT).format(scene=scene)
    if emotion == corpus.NEUTRAL:
        return (NEUTRAL_CONTINUATION if continuation else NEUTRAL_PROMPT).format(scene=scene)
    return (CONTINUATION if continuation else PROMPT).format(scene=scene, emotion=emotion)


def prompt_ids(
    model: Model, topic: str, emotion: str, *, named: bool = True, continuation: bool = False
) -> tuple[int, ...]:
    """The token ids of :func:`request`, in the model's chat template unless it is a continuation.

    Raises:
        EmotraceError: the model has no chat template; an unknown topic or class.
    """
    text = request(topic, emotion, named=named, continuation=continuation)
    if continuation:
        return encode(model, [text])[0].ids
    check_instruct(model)
    # Some templates write today's date, or open a scratchpad to think in: a fixed date, and no thinking.
    return tuple(
        model.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_dict=False,
            date_string="1 January 2026",
            enable_thinking=False,
        )
    )


def check_instruct(model: Model) -> None:
    """Raises an :class:`EmotraceError` for a model that has no chat template."""
    if model.tokenizer.chat_template is None or not model.instruct:
        raise EmotraceError(
            f"{model.name} is a base model: generation needs an instruct model, or continuation=True, which has a base "
            "model go on with the beginning of a page instead of answering a request"
        )


def seed_of(seed: int, cell: Cell, attempt: int) -> int:
    """The seed of one attempt, which depends on nothing else."""
    return zlib.crc32(repr((seed, *cell, attempt)).encode())


def write_stories(
    model: Model,
    *,
    topics: Sequence[str] | None = None,
    emotions: Sequence[str] | None = None,
    per_cell: int = 1,
    seed: int = 0,
    max_new_tokens: int = 80,
    temperature: float = 0.8,
    attempts: int = 8,
    continuation: bool = False,
    batch_rows: int = BATCH_ROWS,
    cache: RowCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Has the model write ``per_cell`` stories for each topic and class, and judges them.

    All cells are written at once; those rejected are written again with their next seed, up to ``attempts`` times. A
    cell that still has none is left empty: :func:`rates` reports it. A text that reaches ``max_new_tokens`` is cut back
    to its last sentence end; none is ever forced past its own end.

    Args:
        model: an instruct model, or any with ``continuation``.
        topics: of ``data/topics.csv``; default all 12.
        emotions: of the 21 classes; default all.
        per_cell: stories wanted for each topic and class.
        seed: of everything.
        max_new_tokens: tokens a story may take.
        temperature: above 0, since every attempt at 0 is the same.
        attempts: at most, for each story.
        continuation: ask by the beginning of a page, without a chat template (for base models).
        batch_rows: stories written together.
        cache: keeps finished batches; see :class:`RowCache`.
        progress: called with the number of stories just settled (kept, or given up).

    Returns:
        One row an attempt, by story and attempt: ``topic, emotion, story, attempt, seed, prompt, text, n_tokens`` (as
        written), ``kept_tokens`` (that make up the text after the cut), ``ended`` (by end-of-text), ``cut``, ``leaks``
        (kin words of its own class, joined by ``|``), ``other_leaks`` (of any other), ``status`` (one of ``STATUSES``).

    Raises:
        EmotraceError: a base model without ``continuation``, an unknown topic or class, a size that is none, a prompt
            too long for the model.
    """
    topics = list(corpus.topics().index if topics is None else topics)
    emotions = list(corpus.emotions().index if emotions is None else emotions)
    _check(per_cell=per_cell, max_new_tokens=max_new_tokens, attempts=attempts, batch_rows=batch_rows)
    if not 0 < temperature < float("inf"):
        raise EmotraceError(f"stories are sampled at a temperature above 0, not {temperature}")
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "continuation": continuation}
    prompts = {(t, e): prompt_ids(model, t, e, continuation=continuation) for t in topics for e in emotions}
    longest = max(map(len, prompts.values()), default=0)
    if longest + max_new_tokens > model.context:
        raise EmotraceError(f"{longest} tokens of prompt and {max_new_tokens} of story exceed what {model.name} takes")
    cells = [Cell(topic, emotion, story + 1) for topic in topics for emotion in emotions for story in range(per_cell)]
    rows: list[dict[str, Any]] = []
    open_cells = cells
    for attempt in range(1, attempts + 1):
        failed = []
        # Prompts of like length share a batch.
        ordered = sorted(open_cells, key=lambda cell: (-len(prompts[cell.topic, cell.emotion]), cells.index(cell)))
        for start in range(0, len(ordered), batch_rows):
            batch = ordered[start : start + batch_rows]
            seeds = [seed_of(seed, cell, attempt) for cell in batch]
            ids = [prompts[cell.topic, cell.emotion] for cell in batch]
            written = _batch(model, batch, ids, seeds, attempt, settings, cache)
            rows += written
            unkept = [cell for cell, row in zip(batch, written, strict=True) if row["status"] != "kept"]
            failed += unkept
            if progress:
                progress(len(batch) - (len(unkept) if attempt < attempts else 0))
        open_cells = failed
        if not failed:
            break
    order = {cell: place for place, cell in enumerate(cells)}
    rows.sort(key=lambda row: (order[Cell(row["topic"], row["emotion"], row["story"])], row["attempt"]))
    return pd.DataFrame(rows)


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise EmotraceError(f"{name} is 1 or more, not {size}")


def _batch(
    model: Model,
    batch: list[Cell],
    ids: list[tuple[int, ...]],
    seeds: list[int],
    attempt: int,
    settings: dict[str, Any],
    cache: RowCache | None,
) -> list[dict[str, Any]]:
    from emotrace.steering import generate

    def compute() -> list[dict[str, Any]]:
        written = generate(
            model, ids, None,
            max_new_tokens=settings["max_new_tokens"], temperature=settings["temperature"], seeds=seeds,
        )  # fmt: skip
        return [
            {
                **cell._asdict(), "attempt": attempt, "seed": seed,
                "prompt": request(cell.topic, cell.emotion, continuation=settings["continuation"]),
                **judge(model, tokens, cell.emotion, settings["max_new_tokens"]),
            }
            for cell, seed, tokens in zip(batch, seeds, written, strict=True)
        ]  # fmt: skip

    if cache is None:
        return compute()
    key = {"what": "stories", "model": model.identity, "dtype": model.provenance["dtype"], **settings}
    return cache.rows({**key, "cells": batch, "prompts": ids, "seeds": seeds, "attempt": attempt}, compute)


def judge(model: Model, tokens: list[int], emotion: str, limit: int) -> dict[str, Any]:
    """What was written as a story: its text, cut back if it reached ``limit`` tokens, and whether it is kept."""
    whole = model.tokenizer.decode(tokens, skip_special_tokens=True)
    ended = len(tokens) < limit
    text = (whole if ended else until_sentence_end(whole)).strip()
    own = corpus.leaks(text, [emotion])
    return {
        "text": text, "n_tokens": len(tokens), "kept_tokens": _tokens_of(model, tokens, text), "ended": ended,
        "cut": not ended and text != whole.strip(), "leaks": "|".join(own),
        "other_leaks": "|".join(sorted(set(corpus.leaks(text)) - set(own))), "status": _status(text, bool(own)),
    }  # fmt: skip


def _status(text: str, leaks: bool) -> str:
    if len(corpus.words(text)) < MIN_WORDS:
        return "empty"
    if _REFUSAL.search(text.replace("’", "'")):
        return "refusal"
    return "leaks" if leaks else "kept"


def until_sentence_end(text: str) -> str:
    """A text up to its last sentence end, closing quotation marks and brackets included; empty if it has none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def _tokens_of(model: Model, tokens: list[int], text: str) -> int:
    """How many of the leading tokens make up ``text``."""
    low, high = 0, len(tokens)
    while low < high:  # a longer prefix never decodes to less
        middle = (low + high) // 2
        decoded = model.tokenizer.decode(tokens[:middle], skip_special_tokens=True).lstrip()
        low, high = (low, middle) if len(decoded) >= len(text) and decoded.startswith(text) else (middle + 1, high)
    return low


def kept(stories: pd.DataFrame) -> pd.DataFrame:
    """The stories that passed, one row a story."""
    return stories[stories["status"] == "kept"].reset_index(drop=True)


def rates(stories: pd.DataFrame) -> pd.DataFrame:
    """How often what happened: one row a class (and ``all``) and metric, with Wilson's 95% interval.

    Metrics over attempts: each of ``STATUSES``, ``leaks_any`` (a kin word of any class), ``ended`` (by end-of-text),
    ``cut``. Over stories asked for: ``filled``, those that were kept in the end.
    """
    rows = []
    for emotion, part in [("all", stories), *stories.groupby("emotion", sort=False)]:
        events = {status: part["status"] == status for status in STATUSES}
        events["leaks_any"] = (part["leaks"] != "") | (part["other_leaks"] != "")
        events |= {"ended": part["ended"], "cut": part["cut"]}
        events["filled"] = events["kept"].groupby([part["topic"], part["emotion"], part["story"]]).any()
        for metric, event in events.items():
            interval = wilson(int(event.sum()), len(event))
            rows.append({"emotion": emotion, "metric": metric, **interval._asdict(), "n": len(event)})
    return pd.DataFrame(rows)


# -- stories that are kept with the project -----------------------------------------------------------------------------

STORED = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
STORED_COLUMNS = ["topic", "emotion", "story", "attempt", "seed", "base_seed", "max_new_tokens", "temperature", "text"]


def stored(author: str) -> pd.DataFrame:
    """The stories of ``data/stories/AUTHOR.csv``: one a topic and class, fewer where none passed.

    Raises:
        EmotraceError: an unknown author.
    """
    if author not in STORED:
        raise unknown("author of stories", author, STORED)
    return corpus.read_table(corpus.data_dir() / "stories" / f"{author}.csv", STORED_COLUMNS)


def other_author(model_name: str) -> str:
    """Whose stored stories are another's to this model: the first of ``STORED`` that is not the model itself."""
    return next(author for author in STORED if author != model_name)
