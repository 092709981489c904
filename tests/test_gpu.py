"""On a GPU, where there is one: what passes through a model is what it is on the CPU, and takes what memory is free.

``EMOTRACE_TEST_DEVICE=cpu`` tries the comparison itself where there is none.
"""

import copy
import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_boundaries
import torch

import emotrace
from emotrace import activations, scoring, steered_texts, steering, tokens
from emotrace.hosts import gpu_memory, remote
from emotrace.instrument import corpus
from emotrace.tokens import Writing

DEVICE = os.environ.get("EMOTRACE_TEST_DEVICE", "cuda")
FAMILIES = ("llama", "gpt2", "gemma", "qwen", "mistral")
TEXTS = list(corpus.passages()["text"])[::12]
PASSES = (
    "read_activations read_tokens residual_norms read_while_writing score divergence log_likelihoods unembed generate "
    "encode steer write write_stories read_texts frame_tokens read_stories extract what_if read_emotions project_text"
)
FRAMED = "write_stories read_texts frame_tokens read_stories"
gpu = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def pair(tiny_folder):
    """``pair(family)``: the tiny model on the CPU and on the device, in float32 on both."""
    torch.backends.cuda.matmul.allow_tf32 = False
    folders = {family: str(tiny_folder(family)) for family in FAMILIES}
    return lambda family: [emotrace.load(folders[family], dtype="float32", device=d) for d in ("cpu", DEVICE)]


def apart(here, there):
    """How far results lie apart, over the largest number among them; infinite where they are of another kind."""
    if isinstance(here, torch.Tensor):
        return apart(here.numpy(), there.cpu().numpy())
    if type(here) is not type(there):
        return np.inf
    if dataclasses.is_dataclass(here):
        return apart(vars(here), vars(there))
    if isinstance(here, pd.DataFrame):
        return apart(here.to_dict("list"), there.to_dict("list"))
    if isinstance(here, dict):
        keys = set(here) - {"seconds", "provenance", "model"}
        return worst(apart(here[key], there.get(key)) for key in keys) if here.keys() == there.keys() else np.inf
    if isinstance(here, (list, tuple)):
        return worst(apart(*two) for two in zip(here, there, strict=True)) if len(here) == len(there) else np.inf
    if isinstance(here, (float, np.ndarray, np.generic)):
        one, two = np.asarray(here, float), np.asarray(there, float)
        if one.shape != two.shape or not np.array_equal(np.isfinite(one), np.isfinite(two)):
            return np.inf
        known = np.isfinite(one)
        return float(np.abs(one - two)[known].max() / max(1e-9, np.abs(one)[known].max())) if known.any() else 0.0
    return 0.0 if here is there or here == there else np.inf


def worst(distances):
    return max(distances, default=0.0)


def test_what_is_not_the_same_is_far_apart():
    table = {"text": ["a"], "n": [1], "value": np.array([1.0, np.nan])}
    assert apart(table, dict(table)) == 0
    assert apart(table, {**table, "value": np.array([1.1, np.nan])}) == pytest.approx(0.1)
    others = [
        {**table, "value": np.array([1.0, 2.0])},
        {**table, "text": ["b"]},
        {**table, "n": [2]},
        {**table, "n": []},
    ]
    assert all(apart(table, other) == np.inf for other in [*others, {"text": ["a"]}, None, [table]])


@gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_every_function_gives_what_it_gives_on_the_cpu(pair, family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, there = pair(family)
    assert torch.device(there.device).type == DEVICE
    vectors = emotrace.extract(here, pooling="mean", emotions=["happy", "sad", "calm"])
    for name in PASSES.split():
        results = []
        for model in (here, there):
            function, right, _ = test_boundaries.calls(model, vectors)[name]
            framed = {"continuation": not here.instruct} if name in FRAMED.split() else {}
            results.append(function(model, **right, **framed))
        assert apart(*results) < 1e-4, name
    found = []
    for model in (here, there):
        ids = torch.tensor([[5, 6, 7]], device=model.device)
        with torch.no_grad(), emotrace.steered(model, vectors, "sad", strength=0.4, layers=2):
            found.append(model.nn._module(input_ids=ids).logits.cpu())
        found.append(model.nn._module(input_ids=ids).logits.detach().cpu())
    assert apart(found[:2], found[2:]) < 1e-4 < apart(found[0], found[1])


@gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_many_texts_rows_and_edits(pair, family):
    """Several batches a request, shared and unshared prompts, sampling, both kinds of edit, likelihoods."""
    here, there = pair(family)
    generator = torch.Generator().manual_seed(0)
    prompts = [tokens.encode(here, [text])[0].ids[:9] for text in TEXTS[:4] for _ in range(3)]
    rows = torch.randn(12, here.d_model, generator=generator)
    unit = rows / rows.norm(dim=1, keepdim=True)
    edits = [steering.Edit({2: 4 * unit, 3: unit}), steering.Edit({1: unit}, ablate=True, positions="all")]
    edits += [
        steering.Edit({2: 0.3 * unit}, on_the_fly=True, positions=positions) for positions in ("all", "generated")
    ]
    found = []
    for model in (here, there):
        read = activations.read_activations(model, TEXTS, batch_tokens=200)
        found.append([read["mean"], read["last"], activations.residual_norms(model)])
        for edit in edits:
            for writing in (Writing(8), Writing(8, 0.8)):
                seeds = range(12) if writing.temperature else ()
                written = steering.generate(model, prompts, edit, writing, seeds)
                groups = np.eye(model.vocabulary, 3, dtype=np.float32)
                found[-1] += [written, scoring.log_likelihoods(model, prompts, written)]
                found[-1] += [scoring.reread(model, prompts, written, edit, groups)]
            found[-1] += list(scoring.score(model, TEXTS[:12], edit).values())
            found[-1] += [scoring.divergence(model, TEXTS[:12], edit)]
    for number, (ours, theirs) in enumerate(zip(*found, strict=True)):
        assert apart(ours, theirs) < 2e-4, number


@gpu
def test_a_batch_too_large_for_the_gpu_is_halved(pair, monkeypatch):
    _, there = pair("llama")
    whole = activations.read_activations(there, TEXTS)["mean"]
    real, refused = activations._pool, []

    def small(model, texts, *rest):
        if len(texts) > 3:
            refused.append(len(texts))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, texts, *rest)

    monkeypatch.setattr(activations, "_pool", small)
    np.testing.assert_allclose(activations.read_activations(there, TEXTS)["mean"], whole, rtol=1e-4, atol=1e-5)
    assert refused
    there.parts = 1


# -- what memory is free says how much goes at once: sums, with a GPU that is only said to be there --------------------


@pytest.fixture
def on_gpu(tiny, monkeypatch):
    """``on_gpu(bytes free)``: the tiny llama, as if it were on a GPU with so much memory free."""

    def model(free):
        monkeypatch.setattr(gpu_memory, "on_gpu", lambda model: True)
        monkeypatch.setattr(gpu_memory, "free", lambda model: free)
        return tiny("llama")

    return model


def test_an_empty_card_takes_the_most(on_gpu):
    model = on_gpu(80e9)
    assert activations._budget(model) == activations.GPU_BATCH_TOKENS == 8192
    assert steered_texts.rows_at_once(model, [range(22)], 40) == steered_texts.GPU_ROWS
    assert scoring._logits_at_once(model) == scoring.GPU_LOGITS
    assert scoring._tokens_at_once(model) == scoring.SCORED_TOKENS


def test_a_full_card_takes_what_half_of_it_holds_rounded_down_to_a_power_of_two(on_gpu):
    model = on_gpu(1e6)
    config = model.nn._module.config
    kept = 2 * model.n_layers * config.num_key_value_heads * config.head_dim * 4
    token = 4 * (4 * config.intermediate_size + 6 * 32) + 4 * 32
    row = 62 * kept + 16 * 600 + 22 * token
    assert gpu_memory.row_bytes(model, 22, 40) == row
    assert gpu_memory.token_bytes(model) == token
    given = steered_texts.rows_at_once(model, [range(22), range(3)], 40)
    budgets = [(given, row), (activations._budget(model), token), (scoring._logits_at_once(model), 16)]
    for number, each in budgets:
        assert number & (number - 1) == 0
        assert number * each <= 5e5 < 2 * number * each
    assert steered_texts.rows_at_once(on_gpu(0.97e6), [range(22), range(3)], 40) == given


def test_a_card_without_room_takes_one(on_gpu):
    model = on_gpu(0)
    assert activations._budget(model) == steered_texts.rows_at_once(model, [range(9)], 9) == 1
    assert len(activations.read_activations(model, TEXTS)["mean"]) == len(TEXTS)


