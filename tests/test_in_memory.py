"""``attach``: a model in memory is read as one that was loaded, and named by what it holds."""

import numpy as np
import pytest
import torch
import transformers as tf
from nnsight.modeling.transformers import TransformersModel
from tokenizers import normalizers

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_activations
from emotrace.hosts import checkpoints

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
    assert emotrace.attach(module, tokenizer, name="two").provenance["weights_id"] == first
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
