"""Chat templates of tokenizers: the only place that applies one.

A tokenizer is one thread's at a time: whether it parses special tokens is a setting of the whole object.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

# Some chat templates write today's date: a text must not depend on the day.
TEMPLATE_DATE = datetime.date(2026, 1, 1)
_DIRECTIVES = {f"%{letter}": TEMPLATE_DATE.strftime(f"%{letter}") for letter in "aAbBcdDeFHIjmMpSTuUVwWxXyY"}
_DIRECTIVES |= {"%-d": str(TEMPLATE_DATE.day), "%-m": str(TEMPLATE_DATE.month)}  # Windows has none without the zero
# transformers gives a template no function but its own, so one of jinja takes the place of `strftime_now`.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f".replace('{directive}', '{written}')" for directive, written in _DIRECTIVES.items())
    + " }}{%- endmacro %}{{ '' }}"
)
# A word that no template writes by itself.
_ANSWER = "Sesquipedalian"


def prompt(tokenizer: Any, message: str) -> tuple[int, ...]:
    """The ids of a user's message, up to where the answer begins; special tokens that it spells are its characters."""
    return tuple(_applied(tokenizer, [message], add_generation_prompt=True, sanitize_control_tokens=True))


def _applied(tokenizer: Any, turns: Sequence[str], **settings: bool) -> Any:
    """A dialogue, the user's turn first, in the chat template: token ids, or text if not ``tokenize``."""
    roles, template = itertools.cycle(("user", "assistant")), tokenizer.get_chat_template()
    return tokenizer.apply_chat_template(
        [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)],
        return_dict=False,
        enable_thinking=False,
        date_string=f"{TEMPLATE_DATE.day} {TEMPLATE_DATE:%B %Y}",
        chat_template=_FIXED_DATE + template if "strftime_now" in template else template,
        **settings,
    )


def turn_end(tokenizer: Any) -> int | None:
    """The special token that the chat template writes right after an assistant's words, if it writes one."""
    try:
        text = _applied(tokenizer, ["Question", _ANSWER], tokenize=False)
    except Exception:  # whatever a template raises that takes no such dialogue
        return None
    after = text.rpartition(_ANSWER)[2].strip() if _ANSWER in text else ""
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None
