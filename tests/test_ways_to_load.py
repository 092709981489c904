"""How a checkpoint is loaded: several devices, weights in fewer bits, a revision, code of its own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache

import emotrace
from emotrace import EmotraceError, Writing, in_trace
from emotrace.activations import read_activations, read_tokens, residual_norms
from emotrace.extraction import read_texts
from emotrace.hosts import checkpoints, quantised
from emotrace.instrument import corpus

TEXTS = ["The kettle had begun to sing.", "Nobody came home that night."]
PROMPT = "The kettle had begun to sing, and"
SPREAD = {
    **{"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"},
    **{"model.layers.2": "cpu", "model.layers.3": "disk", "model.norm": "disk", "lm_head": "cpu"},
}


def failure(*given, **settings) -> str:
    with pytest.raises(EmotraceError) as caught:
        emotrace.load(*given, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- several devices --------------------------------------------------------------------------------------------------


def test_a_model_of_which_half_lies_on_meta_and_disk_is_the_same_model(tiny_folder):
    folder = tiny_folder("llama")
    whole, spread = emotrace.load(folder), emotrace.load(folder, device_map=SPREAD)
    assert {parameter.device.type for parameter in spread.nn._module.parameters()} == {"cpu", "meta"}
    assert spread.identity == whole.identity
    for pooling, values in read_activations(whole, TEXTS).items():
        np.testing.assert_allclose(read_activations(spread, TEXTS)[pooling], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read_tokens(spread, TEXTS[:1])[0], read_tokens(whole, TEXTS[:1])[0], atol=1e-6)
    vectors = read_texts(whole, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")
    given = {"emotions": ["afraid", "calm"], "layers": [2, 4], "writing": Writing(6)}
    tokens = [emotrace.steer(one, PROMPT, vectors, 0.3, **given)["tokens"].tolist() for one in (whole, spread)]
    assert tokens[0] == tokens[1]
    watched = [
        emotrace.watch(one, PROMPT, "sad", vectors=vectors, steer="sad", strength=0.3, writing=Writing(4), show=False)
        for one in (whole, spread)
    ]
    np.testing.assert_allclose(watched[0]["projection"], watched[1]["projection"], atol=1e-5)


def test_what_runs_beside_layers_on_two_devices_ends_on_one():
    """Fake tensors have a device and no values: to mix two devices is an error, as it is on two GPUs."""
    with FakeTensorMode():
        first, second = (torch.empty(2, 3, 4, device=f"cuda:{number}") for number in (0, 1))
        with pytest.raises(RuntimeError, match="device"):
            first + second
        layers = [SimpleNamespace(input=first, output=first), SimpleNamespace(output=(second, None))]
        streams = [in_trace.residual(layers, index) for index in range(3)]
        weights = torch.empty(2, 1, 3)
        read = in_trace.gathered([in_trace.pooled(stream, weights) for stream in streams])
        assert (str(read.device), tuple(read.shape)) == ("cuda:0", (3, 2, 1, 4))
        seen = []
        layers = [SimpleNamespace(keys=stream, batch_select_indices=seen.append) for stream in (first, second)]
        in_trace.one_copy_a_row(SimpleNamespace(layers=layers), torch.tensor([0, 1, 1, 0]))
        assert [str(rows.device) for rows in seen] == ["cuda:0", "cuda:1"]


def test_an_edit_goes_to_where_its_layer_is():
    direction, where, stream = torch.ones(2, 4), torch.ones(2, 3), torch.empty(2, 3, 4, device="meta")
    with pytest.raises(RuntimeError, match="device"):
        where[..., None] * direction[:, None] + stream
    for kind in ({}, {"ablate": True}, {"on_the_fly": True}):
        assert in_trace.edited(stream, direction, where, where, **kind).device == stream.device


def test_rows_of_a_cache_are_those_asked_for():
    cache, keys = DynamicCache(), torch.randn(2, 1, 3, 4)
    cache.update(keys, -keys, 0)
    in_trace.one_copy_a_row(cache, torch.tensor([1, 0, 1]))
    assert torch.equal(cache.layers[0].keys, keys[[1, 0, 1]])
    assert torch.equal(cache.layers[0].values, -keys[[1, 0, 1]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device_map": SPREAD, "device": "cpu"}, "by device or by device_map, not by both"),
        ({"device_map": 3}, "a device_map is auto or a map of module to device, not 3"),
        ({"device_map": {}}, "a device_map is auto or a map"),
        ({"device_map": "nowhere"}, "unknown device 'nowhere'"),
        ({"trust_remote_code": "yes"}, "trust_remote_code: True or False is wanted"),
        ({"revision": "main"}, "a model of this machine has none"),
        ({"revision": 3}, "a revision is no text"),
        ({"quantization": "int3"}, "unknown quantization 'int3': known are bitsandbytes-8bit"),
        ({"quantization": 8}, "a quantization is one of bitsandbytes-8bit"),
    ],
)
def test_mistakes_are_one_line(tiny_folder, settings, message):
    assert message in failure(tiny_folder("llama"), **settings)


def test_a_server_decides_how_its_model_is_loaded(monkeypatch):
    monkeypatch.setenv("NDIF_HOST", "http://127.0.0.1:9")
    assert "a server alone says" in failure("org/model", remote="http://127.0.0.1:9", revision="main")


# -- fewer bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", quantised.KINDS)
def test_a_library_that_is_not_installed_is_named(kind, tiny_folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in quantised.KINDS.values() else find(name)
    )
    library = quantised.KINDS[kind]
    assert f"{kind} needs {library}, which is not installed: pip install {library}" in failure(
        tiny_folder("llama"), quantization=kind
    )


def test_a_checkpoint_that_is_quantised_already_is_not_quantised_again(tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "packed"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}
    (folder / "config.json").write_text(json.dumps(config))
    if importlib.util.find_spec("bitsandbytes") is not None:
        assert "its weights are quantised already" in failure(folder, quantization="bitsandbytes-8bit")


@pytest.mark.parametrize(
    ("method", "there", "said"),
    [
        ("gptq", (), "need optimum and gptqmodel, not installed here: pip install optimum gptqmodel"),
        ("gptq", ("optimum",), "need gptqmodel, not installed here: pip install gptqmodel"),
        ("awq", (), "need gptqmodel, not installed here"),
        ("bitsandbytes", (), "need bitsandbytes, not installed here"),
        ("compressed-tensors", (), "need compressed-tensors, not installed here: pip install compressed-tensors"),
        ("of tomorrow", (), "its quantisation 'of tomorrow' is not one that transformers reads"),
    ],
)
def test_a_quantised_checkpoint_names_every_library_that_it_lacks(
    tiny_folder, tmp_path, monkeypatch, method, there, said
):
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "packed"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 16, "desc_act": False}
    config["quantization_config"] |= {"load_in_8bit": True} if method == "bitsandbytes" else {}
    (folder / "config.json").write_text(json.dumps(config))
    find, of_methods = importlib.util.find_spec, {name for names in quantised.LIBRARIES.values() for name in names}
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: (name in there or None) if name in of_methods else find(name, *more),
    )
    assert said in failure(folder)


def test_the_methods_are_those_of_transformers_own_registry():
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    for method in set(quantised.LIBRARIES) - {"bitsandbytes"}:
        assert method in AUTO_QUANTIZER_MAPPING
    assert {"bitsandbytes_4bit", "bitsandbytes_8bit"} <= set(AUTO_QUANTIZER_MAPPING)
    lacking = [name for name in quantised.LIBRARIES["gptq"] if importlib.util.find_spec(name) is None]
    if lacking:
        with pytest.raises(EmotraceError, match=f"need {lacking[0]}"):
            quantised.configuration(transformers.GPTQConfig(bits=4))


class Repacked(torch.nn.Linear):
    """As a 4-bit layer of bitsandbytes on some CPUs: the first pass packs its weights anew, ``state_dict`` back with a
    loss."""

    class State:
        def __init__(self) -> None:
            self.absmax, self.packed = torch.rand(4), False

        def as_dict(self, packed: bool) -> dict[str, torch.Tensor]:
            return {"absmax": self.absmax}

    def __init__(self) -> None:
        super().__init__(4, 4, bias=False)
        self.weight.quant_state = self.State()
        self.weight.requires_grad_(False)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.weight.quant_state.packed:
            self.weight.data, self.weight.quant_state.packed = self.weight.data.flip(0) * 1.01, False
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def forward(self, x):
        if not self.weight.quant_state.packed:
            self.weight.data, self.weight.quant_state.packed = self.weight.data.flip(0), True
        return super().forward(x)


def test_a_layer_that_packs_its_weights_anew_is_read_as_it_runs_and_left_as_it_is(tiny):
    tokenizer = tiny("llama").tokenizer
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Repacked())
    model.dtype, model.config = torch.float32, transformers.LlamaConfig()
    before, x = checkpoints.memory_digest(model, tokenizer), torch.ones(1, 4)
    written = model(x)
    assert checkpoints.memory_digest(model, tokenizer) == before
    assert torch.equal(model(x), written)
    model[1].weight.quant_state.absmax[0] += 1
    changed = checkpoints.memory_digest(model, tokenizer)
    model[1].weight.data[0, 0] += 1
    assert len({before, changed, checkpoints.memory_digest(model, tokenizer)}) == 3


@pytest.mark.parametrize("kind", quantised.KINDS)
def test_a_quantised_model_is_read_steered_and_told_from_the_whole_one(kind, tmp_path):
    """On the CPU: bitsandbytes and torchao are no requirement, so this runs where they are installed."""
    pytest.importorskip(quantised.KINDS[kind])
    import tiny_models

    folder = tiny_models.build("llama", tmp_path, d_model=128)
    whole, model = emotrace.load(folder), emotrace.load(folder, quantization=kind)
    assert model.identity != whole.identity
    assert model.identity == emotrace.load(folder, quantization=kind).identity
    assert model.provenance["quantisation"] == quantised.KINDS[kind]
    read, exact = (read_activations(one, TEXTS, layers=[1])["mean"] for one in (model, whole))
    apart = np.linalg.norm(read - exact) / np.linalg.norm(exact)
    assert 1e-4 < apart < (0.5 if kind.endswith("4bit") else 0.05), apart
    vectors = read_texts(model, corpus.quick_subset(corpus.passages(), 1)).vectors("mean")
    with pytest.raises(EmotraceError, match="these vectors belong to"):
        vectors.check(whole)
    steered = emotrace.steer(model, PROMPT, vectors, 0.6, emotions="afraid", writing=Writing(6))["tokens"].iloc[0]
    layer = model.n_layers // 2
    edit = torch.from_numpy(vectors.direction("afraid", layer) * 0.6 * residual_norms(model)[layer]).float()
    ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]

    def add(_, args, output, start=ids.shape[1] - 1):
        return torch.cat([output[:, :start], output[:, start:] + edit], dim=1) if output.shape[1] > 1 else output + edit

    handle = model.nn._module.model.layers[layer - 1].register_forward_hook(add)
    with torch.no_grad():
        plain = model.nn._module.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    handle.remove()
    assert steered == plain[: len(steered)]
    attached, again = (emotrace.attach(model.nn._module, model.tokenizer) for _ in range(2))
    assert attached.identity == again.identity
    assert attached.identity != emotrace.attach(whole.nn._module, whole.tokenizer).identity
    with torch.no_grad():  # and it is what it was
        np.testing.assert_array_equal(read_activations(model, TEXTS, layers=[1])["mean"], read)


def test_wrapped_tensors_are_looked_into():
    from torch.testing._internal.two_tensor import TwoTensor

    pair = TwoTensor(torch.ones(3), torch.tensor([1.0, torch.nan, 2.0]))
    names = dict(quantised.plain_tensors([("a", pair), ("b", torch.zeros(2))]))
    assert list(names) == ["a.a", "a.b", "b"]
    holder = torch.nn.Module()
    holder.weight = torch.nn.Parameter(pair, requires_grad=False)
    with pytest.raises(EmotraceError, match=r"NaN or infinite: weight\.b"):
        checkpoints.check_finite(holder)


# -- where a checkpoint comes from ------------------------------------------------------------------------------------


def test_a_revision_is_looked_up_and_read(monkeypatch):
    commit, asked = "0123456789abcdef0123456789abcdef01234567", []

    def cached_file(source, name, revision=None):
        asked.append((source, revision))
        return f"models/snapshots/{commit}/config.json"

    monkeypatch.setattr(transformers.utils, "cached_file", cached_file)
    way = checkpoints.way_to_read(dtype="auto", device="cpu", revision="v1.0")
    assert checkpoints.commit("org/model", way) == commit
    assert asked == [("org/model", "v1.0")]


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_beside_the_weights_runs_only_if_it_is_trusted(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "own"))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"], config["auto_map"] = (
        "own",
        {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"},
    )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own_code.py").write_text(CODE)
    assert "read that, then load it with trust_remote_code=True" in failure(folder)
    model = emotrace.load(folder, trust_remote_code=True)
    assert type(model.nn._module).__name__ == "OwnForCausalLM"
    np.testing.assert_allclose(
        read_activations(model, TEXTS)["mean"],
        read_activations(emotrace.load(tiny_folder("llama")), TEXTS)["mean"],
        rtol=1e-4,
        atol=1e-5,
    )
    before = model.identity
    (folder / "own_code.py").write_text(f"{CODE}\n\nNOTHING = 1\n")
    assert emotrace.load(folder, trust_remote_code=True).identity != before
