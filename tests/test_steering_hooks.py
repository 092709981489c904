"""Steering around the user's own code: the tokens of ``steer``, whatever runs the model, and nothing left behind."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
import transformers

import emotrace
from emotrace import EmotraceError, Writing
from emotrace.activations import read_activations, read_tokens, residual_norms
from emotrace.hosts.open_edits import unedited
from emotrace.instrument import corpus
from emotrace.readings import read_texts
from emotrace.scoring import divergence, log_likelihoods, reread, score
from emotrace.steering import Edit, ablation, directions, generate
from emotrace.tokens import end_tokens
from emotrace.whatif import text_reading, token_reading

PROMPT, NEW = "The kettle had begun to sing, and", 8


@pytest.fixture
def steerable(tiny_model):
    """A model of each tiny family, and vectors of it."""
    return tiny_model, read_texts(tiny_model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")


def hooks(model) -> int:
    module = model.nn._module
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def plain(model, prompts, **settings) -> list[list[int]]:
    """The user's own ``generate`` of transformers."""
    batch = model.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    ends = end_tokens(model)
    given = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": ends, "pad_token_id": ends[0], **settings}
    with torch.no_grad():
        written = model.nn._module.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **given
        )
    rows = [row[batch["input_ids"].shape[1] :].tolist() for row in written]
    return [row[: next((at for at, token in enumerate(row) if token in ends), len(row))] for row in rows]


def ours(model, vectors, emotion, strength, **settings) -> list[int]:
    table = emotrace.steer(model, PROMPT, vectors, strength, emotions=emotion, writing=Writing(NEW), **settings)
    return table["tokens"].iloc[0]


def test_generate_of_transformers_writes_the_tokens_of_steer(model):
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    before = plain(model, [PROMPT])
    for strength in (0.6, -0.6):
        expected = ours(model, vectors, "afraid", strength)
        assert expected != before[0]  # the edit is felt at all
        with emotrace.steered(model, vectors, "afraid", strength):
            assert plain(model, [PROMPT]) == [expected]
            assert plain(model, [PROMPT], use_cache=False) == [expected]
    mixture, every = {"happy": 1, "sad": -1}, list(range(1, model.n_layers + 1))
    expected = ours(model, vectors, mixture, 0.1, layers=every)
    with emotrace.steered(model, vectors, mixture, 0.1, layers=every):
        assert plain(model, [PROMPT]) == [expected]
    writing = Writing(NEW, positions="all")
    table = emotrace.steer(model, PROMPT, vectors, 0.6, emotions="afraid", writing=writing)
    with emotrace.steered(model, vectors, "afraid", 0.6, tokens="all"):
        assert plain(model, [PROMPT]) == [table["tokens"].iloc[0]]
    assert plain(model, [PROMPT]) == before


