"""The residual stream as emotrace reads it, against plain transformers, in every family."""

import json
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from awkward_checkpoints import Checkpoint, ends_turns_by
from tokenizers import Tokenizer

import emotrace
from emotrace import EmotraceError, tokens
from emotrace.activations import POOLINGS, read_activations
from emotrace.activations import read_tokens as read_tokens_of
from emotrace.instrument import corpus
from emotrace.tokens import Tokens, batches, encode

# Lengths from two tokens to more than a hundred in the tiny tokenizers, two of them equal.
TEXTS = [
    "Rain fell.",
    "The bus was late, and nobody at the stop said a word about it.",
    "She put the kettle on, sat down by the window and waited for the post to come, as on any other day of that year.",
    "Café, naïve, 你好.",
    "He laughed until the tears ran down his face, and then, because the others were looking, he laughed again; "
    "behind them the lamp went out, the door fell shut and the dog began to howl.",
    "Snow fell.",
]


def hand_ids(model, text):
    """The text's ids, and where its own tokens begin: after the BOS, where the tokenizer adds one."""
    ids = model.tokenizer(text)["input_ids"]
    return ids, int(ids[0] == model.tokenizer.bos_token_id)


def plain_forward(model, ids, **more):
    """What transformers says: hidden_states 0 … L, and the last decoder layer's output before the final norm."""
    module = model.nn._module
    last_layer = module.get_submodule(model.architecture.layers)[-1]
    seen = []
    handle = last_layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        states = module(torch.as_tensor(ids), output_hidden_states=True, use_cache=False, **more).hidden_states
    handle.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return SimpleNamespace(states=states, stream=torch.stack([*states[:-1], output], dim=2), normed=states[-1])


def read_tokens(model, text, **settings):
    return read_tokens_of(model, [text], **settings)[0]


def pool(stream, start):
    """``[token, layer, d_model]`` of the text's tokens from ``start`` on, pooled by hand in float64."""
    own = stream[start:].double()
    return {"last": own[-1].numpy(), "mean": own[1:].mean(dim=0).numpy()}