def test_a_device_that_does_not_tell_takes_as_many_rows_as_a_cpu(on_gpu):
    model = on_gpu(None)
    assert activations._budget(model) == activations.GPU_BATCH_TOKENS
    assert steered_texts.rows_at_once(model, [range(22)], 40) == steered_texts.BATCH_ROWS
    assert scoring._logits_at_once(model) == scoring.LOGITS


@pytest.mark.parametrize(("room", "most"), [(80e9, 32768), (4e6, 1024)])
def test_prompts_count_where_texts_are_read_again(on_gpu, monkeypatch, room, most):
    model, widths = on_gpu(room), []
    real = scoring._reread_batch

    def seen(model, prompts, texts, edit, groups):
        widths.append(len(texts) * max(map(len, prompts)))
        return real(model, prompts, texts, edit, groups)

    monkeypatch.setattr(scoring, "_reread_batch", seen)
    prompts, texts = [tuple(range(5, 95))] * 20, [[7, 8]] * 20
    steps = scoring.reread(model, prompts, texts, None, np.eye(model.vocabulary, 2))
    assert len(steps) == 20
    assert sum(widths) == 20 * 90
    assert max(widths) <= most


def test_an_offloaded_layer_keeps_its_directions(on_gpu):
    model = on_gpu(80e9)
    edit = steering.Edit({1: torch.ones(2, 32), 3: torch.ones(2, 32)})
    assert {layer: str(rows.device) for layer, rows in edit.beside(model).items()} == {1: "cpu", 3: "cpu"}
    away = SimpleNamespace(parameters=lambda: iter([torch.ones(1, device="meta")]))
    handle = SimpleNamespace(layers=[SimpleNamespace(_module=away)] * 3, device="cuda")
    assert {layer: str(rows.device) for layer, rows in edit.beside(handle).items()} == {1: "cpu", 3: "cpu"}


@pytest.mark.parametrize(
    ("setting", "inner"), [([64, 96, 96], 96), (128, 128), (None, 4 * 32), ([], 4 * 32), ("wide", 4 * 32)]
)
def test_widths_that_differ_between_layers_count_by_the_widest(setting, inner):
    handle = config(
        vocab_size=600, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=setting
    )
    assert gpu_memory.token_bytes(handle) == 2 * (4 * inner + 6 * 32) + 4 * 32


def config(**sizes):
    """A handle of real shape, as far as the sums look at it."""
    text = SimpleNamespace(**sizes)
    module = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: text),
        parameters=lambda: iter([torch.zeros(1, dtype=torch.bfloat16)]),
    )
    handle = SimpleNamespace(nn=SimpleNamespace(_module=module), d_model=text.hidden_size, vocabulary=text.vocab_size)
    handle.n_layers = text.num_hidden_layers
    return handle


@pytest.mark.parametrize(
    ("handle", "reading", "writing"),
    [
        (
            config(
                vocab_size=128256,
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
            ),
            1.35e9,
            9.54e9,
        ),
        (
            config(
                vocab_size=262144,
                hidden_size=1152,
                intermediate_size=6912,
                num_hidden_layers=26,
                num_attention_heads=4,
                num_key_value_heads=1,
                head_dim=256,
            ),
            0.46e9,
            4.36e9,
        ),
    ],
    ids=["llama 8b", "gemma 3 1b"],
)
def test_the_sums_are_above_what_an_h200_took_and_not_far(handle, reading, writing):
    """8,192 tokens read, 1,024 rows of 22 and 40 tokens written: peaks over the weights of docs/performance.md."""
    assert reading < 8192 * gpu_memory.token_bytes(handle) < 1.6 * reading
    assert writing < 1024 * gpu_memory.row_bytes(handle, 22, 40) < 1.8 * writing


def test_the_cpu_and_a_server_are_no_gpu(tiny_folder):
    model = emotrace.load(str(tiny_folder("llama")), device="cpu")
    assert not gpu_memory.on_gpu(model)
    assert gpu_memory.free(model) is None
    model.remote = remote.Remote("local")
    assert not gpu_memory.on_gpu(model)
    server = copy.copy(model)
    server.nn = SimpleNamespace(_module=torch.nn.Linear(1, 1, device="meta"))
    assert not gpu_memory.on_gpu(server)
    assert activations._budget(server) == activations.SERVER_BATCH_TOKENS
