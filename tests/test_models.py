"""Loading: families, names, errors, identity, and the cache of converted GGUF weights."""

import json
import os
import shutil
import sys
import time

import numpy as np
import pytest
import tiny_models
import torch
import transformers

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_activations
from emotrace.hosts import gguf as gguf_weights
from emotrace.hosts import sources
from emotrace.instrument import corpus

SMOL = "smollm2-135m-instruct"
# What each tiny model is: class, final norm, instruct.
EXPECTED = {
    "gpt2": ("GPT2LMHeadModel", "LayerNorm", False),
    "gemma": ("Gemma3ForCausalLM", "Gemma3RMSNorm", False),
    "gemma1": ("GemmaForCausalLM", "GemmaRMSNorm", False),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2RMSNorm", False),
    "qwen": ("Qwen2ForCausalLM", "Qwen2RMSNorm", True),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3RMSNorm", False),
    "llama": ("LlamaForCausalLM", "LlamaRMSNorm", True),
    "mistral": ("MistralForCausalLM", "MistralRMSNorm", False),
}


def failure(call, *args, **settings):
    """The message of the error that the call ends in, which has one line."""
    with pytest.raises(EmotraceError) as caught:
        call(*args, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- families -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_a_folder_becomes_a_handle_that_knows_its_family(name, tiny_folder):
    folder = tiny_folder(name, n_layers=5, d_model=48)
    model = emotrace.load(str(folder))
    of_class, norm, instruct = EXPECTED[name]
    assert (model.family, model.name) == (tiny_models.FAMILY_OF[name], folder.name)
    assert (model.n_layers, model.d_model, model.context) == (5, 48, tiny_models.CONTEXT)
    assert model.instruct is instruct
    assert type(model.nn._module).__name__ == model.provenance["class"] == of_class
    assert model.provenance["dtype"] == "float32"
    assert model.provenance["quantisation"] == "none"
    assert len(model.layers) == 5
    module = model.nn._module
    assert all(
        layer._module is module.get_submodule(model.architecture.layers)[i] for i, layer in enumerate(model.layers)
    )
    assert type(model.final_norm._module).__name__ == norm
    assert isinstance(model.unembedding._module, torch.nn.Linear)
    assert model.unembedding._module is module.get_output_embeddings()
    assert model.embedding._module is module.get_input_embeddings()
    assert not module.training
    assert not any(weight.requires_grad for weight in module.parameters())


def test_layers_are_checked_sorted_and_given_once(tiny):
    model = tiny("llama")
    assert model.check_layers(None) == model.check_layers("all") == [0, 1, 2, 3, 4]
    assert model.check_layers([4, 0, 2, 0]) == [0, 2, 4]
    for bad in (-1, 5):
        assert f"layer {bad} is out of range" in failure(model.check_layers, [1, bad])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_asked_for_is_the_dtype_of_weights_and_provenance(dtype, tiny_folder):
    model = emotrace.load(str(tiny_folder("llama")), dtype=dtype)
    assert {str(weight.dtype) for weight in model.nn._module.parameters()} == {f"torch.{dtype}"}
    assert model.provenance["dtype"] == dtype


def test_a_checkpoint_in_bfloat16_is_float32_on_a_cpu(tiny_folder, tmp_path):
    module = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.bfloat16)
    module.save_pretrained(tmp_path)
    tiny_models.tokenizer("llama").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert emotrace.load(str(tmp_path), device="cpu").provenance["dtype"] == "float32"


# -- identity -------------------------------------------------------------------------------------------------------


def test_identity_follows_the_weights(tmp_path):
    identity = {}
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = tiny_models.build("llama", tmp_path / place / "model", seed=seed)
        identity[place] = emotrace.load(str(folder)).identity
    assert identity["a"] == identity["b"]
    assert identity["a"] != identity["c"]