def assert_same(actual, expected, tolerance=1e-4):
    """Each vector equal to the other, relative to its norm."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    off = np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert off.max() < tolerance, f"relative difference {off.max():.2e}"


@pytest.fixture(scope="session")
def single(model):
    """Each text read by transformers on its own and pooled by hand: pooling → ``[text, layer, d_model]``."""
    rows = []
    for text in TEXTS:
        ids, start = hand_ids(model, text)
        rows.append(pool(plain_forward(model, [ids]).stream[0], start))
    return {pooling: np.stack([row[pooling] for row in rows]) for pooling in POOLINGS}


# -- the same values as transformers, in any batch ------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_a_batch_equals_plain_transformers_on_each_single_text(model, single, batch_tokens):
    pooled = read_activations(model, TEXTS, batch_tokens=batch_tokens)
    for pooling in POOLINGS:
        assert pooled[pooling].dtype == np.float32
        assert_same(pooled[pooling], single[pooling])


def test_each_text_alone_equals_plain_transformers(model, single):
    for row, text in enumerate(TEXTS):
        pooled = read_activations(model, [text])
        for pooling in POOLINGS:
            assert_same(pooled[pooling][0], single[pooling][row])


def test_order_and_repetition_of_texts_change_nothing(model, single):
    order = random.Random(1).sample([*range(len(TEXTS)), 0, 4], len(TEXTS) + 2)
    pooled = read_activations(model, [TEXTS[row] for row in order], batch_tokens=200)
    for pooling in POOLINGS:
        assert_same(pooled[pooling], single[pooling][order])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_side_changes_nothing(model, single, side, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    pooled = read_activations(model, TEXTS)
    for pooling in POOLINGS:
        assert_same(pooled[pooling], single[pooling])


def test_a_left_padded_masked_transformers_batch_agrees(model):
    encoded = [hand_ids(model, text) for text in TEXTS]
    longest = max(len(ids) for ids, _ in encoded)
    padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in encoded])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in encoded])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    stream = plain_forward(model, padded, attention_mask=mask, position_ids=positions).stream
    pooled = read_activations(model, TEXTS)
    for row, (ids, start) in enumerate(encoded):
        by_hand = pool(stream[row, longest - len(ids) :], start)
        for pooling in POOLINGS:
            assert_same(pooled[pooling][row], by_hand[pooling])


def test_layer_0_is_what_enters_the_first_layer_and_the_last_one_gives_the_final_norm(model):
    text = TEXTS[2]
    tokens = read_tokens(model, text)
    plain = plain_forward(model, [hand_ids(model, text)[0]])
    assert tokens.shape == (len(hand_ids(model, text)[0]), model.n_layers + 1, model.d_model)
    assert_same(tokens[:, 0], plain.states[0][0])
    module, norm = model.nn._module, model.architecture.final_norm
    with torch.no_grad():
        normed = module.get_submodule(norm)(torch.from_numpy(tokens[:, -1]))
    assert_same(normed, plain.normed[0])
    assert np.abs(tokens[:, -1] - plain.normed[0].numpy()).max() > 0.1  # the stream itself is not normed


def test_embeddings_of_gpt2_include_positions(tiny):
    tokens = read_tokens(tiny("gpt2"), "no no no no", layers=[0])[:, 0]
    assert np.abs(tokens[1] - tokens[2]).max() > 0.1  # the same word at two places


def test_neighbouring_layers_and_the_two_poolings_differ(model, single):
    # Else the comparisons above could not tell a wrong layer or pooling from the right one.
    for pooling in POOLINGS:
        steps = np.linalg.norm(np.diff(single[pooling], axis=1), axis=-1)
        assert (steps / np.linalg.norm(single[pooling][:, :-1], axis=-1)).min() > 1e-3
    longer = [row for row, text in enumerate(TEXTS) if len(text) > 20]
    gap = np.linalg.norm(single["last"] - single["mean"], axis=-1) / np.linalg.norm(single["mean"], axis=-1)
    assert gap[longer].min() > 1e-3


def test_a_text_longer_than_the_sliding_window_is_read_with_it(tiny_folder):
    # The same weights without a window give other activations, so the agreement above covers the window.
    folder = str(tiny_folder("gemma"))
    assert len(encode(emotrace.load(folder), [TEXTS[4]])[0].ids) > 2 * tiny_models.SLIDING_WINDOW
    short, wide = emotrace.load(folder), emotrace.load(folder)
    wide.nn._module.config.sliding_window = 10 * tiny_models.CONTEXT
    for layer in wide.nn._module.model.layers:
        layer.self_attn.sliding_window = layer.self_attn.sliding_window and 10 * tiny_models.CONTEXT
    ours, other = (read_activations(model, [TEXTS[4]])["last"][0, -1] for model in (short, wide))
    assert np.linalg.norm(ours - other) / np.linalg.norm(ours) > 1e-2


# -- what is pooled -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_span_leaves_out_bos_and_mean_the_first_token_too(tiny, family):
    model = tiny(family)
    item = encode(model, [TEXTS[1]])[0]
    own = len(model.tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"])
    added = 1 if family == "llama" else 0
    assert (len(item.ids), item.start, item.stop) == (own + added, added, own + added)
    pooled, tokens = read_activations(model, [item]), read_tokens(model, item)
    assert_same(pooled["last"][0], tokens[own + added - 1], 1e-6)
    assert_same(pooled["mean"][0], tokens[added + 1 :].mean(axis=0), 1e-5)
    everything = tokens[added:].mean(axis=0)
    assert np.linalg.norm(pooled["mean"][0] - everything) / np.linalg.norm(everything) > 1e-3


def test_last_row_of_read_tokens_equals_last_pooling(model):
    pooled = read_activations(model, TEXTS[:3], poolings=["last"])["last"]
    for row, text in enumerate(TEXTS[:3]):
        assert_same(read_tokens(model, text)[-1], pooled[row])


def test_a_span_in_the_middle_pools_that_span_only(tiny_model):
    whole = encode(tiny_model, [TEXTS[4]])[0]
    span = Tokens(whole.ids, 7, 15)
    pooled, tokens = read_activations(tiny_model, [TEXTS[0], span, TEXTS[2]]), read_tokens(tiny_model, whole)
    assert_same(pooled["last"][1], tokens[14])
    assert_same(pooled["mean"][1], tokens[8:15].mean(axis=0))


@pytest.mark.parametrize("family", tiny_models.ADDS_BOS)
def test_a_prompt_that_brings_its_own_bos_is_that_without_it(tiny, family):
    model = tiny(family)
    plain, brought = encode(model, [TEXTS[1], model.tokenizer.bos_token + TEXTS[1]], prompts=True)
    assert brought.ids == plain.ids
    assert (brought.start, brought.stop) == (plain.start, plain.stop)


def test_a_bos_that_the_tokenizer_does_not_add_stays_outside_the_span(tiny):
    model = tiny("gpt2")
    item = encode(model, [model.tokenizer.bos_token + TEXTS[1]], prompts=True)[0]
    assert item.ids[0] == model.tokenizer.bos_token_id
    assert (item.start, item.stop) == (1, len(item.ids))


def ordinary(tokenizer, text):
    """The ids of a text by a copy of the tokenizer that has no special tokens at all: the backend's own pipeline."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend |= {"added_tokens": [], "post_processor": None}
    return Tokenizer.from_str(json.dumps(backend)).encode(text).ids


