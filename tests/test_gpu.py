"""On a GPU, where there is one: each public function gives what it gives on the CPU, and takes what memory is free.

``EMOTRACE_TEST_DEVICE=cpu`` tries the comparison itself where there is none.
"""

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
from emotrace.hosts import gpu_memory
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
    if dataclasses.is_dataclass(here):
        fields = [field.name for field in dataclasses.fields(here) if field.name != "provenance"]
        return max((apart(getattr(here, name), getattr(there, name)) for name in fields), default=0.0)
    if isinstance(here, pd.DataFrame):
        return apart(here.to_dict("list"), there.to_dict("list"))
    if isinstance(here, dict):
        keys = set(here) - {"seconds", "provenance"}
        return max((apart(here[key], there[key]) for key in keys), default=0.0)
    if isinstance(here, torch.Tensor):
        here, there = here.cpu().numpy(), there.cpu().numpy()
    if isinstance(here, (list, tuple)):
        return max((apart(a, b) for a, b in zip(here, there, strict=True)), default=0.0)
    if isinstance(here, (float, np.ndarray, np.generic)):
        one, two = np.asarray(here, float), np.asarray(there, float)
        assert np.array_equal(np.isnan(one), np.isnan(two))
        return float(np.nanmax(np.abs(one - two)) / max(1e-9, np.nanmax(np.abs(one)))) if one.size else 0.0
    return 0.0 if here == there or not isinstance(here, (str, int, bool)) else float("inf")


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


def test_a_full_card_takes_what_half_of_it_holds(on_gpu):
    model = on_gpu(1e6)  # d_model 32, 4 layers, 4 heads of 8 of which 2 have keys, feed-forward 64, 600 tokens
    config = model.nn._module.config
    kept = 2 * model.n_layers * config.num_key_value_heads * config.head_dim * 4
    assert gpu_memory.row_bytes(model, 62) == 62 * kept + 16 * 600
    assert steered_texts.rows_at_once(model, [range(22), range(3)], 40) == int(5e5 / (62 * kept + 16 * 600))
    assert gpu_memory.token_bytes(model) == 4 * (4 * config.intermediate_size + 6 * 32) + 4 * 32
    assert activations._budget(model) == int(5e5 / gpu_memory.token_bytes(model))
    assert scoring._logits_at_once(model) == int(5e5 / 16)


def test_a_card_without_room_takes_one(on_gpu):
    model = on_gpu(0)
    assert activations._budget(model) == steered_texts.rows_at_once(model, [range(9)], 9) == 1
    assert len(activations.read_activations(model, TEXTS)["mean"]) == len(TEXTS)


def test_a_device_that_does_not_tell_takes_the_most(on_gpu):
    assert gpu_memory.at_most(on_gpu(None), 77, 1e12) == 77


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
    """8,192 tokens read, 1,024 rows of 62 tokens written: peaks over the weights that docs/performance.md tells of."""
    assert reading < 8192 * gpu_memory.token_bytes(handle) < 1.6 * reading
    assert writing < 1024 * gpu_memory.row_bytes(handle, 62) < 1.6 * writing


def test_the_cpu_and_a_server_are_no_gpu(tiny_folder):
    model = emotrace.load(str(tiny_folder("llama")), device="cpu")
    assert not gpu_memory.on_gpu(model)
    assert gpu_memory.free(model) is None
    away = SimpleNamespace(device="cpu")  # what the handle of a server's model says
    assert not gpu_memory.on_gpu(away)
