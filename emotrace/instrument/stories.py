"""Stories: what a model is asked for, which pass, and those of two packaged models that are kept with the project.

The full text of the paper could not be read here; the prompts are ours. All 21 classes share one frame, so that only
the feeling differs: *neutral* is asked to feel nothing in particular.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

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
# A character may say "I'm sorry" or "I can't help it", and a guilty one does: what is quoted is no refusal, nor is an
# apology by itself.
_QUOTED = re.compile(
    r"\"[^\"]*(?:\"|$)|[“„][^“”]*(?:[“”]|$)|«[^»]*(?:»|$)|(?<!\w)['‘](?=\w).*?[,.?!…-]'(?!\w)", re.DOTALL
)
_ASSISTANT = re.compile(
    r"\b(?:as|i'm|i am)(?: just| only| merely)? an? (?:\w+ )?"
    r"(?:ai\b(?! \w+(?:er|or|ist)\b)|artificial intelligence|language model|(?:digital|virtual) assistant)",
    re.IGNORECASE,
)
_CANNOT = r"\bi (?:can't|can ?not|won't|am (?:unable|not able) to|'m (?:unable|not able) to) "
_REFUSAL = re.compile(
    rf"(?:sorry|apologi[sz]e|apologies|unfortunately)\b[^.!?]*?{_CANNOT}"
    r"(?:write|assist|help|fulfil|provide|create|generate|continue|comply|complete|produce|do th(?:at|is))"
    rf"|{_CANNOT}(?:assist|fulfil|comply|help (?:you )?with (?:that|this|your)"
    r"|(?:write|provide|create|generate|produce)\b[^.!?]*? (?:stor(?:y|ies)|content|texts?|requests?|assistance)\b)",
    re.IGNORECASE,
)
# A refusal stands within the first two sentences or so.
_BEGINNING = 200
_SENTENCE_END = re.compile(r"[.!?…؟।॥]+[\"'”’“)*\]»」]*(?:[ \u00a0\u202f]»)?(?=\s|$)|[。！？｡]+[\"'”’)*\]」』）]*")
RULES = [MIN_WORDS, *(rule.pattern for rule in (_QUOTED, _ASSISTANT, _REFUSAL, _SENTENCE_END))]
"""What decides a story's status, for the keys of caches."""

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
    if not arguments.text(topic, "a topic").strip(" .\n\t"):
        raise EmotraceError("a topic is a name or the scene itself, not nothing")
    topics = corpus.topics()["description"] if instrument is None else instrument.topics
    scene = str(topics.get(topic, topic)).strip().rstrip(".")  # the frame has its own full stop
    if re.match(r"(?:A|[A-Z][a-z]+)\b", scene):  # not I, not HIV
        scene = scene[0].lower() + scene[1:]
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


def status(text: str, leaks: bool, words: Callable[[str], Sequence[str]] = corpus.words) -> str:
    """What becomes of a story, which names its own feeling (``leaks``) or not: one of ``STATUSES``.

    Args:
        text: the story.
        leaks: whether it names its feeling.
        words: a text's words, as its instrument counts them.
    """
    if len(words(text)) < MIN_WORDS:
        return "empty"
    told = _QUOTED.sub(" ", text.replace("’", "'"))
    if _ASSISTANT.search(told) or _REFUSAL.search(told[:_BEGINNING]):
        return "refusal"
    return "leaks" if leaks else "kept"


def until_sentence_end(text: str) -> str:
    """A text up to its last sentence end, closing quotation marks and brackets included; empty if it has none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
