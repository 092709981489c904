"""A model's tokenizer, splitting text as the model was trained with."""

from __future__ import annotations

import re
from typing import Any

from emotrace.errors import EmotraceError

# What Mistral's pattern never leaves in one piece. Of the 131,072 tokens of either of Mistral's own vocabularies none
# has it, of Qwen 2.5's 3.9%, of Gemma 3's 4.6%.
_SPLIT_BY_MISTRAL = re.compile("[a-z][A-Z]|[0-9][0-9]")
_FEW = 0.001


def read_tokenizer(source: str, **where: Any) -> Any:
    """The tokenizer of a folder or hub model, as the model was trained with.

    Mistral's of more than 100,000 tokens were converted with a pattern that splits words elsewhere. transformers finds
    them by the model's class, warns, and reads them as they are unless it is told to mend them. They are mended, but
    for those of another vocabulary: a model of that class may have any tokenizer.

    Raises:
        Exception: whatever transformers and the hub's client raise.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, **where, fix_mistral_regex=True)
    if _mended(tokenizer) and not _mistrals(tokenizer):
        return AutoTokenizer.from_pretrained(source, **where, fix_mistral_regex=False)
    return tokenizer


def check_split(tokenizer: Any) -> None:
    """Refuses a tokenizer in memory that splits words as Mistral's models were not trained, but for one that was asked
    for so.

    Raises:
        EmotraceError: how it is mended, or kept.
    """
    asked = getattr(tokenizer, "init_kwargs", {}).get("fix_mistral_regex")
    if _mended(tokenizer) is False and asked is None and _mistrals(tokenizer):
        raise EmotraceError(
            "its tokenizer splits words as the model was not trained, which transformers warns of: read it with "
            "AutoTokenizer.from_pretrained(…, fix_mistral_regex=True), or False to keep it as it is"
        )


def _mended(tokenizer: Any) -> bool | None:
    """Whether transformers mended what it took for one of Mistral's; None where it took it for none.

    The tokenizer within tells: the argument alone stands on every one that was read with it.
    """
    mended: bool | None = getattr(getattr(tokenizer, "backend_tokenizer", None), "fix_mistral_regex", None)
    return mended


def _mistrals(tokenizer: Any) -> bool:
    """Whether a vocabulary can have been learnt under Mistral's pattern: a token never joins what a pattern splits."""
    learnt = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
    return sum(bool(_SPLIT_BY_MISTRAL.search(token)) for token in learnt) <= _FEW * len(learnt)
