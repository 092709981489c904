"""A model's tokenizer, read as the model was trained with."""

from __future__ import annotations

from typing import Any


def read_tokenizer(source: str, **where: Any) -> Any:
    """The tokenizer of a folder or hub model, as the model was trained with.

    Mistral's of more than 100,000 tokens were converted with a pattern that splits words elsewhere. transformers knows
    which, warns, and reads them as they are unless it is told to mend them; the others it leaves alone.

    Raises:
        Exception: whatever transformers and the hub's client raise.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, **where, fix_mistral_regex=True)
