"""Scripts of texts, of tokens and of a whole vocabulary."""

import pytest

from emotrace.study.languages import lexicon, writing_systems


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((text, "Han") for text in ("找了", " 高", "𠮷", "々", "AI技术平台")),
        *((text, "Latin") for text in ("hello", " é", "Ａ", "email信")),
        *((text, "common") for text in ("123", "，。", "", "😀")),
        *((text, "part") for text in ("\ufffd", "a\ufffd")),
        ("привет", "Cyrillic"),
        ("です", "Hiragana"),
        ("カ", "Katakana"),
        ("한", "Hangul"),
        ("ไทย", "Thai"),
    ],
)
def test_script_of_a_token(text, name):
    assert writing_systems.script(text) == name


def test_common_characters_count_for_no_script():
    assert writing_systems.script_counts("He said 绝望, 3 次!") == {"Latin": 6, "Han": 3}


def test_every_token_has_one_script_and_at_most_one_group(planted):
    model, _ = planted
    vocab = writing_systems.vocabulary(model)
    assert len(vocab.texts) == len(vocab.scripts) == model.nn._module.lm_head.weight.shape[0]
    for token in model.tokenizer.all_special_ids:
        assert vocab.scripts[token] == "special"
    groups = vocab.groups()
    by_hand = {"Han": 0, "part": 2}
    for name, row in zip(vocab.scripts, groups, strict=True):
        expected = by_hand.get(name, None if name in ("Latin", "common", "special") else 1)
        assert row.sum() == (expected is not None)
        assert expected is None or row[expected] == 1
    # A byte-level tokenizer has pieces of characters, and the planted words are whole.
    assert groups.sum(axis=0)[0] >= len(lexicon.lexicon())
    assert 100 < groups.sum(axis=0)[2] < 200


def test_rows_of_the_unembedding_that_no_token_uses_belong_to_no_script(tiny):
    model = tiny("qwen")
    size = model.nn._module.config.vocab_size
    try:
        model.nn._module.config.vocab_size = size + 7
        assert list(writing_systems.vocabulary(model).scripts[-7:]) == ["special"] * 7
    finally:
        model.nn._module.config.vocab_size = size
