"""An edit does what it says: nothing at strength 0, nothing before its layer, one row's own vector to one row."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import emotrace
from emotrace import activations, in_trace, scoring, steered_texts, steering, tokens
from emotrace.errors import EmotraceError
from emotrace.tokens import Writing

PROMPTS = ["The door opened and", "After supper they all went down to the river, where the boats were", "Monday"]


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama", n_layers=6)


@pytest.fixture(scope="module")
def vectors(llama):
    return emotrace.extract(llama, pooling="mean")


def plain(model, prompt: str, n: int) -> list[int]:
    """What transformers itself writes, greedily, with no nnsight around it."""
    ids = torch.tensor([tokens.encode(model, [prompt])[0].ids])
    settings = {"max_new_tokens": n, "do_sample": False, "pad_token_id": 0}
    return model.nn._module.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :].tolist()


def hooked(model, prompt: str, layer: int, edit: torch.Tensor, n: int) -> list[int]:
    """The same with a plain forward hook that adds ``edit`` at a layer: the reference for a steered text."""
    handle = model.nn._module.model.layers[layer - 1].register_forward_hook(
        lambda module, inputs, output: output + edit
    )
    try:
        return plain(model, prompt, n)
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["gpt2", "gemma", "qwen", "llama", "mistral"])
def test_strength_zero_gives_the_unsteered_tokens_in_a_batch_of_mixed_lengths(tiny, family):
    model = tiny(family)
    ids = [tokens.encode(model, [prompt])[0].ids for prompt in PROMPTS]
    zero = steering.Edit({2: torch.zeros(3, model.d_model)})
    written = steering.generate(model, ids, zero, writing=Writing(8))
    assert written == steering.generate(model, ids, None, writing=Writing(8))
    ends = tokens.end_tokens(model)
    assert written == [tokens.until_end(plain(model, prompt, 8), ends) for prompt in PROMPTS]


def test_each_row_of_a_mixed_batch_equals_a_plain_hook_on_that_row_alone(llama, vectors):
    norms = activations.residual_norms(llama)
    rows = [("happy", 0.5), ("sad", -0.7), ("calm", 0.0)]
    edits = steering.directions(vectors, rows, [3], norms)
    ids = [tokens.encode(llama, [prompt])[0].ids for prompt in PROMPTS]
    together = steering.generate(llama, ids, steering.Edit(edits, positions="all"), writing=Writing(10))
    ends = tokens.end_tokens(llama)
    for row, prompt in enumerate(PROMPTS):
        reference = hooked(llama, prompt, 3, edits[3][row], 10)
        assert together[row] == tokens.until_end(reference, ends)
    unsteered = [tokens.until_end(plain(llama, prompt, 10), ends) for prompt in PROMPTS]
    assert together[0] != unsteered[0]
    assert together[2] == unsteered[2]


@pytest.mark.parametrize("family", ["gpt2", "gemma", "qwen", "llama", "mistral"])
def test_a_prompt_shared_by_many_rows_is_read_once_and_each_row_is_as_if_alone(tiny, family):
    """Two long prompts and one short, each in three rows of its own edit: the prefix's keys and values are shared."""
    model = tiny(family, n_layers=6)
    generator = torch.Generator().manual_seed(3)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    edits = torch.randn(9, model.d_model, generator=generator) * 0.6 * float(activations.residual_norms(model)[3]) / 6
    edits[::3] = 0
    ids = [tokens.encode(model, [prompt])[0].ids for prompt in prompts]
    calls = []
    handle = model.nn._module.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    together = steering.generate(model, ids, steering.Edit({3: edits}), writing=Writing(12))
    handle.remove()
    longest = max(map(len, ids))
    assert calls[0] == (3, longest - 1)  # each different prompt, but its last token, once
    assert calls[1] == (9, 1)
    for row, own in enumerate(ids):
        alone = steering.generate(model, [own], steering.Edit({3: edits[row : row + 1]}), writing=Writing(12))
        assert together[row] == alone[0]
    assert len({tuple(text) for text in together}) > 3


