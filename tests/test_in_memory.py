"""``attach``: a model in memory is read as one that was loaded, and named by what it holds."""

import contextlib
import copy
import dataclasses
import shutil

import numpy as np
import pytest
import torch
import transformers as tf
from nnsight.modeling.transformers import TransformersModel
from tokenizers import normalizers, pre_tokenizers

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_activations
from emotrace.hosts import checkpoints
from emotrace.tokens import encode

TEXTS = ["The kettle had begun to sing.", "Nobody came home that night."]


@pytest.fixture
def parts(tiny_folder):
    folder = tiny_folder("llama")
    module = tf.AutoModelForCausalLM.from_pretrained(folder).eval()
    return folder, module, tf.AutoTokenizer.from_pretrained(folder)


def test_what_is_read_is_what_the_loaded_model_reads(parts):
    folder, module, tokenizer = parts
    loaded, attached = emotrace.load(str(folder)), emotrace.attach(module, tokenizer)
    for pooling, values in read_activations(loaded, TEXTS).items():
        np.testing.assert_allclose(read_activations(attached, TEXTS)[pooling], values, rtol=1e-4, atol=1e-5)
    assert (attached.name, attached.family, attached.instruct) == (folder.name, "llama", True)
    wrapped = emotrace.attach(TransformersModel(module, task="text-generation", tokenizer=tokenizer), tokenizer)
    assert wrapped.identity == attached.identity


def test_its_identity_is_its_content(parts):
    _, module, tokenizer = parts
    first = emotrace.attach(module, tokenizer, name="one").provenance["weights_id"]
    assert first.startswith("memory:")
    two = emotrace.attach(module, tokenizer, name="two")
    assert (two.provenance["weights_id"], two.identity) == (first, first)
    with torch.no_grad():
        module.model.layers[2].mlp.up_proj.weight[0, 0] += 1e-3
    changed = emotrace.attach(module, tokenizer).provenance["weights_id"]
    assert changed != first
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert emotrace.attach(module, tokenizer).provenance["weights_id"] not in (first, changed)
    module.config.rms_norm_eps *= 2
    assert emotrace.attach(module, tokenizer).provenance["weights_id"] not in (first, changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight[:, 17::50].zero_(),
        lambda weight: weight[3].neg_(),
        lambda weight: weight[-1, -1].add_(1e-3),
        lambda weight: weight.copy_(weight.flip(0)),
        lambda weight: weight[0].copy_(weight[0].roll(1)),
    ],
)
def test_no_part_of_the_weights_can_change_unseen(parts, change):
    _, module, tokenizer = parts
    before = checkpoints.memory_digest(module, tokenizer)
    with torch.no_grad():
        change(module.model.layers[1].mlp.down_proj.weight)
    assert checkpoints.memory_digest(module, tokenizer) != before


def test_a_tokenizer_that_cuts_otherwise_is_another_model(parts):
    _, module, tokenizer = parts
    before = checkpoints.memory_digest(module, tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert checkpoints.memory_digest(module, tokenizer) != before


class Begun(tf.ByT5Tokenizer):
    """The same vocabulary, its end of text before each text as well."""

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.eos_token_id, *super().build_inputs_with_special_tokens(token_ids_0, token_ids_1)]


def test_a_python_tokenizer_that_begins_texts_otherwise_is_another_model(parts):
    one, other = (checkpoints.memory_digest(parts[1], words()) for words in (tf.ByT5Tokenizer, Begun))
    assert one != other


@pytest.mark.parametrize("tokens", ["all", "generated", (0, 2)])
def test_within_a_steered_block_the_model_itself_is_attached(parts, tokens):
    _, module, words = parts
    outside = emotrace.attach(module, words)
    vectors = emotrace.extract(outside, emotions=["happy", "sad"])
    with emotrace.steered(outside, vectors, "sad", 50.0, layers=[1], tokens=tokens):
        within = emotrace.attach(module, words)
    assert (within.identity, within.architecture) == (outside.identity, outside.architecture)


# -- one model, one identity ------------------------------------------------------------------------------------------


