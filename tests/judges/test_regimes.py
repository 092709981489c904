"""Each measure against its definition worked out naively, and each regime at the very edge of its thresholds."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch

from emotrace import scoring
from emotrace.errors import EmotraceError
from emotrace.judges import regimes
from emotrace.tokens import encode, prompt_ids

PROMPTS = ["The door opened and", "After supper they all went down to the river, where the boats were", "Monday"]


def naive(model, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """Log-probabilities of ``tokens`` after ``prompt``, alone, by transformers itself."""
    with torch.no_grad():
        logs = model.nn._module(torch.tensor([[*prompt, *tokens]])).logits[0].double().log_softmax(dim=-1)
    return np.array([float(logs[len(prompt) + place - 1, token]) for place, token in enumerate(tokens)])


def random_tokens(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(10, 500, length).tolist() for length in lengths]


# -- log-likelihood and perplexity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("tokens_a_batch", [1, 9, 10_000])
def test_log_likelihoods_equal_a_loop_over_single_texts(tiny, family, tokens_a_batch, monkeypatch):
    """Mixed prompts and lengths, one text empty, in batches of one, of a few and of all."""
    model = tiny(family)
    vocabulary = model.nn._module.config.vocab_size
    monkeypatch.setattr(scoring, "LOGITS", tokens_a_batch * vocabulary)
    prompts = [encode(model, [PROMPTS[place % 3]])[0].ids for place in range(6)]
    continuations = random_tokens(4, 11, 1, 0, 7, 4)
    told = []
    found = scoring.log_likelihoods(model, prompts, continuations, told.append)
    assert sum(told) == 5
    assert len(told) == {1: 5, 9: 4, 10_000: 1}[tokens_a_batch]
    for prompt, tokens, values in zip(prompts, continuations, found, strict=True):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, naive(model, prompt, tokens), atol=1e-5)


def test_the_perplexity_ratio_in_closed_form():
    text = np.log([0.1, 0.1, 0.1])
    assert regimes.perplexity_ratio(text, [np.log([0.4, 0.4, 0.4])]) == pytest.approx(4)
    assert regimes.perplexity_ratio(np.log([0.2, 0.05]), [np.log([0.1, 0.1])]) == pytest.approx(1)  # geometric means
    assert regimes.perplexity_ratio(text, [text]) == pytest.approx(1)


def test_a_reference_counts_as_far_as_the_text_goes():
    text = np.log([0.1, 0.1])
    assert regimes.perplexity_ratio(text, [np.log([0.2, 0.2, 0.9, 0.9])]) == pytest.approx(2)
    assert regimes.perplexity_ratio(text, [np.log([0.3])]) == pytest.approx(3)  # it ended before: all it has


def test_several_references_are_averaged_in_the_logarithm():
    text = np.log([0.1, 0.1])
    references = [np.log([0.2, 0.2]), np.log([0.8, 0.8, 0.8]), np.empty(0)]  # ratios 2 and 8, and nothing to count
    assert regimes.perplexity_ratio(text, references) == pytest.approx(4)


def test_no_ratio_without_a_text_or_a_reference():
    assert np.isnan(regimes.perplexity_ratio(np.empty(0), [np.log([0.5])]))
    assert np.isnan(regimes.perplexity_ratio(np.log([0.5]), [np.empty(0)]))
    assert np.isnan(regimes.perplexity_ratio(np.log([0.5]), []))


# -- repetition and words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "n", "share"),
    [
        ([1, 2, 3, 4], 2, 1.0),
        ([1, 2, 1, 2, 1], 2, 0.5),  # 12, 21 of 4
        ([7] * 9, 2, 1 / 8),
        ([7] * 9, 1, 1 / 9),
        ([1, 2, 3, 1, 2, 3, 1], 3, 3 / 5),
        ([1], 2, 1.0),
        ([], 2, 1.0),
    ],
)
def test_distinct_n(tokens, n, share):
    assert regimes.distinct(tokens, n) == pytest.approx(share)


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([5] * 8, 1.0),
        ([1, 2, 3] * 4, 1.0),
        ([1, 2, 3, 1, 2, 3, 1, 2], 1.0),  # the last cycle is cut short
        ([9, 8, 1, 2, 1, 2, 1, 7, 6, 4], 0.5),
        ([1, 2, 3, 4, 1, 2, 3], 0.0),  # 123 comes back, but not at once
        ([1, 1, 2, 3, 4], 0.4),
        ([1, 2, 3, 4], 0.0),
        ([3], 0.0),
        ([], 0.0),
    ],
)
def test_the_longest_loop(tokens, share):
    assert regimes.longest_loop(tokens) == pytest.approx(share)


def test_the_longest_loop_equals_a_search_through_all_stretches():
    def search(tokens: list[int]) -> float:
        n = len(tokens)
        stretches = (
            stop - start
            for start in range(n)
            for stop in range(start + 2, n + 1)
            for period in range(1, (stop - start) // 2 + 1)
            if all(tokens[place] == tokens[place + period] for place in range(start, stop - period))
        )
        return max(stretches, default=0) / n

    rng = np.random.default_rng(1)
    found = set()
    for _ in range(150):
        tokens = rng.integers(0, rng.integers(2, 6), rng.integers(1, 16)).tolist()
        assert regimes.longest_loop(tokens) == pytest.approx(search(tokens))
        found.add(round(search(tokens), 2))
    assert len(found) > 15


# -- labels -----------------------------------------------------------------------------------------------------------

COHERENT = {"n_tokens": 30, "longest_loop": 0.1, "distinct_2": 0.95, "perplexity_ratio": 1.2, "real_words": 0.95}


@pytest.mark.parametrize(
    ("measures", "regime"),
    [
        ({}, regimes.SURGICAL),
        # Exactly at each threshold, and just beyond.
        ({"longest_loop": 0.5}, regimes.REPETITIVE),
        ({"longest_loop": 0.4999}, regimes.SURGICAL),
        ({"distinct_2": 0.5}, regimes.SURGICAL),
        ({"distinct_2": 0.4999}, regimes.REPETITIVE),
        ({"perplexity_ratio": 4.0}, regimes.SURGICAL),
        ({"perplexity_ratio": 4.0001}, regimes.EXPLOSIVE),
        ({"real_words": 0.7}, regimes.SURGICAL),
        ({"real_words": 0.6999}, regimes.EXPLOSIVE),
        ({"n_tokens": 5}, regimes.SURGICAL),
        ({"n_tokens": 4}, regimes.SHORT),
        # A collapsed text is easy to predict; a ratio that is high as well is collapse all the same.
        ({"longest_loop": 0.9, "perplexity_ratio": 0.2}, regimes.REPETITIVE),
        ({"longest_loop": 0.9, "perplexity_ratio": 50.0}, regimes.REPETITIVE),
        ({"longest_loop": 0.9, "n_tokens": 4}, regimes.SHORT),
        ({"perplexity_ratio": np.inf}, regimes.EXPLOSIVE),
        # Without an unsteered text to compare with the ratio is not asked.
        ({"perplexity_ratio": np.nan}, regimes.SURGICAL),
        ({"perplexity_ratio": np.nan, "real_words": 0.6}, regimes.EXPLOSIVE),
    ],
)
def test_the_regime_of_a_text(measures, regime):
    table = pd.DataFrame([COHERENT, COHERENT | measures], index=[7, 3])
    labels = regimes.label(table)
    assert list(labels.index) == [7, 3]
    assert labels[7] == regimes.SURGICAL
    assert labels[3] == regime


def test_a_variant_moves_one_threshold_to_either_side():
    default = asdict(regimes.DEFAULT)
    variants = regimes.DEFAULT.variants()
    assert variants.pop("default") == regimes.DEFAULT
    moved = []
    for name, variant in variants.items():
        changed = {key: value for key, value in asdict(variant).items() if value != default[key]}
        assert [name] == [f"{key} {value:g}" for key, value in changed.items()]
        moved += changed.items()
    for key, value in default.items():
        low, high = sorted(other for name, other in moved if name == key)
        assert low < value < high


def test_a_moved_threshold_moves_the_label_that_rests_on_it():
    changes = ({"longest_loop": 0.6}, {"distinct_2": 0.4}, {"perplexity_ratio": 6.0}, {"real_words": 0.65})
    table = pd.DataFrame([COHERENT | change for change in changes])
    variants = regimes.DEFAULT.variants()
    assert regimes.SURGICAL not in set(regimes.label(table))
    for row, laxer in enumerate(["loop 0.65", "distinct 0.35", "ratio 8", "words 0.6"]):
        labels = regimes.label(table, variants[laxer])
        assert [place for place in range(4) if labels[place] == regimes.SURGICAL] == [row]


# -- texts of a model -------------------------------------------------------------------------------------------------


def written(model, prompts: list[str], lengths: list[int]) -> pd.DataFrame:
    tokens = random_tokens(*lengths)
    texts = [model.tokenizer.decode(each) for each in tokens]
    return pd.DataFrame({"prompt": prompts, "text": texts, "tokens": tokens, "n_tokens": lengths})


@pytest.mark.parametrize("chat", [False, True])
def test_texts_are_measured_against_all_unsteered_texts_on_their_own_prompt(tiny, chat):
    model = tiny("llama")
    plain = written(model, [PROMPTS[0], PROMPTS[1], PROMPTS[0]], [6, 8, 9])
    texts = written(model, [PROMPTS[1], PROMPTS[0]], [5, 7]).assign(emotion=["sad", "calm"])
    texts.index = [4, 2]
    table = regimes.measure(model, texts, regimes.references(model, plain, chat), chat=chat)
    assert list(table.index) == [4, 2]
    assert list(table["emotion"]) == ["sad", "calm"]

    ids = prompt_ids(model, PROMPTS, chat, 0)
    assert (ids[PROMPTS[0]] == encode(model, PROMPTS[:1])[0].ids) == (not chat)
    known = [naive(model, ids[row.prompt], row.tokens) for row in plain.itertuples()]
    compared = {PROMPTS[0]: [known[0], known[2]], PROMPTS[1]: [known[1]]}
    for row in table.itertuples():
        own = naive(model, ids[row.prompt], row.tokens)
        expected = regimes.perplexity_ratio(own, compared[row.prompt])
        assert row.perplexity_ratio == pytest.approx(expected, rel=1e-4)
        assert row.distinct_2 == regimes.distinct(row.tokens)
        assert row.longest_loop == regimes.longest_loop(row.tokens)
        assert row.real_words == regimes.real_words(row.text)
    assert list(table["regime"]) == list(regimes.label(table))


def test_the_thresholds_given_are_the_ones_used(tiny):
    model = tiny("llama")
    texts = written(model, PROMPTS[:1] * 2, [8, 8])
    compared = regimes.references(model, texts)
    lax = regimes.Thresholds(loop=1.1, distinct=0.0, ratio=1e9, words=0.0)
    strict = regimes.Thresholds(ratio=1e-9)
    assert set(regimes.measure(model, texts, compared, thresholds=lax)["regime"]) == {regimes.SURGICAL}
    assert set(regimes.measure(model, texts, compared, thresholds=strict)["regime"]) == {regimes.EXPLOSIVE}
    assert set(regimes.measure_plain(texts, compared, lax)["regime"]) == {regimes.SURGICAL}
    assert set(regimes.measure_plain(texts, compared, strict)["regime"]) == {regimes.EXPLOSIVE}


def test_a_prompt_without_an_unsteered_text_is_refused(tiny):
    model = tiny("llama")
    compared = regimes.references(model, written(model, PROMPTS[:1], [5]))
    with pytest.raises(EmotraceError, match="no unsteered text to compare with on the prompt 'After supper"):
        regimes.measure(model, written(model, PROMPTS[:2], [5, 5]), compared)


def test_an_unsteered_text_is_compared_with_the_others_on_its_prompt_and_not_with_itself(tiny):
    model = tiny("llama")
    plain = written(model, [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0], PROMPTS[1]], [6, 8, 9, 4, 8])
    table = regimes.measure_plain(plain, regimes.references(model, plain))
    ids = {prompt: encode(model, [prompt])[0].ids for prompt in PROMPTS}
    known = [naive(model, ids[row.prompt], row.tokens) for row in plain.itertuples()]
    for place, others in enumerate([(2, 3), (4,), (0, 3), (0, 2), (1,)]):
        expected = regimes.perplexity_ratio(known[place], [known[other] for other in others])
        assert table["perplexity_ratio"][place] == pytest.approx(expected, rel=1e-4)
        assert abs(np.log(expected)) > 0.005


def test_where_unsteered_texts_end_at_once_a_text_is_labelled_without_a_ratio(tiny):
    model = tiny("llama")
    texts = written(model, PROMPTS[:1], [9]).assign(text="She went home.")
    table = regimes.measure(model, texts, regimes.references(model, written(model, PROMPTS[:1] * 2, [0, 0])))
    assert np.isnan(table["perplexity_ratio"][0])
    assert table["regime"][0] == regimes.SURGICAL
    alone = regimes.measure_plain(texts, regimes.references(model, texts))
    assert (np.isnan(alone["perplexity_ratio"][0]), alone["regime"][0]) == (True, regimes.SURGICAL)


def test_a_column_that_is_missing_is_named(tiny):
    model = tiny("llama")
    texts = written(model, PROMPTS[:1], [5])
    compared = regimes.references(model, texts)
    with pytest.raises(EmotraceError, match="lacks the column tokens: "):
        regimes.references(model, texts.drop(columns="tokens"))
    for column in ("text", "n_tokens"):
        with pytest.raises(EmotraceError, match=f"the table of texts lacks the column {column}: "):
            regimes.measure(model, texts.drop(columns=column), compared)
        with pytest.raises(EmotraceError, match=f"lacks the column {column}: "):
            regimes.measure_plain(texts.drop(columns=column), compared)
