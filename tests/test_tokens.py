"""What is wrong with a text or a prompt is said of the one that has it."""

import pytest

from emotrace import EmotraceError
from emotrace.scoring import score
from emotrace.tokens import Tokens, encode, prompt_ids


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("faulty", "what"),
    [("  ", "prompt 3 is empty"), ("x " * 600, r"prompt 3 is too long \(\d+ tokens"), (7, "prompt 3 is no")],
)
def test_a_prompt_is_named_by_its_number_among_the_different_ones(faulty, what, chat, tiny):
    with pytest.raises(EmotraceError, match=f"^{what}"):
        prompt_ids(tiny("llama"), ["On Monday", "She said", "On Monday", faulty], chat, 8)


@pytest.mark.parametrize("read", [encode, lambda model, texts, prompts: score(model, texts, None)])
def test_what_is_continued_is_a_prompt_in_messages_and_what_is_read_a_text(read, tiny):
    model = tiny("llama")
    for faulty in (" ", "x " * 600, "x" * 30_000, 7, Tokens((5, 6), 1, 9), Tokens((5, 9999), 0, 2)):
        with pytest.raises(EmotraceError, match=r"^(start of |stop of |a token of )?prompt 2 "):
            read(model, ["On Monday", faulty], prompts=True)
        with pytest.raises(EmotraceError, match=r"^(start of |stop of |a token of )?text 2 "):
            encode(model, ["On Monday", faulty])
