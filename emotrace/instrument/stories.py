"""Stories: what a model is asked for, which pass, and those of two packaged models that are kept with the project.

The full text of the paper could not be read here; the prompts are ours. All 21 classes share one frame, so that only
the feeling differs: *neutral* is asked to feel nothing in particular.
"""

from __future__ import annotations

import re

import pandas as pd

from emotrace import arguments
from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.instrument.tables import read_table

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
"""The same request without its feeling: a chat without the label in it (``study.methods.factorial``)."""

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
_REFUSAL = re.compile(
    r"\b(as an? (ai|artificial|language model|digital)|i'?m an? (\w+ )?(ai|artificial|language model|digital)"
    r"|an ai (language model|assistant)|i am an? (\w+ )?(ai|artificial|language model|digital)"
    r"|i('?m| am) sorry,? (but )?(i|as)\b"
    r"|i (can'?t|cannot|am unable to|'m unable to) (write|assist|help|fulfil|provide|create))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)*\]]*(?=\s|$)")

STORED = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
STORED_COLUMNS = ["topic", "emotion", "story", "attempt", "seed", "base_seed", "max_new_tokens", "temperature", "text"]


def request(
    topic: str, emotion: str, *, named: bool = True, continuation: bool = False, instrument: Instrument | None = None
) -> str:
    """What the model is asked.

    Args:
        topic: of the instrument; any other is the scene itself, in one's own words.
        emotion: one of the instrument's, or *neutral*.
        named: with the feeling in it; otherwise the bare scene, the same for every class.
        continuation: the beginning of a page that a base model would go on with, instead of a request.
        instrument: whose emotions and topics; default: those of ``data/``.

    Raises:
        EmotraceError: an unknown class.
    """
    known = corpus.emotions().index if instrument is None else [*instrument.emotions, corpus.NEUTRAL]
    arguments.choice(emotion, "emotion", list(known))
    if not arguments.text(topic, "a topic").strip():
        raise EmotraceError("a topic is a name or the scene itself, not nothing")
    topics = corpus.topics()["description"] if instrument is None else instrument.topics
    description = str(topics.get(topic, topic))
    scene = description[0].lower() + description[1:]
    if not named:
        return (_OPENING + "\n\n" if continuation else UNNAMED_PROMPT).format(scene=scene)
    if emotion == corpus.NEUTRAL:
        return (NEUTRAL_CONTINUATION if continuation else NEUTRAL_PROMPT).format(scene=scene)
    return (CONTINUATION if continuation else PROMPT).format(scene=scene, emotion=emotion)


def stored(author: str) -> pd.DataFrame:
    """The stories of ``data/stories/AUTHOR.csv``: one a topic and class, fewer where none passed.

    Raises:
        EmotraceError: an unknown author.
    """
    if author not in STORED:
        raise unknown("author of stories", author, STORED)
    return read_table(corpus.data_dir() / "stories" / f"{author}.csv", STORED_COLUMNS)


def other_author(model_name: str) -> str:
    """Whose stored stories are another's to this model: the first of ``STORED`` that is not the model itself."""
    return next(author for author in STORED if author != model_name)


def status(text: str, leaks: bool) -> str:
    """What becomes of a story, which names its own feeling (``leaks``) or not: one of ``STATUSES``."""
    if len(corpus.words(text)) < MIN_WORDS:
        return "empty"
    if _REFUSAL.search(text.replace("’", "'")):
        return "refusal"
    return "leaks" if leaks else "kept"


def until_sentence_end(text: str) -> str:
    """A text up to its last sentence end, closing quotation marks and brackets included; empty if it has none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