def test_an_edit_of_generated_positions_equals_a_hook_from_the_prompts_last_token_on(llama, vectors):
    edits = steering.directions(vectors, [("happy", 0.6)], [3], activations.residual_norms(llama))
    ids = [tokens.encode(llama, [PROMPTS[1]])[0].ids]

    def last(module, inputs, output):
        output = output.clone()
        output[:, -1:] += edits[3][0]
        return output

    handle = llama.nn._module.model.layers[2].register_forward_hook(last)
    reference = tokens.until_end(plain(llama, PROMPTS[1], 10), tokens.end_tokens(llama))
    handle.remove()
    for copies in (1, 3):
        edit = steering.Edit({3: edits[3].repeat(copies, 1)})
        assert steering.generate(llama, ids * copies, edit, writing=Writing(10)) == [reference] * copies


def test_the_norm_on_the_fly_is_the_mean_over_the_rows_own_tokens(llama, vectors):
    """The author's unit: for the prompt the mean over its tokens, padding left out, then each new token's own norm."""
    unit = steering.directions(vectors, [("happy", 0.5)], [3], np.ones(7))[3][0]
    steps = []

    def hook(module, inputs, output):
        norm = output.norm(dim=-1).mean()
        steps.append(output.shape[1])
        return output + norm * unit

    handle = llama.nn._module.model.layers[2].register_forward_hook(hook)
    reference = tokens.until_end(plain(llama, PROMPTS[0], 10), tokens.end_tokens(llama))
    handle.remove()
    assert steps[0] > 1
    assert steps[1] == 1
    settings = {"emotions": ["happy"], "writing": Writing(10, positions="all"), "on_the_fly": True}
    table = steered_texts.steer(llama, [PROMPTS[1], PROMPTS[0]], vectors, 0.5, layers=[3], **settings)
    assert table["tokens"][1] == reference
    unsteered = steered_texts.steer(llama, PROMPTS[0], vectors, 0.0, layers=[3], **settings)
    assert table["tokens"][1] != unsteered["tokens"][0]


def test_the_added_vector_is_unit_times_strength_times_that_layers_norm(llama, vectors):
    norms = activations.residual_norms(llama)
    edits = steering.directions(vectors, [("angry", 0.25), ("angry", -0.5)], [2, 5], norms)
    for layer, edit in edits.items():
        unit = vectors["angry", layer] / np.linalg.norm(vectors["angry", layer])
        np.testing.assert_allclose(edit[0], 0.25 * norms[layer] * unit, rtol=1e-5)
        np.testing.assert_allclose(edit[1], -2 * edit[0], rtol=1e-5)


def test_the_norm_is_the_mean_over_tokens_without_the_first(llama):
    texts = ["The rain fell on the roof all night.", "A short one."]
    norms = activations.residual_norms(llama, texts)
    encoded = tokens.encode(llama, texts)
    streams = activations.read_tokens(llama, encoded)
    by_hand = [
        np.linalg.norm(stream[text.start + 1 : text.stop], axis=-1)
        for stream, text in zip(streams, encoded, strict=True)
    ]
    np.testing.assert_allclose(norms, np.concatenate(by_hand).mean(axis=0), rtol=1e-5)


def test_an_edit_changes_nothing_before_its_layer_and_exactly_itself_at_it(llama, vectors):
    edits = steering.directions(vectors, [("proud", 0.4)] * 3, [4], activations.residual_norms(llama))
    before = scoring.score(llama, PROMPTS, None)["stream"]
    after = scoring.score(llama, PROMPTS, steering.Edit(edits, positions="all"))["stream"]
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    np.testing.assert_allclose(after[:, 4] - before[:, 4], edits[4].numpy(), atol=1e-5)
    assert (np.abs(after[:, 5:] - before[:, 5:]).max(axis=-1) > 1e-4).all()


def test_opposite_strengths_mirror_each_other_in_the_projection(llama, vectors):
    norms = activations.residual_norms(llama)
    unit = vectors["sad", 3] / np.linalg.norm(vectors["sad", 3])
    base = scoring.score(llama, PROMPTS[:1], None, read_layers=[3])["stream"][0, 0] @ unit
    for strength in (0.3, -0.3):
        edit = steering.Edit(steering.directions(vectors, [("sad", strength)], [3], norms))
        moved = scoring.score(llama, PROMPTS[:1], edit, read_layers=[3])["stream"][0, 0] @ unit
        assert moved - base == pytest.approx(strength * norms[3], rel=1e-4)


def test_next_token_probabilities_under_no_edit_are_the_models_own(llama):
    ours = scoring.score(llama, PROMPTS, None)["log_probabilities"]
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([tokens.encode(llama, [prompt])[0].ids])
        logits = llama.nn._module(ids).logits[0, -1]
        np.testing.assert_allclose(ours[row], logits.log_softmax(-1), atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"on_the_fly": True}, {"ablate": True}, None])