def test_identity_follows_one_changed_weight_and_the_config(tiny_folder, tmp_path):
    before = emotrace.load(str(tiny_folder("llama"))).provenance["weights_id"]
    shutil.copytree(tiny_folder("llama"), tmp_path / "weight")
    weights = tmp_path / "weight" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    shutil.copytree(tiny_folder("llama"), tmp_path / "config")
    config = json.loads((tmp_path / "config" / "config.json").read_text())
    (tmp_path / "config" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    changed = {emotrace.load(str(tmp_path / name)).provenance["weights_id"] for name in ("weight", "config")}
    assert len({before, *changed}) == 3


# -- names that lead nowhere ----------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_registry():
    message = failure(emotrace.load, "smollm3")
    assert "unknown model 'smollm3'" in message
    assert all(name in message for name in corpus.model_registry().index)


def test_a_folder_without_a_model_is_named(tmp_path):
    message = failure(emotrace.load, str(tmp_path))
    assert str(tmp_path) in message
    assert "config.json" in message


def test_a_folder_with_damaged_weights_is_named(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert str(folder) in failure(emotrace.load, str(folder))


def test_a_folder_without_weights_is_named(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    assert str(folder) in failure(emotrace.load, str(folder))


def test_a_missing_gguf_file_is_named(tmp_path):
    assert failure(emotrace.load, str(tmp_path / "none.gguf")) == f"no file {tmp_path / 'none.gguf'}"


def test_a_class_without_a_residual_stream_is_refused_with_what_was_found(tmp_path):
    words = tiny_models.tokenizer("gpt2")
    config = transformers.MambaConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=2)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    message = failure(emotrace.load, str(tmp_path))
    assert "is a 'mamba' (MambaForCausalLM) that emotrace cannot read: " in message
    assert message.endswith("what enters layer 1 is not the hidden state before it: no residual stream")


# The last three are dtypes of torch, but none that a language model's activations can be had in.
@pytest.mark.parametrize("dtype", ["float99", "nn", "Tensor", "", "int8", "complex64", "bool"])
def test_an_unknown_dtype_lists_the_known(dtype, tiny_folder):
    message = failure(emotrace.load, str(tiny_folder("llama")), dtype=dtype)
    assert message == f"unknown dtype {dtype!r}: known are auto, float32, bfloat16, float16, float64"


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "no-such-organisation/no-such-model"])
def test_a_hub_model_out_of_reach_is_one_line_that_names_it(name):
    message = failure(emotrace.load, name)
    assert name in message
    assert "cannot be loaded from the hub (HF_HUB_OFFLINE is set)" in message


@pytest.mark.parametrize(
    ("name", "command"),
    [(SMOL, "make setup"), ("gemma-3-270m", "make models"), ("qwen2.5-coder-0.5b-instruct", "make models")],
)
def test_a_packaged_model_that_is_not_installed_names_the_command(name, command, monkeypatch):
    monkeypatch.setattr(gguf_weights, "package_files", lambda _files: None)
    message = failure(emotrace.load, name)
    assert message.startswith(f"{name} is not installed")
    assert f"{command} installs it" in message


def test_files_of_a_package_that_is_not_installed_or_lacks_one_are_none():
    assert gguf_weights.package_files(["no_such_package/data.bin"]) is None
    assert gguf_weights.package_files(["pytest/__init__.py", "pytest/no_such_file.bin"]) is None
    assert gguf_weights.package_files([]) is None
    assert [path.name for path in gguf_weights.package_files(["pytest/__init__.py"])] == ["__init__.py"]


# -- GGUF: conversion ----------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for converted weights."""
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left_in(cache):
    return list(cache.rglob("*")) if cache.exists() else []


def test_weights_with_another_sha256_are_not_parsed(cache, tmp_path):
    bogus, said = tmp_path / "bogus.gguf", []
    bogus.write_bytes(b"GGUF" + bytes(100))
    message = failure(gguf_weights.converted, [bogus], "0" * 64, "bogus-model", said.append)
    assert "bogus-model are damaged or not the pinned ones" in message
    assert gguf_weights.sha256(bogus)[:12] in message
    assert said == ["checking the weights of bogus-model"]
    assert left_in(cache) == []