@pytest.mark.parametrize("spelt", ["bos_token", "eos_token", "pad_token", "<|eot|>"])
@pytest.mark.parametrize("where", ["{} " + TEXTS[1], "One {} two three.", TEXTS[1] + "{}"])
def test_a_special_token_that_a_text_spells_is_its_characters(tiny_model, tmp_path, spelt, where):
    """Parsed, it would end a turn in the middle of a passage, be averaged with its words, or be the last token."""
    model = tiny_model
    if spelt == "<|eot|>":
        folder = Checkpoint("qwen", words=ends_turns_by(spelt)).build(tmp_path)
        model, name = emotrace.load(str(folder)), spelt
    elif (name := getattr(model.tokenizer, spelt)) is None:
        pytest.skip("it has none")
    text = where.format(name)
    item, ids = encode(model, [text])[0], ordinary(model.tokenizer, text)
    assert item.ids[item.start : item.stop] == tuple(ids)
    assert model.tokenizer.convert_tokens_to_ids(name) not in item.ids[item.start :]
    prefix = [model.tokenizer.bos_token_id] if item.start else []
    expected = pool(plain_forward(model, [[*prefix, *ids]]).stream[0], len(prefix))
    read = read_activations(model, [text])
    assert_same(read["last"][0], expected["last"])
    assert_same(read["mean"][0], expected["mean"])
    prompt = encode(model, [text], prompts=True)[0].ids  # to be continued: as transformers have it
    assert model.tokenizer.convert_tokens_to_ids(name) in prompt


def test_a_special_token_that_cannot_be_read_as_text_is_named(tiny, monkeypatch):
    model = tiny("qwen")
    monkeypatch.setattr(tokens, "tokenised", lambda model, text, **_: model.tokenizer(text))  # parses whatever is asked
    with pytest.raises(EmotraceError, match=r"text 2 spells '<\|im_end\|>', which the tokenizer of .* cannot read as"):
        encode(model, ["Fine.", "One <|im_end|> two."])


def test_a_subset_of_layers_is_a_slice_of_all(tiny_model):
    everything = read_activations(tiny_model, TEXTS)
    some = read_activations(tiny_model, TEXTS, layers=[3, 0, 2, 3])
    for pooling in POOLINGS:
        assert_same(some[pooling], everything[pooling][:, [0, 2, 3]], 1e-6)
    assert_same(read_tokens(tiny_model, TEXTS[1], layers=[1, 4]), read_tokens(tiny_model, TEXTS[1])[:, [1, 4]], 1e-6)


def test_poolings_asked_for_alone_equal_those_asked_for_together(tiny_model):
    both = read_activations(tiny_model, TEXTS, poolings=["mean", "last"])
    for pooling in POOLINGS:
        alone = read_activations(tiny_model, TEXTS, poolings=[pooling])
        assert list(alone) == [pooling]
        assert_same(alone[pooling], both[pooling], 1e-6)


def test_a_bfloat16_model_is_pooled_in_float32(tiny_folder):
    model = emotrace.load(str(tiny_folder("llama")), dtype="bfloat16")
    ids, start = hand_ids(model, TEXTS[4])
    plain = plain_forward(model, [ids])
    assert plain.stream.dtype == torch.bfloat16
    mean = read_activations(model, [TEXTS[4]])["mean"][0]
    assert_same(mean, pool(plain.stream[0].float(), start)["mean"], 1e-6)
    rounded = torch.from_numpy(mean).bfloat16().float().numpy()
    assert np.linalg.norm(mean - rounded) / np.linalg.norm(mean) > 1e-4  # a bfloat16 mean would be seen above


# -- how much is computed -------------------------------------------------------------------------------------------


def read_one(model, text, **settings):
    return read_activations(model, [text], **settings)


def ran(model, read):
    """The decoder layers (counted from 1) and the head that ran while ``read()`` did."""
    seen = []
    module, architecture = model.nn._module, model.architecture
    watched = dict(enumerate(module.get_submodule(architecture.layers), 1))
    watched["head"] = module.get_submodule(architecture.unembedding)
    handles = [part.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, part in watched.items()]
    read()
    for handle in handles:
        handle.remove()
    return set(seen)