def test_scoring_a_prompt_read_once_for_all_its_rows_equals_scoring_each_row_alone(model, how):
    prompts = [PROMPTS[place] for place in (0, 1, 0, 2, 1, 0)]
    rows = torch.randn(6, model.d_model, generator=torch.Generator().manual_seed(0))
    edit = None if how is None else steering.Edit({1: rows / rows.norm(dim=1, keepdim=True)}, **how)
    together = scoring.score(model, prompts, edit)
    for row, prompt in enumerate(prompts):
        alone = scoring.score(model, [prompt], edit and edit.rows([row]))
        for what, values in alone.items():
            np.testing.assert_allclose(together[what][row], values[0], atol=1e-5 * np.abs(values).max())


def test_scoring_reads_a_shared_prompt_once(llama):
    def operations(positions):
        edit = steering.Edit({2: torch.ones(20, llama.d_model)}, positions=positions)
        with FlopCounterMode(display=False) as counter:
            scoring.score(llama, PROMPTS[1:2] * 20, edit, groups=[[1]])
        return counter.get_total_flops()

    n = len(tokens.encode(llama, PROMPTS[1:2])[0].ids)
    # 20 rows of one prompt: its tokens but the last once, the last 20 times; the unembedding 20 times on both sides.
    assert operations("generated") < operations("all") * (n + 20) / (20 * n) + 2.1 * 20 * llama.d_model * 600


def test_ablation_leaves_no_projection(llama, vectors):
    layers = list(range(1, 7))
    edit = steering.ablation(vectors, ["happy", "sad", "calm"], layers)
    stream = scoring.score(llama, PROMPTS, edit, read_layers=layers)["stream"]
    for row in range(3):
        for place, layer in enumerate(layers):
            direction = edit.directions[layer][row].numpy()
            assert abs(stream[row, place] @ direction) < 1e-4 * np.linalg.norm(stream[row, place])


def test_generated_positions_leave_the_prompt_before_its_last_token_alone(llama, vectors):
    edits = steering.directions(vectors, [("happy", 0.6)], [3], activations.residual_norms(llama))
    everywhere = scoring.score(llama, PROMPTS[1:2], steering.Edit(edits, positions="all"))["log_probabilities"]
    last = scoring.score(llama, PROMPTS[1:2], steering.Edit(edits, positions="generated"))["log_probabilities"]
    none = scoring.score(llama, PROMPTS[1:2], None)["log_probabilities"]
    assert np.abs(everywhere - last).max() > 1e-4
    assert np.abs(last - none).max() > 1e-4
    # A prompt of one token has nothing before its last.
    ids = [[tokens.encode(llama, ["Monday"])[0].ids[-1]]]
    texts = [
        steering.generate(llama, ids, steering.Edit(edits, positions=where), writing=Writing(6))
        for where in tokens.POSITIONS
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "kind", [{}, {"positions": "all"}, {"on_the_fly": True}, {"positions": "all", "on_the_fly": True}]
)
def test_a_text_is_read_again_under_the_very_edit_that_it_was_written_under(tiny_model, kind):
    """Greedy text under an edit of two layers: at every step the token written is the most probable when read again."""
    model = tiny_model
    rows = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(1))
    size = 0.3 if kind.get("on_the_fly") else 0.3 * float(activations.residual_norms(model)[1])
    unit_rows = rows / rows.norm(dim=1, keepdim=True)
    edit = steering.Edit({1: size * unit_rows, 3: size * unit_rows.flip(0)}, **kind)
    ids = [text.ids for text in tokens.encode(model, PROMPTS)]
    texts = steering.generate(model, ids, edit, Writing(8))
    vocabulary = model.nn._module.config.get_text_config().vocab_size
    again = scoring.reread(model, ids, texts, edit, np.eye(vocabulary, dtype=np.float32))
    for text, steps in zip(texts, again, strict=True):
        assert list(steps.argmax(axis=1)[: len(text)]) == text
    plain_steps = scoring.reread(model, ids, texts, None, np.eye(vocabulary, dtype=np.float32))
    assert any(list(steps.argmax(axis=1)[: len(text)]) != text for text, steps in zip(texts, plain_steps, strict=True))