def test_each_row_has_its_own_feeling_and_copies_of_a_row_the_same(steerable):
    model, vectors = steerable
    prompts = ["Nobody came.", PROMPT, PROMPT]
    with emotrace.steered(model, vectors, ["afraid", "happy", "angry"], 0.6):
        rows = plain(model, prompts)
        twice = plain(model, prompts, num_beams=2, num_return_sequences=2)
    norms, layer = residual_norms(model), model.n_layers // 2
    edit = Edit(directions(vectors, [("afraid", 0.6), ("happy", 0.6), ("angry", 0.6)], [layer], norms))
    ids = [model.tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert rows == generate(model, ids, edit, Writing(NEW))
    assert len(twice) == 6
    with (
        emotrace.steered(model, vectors, ["afraid", "happy"], 0.6),
        pytest.raises(EmotraceError, match="2 rows are to be steered, and the batch has 3"),
    ):
        plain(model, prompts)


def test_an_ablation_is_that_of_the_edit(steerable):
    model, vectors = steerable
    layer = model.n_layers // 2
    with emotrace.steered(model, vectors, "afraid", ablate=True, tokens="all", layers=layer):
        rows = plain(model, [PROMPT])
    ids = [model.tokenizer(PROMPT)["input_ids"]]
    assert rows == generate(model, ids, ablation(vectors, ["afraid"], [layer]), Writing(NEW))


def streams(model, layer, ids) -> np.ndarray:
    """What enters the layer after this one, as a bare nnsight trace sees it."""
    with torch.no_grad(), model.trace({"input_ids": torch.tensor([ids])}):
        hidden = model.layers[layer].input.save()
    return hidden[0].numpy()


@pytest.mark.parametrize(
    ("tokens", "edited"),
    [
        ("generated", [-1]),
        ("all", slice(None)),
        ("prompt", slice(-1)),
        ("written", []),
        ((-2, None), [-3, -2, -1]),
        ((-3, -1), [-4, -3]),
    ],
)
def test_the_places_of_an_edit_in_a_trace_of_ones_own(steerable, tokens, edited):
    model, vectors = steerable
    ids, layer = model.tokenizer(PROMPT)["input_ids"], model.n_layers // 2
    before, after = streams(model, layer + 1, ids), streams(model, layer, ids)
    with emotrace.steered(model, vectors, "afraid", 0.5, tokens=tokens):
        change = streams(model, layer, ids) - after
        felt = streams(model, layer + 1, ids) - before
    expected = np.zeros_like(change)
    expected[edited] = vectors.direction("afraid", layer) * 0.5 * residual_norms(model)[layer]
    np.testing.assert_allclose(change, expected, atol=1e-6 * max(10, np.abs(after).max()))
    first = next(iter(np.flatnonzero(np.abs(expected).any(axis=1))), len(ids))
    if first == len(ids):
        np.testing.assert_allclose(felt, 0, atol=1e-6 * max(1, np.abs(before).max()))
        return
    assert np.abs(felt[first:]).max() > 1e-3
    np.testing.assert_allclose(felt[:first], 0, atol=1e-6 * max(1, np.abs(before).max()))  # causal


def test_a_schedule_and_a_window_count_from_the_last_token_of_the_prompt(tiny_model):
    model = tiny_model
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    seen = []
    with emotrace.steered(model, vectors, "afraid", 0.5, schedule=lambda token: seen.append(token) or 1.0):
        length = len(plain(model, [PROMPT], min_new_tokens=NEW)[0])
    assert seen == list(range(length)) or seen == list(range(NEW))
    seen.clear()
    with emotrace.steered(model, vectors, "afraid", 0.1, layers=[1, 2, 3], schedule=lambda at: seen.append(at) or 1.0):
        plain(model, [PROMPT], min_new_tokens=NEW)
    assert seen == sorted(set(seen))  # once a token, however many layers
    off, on = [], []
    with emotrace.steered(model, vectors, "afraid", 0.5, schedule=lambda token: 0.0):
        off = plain(model, [PROMPT])
    with emotrace.steered(model, vectors, "afraid", 0.5, tokens=(3, None)):
        on = plain(model, [PROMPT])
    untouched = plain(model, [PROMPT])
    assert off == untouched
    assert on[0][:3] == untouched[0][:3]  # token 3 is the first whose stream differs, and writes token 4


def test_only_what_is_written_only_the_prompt_a_schedule_and_each_row_its_own_edit(tiny):
    model = tiny("llama")
    vectors, layer, emotions = vectors_of(model), model.n_layers // 2, ("afraid", {"happy": 1.0, "sad": -0.5})
    last = len(model.tokenizer(PROMPT)["input_ids"]) - 1

    def rows(**settings) -> list[list[int]]:
        with emotrace.steered(model, vectors, emotions, **settings):
            return plain(model, [PROMPT, PROMPT], min_new_tokens=NEW)

    untouched = plain(model, [PROMPT], min_new_tokens=NEW)[0]
    written, prompt = rows(strength=0.8, tokens="written"), rows(strength=0.8, tokens="prompt")
    ablated = rows(ablate=True, tokens=(-2, 3), layers=layer)
    scheduled = rows(strength=-0.8, tokens="all", schedule=lambda token: 0.7 ** abs(token))
    for row, emotion in enumerate(emotions):
        away = add(model, vectors, emotion, layer, -0.8)(0)

        def fading(hidden, away=away):
            return hidden + away * (0.7 ** (torch.arange(hidden.shape[1]) - last).abs())[:, None]

        assert scheduled[row] == by_hand(model, fading, lambda token: True)
        assert scheduled[row] != untouched
        change = add(model, vectors, emotion, layer, 0.8)
        assert written[row] == by_hand(model, change, lambda token: token >= 1)
        assert written[row][0] == untouched[0]
        assert prompt[row] == by_hand(model, change, lambda token: token < 0)
        unit = torch.from_numpy(vectors.direction(emotion, layer)).float()
        assert ablated[row] == by_hand(
            model, lambda hidden, unit=unit: hidden - (hidden @ unit)[..., None] * unit, lambda token: -2 <= token < 3
        )
    assert written[0] != written[1]
    assert untouched not in (*written, *prompt)


def vectors_of(model):
    return read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")


def add(model, vectors, emotion, layer, strength):
    edit = torch.from_numpy(vectors.direction(emotion, layer) * strength * residual_norms(model)[layer]).float()
    return lambda hidden: hidden + edit


def by_hand(model, change, chosen) -> list[int]:
    """Greedy, without an end, each token from a pass over the whole text; a hook at half depth changes the ``chosen``
    tokens, counted from the prompt's last."""
    ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    last, written = ids.shape[1] - 1, []

    def edit(_, args, output):
        where = torch.tensor([chosen(token - last) for token in range(output.shape[1])])
        return torch.where(where[:, None], change(output), output)

    handle = model.layers[model.n_layers // 2 - 1]._module.register_forward_hook(edit)
    with torch.no_grad():
        while len(written) < NEW:
            text = torch.cat([ids, torch.tensor([written], dtype=torch.long)], dim=1)
            logits = model.nn._module(text).logits[0, -1]
            logits[end_tokens(model)] = -torch.inf
            written.append(int(logits.argmax()))
    handle.remove()
    return written


def fail_within_another(model, vectors, before: int, number: int) -> None:
    with emotrace.steered(model, vectors, ["happy"], 0.1, tokens="all"):
        assert hooks(model) == before + 6
        raise ZeroDivisionError(number)


def test_nothing_is_left_behind_after_a_hundred_uses_and_exceptions(tiny_model):
    model = tiny_model
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    before, texts = hooks(model), plain(model, [PROMPT])
    for number in range(100):
        with pytest.raises(ZeroDivisionError), emotrace.steered(model, vectors, "afraid", 0.5):
            fail_within_another(model, vectors, before, number)
    unknown = emotrace.steered(model, vectors, "afraid", 0.5, tokens="prompts")
    with pytest.raises(EmotraceError, match="unknown place 'prompts'"):
        unknown.__enter__()
    assert hooks(model) == before
    assert plain(model, [PROMPT]) == texts


@pytest.mark.parametrize("place", ["generated", "prompt", "all", (-4, 3), (2, None)])
@pytest.mark.parametrize(
    "way", [{"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 5}, {"cache_implementation": "static"}]
)
def test_a_generation_in_chunks_or_with_an_assistant_is_steered_at_the_same_tokens(tiny, way, place):
    model = tiny("llama")
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    with emotrace.steered(model, vectors, "afraid", 0.6, tokens=place):
        expected = plain(model, [PROMPT])
        assert plain(model, [PROMPT], **way) == expected
        assert plain(model, [PROMPT], use_cache=False) == expected
        beams = plain(model, [PROMPT], num_beams=3)
        assert plain(model, [PROMPT], num_beams=3, use_cache=False) == beams


def test_a_pass_of_ones_own_is_steered_at_each_rows_last_token(tiny):
    model = tiny("llama")
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    module, texts = model.nn._module, ["Nobody came.", PROMPT]
    with torch.no_grad(), emotrace.steered(model, vectors, "afraid", 0.6):
        alone = [module(**model.tokenizer(text, return_tensors="pt")).logits[0, -1] for text in texts]
        for side in ("left", "right"):
            batch = model.tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)
            logits = module(**batch).logits
            last = batch["attention_mask"].shape[1] - 1 - batch["attention_mask"].flip(1).argmax(dim=1)
            for row, column in enumerate(last):
                torch.testing.assert_close(logits[row, column], alone[row], rtol=1e-4, atol=1e-4)
        # A text and the same with one token more are two texts, whichever comes first.
        ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
        both = [module(input_ids=ids[:, :-1]).logits[0, -1], module(input_ids=ids).logits[0, -1]]
    torch.testing.assert_close(both[1], alone[1], rtol=1e-4, atol=1e-4)


def whole(model, ids: torch.Tensor, new: int):
    """All that the user's own ``generate`` gives back of so many tokens, none of them an end."""
    ends, given = end_tokens(model), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False}
    given |= {"max_new_tokens": new, "min_new_tokens": new, "eos_token_id": ends, "pad_token_id": ends[0]}
    with torch.no_grad():
        return model.nn._module.generate(**given, output_logits=True, return_dict_in_generate=True)


def fading(token: int) -> float:
    return 0.7 ** abs(token)


@pytest.mark.parametrize("maker", ["model", "model, no return_dict", "user", "generate"])
@pytest.mark.parametrize(
    "edit", [{"tokens": "written"}, {"tokens": (2, None)}, {"tokens": "generated", "schedule": fading}]
)
def test_a_loop_of_ones_own_is_steered_as_generate_is_whoever_made_its_cache(tiny, maker, edit):
    model = tiny("llama")
    vectors, module, written = vectors_of(model), model.nn._module, []
    token = ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    cache = transformers.DynamicCache(config=module.config) if maker == "user" else None
    with torch.no_grad(), emotrace.steered(model, vectors, "afraid", 0.8, **edit):
        expected = plain(model, [PROMPT], min_new_tokens=NEW)[0]
        if maker == "generate":  # it writes three tokens, of which two are read, and the loop goes on
            begun = whole(model, ids, 3)
            cache, token = begun.past_key_values, begun.sequences[:, -1:]
            written = begun.sequences[0, ids.shape[1] :].tolist()
        while len(written) < NEW:
            output = module(token, past_key_values=cache, use_cache=True, return_dict=maker != "model, no return_dict")
            logits, cache = output[0], output[1]
            logits[:, :, end_tokens(model)] = -torch.inf
            token = logits[:, -1:].argmax(dim=-1)
            written.append(int(token))
    assert written == expected
    assert written != plain(model, [PROMPT], min_new_tokens=NEW)[0]


def test_a_block_keeps_no_cache_that_its_user_has_let_go(tiny):
    model = tiny("llama")
    ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad(), emotrace.steered(model, vectors_of(model), "afraid", 0.6):
        caches = [weakref.ref(model.nn._module(ids).past_key_values) for _ in range(3)]
        gc.collect()
        assert [cache() for cache in caches] == [None] * 3


def test_what_is_remembered_is_measured_without_the_edit(tiny, monkeypatch, tmp_path):
    model = tiny("llama", seed=5)

    def measured(folder: str) -> list[np.ndarray]:
        monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / folder))
        monkeypatch.setattr(model, "norms", None)
        monkeypatch.setattr(token_reading, "_remembered", {})
        monkeypatch.setattr(text_reading, "_PERMUTED", {})
        vectors = text_reading.cached_vectors(model)
        dots, norms = token_reading.neutral_dots(model, vectors, [2, 4])
        permuted = text_reading.permuted_like(model, vectors, 2, layers=[2])
        return [residual_norms(model), vectors.values, dots, norms, permuted.values]

    expected, vectors = measured("before"), text_reading.cached_vectors(model)
    text = ["The kettle had begun to sing."]
    plainly = read_activations(model, text)["mean"]
    every = {"ablate": True, "tokens": "all", "layers": [1, 2, 3]}
    with emotrace.steered(model, vectors, {"happy": 1, "sad": 1}, **every):
        found = measured("within")
        felt = read_activations(model, text)["mean"]
        with emotrace.steered(model, vectors, "sad", 0.2):
            nested = measured("nested")
    for values, within, deeper in zip(expected, found, nested, strict=True):
        np.testing.assert_array_equal(within, values)
        np.testing.assert_array_equal(deeper, values)
    assert np.abs(felt - plainly).max() > 0.01  # what is asked for within is read under the edit


