"""Where each token stands in its text, so that tokens can be shown without cutting a character in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import regex

from emotrace.errors import EmotraceError
from emotrace.tokens import tokenised

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.tokens import Tokens


class Span(NamedTuple):
    """A stretch of text, and the indices of the tokens that stand for it.

    Spans follow each other without a gap: joined, their texts are the whole text.
    """

    text: str
    tokens: tuple[int, ...]


def offsets(model: Model, text: str, tokens: Tokens, *, special: bool = False) -> list[tuple[int, int]]:
    """Each token's half-open range of characters in ``text``; an empty one for a token that the tokenizer added.

    Raises:
        EmotraceError: the model's tokenizer does not say where its tokens stand.
    """
    if not model.tokenizer.is_fast:
        raise EmotraceError(f"the tokenizer of {model.name} is a slow one and does not say where its tokens stand")
    made = tokenised(model, text, special=special, return_offsets_mapping=True)
    # `encode` drops a second beginning-of-text token, and what is added at the end.
    ids, count = tuple(made["input_ids"]), len(tokens.ids)
    first = 0 if ids[:count] == tokens.ids else 1
    return [(int(start), int(end)) for start, end in made["offset_mapping"][first : first + count]]


def spans(text: str, ranges: Sequence[tuple[int, int]]) -> list[Span]:
    """The text in the smallest pieces that are whole characters and whole tokens both.

    A character that several tokens spell (an emoji in bytes, say) is one span of all of them, and so is what a reader
    takes for one character: a letter with its accents, or emoji joined to one. What no token stands for (some
    tokenizers drop spaces) goes with the token after it.

    Args:
        text: the text.
        ranges: of :func:`offsets`.
    """
    inside = _inside_characters(text)
    groups: list[tuple[int, list[int]]] = []  # where each ends, its tokens
    end = 0
    for token, (start, stop) in enumerate(ranges):
        if stop <= start and not groups:
            continue  # added before the text
        if groups and (start < end or stop <= start or end in inside):
            groups[-1] = (max(end, stop), [*groups[-1][1], token])
        else:
            groups.append((stop, [token]))
        end = groups[-1][0]
    starts = [0, *(stop for stop, _ in groups)]
    pieces = [Span(text[start:stop], tuple(members)) for start, (stop, members) in zip(starts, groups, strict=False)]
    return [*pieces, Span(text[end:], ())] if end < len(text) else pieces


def _inside_characters(text: str) -> set[int]:
    """The offsets that lie within one character as a reader counts them (a grapheme cluster)."""
    return {offset for match in regex.finditer(r"\X", text) for offset in range(match.start() + 1, match.end())}
