"""Steering around the user's own code: the tokens of ``steer``, whatever runs the model, and nothing left behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import transformers

import emotrace
from emotrace import EmotraceError, Writing
from emotrace.activations import residual_norms
from emotrace.instrument import corpus
from emotrace.readings import read_texts
from emotrace.steering import Edit, ablation, directions, generate
from emotrace.tokens import end_tokens

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
        assert hooks(model) == before + 4
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
    # Read on with a cache of one's own: what follows the prompt is written.
    with torch.no_grad(), emotrace.steered(model, vectors, "afraid", 0.6):
        first = module(input_ids=ids, use_cache=True)
        token = first.logits[:, -1:].argmax(dim=-1)
        second = module(input_ids=token, past_key_values=first.past_key_values, use_cache=True).logits[0, -1].argmax()
        assert [int(token), int(second)] == plain(model, [PROMPT])[0][:2]


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


def test_a_factor_that_is_no_number_and_guidance_are_refused(tiny):
    model = tiny("llama")
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    for factor in (float("nan"), "x", None):
        schedule = {0: factor}.get
        with emotrace.steered(model, vectors, "afraid", 0.5, schedule=schedule), pytest.raises(EmotraceError):
            plain(model, [PROMPT])
    with emotrace.steered(model, vectors, "afraid", 0.5), pytest.raises(EmotraceError, match="guidance"):
        plain(model, [PROMPT], guidance_scale=1.5)
    assert plain(model, [PROMPT]) == plain(model, [PROMPT])


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
