"""GGUF files as llama.cpp writes them: every setting restored, or refused by name.

What is right: the same weights from safetensors, in plain transformers, with the setting in ``config.json``.
"""

import contextlib
import json
import shutil

import gguf
import numpy as np
import pytest
import tiny_gguf
import tiny_models
import torch
import transformers

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_tokens
from emotrace.hosts import gguf as hosts_gguf
from emotrace.tokens import Tokens

TEXT = "The door opened, and she saw the river at night. " * 9
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 64


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def variant(tmp_path):
    """``variant(family, **config)``: a tiny model whose config.json has these values, its weights as ever."""

    def build(family, **config):
        folder = tiny_models.build(family, tmp_path / f"{family}-folder", d_model=64)
        path = folder / "config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, **config}))
        return folder

    return build


def deviation(folder, path):
    """The largest relative deviation, over layers, of emotrace on the GGUF from plain transformers on the folder."""
    model = emotrace.load(str(path))
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    with torch.no_grad():
        states = module(torch.tensor([ids]), output_hidden_states=True).hidden_states
    stream = read_tokens(model, [Tokens(tuple(ids), 1, len(ids))], layers=range(model.n_layers))[0]
    differences = []
    for layer in range(model.n_layers):  # the last hidden state of transformers is normed
        right = states[layer][0].numpy()
        differences.append(np.linalg.norm(stream[:, layer] - right) / np.linalg.norm(right))
    return max(differences)


def refusal(path):
    with pytest.raises(EmotraceError) as caught:
        emotrace.load(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def llama3(theta, head):
    return tiny_gguf.llama3_factors(theta, head, 32.0, 1.0, 4.0, 64)


@pytest.mark.parametrize(
    ("family", "architecture", "config", "keys"),
    [
        ("llama", "llama", {}, {}),
        ("qwen", "qwen2", {}, {}),
        ("qwen3", "qwen3", {}, {}),
        ("qwen3", "qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {}),
        (
            "llama",
            "llama",
            {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
            {"tensors": {"rope_freqs.weight": llama3(5e5, 16)}},
        ),
        (
            "llama",
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}},
            {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0},
        ),
        (
            "llama",
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
            {"rope__scale_linear": 2.0},
        ),
        (
            "qwen",
            "qwen2",
            {
                "rope_parameters": {
                    "rope_theta": 1e4,
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                }
            },
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 128,
            },
        ),
    ],
    ids=["llama", "qwen2", "qwen3", "theta", "llama3", "linear", "linear, old key", "yarn"],
)
def test_a_gguf_gives_the_activations_of_its_safetensors(family, architecture, config, keys, variant, tmp_path):
    folder = variant(family, **config)
    path = tiny_gguf.write(folder, tmp_path / "x.gguf", architecture, **keys)
    assert deviation(folder, path) < 1e-6


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({}, {}),
        ({"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5}, {"final_logit_softcapping": 2.0}),
        ({"query_pre_attn_scalar": 16}, {}),
    ],
    ids=["as it is", "soft-caps", "scale of attention"],
)
@pytest.mark.parametrize(("family", "architecture"), [("gemma2", "gemma2"), ("gemma", "gemma3")])
def test_gemma_keeps_windows_caps_and_scale(family, architecture, config, keys, variant, tmp_path):
    folder = variant(family, **config)
    caps = {"attn_logit_softcapping": 1.5} if keys else {}
    slides = [True, True, False, True]  # the tiny models' own pattern
    path = tiny_gguf.write(
        folder, tmp_path / "x.gguf", architecture, **keys, **caps, attention__sliding_window_pattern=slides
    )
    assert deviation(folder, path) < 1e-6
    model = emotrace.load(str(path))
    assert model.nn._module.config.sliding_window == tiny_models.SLIDING_WINDOW
    if keys:
        assert model.nn._module.config.final_logit_softcapping == 2.0