def test_the_hooks_see_a_whole_forward_pass(tiny_model):
    ids = torch.tensor([[1, 2, 3]])
    assert ran(tiny_model, lambda: tiny_model.nn._module(ids)) == {1, 2, 3, 4, "head"}


@pytest.mark.parametrize("read", [read_one, read_tokens])
@pytest.mark.parametrize("layers", [[0], [2], [1, 3], [4], None])
def test_nothing_above_the_last_layer_asked_for_runs(tiny_model, layers, read):
    seen = ran(tiny_model, lambda: read(tiny_model, TEXTS[1], layers=layers))
    assert "head" not in seen
    assert max(seen, default=0) <= max(layers or [4])


def test_an_unembedding_that_cannot_run_does_not_matter(model):
    def refuse(*_):
        raise AssertionError("the unembedding ran")

    head = model.nn._module.get_submodule(model.architecture.unembedding)
    handle = head.register_forward_hook(refuse)
    try:
        with pytest.raises(AssertionError, match="unembedding ran"):
            model.nn._module(torch.tensor([[1, 2, 3]]))
        assert read_activations(model, [TEXTS[1]])["last"].shape == (1, model.n_layers + 1, model.d_model)
    finally:
        handle.remove()


def test_reading_does_not_change_the_model(tiny_model):
    before = plain_forward(tiny_model, [[1, 2, 3, 4]]).normed
    read_activations(tiny_model, TEXTS)
    assert torch.equal(before, plain_forward(tiny_model, [[1, 2, 3, 4]]).normed)


@pytest.mark.parametrize("budget", [1, 7, 50, 64, 1000])
def test_batches_cover_every_row_once_longest_first_within_the_budget(budget):
    lengths = random.Random(budget).choices(range(1, 40), k=120)
    groups = batches(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(120))
    in_order = [lengths[row] for group in groups for row in group]
    assert in_order == sorted(lengths, reverse=True)
    assert all(len(group) == 1 or len(group) * lengths[group[0]] <= budget for group in groups)
    # No row starts a batch that would have fitted into the one before.
    assert all((len(group) + 1) * lengths[group[0]] > budget for group in groups[:-1])


def test_progress_counts_every_text_once(tiny):
    seen = []
    read_activations(tiny("gpt2"), TEXTS, batch_tokens=60, progress=seen.append)
    assert len(seen) > 1
    assert sum(seen) == len(TEXTS)


def test_tokens_of_a_batch_are_those_of_each_text_alone_in_the_callers_order(model):
    seen = []
    together = read_tokens_of(model, TEXTS, layers=[0, 2], progress=seen.append)
    assert sum(seen) == len(TEXTS)
    for stream, text in zip(together, TEXTS, strict=True):
        assert_same(stream, plain_forward(model, [hand_ids(model, text)[0]]).stream[0][:, [0, 2]])


# -- cache ----------------------------------------------------------------------------------------------------------


class Remembering:
    """A cache in memory that counts what it had to compute."""

    def __init__(self):
        self.kept, self.computed = {}, 0

    def arrays(self, key, compute):
        if key not in self.kept:
            self.kept[key] = compute()
            self.computed += 1
        return self.kept[key]


class RememberingDict(dict):
    """The same as a dict, which is false while it is empty."""

    def arrays(self, key, compute):
        if key not in self:
            self[key] = compute()
        return self[key]


def test_a_second_reading_computes_nothing_and_is_equal(tiny):
    model, cache = tiny("llama"), Remembering()
    first = read_activations(model, TEXTS, batch_tokens=100, cache=cache)
    computed = cache.computed
    assert computed == len(batches([len(item.ids) for item in encode(model, TEXTS)], 100)) > 1
    second = []
    seen = ran(model, lambda: second.append(read_activations(model, TEXTS, batch_tokens=100, cache=cache)))
    assert (cache.computed, seen) == (computed, set())
    for pooling in POOLINGS:
        assert np.array_equal(first[pooling], second[0][pooling])
        assert np.array_equal(first[pooling], read_activations(model, TEXTS, batch_tokens=100)[pooling])


def test_an_empty_cache_that_is_a_dict_is_used(tiny):
    cache = RememberingDict()
    read_activations(tiny("llama"), TEXTS, cache=cache)
    assert len(cache) == 1