def test_a_mixture_is_the_weighted_sum(llama, vectors):
    norms = activations.residual_norms(llama)
    mixed = steering.directions(vectors, [({"happy": 2.0, "calm": -1.0}, 0.3)], [3], norms)[3][0].numpy()
    total = 2 * vectors["happy", 3] - vectors["calm", 3]
    np.testing.assert_allclose(mixed, 0.3 * norms[3] * total / np.linalg.norm(total), rtol=1e-4)


def test_a_sampled_row_depends_on_its_seed_and_not_on_its_batch(llama, vectors):
    def write(prompts, strengths, *seeds):
        writing = Writing(8, temperature=1.0, seeds=seeds)
        return steered_texts.steer(llama, prompts, vectors, strengths, emotions=["happy"], writing=writing)

    together = write(PROMPTS, [0.0, 0.4], 1, 2)
    for row in together.itertuples():
        alone = write(row.prompt, row.strength, row.seed)
        assert alone.iloc[0]["text"] == row.text
    by_seed = together.groupby(["prompt", "strength"])["text"].nunique()
    assert (by_seed == 2).mean() > 0.5


def test_seeded_sampling_draws_from_the_softmax(llama):
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    processor = in_trace.SeededSampling([5], temperature=0.7)
    counts = np.bincount([int(processor(None, logits.clone()).argmax()) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, (logits[0] / 0.7).softmax(-1), atol=0.012)


def test_the_sweep_has_a_row_for_everything_in_the_callers_order(llama, vectors):
    table = steered_texts.steer(
        llama, PROMPTS, vectors, [-0.2, 0.0, 0.2], emotions=["sad", "calm"], writing=Writing(3), batch_rows=5
    )
    assert len(table) == 3 * 2 * 3
    assert list(table["prompt"].drop_duplicates()) == PROMPTS
    assert list(table["strength"][:3]) == [-0.2, 0.0, 0.2]
    assert table[table["strength"] == 0].groupby("prompt")["text"].nunique().max() == 1


def test_random_directions_have_the_emotions_mean_norm_and_point_elsewhere(vectors):
    control = steering.random_like(vectors, 8, seed=0)
    assert control.emotions[0] == "random-1"
    norms = np.linalg.norm(control.values, axis=-1)
    np.testing.assert_allclose(
        norms, np.broadcast_to(np.linalg.norm(vectors.values, axis=-1).mean(axis=0), norms.shape), rtol=1e-4
    )
    assert not np.allclose(control.values, steering.random_like(vectors, 8, seed=1).values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strengths": float("nan")}, "finite number"),
        ({"strengths": [0.1, float("inf")]}, "finite number"),
        ({"layers": [99]}, "layer 99 is out of range"),
        ({"layers": [0]}, "layer 0 is the embedding"),
        ({"prompts": "  "}, "is empty"),
        ({"prompts": "word " * 600}, "up to 512 tokens"),
        ({"max_new_tokens": 600}, "tokens and 600 new ones): "),
        ({"emotions": ["smug"]}, "unknown emotion 'smug'"),
        ({"positions": "prompt"}, "unknown positions 'prompt'"),
        ({"temperature": -1.0}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens is 1 or more"),
        ({"emotions": [{"happy": 0.0}]}, "zero"),
    ],
)
def test_bad_input_is_one_clear_line(llama, vectors, change, words):
    how = {name: change.pop(name) for name in ("max_new_tokens", "positions", "temperature") if name in change}
    settings = {"prompts": "The door", "strengths": 0.1} | change
    prompts, strengths = settings.pop("prompts"), settings.pop("strengths")

    def steer():
        steered_texts.steer(
            llama, prompts, vectors, strengths, writing=Writing(**{"max_new_tokens": 3} | how), **settings
        )

    with pytest.raises(EmotraceError) as raised:
        steer()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": None}, "seed is a whole number, not None"),
        ({"seed": 1.7}, "seed is a whole number, not 1.7"),
        ({"seed": 2**64}, "a seed is a whole number of 64 bits"),
        ({"strength": "a"}, "a strength is a finite number, not 'a'"),
        ({"strength": float("nan")}, "a strength is a finite number, not nan"),
    ],
)
def test_a_row_of_no_seed_or_strength_is_refused(llama, vectors, change, words):
    row = steered_texts.Row("The door", vectors, "happy", 0.1)._replace(**change)
    with pytest.raises(EmotraceError, match=words):
        steered_texts.write(llama, [row], [2], Writing(3, temperature=0.8))