def test_gemma3_scales_only_the_layers_that_attend_to_everything(variant, tmp_path):
    rope = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
    rope["sliding_attention"] = {"rope_type": "default", "rope_theta": 2e4}
    folder = variant("gemma", rope_parameters=rope)
    keys = {"rope__scaling__type": "linear", "rope__scaling__factor": 8.0, "rope__freq_base_swa": 2e4}
    path = tiny_gguf.write(
        folder, tmp_path / "x.gguf", "gemma3", attention__sliding_window_pattern=[True, True, False, True], **keys
    )
    assert deviation(folder, path) < 1e-6


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"attention__sliding_window": 16}, "llama.attention.sliding_window = 16"),
        ({"final_logit_softcapping": 30.0}, "llama.final_logit_softcapping = 30.0"),
        ({"logit_scale": 0.0625}, "llama.logit_scale = 0.0625"),
        ({"residual_scale": 0.5}, "llama.residual_scale = 0.5"),
        ({"expert_count": 8}, "llama.expert_count = 8"),
        ({"rope__scaling__type": "longrope"}, "llama.rope.scaling.type = longrope"),
        ({"rope__dimension_count": 8}, "llama.rope.dimension_count = 8"),
        ({"attention__brand_new": 3}, "llama.attention.brand_new = 3"),
        ({"tensors": {"blk.0.ffn_gate_inp.weight": np.zeros((4, 64))}}, "blk.0.ffn_gate_inp.weight"),
        ({"whole": {"tokenizer.ggml.pre": "deepseek-llm"}}, "tokenizer.ggml.pre = deepseek-llm"),
        ({"whole": {"split.count": 3}}, "one of 3 parts"),
        ({"whole": {"general.type": "adapter"}}, "is a GGUF adapter, no model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_carried_over_is_refused_by_name(keys, named, tiny_folder, tmp_path):
    assert named in refusal(tiny_gguf.write(tiny_folder("llama", d_model=64), tmp_path / "x.gguf", "llama", **keys))


def test_a_file_that_lacks_a_tensor_is_refused(tiny_folder, tmp_path):
    message = refusal(
        tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama", tensors={"blk.1.ffn_up.weight": None})
    )
    assert "x.gguf: its weights are not whole, tensors: 1 missing" in message


def test_settings_without_effect_pass(tiny_folder, tmp_path):
    keys = {"attention__sliding_window": 512, "logit_scale": 1.0, "expert_count": 0, "rope__scaling__type": "none"}
    keys["whole"] = {"tokenizer.ggml.pre": "smollm"}
    path = tiny_gguf.write(tiny_folder("llama", d_model=64), tmp_path / "x.gguf", "llama", **keys)
    assert emotrace.load(str(path)).n_layers == 4


def test_a_head_that_is_not_hidden_size_by_heads_is_read(tmp_path):
    words = tiny_models.tokenizer("qwen3")
    config = transformers.Qwen3Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    config.num_key_value_heads, config.head_dim, config.max_position_embeddings = 2, 16, 512
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path / "qwen3")
    words.save_pretrained(tmp_path / "qwen3")
    path = tiny_gguf.write(tmp_path / "qwen3", tmp_path / "x.gguf", "qwen3")
    assert deviation(tmp_path / "qwen3", path) < 1e-6