def moved(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    return tf.AutoModelForCausalLM.from_pretrained(copied), tf.AutoTokenizer.from_pretrained(copied)


def wrapped(module, words):
    return TransformersModel(module, task="text-generation", tokenizer=words)


def padded(words):
    words.pad_token = words.eos_token
    words(["a b c d e", "a"], padding=True, truncation=True, max_length=3)
    return words


AGAIN = {
    "attached twice": lambda module, words, path: (module, words),
    "after a padded batch": lambda module, words, path: (module, padded(words)),
    "nnsight's tokenizer": lambda module, words, path: (module, wrapped(module, words).tokenizer),
    "nnsight's wrapper": lambda module, words, path: (wrapped(module, words), words),
    "a copy of its folder": lambda module, words, path: moved(path / "first", path),
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_a_model_is_itself_whatever_its_tokenizer_did_and_where_it_lay(again, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("gpt2"), tmp_path / "first")
    words = tf.AutoTokenizer.from_pretrained(folder)
    words.pad_token = None
    words.save_pretrained(folder)
    module = tf.AutoModelForCausalLM.from_pretrained(folder)
    first = emotrace.attach(module, words)
    second = emotrace.attach(*again(module, words, tmp_path), name="first")
    assert second.identity == first.identity
    assert emotrace.extract(first, emotions=["happy", "sad"]).check(second)


def test_another_version_of_transformers_makes_no_other_model(parts, monkeypatch):
    _, module, tokenizer = parts
    before = checkpoints.memory_digest(module, tokenizer)
    monkeypatch.setattr("transformers.configuration_utils.__version__", "5.99.0")
    assert checkpoints.memory_digest(module, tokenizer) == before


def test_what_the_user_has_is_left_as_it_is_and_short_prompts_are_padded_all_the_same(parts):
    folder, module, words = parts
    words.pad_token, words.padding_side = None, "right"
    words.backend_tokenizer.enable_truncation(9)

    def state():
        settings = words.special_tokens_map, words.padding_side, words.backend_tokenizer.encode_special_tokens
        return *settings, words.backend_tokenizer.to_str(), module.generation_config.to_dict(), module.config.to_dict()

    before = state()
    model = emotrace.attach(module, words)
    vectors = emotrace.extract(model, emotions=["happy", "sad"])
    prompts = ["She walked along the river and", "He"]
    table = emotrace.steer(model, prompts, vectors, 0.5, writing=emotrace.Writing(5))
    assert state() == before
    loaded = emotrace.steer(
        emotrace.load(folder), prompts, of(vectors, emotrace.load(folder)), 0.5, writing=emotrace.Writing(5)
    )
    assert list(table["tokens"]) == list(loaded["tokens"])


def of(vectors, model):
    return dataclasses.replace(vectors, provenance={**vectors.provenance, **model.provenance, "model": model.name})


@pytest.mark.parametrize("ends", [[1, 7], 7])
def test_a_model_that_ends_its_texts_elsewhere_is_another(ends, parts):
    _, module, tokenizer = parts
    before = emotrace.attach(module, tokenizer).identity
    module.generation_config.eos_token_id = ends
    changed = emotrace.attach(module, tokenizer).identity
    assert changed != before
    module.generation_config.eos_token_id = ends[::-1] if isinstance(ends, list) else [ends]
    assert emotrace.attach(module, tokenizer).identity == changed


def test_a_padding_token_that_nothing_else_is_makes_another_model(parts):
    _, module, tokenizer = parts
    before = checkpoints.memory_digest(module, tokenizer)
    tokenizer.pad_token = "e"  # from now on a special token, and no word
    assert checkpoints.memory_digest(module, tokenizer) != before


def test_a_wrappers_own_tokenizer_is_not_used_and_its_edits_are_refused(parts):
    _, module, tokenizer = parts
    own, lower = wrapped(module, tokenizer), copy.deepcopy(tokenizer)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    model = emotrace.attach(own, lower)
    assert encode(model, TEXTS) == encode(emotrace.attach(module, lower), TEXTS)
    assert encode(model, TEXTS) != encode(emotrace.attach(own, tokenizer), TEXTS)
    with own.edit() as (_, edited):
        edited.model.layers[0].output[:] = 0
    with pytest.raises(EmotraceError, match=r"nnsight's wrapper has edits, .* clear_edits\(\) first"):
        emotrace.attach(edited, tokenizer)
    assert emotrace.attach(own, tokenizer).n_layers == model.n_layers


def test_vectors_of_one_model_are_refused_on_the_other(parts, tiny):
    _, module, tokenizer = parts
    vectors = emotrace.extract(emotrace.attach(module, tokenizer))
    with pytest.raises(EmotraceError):
        emotrace.steer(tiny("llama"), TEXTS[0], vectors, 0.1, emotions="happy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module, words: ("a path", words), "a causal language model of transformers is attached, not a str"),
        (lambda module, words: (module, "words"), "a tokenizer of transformers goes with it, not a str"),
        (lambda module, words: (module.to("meta"), words), "on the meta device or on disk"),
        (lambda module, words: (module.model, words), "has no unembedding"),
        (lambda module, words: (module.train(), words), "is in training mode, where dropout changes it"),
    ],
)
def test_what_cannot_be_attached_is_refused_in_one_line(parts, change, message):
    _, module, tokenizer = parts
    with pytest.raises(EmotraceError, match=message) as caught:
        emotrace.attach(*change(module, tokenizer))
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(parts):
    _, module, tokenizer = parts
    with torch.no_grad():
        module.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(EmotraceError, match="NaN or infinite"):
        emotrace.attach(module, tokenizer)


# -- whatever comes along ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_eight_bits_are_named_and_looked_through(dtype, parts):
    _, module, tokenizer = parts
    before = emotrace.attach(module, tokenizer).identity
    scale = torch.nn.Parameter(torch.ones(4).to(dtype), requires_grad=False)
    module.model.layers[0].mlp.scale = scale
    one = emotrace.attach(module, tokenizer).identity
    scale.data = torch.tensor([1.0, 1, 1, 2]).to(dtype)
    assert len({before, one, emotrace.attach(module, tokenizer).identity}) == 3
    scale.data = torch.tensor([1.0, 1, 1, torch.nan]).to(dtype)
    with pytest.raises(EmotraceError, match=r"weights in float8_\w+ are NaN or infinite: model.layers.0.mlp.scale"):
        emotrace.attach(module, tokenizer)


class Old(tf.LlamaForCausalLM):
    """As code beside weights that was written for transformers 4."""

    def forward(self, input_ids=None, past_key_values=None, **settings):
        if past_key_values is not None:
            past_key_values.get_usable_length(1)
        return super().forward(input_ids, past_key_values=past_key_values, **settings)


class WithoutDecoder(tf.LlamaForCausalLM):
    def get_decoder(self):
        return self.transformer


def of_class(kind):
    return lambda module, words: (setattr(module, "__class__", kind) or module, words)


def of_eight_tokens(module, words):
    config = tf.LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return tf.LlamaForCausalLM(config).eval(), words


def answering_in_tuples(module, words):
    module.config.return_dict = False
    return module, words


def with_a_pre_tokenizer_in_python(module, words):
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(object())
    return module, words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            of_class(Old),
            r"cannot read: a short text .*\(AttributeError: 'DynamicCache' object has no .*_usable_length'\)",
        ),
        (of_class(WithoutDecoder), "cannot read: 'WithoutDecoder' object has no attribute 'transformer'"),
        (of_eight_tokens, r"cannot read: a short text does not go through it \(IndexError: index out of range"),
        (answering_in_tuples, r"cannot read: a short text does not go through it \(AttributeError: 'tuple' object"),
        (with_a_pre_tokenizer_in_python, "^mine cannot be attached: Custom PreTokenizer cannot be serialized"),
    ],
)
def test_what_foreign_code_raises_is_said_in_one_line(change, message, parts):
    _, module, tokenizer = parts
    with pytest.raises(EmotraceError, match=message) as caught:
        emotrace.attach(*change(module, tokenizer), name="mine")
    assert "\n" not in str(caught.value)


def rounding(module):
    """As much noise as bfloat16 brings to texts in a batch on some CPUs: the padded batch is 8 tokens wide."""

    def noisy(_, args, output):
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(output.shape, generator=rng).to(output.dtype)
        return output * (1 + 0.2 * noise) if output.shape[1] == 8 else output

    module.model.norm.register_forward_hook(noisy)


def heedless_of_padding(module):
    module.model.register_forward_pre_hook(
        lambda _, args, given: (args, given | {"attention_mask": None, "position_ids": None}), with_kwargs=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_is_told_from_rounding(dtype, tiny_folder):
    def made(change):
        module = tf.AutoModelForCausalLM.from_pretrained(tiny_folder("llama")).eval().to(dtype)
        change(module)
        return module

    words = tf.AutoTokenizer.from_pretrained(tiny_folder("llama"))
    refused = pytest.raises(EmotraceError, match="padding before it is not read as the text by itself")
    with contextlib.nullcontext() if dtype == torch.bfloat16 else refused:
        assert emotrace.attach(made(rounding), words).n_layers == 4
    with refused:
        emotrace.attach(made(heedless_of_padding), words)