def test_parts_are_hashed_as_the_file_they_join_to(cache, tmp_path):
    for name, content in (("one", b"GG"), ("two", b"UF nonsense"), ("whole", b"GGUF nonsense")):
        (tmp_path / name).write_bytes(content)
    whole = gguf_weights.sha256(tmp_path / "whole")
    parts = [tmp_path / "one", tmp_path / "two"]
    # In order they pass the check and fail as GGUF; the other way round they fail the check.
    assert "cannot be read as a GGUF model" in failure(gguf_weights.converted, parts, whole, "joined", print)
    assert "not the pinned ones" in failure(gguf_weights.converted, parts[::-1], whole, "joined", print)
    assert left_in(cache) == []


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all\n" * 100])
def test_a_file_that_is_no_gguf_is_named_and_leaves_nothing(content, cache, tmp_path):
    bogus = tmp_path / "bogus.gguf"
    bogus.write_bytes(content)
    assert "bogus.gguf cannot be read as a GGUF model" in failure(emotrace.load, str(bogus))
    assert left_in(cache) == []


@pytest.mark.real
def test_a_truncated_gguf_is_one_line_and_leaves_nothing(cache, tmp_path):
    (whole,) = gguf_weights.package_files(corpus.model_registry().loc[SMOL, "files"])
    cut = tmp_path / "cut.gguf"
    with whole.open("rb") as file:
        cut.write_bytes(file.read(1 << 20))
    assert "cut.gguf cannot be read as a GGUF model" in failure(emotrace.load, str(cut))
    assert left_in(cache) == []


@pytest.mark.real
@pytest.mark.skipif(sys.platform == "win32", reason="limits on file size are POSIX")
def test_a_disk_that_fills_up_during_conversion_is_one_line_and_leaves_nothing(cache):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, before[1]))  # the converted weights take 500 MB
    try:
        message = failure(emotrace.load, SMOL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message.startswith(f"{SMOL} cannot be converted into {cache}")
    assert left_in(cache) == []


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path, monkeypatch, capsys):
    in_the_way, bogus = tmp_path / "file", tmp_path / "bogus.gguf"
    in_the_way.write_text("")
    bogus.write_bytes(b"GGUF")
    monkeypatch.setenv("EMOTRACE_CACHE", str(in_the_way / "cache"))
    assert "bogus.gguf cannot be read as a GGUF model" in failure(emotrace.load, str(bogus))
    assert "set EMOTRACE_CACHE" in capsys.readouterr().err


# -- GGUF: the cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def stamped(cache, tiny_folder):
    """A tiny model in the cache, as a conversion would have left it, and the sha256 that it goes by."""
    digest = "ab" * 32
    folder = shutil.copytree(tiny_folder("llama"), cache / f"tiny-{digest[:12]}")
    gguf_weights._stamp(folder, digest)
    return folder


def find(folder):
    """What a load of the stamped model takes from the cache; that there is no GGUF file shows if it looks for one."""
    return gguf_weights.converted([folder / "no.gguf"], "ab" * 32, "tiny", print)


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_intact_cached_model_is_taken_without_the_gguf(stamped):
    assert find(stamped) == stamped
    assert emotrace.load(str(find(stamped))).n_layers == 4


def test_intact_files_with_another_time_pass(stamped):
    for path in stamped.iterdir():
        os.utime(path, (1, 1))
    assert find(stamped) == stamped


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b" "),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        change_a_byte,
    ],
    ids=["cut short", "longer", "emptied", "gone", "one byte changed"],
)
def test_a_damaged_cached_file_names_the_folder_to_remove(stamped, name, damage):
    damage(stamped / name)
    message = failure(find, stamped)
    assert f"{stamped} is damaged" in message
    assert name in message
    assert "remove that folder" in message