# -- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pre", "stated", "begins"),
    [
        ("llama-bpe", None, True),
        ("llama-v3", None, True),
        ("tekken", None, True),
        ("llama-bpe", True, True),
        ("llama-bpe", False, False),
        ("gpt-2", None, False),
        ("gpt-2", True, True),
    ],
)
def test_a_text_begins_with_bos_where_llama_cpp_says_so(pre, stated, begins, tiny_folder, tmp_path):
    whole = {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": stated}
    model = emotrace.load(str(tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama", whole=whole)))
    ids = model.tokenizer("A door")["input_ids"]
    assert (ids[0] == model.tokenizer.bos_token_id) is begins
    assert ids.count(model.tokenizer.bos_token_id) == begins


def test_mistrals_words_are_split_as_it_was_trained(tiny_folder, tmp_path):
    whole = {"tokenizer.ggml.pre": "tekken"}
    model = emotrace.load(str(tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama", whole=whole)))
    pieces = model.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("HelloWorld 27")
    assert [piece for piece, _ in pieces] == ["Hello", "World", "Ġ", "2", "7"]


def test_an_end_that_the_file_appends_is_appended(tiny_folder, tmp_path):
    whole = {"tokenizer.ggml.add_eos_token": True}
    model = emotrace.load(str(tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama", whole=whole)))
    ids = model.tokenizer("A door")["input_ids"]
    assert (ids[0], ids[-1]) == (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)


def test_the_end_of_a_turn_that_the_file_names_ends_a_text(tiny_folder, tmp_path):
    whole = {"tokenizer.ggml.eot_token_id": 7}
    model = emotrace.load(str(tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama", whole=whole)))
    assert model.nn._module.generation_config.eos_token_id == sorted([7, model.tokenizer.eos_token_id])


# -- names and identity ---------------------------------------------------------------------------------------------


def test_a_suffix_in_capitals_is_a_file(tiny_folder, tmp_path):
    assert emotrace.load(str(tiny_gguf.write(tiny_folder("llama"), tmp_path / "X.GGUF", "llama"))).name == "X.GGUF"


def test_a_renamed_file_is_the_same_model_and_other_settings_are_another(tiny_folder, tmp_path):
    path = tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama")
    shutil.copy(path, tmp_path / "renamed.gguf")
    scaled = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}
    other = tiny_gguf.write(tiny_folder("llama"), tmp_path / "y.gguf", "llama", **scaled)
    ids = [emotrace.load(str(file)).identity for file in (path, tmp_path / "renamed.gguf", other)]
    assert ids[0] == ids[1] != ids[2]


def test_a_control_vector_is_no_model(tiny, tmp_path):
    from emotrace.hosts import control_vectors

    file = tmp_path / "joy.gguf"
    control_vectors.write(file, {2: np.ones(32, np.float32)}, name="joy", provenance={})
    assert "is a llama.cpp control vector, no model" in refusal(file)


def test_a_file_is_parsed_once_and_gives_what_it_gave(tiny_folder, tmp_path, monkeypatch):
    """transformers asks for the file three times, and for the architecture's table of names once a module."""
    path, made = tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama"), []
    build = gguf.GGUFReader._build_fields
    monkeypatch.setattr(gguf.GGUFReader, "_build_fields", lambda *args: made.append("file") or build(*args))
    table = gguf.get_tensor_name_map
    monkeypatch.setattr(gguf, "get_tensor_name_map", lambda *args: made.append("names") or table(*args))
    contents, asked = [], []
    for number, way in enumerate((hosts_gguf.parsed_once, contextlib.nullcontext)):
        monkeypatch.setattr(hosts_gguf, "parsed_once", way)
        monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / f"cache-{number}"))
        made.clear()
        folder = hosts_gguf.converted([path], None, "x", lambda line: None)
        asked.append((made.count("file"), made.count("names")))
        files = [file for file in sorted(folder.iterdir()) if file.name != "emotrace.json"]
        contents.append({file.name: file.read_bytes() for file in files})
    assert contents[0] == contents[1]
    assert "model.safetensors" in contents[0]
    assert asked[0] == (1, 1)
    assert asked[1][0] > 3
    assert asked[1][1] > 20


@pytest.mark.parametrize("blocked", ["a file in the way", "read-only"])
def test_without_a_cache_the_model_is_read_all_the_same(blocked, tiny_folder, tmp_path, monkeypatch):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("EMOTRACE_CACHE", "/proc/emotrace" if blocked == "read-only" else str(in_the_way / "cache"))
    path, lines = tiny_gguf.write(tiny_folder("llama"), tmp_path / "x.gguf", "llama"), []
    first = emotrace.load(str(path), say=lines.append)
    second = emotrace.load(str(path), say=lines.append)
    assert sum("set EMOTRACE_CACHE to keep it" in line for line in lines) == 1
    assert first.identity == second.identity