@pytest.mark.parametrize("seeds", [(), (1,), (1, 2, 3, 4)])
def test_sampled_rows_without_a_seed_each_are_refused(llama, seeds):
    ids = [text.ids for text in tokens.encode(llama, PROMPTS)]
    with pytest.raises(EmotraceError, match="each of 3 sampled rows needs a seed of its own"):
        steering.generate(llama, ids, None, Writing(3, temperature=0.8), seeds)


def test_a_chat_and_a_text_of_the_same_tokens_are_kept_apart(tiny):
    """The template's turn end ends a chat alone, so a finished batch of the one must not serve the other."""
    model, keys = tiny("qwen"), []

    class Keys:
        def rows(self, key, compute):
            keys.append(key)
            return compute()

    vectors = emotrace.extract(model, pooling="mean")
    for chat in (False, True):
        writing = Writing(2, chat=chat)
        steered_texts.steer(model, "The door", vectors, 0.1, emotions=["sad"], writing=writing, cache=Keys())
    plain, chat = ({**key, "prompts": None} for key in keys)
    assert plain != chat
    assert {name: value for name, value in chat.items() if name != "chat"} == plain


def test_vectors_of_another_model_and_a_chat_without_template_are_refused(tiny, vectors):
    with pytest.raises(EmotraceError, match="these vectors belong to"):
        steered_texts.steer(tiny("llama", seed=4, n_layers=6), "The door", vectors, 0.1)
    model = tiny("gpt2")
    with pytest.raises(EmotraceError, match="has no chat template"):
        steered_texts.steer(model, "The door", emotrace.extract(model), 0.1, writing=Writing(chat=True))


@pytest.mark.real
def test_a_real_emotion_vector_raises_its_own_word_beyond_random_directions_and_other_emotions(packaged):
    """The passages name no emotion, and yet their vectors move the next token towards the emotion's word."""
    model = packaged("smollm2-135m-instruct")
    vectors, norms, layer = (
        emotrace.extract(model, pooling="mean"),
        activations.residual_norms(model),
        model.n_layers // 2,
    )
    prompts = ["When she thinks about it, she feels very", "He told me that today he is", "I woke up and felt so"]
    base = scoring.score(model, prompts, None, read_layers=[1])["log_probabilities"]
    named = [name for name in vectors.emotions if len(model.tokenizer(f" {name}")["input_ids"]) == 1]
    ids = [model.tokenizer(f" {name}")["input_ids"][0] for name in named]

    def shifts(source, name: str) -> np.ndarray:
        rows = steering.directions(source, [(name, 0.2)] * len(prompts), [layer], norms)
        edit = steering.Edit(rows, positions="all")
        after = scoring.score(model, prompts, edit, read_layers=[1])["log_probabilities"]
        return (after - base).mean(axis=0)[ids]

    ours = np.stack([shifts(vectors, name) for name in named])
    control = steering.random_like(vectors, 8, seed=0)
    random = np.stack([shifts(control, name) for name in control.emotions])
    own, n = np.diag(ours), len(named)
    assert n >= 12
    assert (own > random.max(axis=0)).mean() > 0.4  # 1 in 9 by chance
    assert (own > (ours.sum(axis=0) - own) / (n - 1)).mean() > 0.7  # 1 in 2 by chance
    assert own.mean() > 0.4
    assert abs(random.mean()) < 0.3


@pytest.mark.real
def test_strength_zero_on_a_real_model_is_plain_generate(packaged):
    model = packaged("smollm2-135m-instruct")
    vectors = emotrace.extract(model, pooling="mean", layers=[15])
    table = steered_texts.steer(model, PROMPTS, vectors, 0.0, emotions=["happy", "sad"], writing=Writing(12))
    for prompt, texts in table.groupby("prompt")["text"]:
        ids = tokens.until_end(plain(model, prompt, 12), tokens.end_tokens(model))
        assert set(texts) == {model.tokenizer.decode(ids, skip_special_tokens=True)}


def test_long_texts_and_a_server_have_fewer_rows_at_once(llama, tiny_folder):
    short, long = [[5] * 20], [[5] * 20, [5] * 120]
    assert steered_texts.rows_at_once(llama, short, 24) == 256
    assert steered_texts.rows_at_once(llama, short, 109) == steered_texts.rows_at_once(llama, long, 24) == 128
    assert steered_texts.rows_at_once(emotrace.load(str(tiny_folder("llama")), remote="local"), short, 24) == 128