class Kept:
    """A cache in memory."""

    def __init__(self) -> None:
        self.held: dict = {}

    def arrays(self, key, compute):
        return self.held.setdefault(key, compute())

    def rows(self, key, compute):
        return self.held.setdefault(repr(key), compute())


def test_a_cache_keeps_and_gives_nothing_that_is_steered(tiny):
    model, cache = tiny("llama"), Kept()
    vectors = vectors_of(model)

    def found():
        rows = emotrace.steer(model, PROMPT, vectors, 0.0, emotions="afraid", writing=Writing(NEW), cache=cache)
        return rows["tokens"].iloc[0], read_activations(model, [PROMPT], cache=cache)["last"]

    with emotrace.steered(model, vectors, "afraid", 0.8):
        steered = found()
    assert cache.held == {}
    plainly = found()
    with emotrace.steered(model, vectors, "afraid", 0.8):
        again = found()
    assert len(cache.held) == 2
    assert again[0] == steered[0] != plainly[0]
    np.testing.assert_array_equal(again[1], steered[1])
    assert np.abs(plainly[1] - steered[1]).max() > 0.01


def test_another_threads_text_is_steered_while_this_one_measures(tiny):
    model = tiny("llama")
    vectors, untouched, texts = vectors_of(model), plain(model, [PROMPT]), []
    with emotrace.steered(model, vectors, "afraid", 0.6):
        expected = plain(model, [PROMPT])
        with unedited(model):
            other = threading.Thread(target=lambda: texts.append(plain(model, [PROMPT])))
            other.start()
            other.join()
            texts.append(plain(model, [PROMPT]))
        texts.append(plain(model, [PROMPT]))
    assert texts == [expected, untouched, expected]
    assert expected != untouched