def test_the_cache_tells_models_texts_layers_poolings_and_spans_apart(tiny, tiny_folder):
    whole = encode(tiny("llama"), [TEXTS[4]])[0]
    readings = [
        (tiny("llama"), {"texts": [whole]}),
        (tiny("llama", seed=1), {"texts": [whole]}),
        (emotrace.load(str(tiny_folder("llama")), dtype="bfloat16"), {"texts": [whole]}),
        (tiny("llama"), {"texts": [TEXTS[1]]}),
        (tiny("llama"), {"texts": [Tokens(whole.ids, 3, 9)]}),
        (tiny("llama"), {"texts": [whole], "layers": [0, 1]}),
        (tiny("llama"), {"texts": [whole], "layers": [0, 2]}),
        (tiny("llama"), {"texts": [whole], "poolings": ["last"]}),
        (tiny("llama"), {"texts": [whole], "poolings": ["mean"]}),
    ]
    cache = Remembering()
    for model, settings in readings:
        cached, fresh = read_activations(model, **settings, cache=cache), read_activations(model, **settings)
        for pooling in fresh:
            assert np.array_equal(cached[pooling], fresh[pooling])
    assert cache.computed == len(readings)


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", " \n\t "])
def test_an_empty_text_is_named_by_its_number(tiny_model, bad):
    with pytest.raises(EmotraceError, match="text 2 is empty"):
        encode(tiny_model, ["Fine.", bad])


@pytest.mark.parametrize("bad", ["", " \n\t ", "word " * 300])
def test_reading_names_a_bad_text_by_its_number(tiny, bad):
    with pytest.raises(EmotraceError, match="text 2 is"):
        read_activations(tiny("llama"), ["Fine.", bad])


def test_a_text_of_special_tokens_only_is_refused(tiny):
    with pytest.raises(EmotraceError, match="no token beside special ones"):
        encode(tiny("llama"), ["<s>"], prompts=True)


@pytest.mark.parametrize("text", ["a" * 1_000_000, "rain " * 200_000, "?!" * 500_000])
def test_a_huge_text_is_refused_at_once(model, text):
    begin = time.perf_counter()
    with pytest.raises(EmotraceError, match=rf"text 1 is too long .*{model.context} tokens"):
        read_activations(model, [text])
    assert time.perf_counter() - begin < 5


def test_a_huge_text_is_refused_before_it_is_tokenised(tiny_model):
    with pytest.raises(EmotraceError, match=r"too long \(1000000 characters\)"):
        encode(tiny_model, ["rain " * 200_000])


def test_context_is_the_longest_text_and_one_token_more_is_refused(tiny_model):
    words = tiny_models.CONTEXT - len(encode(tiny_model, ["!"])[0].ids)
    fits = "!" + " a" * words
    assert len(encode(tiny_model, [fits])[0].ids) == tiny_models.CONTEXT
    assert np.isfinite(read_activations(tiny_model, [fits])["last"]).all()
    with pytest.raises(EmotraceError, match=r"too long \(513 tokens\): .* takes up to 512 tokens"):
        encode(tiny_model, [fits + " a"])


def test_one_token_has_a_last_but_no_mean(tiny_model):
    assert_same(read_activations(tiny_model, ["a"], poolings=["last"])["last"][0], read_tokens(tiny_model, "a")[-1])
    with pytest.raises(EmotraceError, match="text 2 has one token"):
        read_activations(tiny_model, ["Two of them.", "a"], poolings=["mean"])


@pytest.mark.parametrize("layer", [-1, 5, 99])
@pytest.mark.parametrize("read", [read_one, read_tokens])
def test_a_layer_out_of_range_is_named_with_the_range(tiny, layer, read):
    with pytest.raises(EmotraceError, match=rf"layer {layer} is out of range: .* 0 \(embeddings\) to 4"):
        read(tiny("mistral"), "Fine words.", layers=[0, layer])


@pytest.mark.parametrize("read", [read_one, read_tokens])
def test_an_empty_list_of_layers_is_refused(tiny, read):
    with pytest.raises(EmotraceError, match="layer"):
        read(tiny("mistral"), "Fine words.", layers=[])


def test_an_unknown_pooling_lists_the_known(tiny):
    with pytest.raises(EmotraceError, match="unknown pooling 'median': known are last, mean"):
        read_activations(tiny("gpt2"), ["Fine."], poolings=["last", "median"])


def test_no_texts_are_refused(tiny):
    with pytest.raises(EmotraceError, match="no texts"):
        read_activations(tiny("gpt2"), [])


def test_the_projects_own_passages_fit_every_model(model):
    lengths = [len(item.ids) for item in encode(model, corpus.passages()["text"])]
    assert min(lengths) > 30
    assert max(lengths) < model.context