@pytest.mark.parametrize("stamp", [None, "", "{", "{}", "[]", '{"files": []}', '{"files": {"config.json": {}}}'])
def test_a_cached_model_with_a_damaged_stamp_names_the_folder(stamped, stamp):
    (stamped / "emotrace.json").unlink()
    if stamp is not None:
        (stamped / "emotrace.json").write_text(stamp)
    assert f"{stamped} is damaged" in failure(find, stamped)


def test_the_stamp_holds_every_file_and_the_source(stamped):
    stamp = json.loads((stamped / "emotrace.json").read_text())
    assert stamp["source_sha256"] == "ab" * 32
    assert set(stamp["files"]) == {path.name for path in stamped.iterdir()} - {"emotrace.json"}
    assert stamp["files"]["config.json"]["sha256"] == gguf_weights.sha256(stamped / "config.json")


# -- the packaged models --------------------------------------------------------------------------------------------

PINNED = {
    SMOL: ("llama", "LlamaForCausalLM", 30, 576, True, "b179c9523d0e", "Q4_1"),
    "gemma-3-270m": ("gemma", "Gemma3ForCausalLM", 18, 640, False, "a5fd3b62230a", "Q4_K_M"),
    "qwen2.5-coder-0.5b-instruct": ("qwen", "Qwen2ForCausalLM", 24, 896, True, "1d9614638d18", "Q4_K_M"),
}


@pytest.mark.real
@pytest.mark.parametrize("name", PINNED)
def test_a_packaged_model_is_what_the_registry_says(name, packaged):
    model, row = packaged(name), corpus.model_registry().loc[name]
    family, of_class, n_layers, d_model, instruct, digest, quantisation = PINNED[name]
    assert (model.name, model.family, model.n_layers, model.d_model) == (name, family, n_layers, d_model)
    assert model.instruct is instruct
    told = model.provenance
    assert (told["class"], told["dtype"], told["source"]) == (of_class, "float32", row["hub_id"])
    assert told["weights_id"] == f"sha256:{row['sha256']}"
    assert told["weights_id"].startswith(f"sha256:{digest}")
    assert told["quantisation"] == f"GGUF {quantisation}, dequantised to float32"
    assert model.identity == f"{row['hub_id']}@sha256:{row['sha256']}"
    assert model.family == row["family"]


@pytest.mark.real
@pytest.mark.parametrize("name", PINNED)
def test_a_packaged_model_knows_what_its_real_weights_know(name, packaged):
    model = packaged(name)
    with torch.no_grad():
        logits = model.nn._module(**model.tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert " Paris" in model.tokenizer.batch_decode(logits.topk(3).indices.unsqueeze(1))


@pytest.mark.real
def test_a_second_load_converts_nothing_and_is_quick(packaged):
    first, said = packaged(SMOL), []
    begin = time.perf_counter()
    second = emotrace.load(SMOL, say=said.append)
    assert time.perf_counter() - begin < 15
    assert said == []
    assert second.identity == first.identity
    assert sources.availability(SMOL) == "ready"


@pytest.mark.real
def test_an_installed_model_that_cannot_be_placed_is_not_called_missing(packaged):
    packaged(SMOL)
    message = failure(emotrace.load, SMOL, device="cuda:99")
    assert "not installed" not in message
    assert "cuda" in message.lower()


@pytest.mark.real
def test_the_embedded_model_is_read_in_bfloat16_whatever_the_cpu_rounds():
    """A CPU without products of that type takes a text in a batch 0.13 from the text by itself."""
    narrow, text = emotrace.load("smollm2-135m-instruct", dtype="bfloat16"), ["The footsteps stopped outside my door."]
    wide = emotrace.load("smollm2-135m-instruct")
    found, true = (read_activations(model, text, layers=[15])["mean"][0, 0] for model in (narrow, wide))
    assert np.linalg.norm(found - true) < 0.2 * np.linalg.norm(true)