PLACES = ["generated", "written", "prompt", (-3, None)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
def test_a_text_is_read_and_continued_alike_whatever_its_batch(tiny, family, place):
    model = tiny(family)
    vectors = vectors_of(model)
    short, long = "Nobody came.", "She walked along the river, and did not come home until it was dark."
    ids = list(model.tokenizer(short)["input_ids"])
    with emotrace.steered(model, vectors, "afraid", 1.0, tokens=place):
        by_itself = streams(model, model.n_layers - 1, ids)  # what enters the last layer, in a trace of one's own
        alone, beside = read_activations(model, [short]), read_activations(model, [long, short])
        token_by_token = read_tokens(model, [short, long])[0][:, -2]
        norms = [residual_norms(model, texts) for texts in ([short], [short, short], [long], [short, long])]
        scores = [score(model, rows, None) for rows in ([short], [short, short], [long, short])]
        written = [generate(model, rows, None, Writing(4))[-1] for rows in ([ids], [ids, ids], [[5, *ids], ids])]
    for pooling in ("last", "mean"):
        np.testing.assert_allclose(beside[pooling][1], alone[pooling][0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alone["last"][0, -2], by_itself[-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(token_by_token, by_itself, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)
    assert (np.minimum(norms[0], norms[2]) - 1e-4 <= norms[3]).all()
    assert (norms[3] <= np.maximum(norms[0], norms[2]) + 1e-4).all()
    for found in scores[1:]:
        for name, values in found.items():
            np.testing.assert_allclose(values[-1], scores[0][name][0], rtol=1e-3, atol=1e-3)
    assert written[1] == written[0] == written[2]


@pytest.mark.parametrize("place", PLACES)
def test_a_text_read_again_is_edited_as_it_was_written_whatever_its_batch(tiny, place):
    model = tiny("llama")
    vectors, prompt = vectors_of(model), list(model.tokenizer(PROMPT)["input_ids"])
    every, other = np.eye(model.vocabulary, dtype=np.float32), [7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    with emotrace.steered(model, vectors, "afraid", 0.8, tokens=place):
        begun = whole(model, torch.tensor([prompt]), NEW)
        written = begun.sequences[0, len(prompt) :].tolist()
        (alone,) = log_likelihoods(model, [prompt], [written])
        batch = log_likelihoods(model, [prompt, prompt, other[:3]], [written, other, other[:4]])[0]
        (steps,) = reread(model, [prompt], [written], None, every)
        beside = reread(model, [prompt, [5, *prompt]], [written, other], None, every)[0]
    expected = torch.cat(begun.logits).softmax(dim=-1).numpy()
    np.testing.assert_allclose(steps, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(np.exp(alone), expected[range(NEW), written], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(batch, alone, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(beside, steps, rtol=1e-3, atol=1e-5)
    assert np.abs(reread(model, [prompt], [written], None, every)[0] - steps).max() > 0.01


def test_a_row_each_is_refused_where_emotrace_sorts_the_rows(tiny):
    model = tiny("llama")
    vectors, texts, ids = vectors_of(model), ["Nobody came.", PROMPT], [[5, 6], [7, 8, 9]]
    unsteered = Edit({2: torch.zeros(2, model.d_model)})
    sorting = (
        lambda: read_activations(model, texts),
        lambda: read_tokens(model, texts),
        lambda: residual_norms(model, texts),
        lambda: emotrace.steer(model, texts, vectors, 0.1, emotions="sad", writing=Writing(2)),
        lambda: log_likelihoods(model, ids, ids),
        lambda: reread(model, ids, ids, None, np.eye(model.vocabulary)[:, :2]),
        lambda: divergence(model, texts, unsteered),
    )
    with emotrace.steered(model, vectors, ["afraid", "happy"], 0.6):
        for call in sorting:
            with pytest.raises(EmotraceError, match=r"sorted into batches here.*give it one emotion"):
                call()
        rows = [list(model.tokenizer(text)["input_ids"]) for text in texts]
        assert generate(model, rows, None, Writing(NEW)) == plain(model, texts)  # a batch as it stands has its rows


def test_a_schedule_is_asked_for_tokens_of_the_texts_alone(tiny):
    model, asked = tiny("llama"), set()
    vectors, longest = vectors_of(model), len(model.tokenizer(PROMPT)["input_ids"])
    with emotrace.steered(model, vectors, "afraid", 0.1, tokens="all", schedule=lambda at: asked.add(at) or 1.0):
        read_activations(model, ["Nobody came.", PROMPT])
    assert asked == set(range(1 - longest, 1))


def test_a_generator_that_ends_in_another_thread_leaves_the_model_to_the_others(tiny):
    model = tiny("llama")
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")

    def stream():
        with emotrace.steered(model, vectors, "afraid", 0.6):
            yield from range(3)

    texts = stream()
    starter = threading.Thread(target=lambda: next(texts))
    starter.start()
    starter.join()
    texts.close()
    done = []
    other = threading.Thread(target=lambda: done.append(ours(model, vectors, "happy", 0.6)), daemon=True)
    other.start()
    other.join(30)
    assert done


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": [0.0, 0.6]}, "one strength is taken, not 2"),
        ({"strength": []}, "one strength is taken, not 0"),
        ({"tokens": (5, 2)}, "holds no token"),
        ({"tokens": (1, 2, 3)}, "a window of tokens is"),
        ({"tokens": ("a", 2)}, "a window of tokens is"),
        ({"emotions": []}, "no emotion"),
        ({"vectors": None}, "vectors"),
        ({"ablate": "no"}, "ablate"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tiny, settings, message):
    model = tiny("llama")
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    given, before = {"vectors": vectors, "emotions": "afraid", "strength": 0.5, **settings}, hooks(model)
    with pytest.raises(EmotraceError, match=message) as caught:
        emotrace.steered(model, **given).__enter__()
    assert "\n" not in str(caught.value)
    assert hooks(model) == before


def test_a_factor_that_is_no_number_is_refused(tiny):
    model = tiny("llama")
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    for factor in (float("nan"), "x", None):
        schedule = {0: factor}.get
        with emotrace.steered(model, vectors, "afraid", 0.5, schedule=schedule), pytest.raises(EmotraceError):
            plain(model, [PROMPT])
    assert plain(model, [PROMPT]) == plain(model, [PROMPT])


def test_guidance_is_refused_wherever_it_is_set(tiny, monkeypatch):
    model = tiny("llama")
    vectors, module = vectors_of(model), model.nn._module
    ids, scaled = torch.tensor([[5, 6, 7]]), transformers.GenerationConfig(guidance_scale=1.5, max_new_tokens=2)
    guide = transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, module)
    with emotrace.steered(model, vectors, "afraid", 0.5):
        for arguments, settings in (
            ((ids,), {"guidance_scale": 1.5}),
            ((ids,), {"generation_config": scaled}),
            ((ids, scaled), {}),
            ((ids,), {"logits_processor": transformers.LogitsProcessorList([guide])}),
        ):
            with pytest.raises(EmotraceError, match="guidance"):
                module.generate(*arguments, **settings)
        given = module.generate(ids, generation_config=scaled, guidance_scale=1.0)  # what is given last counts
        assert given.shape == (1, 5)
        expected = generate(model, [[5, 6, 7]], None, Writing(NEW))
        monkeypatch.setattr(module.generation_config, "guidance_scale", 1.5)
        for settings in ({}, {"generation_config": transformers.GenerationConfig(max_new_tokens=2)}):
            with pytest.raises(EmotraceError, match="guidance"):
                module.generate(ids, **settings)
        # emotrace's own writing takes nothing from the model's settings.
        assert generate(model, [[5, 6, 7]], None, Writing(NEW)) == expected


def test_nested_edits_add_up(tiny_model):
    model = tiny_model
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    with emotrace.steered(model, vectors, "afraid", 0.2), emotrace.steered(model, vectors, "afraid", 0.4):
        twice = plain(model, [PROMPT])
    assert twice == [ours(model, vectors, "afraid", 0.6)]


def test_a_pipeline_and_a_streamer_in_its_thread_are_steered(tiny_model):
    model = tiny_model
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    expected = model.tokenizer.decode(ours(model, vectors, "afraid", 0.6))
    module, settings = model.nn._module, {"max_new_tokens": NEW, "do_sample": False}
    pipe = transformers.pipeline("text-generation", model=module, tokenizer=model.tokenizer)
    streamer = transformers.TextIteratorStreamer(model.tokenizer, skip_prompt=True)
    with emotrace.steered(model, vectors, "afraid", 0.6):
        written = pipe(PROMPT, return_full_text=False, **settings)[0]["generated_text"]
        batch = model.tokenizer(PROMPT, return_tensors="pt")
        thread = threading.Thread(
            target=module.generate, kwargs={"input_ids": batch["input_ids"], "streamer": streamer, **settings}
        )
        thread.start()
        streamed = "".join(streamer)
        thread.join()
    assert len(written) > 3
    assert written.startswith(expected[: len(written)])
    assert streamed.startswith(expected)


def test_two_threads_wait_for_each_other(tiny_model):
    model = tiny_model
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    alone = {name: [ours(model, vectors, name, 0.6)] for name in ("afraid", "happy")}
    seen: dict[str, list] = {"afraid": [], "happy": []}

    def work(emotion: str) -> None:
        for _ in range(5):
            with emotrace.steered(model, vectors, emotion, 0.6):
                seen[emotion].append(plain(model, [PROMPT]))

    threads = [threading.Thread(target=work, args=(emotion,)) for emotion in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {emotion: [rows] * 5 for emotion, rows in alone.items()}


def test_a_server_is_reached_by_no_hook(tiny_folder):
    model = emotrace.load(str(tiny_folder("llama")), remote="local")
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 1)).vectors("mean")
    with pytest.raises(EmotraceError, match="hooks reach no server"), emotrace.steered(model, vectors, "afraid", 0.5):
        pass
