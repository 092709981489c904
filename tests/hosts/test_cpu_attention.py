"""Attention by plain products on a CPU: the numbers of torch's own choice, where it is quicker, for our model alone."""

import contextlib

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

import emotrace
from emotrace import steering
from emotrace.hosts import cpu_attention
from emotrace.tokens import Writing

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


def forward(model, ids, mask=None):
    with torch.no_grad():
        return model.nn._module(input_ids=ids, attention_mask=mask, use_cache=False).logits


@contextlib.contextmanager
def torchs_own(model):
    """Within, the model's attention is torch's own choice."""
    module = model.nn._module
    chosen = module.config._attn_implementation
    module.set_attn_implementation("sdpa" if chosen == cpu_attention.NAME else chosen)
    try:
        yield
    finally:
        module.set_attn_implementation(chosen)


def flash_calls(run):
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    return sum(event.count for event in seen.key_averages() if event.key == FLASH)


def ids_of(rows, length):
    return torch.randint(5, 500, (rows, length), generator=torch.Generator().manual_seed(rows * length))


@pytest.mark.parametrize("length", [1, 20, cpu_attention.LONGEST, cpu_attention.LONGEST + 1])
def test_logits_are_those_of_torchs_own_choice(model, length):
    ids, mask = ids_of(3, length), torch.ones(3, length, dtype=torch.long)
    if length > 10:
        mask[1, :7] = 0  # padding on the left, as in writing
    mine = forward(model, ids, mask)
    with torchs_own(model):
        theirs = forward(model, ids, mask)
    assert (mine - theirs)[mask.bool()].abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    ("length", "flash"), [(1, False), (cpu_attention.LONGEST, False), (cpu_attention.LONGEST + 1, True)]
)
def test_the_kernel_goes_by_the_number_of_queries(tiny, length, flash):
    model = tiny("llama", n_layers=3)
    assert flash_calls(lambda: forward(model, ids_of(2, length))) == (3 if flash else 0)
    with torchs_own(model):
        assert flash_calls(lambda: forward(model, ids_of(2, length))) == 3
    assert flash_calls(lambda: forward(model, ids_of(2, 4))) == 0  # ours again


def test_other_precisions_keep_torchs_own_choice(tiny):
    model = tiny("llama", n_layers=3)
    module = model.nn._module.model.layers[0].self_attn
    query = torch.randn(1, 4, 5, 8, dtype=torch.bfloat16)
    keys = torch.randn(1, 2, 5, 8, dtype=torch.bfloat16)
    assert flash_calls(lambda: cpu_attention.attention(module, query, keys, keys, None, scaling=0.3)) == 1
    assert flash_calls(lambda: cpu_attention.attention(module, *[x.float() for x in (query, keys, keys)], None)) == 0


@pytest.mark.parametrize("family", ["gpt2", "gemma", "qwen", "llama", "mistral"])
def test_without_padding_no_token_sees_a_later_one(tiny, family):
    model = tiny(family)
    ids = ids_of(2, 30)  # transformers makes no mask for these: the causal one is ours
    mine = forward(model, ids)
    with torchs_own(model):
        theirs = forward(model, ids)
    assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("mask", [False, True])
def test_products_are_attention_in_double_precision(mask):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 6, 5, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 9, 8, generator=generator)  # two groups of three heads
    seen = torch.ones(2, 1, 5, 9, dtype=torch.bool)
    if mask:
        seen = torch.rand(2, 1, 5, 9, generator=generator) < 0.6
        seen[..., 0] = True
    found = cpu_attention.by_products(query, key, value, seen if mask else None, 0.25)
    for row in range(2):
        for head in range(6):
            scores = 0.25 * query[row, head].double() @ key[row, head // 3].double().T
            weights = scores.masked_fill(~seen[row, 0], -torch.inf).softmax(dim=-1)
            assert torch.allclose(found[row, head].double(), weights @ value[row, head // 3].double(), atol=1e-6)


def test_a_query_that_sees_nothing_stays_finite():
    query, key, value = torch.randn(3, 1, 4, 6, 8, generator=torch.Generator().manual_seed(2))
    blind = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    assert torch.isfinite(cpu_attention.by_products(query, key, value, blind, 0.3)).all()


def test_writing_takes_it_and_writes_the_same(tiny):
    model = tiny("qwen")
    prompts = [[5, 6, 7], [8, 9, 10, 11], [5, 6, 7]]
    edit = steering.Edit({1: torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(0))})

    def write():
        return steering.generate(model, prompts, edit, Writing(8))

    assert flash_calls(write) == 0
    mine = write()
    with torchs_own(model):
        assert flash_calls(write) > 0
        assert write() == mine


def test_no_other_model_of_the_process_is_changed(tiny_folder):
    folder = tiny_folder("llama")
    before = AutoModelForCausalLM.from_pretrained(folder)
    ours = emotrace.load(str(folder))
    after = AutoModelForCausalLM.from_pretrained(folder)
    assert ours.nn._module.config._attn_implementation == cpu_attention.NAME
    assert {module.config._attn_implementation for module in (before, after)} == {"sdpa"}


def test_a_model_with_attention_of_its_own_kind_keeps_it(tiny_folder):
    module = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), attn_implementation="eager")
    cpu_attention.choose(module)
    assert module.config._attn_implementation == "eager"
