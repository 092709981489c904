"""Nothing half-loaded, nothing that is no number, and messages that keep the cause that the library gave."""

import itertools
import json
import shutil
import string
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from safetensors.torch import load_file, save_file

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_activations, read_tokens, residual_norms


def failure(name: object, **settings: object) -> str:
    with pytest.raises(EmotraceError) as caught:
        emotrace.load(str(name), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def changed(tiny_folder, tmp_path):
    """``changed(family, change)``: a copy of a tiny model, its dict of tensors changed in place."""

    def build(family: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        folder = Path(shutil.copytree(tiny_folder(family), tmp_path / f"{family}-changed"))
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
        return folder

    return build


def rename(tensors, rule):
    for name in list(tensors):
        tensors[rule(name)] = tensors.pop(name)


# -- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "change", "named"),
    [
        (
            "llama",
            lambda t: t.pop("model.layers.2.mlp.up_proj.weight"),
            "1 missing (model.layers.2.mlp.up_proj.weight)",
        ),
        ("gpt2", lambda t: t.pop("transformer.h.1.attn.c_attn.bias"), "1 missing (transformer.h.1.attn.c_attn.bias)"),
        ("llama", lambda t: t.pop("lm_head.weight"), "1 missing (lm_head.weight)"),  # untied: it is needed
        ("gemma", lambda t: t.pop("model.norm.weight"), "1 missing (model.norm.weight)"),
        (
            "qwen",
            lambda t: t.update({"model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2)}),
            "no place for (model.layers.9",
        ),
        ("qwen", lambda t: t.update({"score.weight": torch.zeros(2, 32)}), "no place for (score.weight)"),
        ("llama", lambda t: t.update({"model.norm.weight": torch.zeros(31)}), "model.norm.weight [31] for [32]"),
        ("mistral", lambda t: rename(t, lambda name: f"base_model.model.{name}"), "a PEFT adapter is merged first"),
        (
            "llama",
            lambda t: t.update({"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(4, 32)}),
            "a PEFT adapter is merged first",
        ),
    ],
    ids=["a weight", "a bias", "an untied head", "a norm", "a layer more", "a head more", "a shape", "peft", "lora"],
)
def test_weights_that_are_not_whole_are_refused_by_name(family, change, named, changed):
    message = failure(changed(family, change))
    assert named in message
    assert "its weights are not whole" in message


def test_of_many_tensors_the_first_few_are_named(changed):
    message = failure(changed("llama", lambda t: [t.pop(name) for name in list(t) if ".mlp." in name]))
    assert message.count("mlp") == 3
    assert "12 missing" in message


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("gemma", lambda t: t.pop("lm_head.weight", None)),  # tied
        ("gpt2", lambda t: t.pop("lm_head.weight", None)),  # tied
        ("llama", lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})),  # older files
        ("gpt2", lambda t: t.update({"transformer.h.0.attn.bias": torch.zeros(1, 1, 8, 8)})),  # openai-community/gpt2
        ("gpt2", lambda t: rename(t, lambda name: name.removeprefix("transformer."))),  # openai-community/gpt2
    ],
    ids=["tied", "tied gpt2", "inv_freq", "mask buffer", "without prefix"],
)
def test_what_is_missing_or_left_over_by_design_passes(family, change, changed, tiny):
    model = emotrace.load(str(changed(family, change)))
    right = read_activations(tiny(family), ["She saw the river."])["mean"]
    np.testing.assert_array_equal(read_activations(model, ["She saw the river."])["mean"], right)


def test_the_shard_that_is_missing_is_named(tiny_folder, tmp_path):
    module = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))
    module.save_pretrained(tmp_path, max_shard_size="40KB")
    tiny_models.tokenizer("llama").save_pretrained(tmp_path)
    assert emotrace.load(str(tmp_path)).n_layers == 4
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert shard.name in failure(tmp_path)


def test_a_folder_without_a_tokenizer_says_so(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "bare")
    for path in [*folder.glob("tokenizer*"), *folder.glob("special_tokens*")]:
        path.unlink()
    assert "there is no tokenizer in it (tokenizer.json" in failure(folder)


@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_is_no_model(beside, tiny_folder, tmp_path):
    folder = tmp_path / "adapter"
    if beside:
        shutil.copytree(tiny_folder("llama"), folder)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    assert "holds a PEFT adapter, which is merged into its base model first" in failure(folder)


def test_an_unknown_quantisation_is_named(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "brand_new", "bits": 3}
    (folder / "config.json").write_text(json.dumps(config))
    assert "brand_new" in failure(folder)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "tpu0", ""])
def test_an_unknown_device_lists_the_known(device, tiny_folder):
    message = failure(tiny_folder("llama"), device=device)
    assert message.startswith(f"unknown device {device!r}: known are auto")


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:7"])
def test_a_device_that_is_not_here_is_named(device, tiny_folder):
    if getattr(torch, device[:4].rstrip(":"), None) and torch.get_device_module(device.split(":")[0]).is_available():
        pytest.skip("the device is here")
    assert f"device {device!r} is not on this machine" in failure(tiny_folder("llama"), device=device)


def test_an_address_is_no_hub_id():
    assert "named by its id alone (org/name)" in failure("https://huggingface.co/openai-community/gpt2")


# -- numbers --------------------------------------------------------------------------------------------------------


def spoil(name, value):
    def change(tensors):
        tensors[name][0, 0] = value

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.embed_tokens.weight"])
def test_weights_that_are_no_numbers_are_named(name, value, changed):
    message = failure(changed("llama", spoil(name, value)))
    assert f"its weights in float32 are NaN or infinite: {name}" in message
    assert "llama-changed" in message


def test_weights_that_float16_cannot_hold_are_named(changed):
    folder = changed("llama", spoil("model.layers.1.mlp.up_proj.weight", 1e6))
    assert "in float16 are NaN or infinite: model.layers.1.mlp.up_proj.weight" in failure(folder, dtype="float16")
    assert emotrace.load(str(folder), dtype="bfloat16").n_layers == 4


def test_activations_that_overflow_stop_every_reading(changed):
    def grow(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"] *= 3e4

    model = emotrace.load(str(changed("llama", grow)), dtype="float16")
    text = "She saw the river at night."
    for call in (
        lambda: read_activations(model, [text]),
        lambda: read_tokens(model, [text]),
        lambda: residual_norms(model, [text]),
        lambda: emotrace.extract(model),
        lambda: emotrace.what_if(model, "She", "sad", judge=False),
    ):
        with pytest.raises(EmotraceError) as caught:
            call()
        assert str(caught.value) == (
            "llama-changed in float16 gives activations from layer 2 on that are NaN or infinite (float16 overflows: "
            "take bfloat16 or float32)"
        )
    assert read_activations(model, [text], layers=[0, 1])["mean"].shape == (1, 2, 32)


# -- the hub's answers ----------------------------------------------------------------------------------------------

ANSWERS = {"gated": (403, "GatedRepo"), "none": (401, "RepoNotFound"), "limited": (429, None), "down": (503, None)}
ANSWERS["token"] = (401, None)


class Hub(BaseHTTPRequestHandler):
    """Answers every request by the model's name."""

    def do_GET(self) -> None:
        status, code = next((answer for name, answer in ANSWERS.items() if f"/{name}/" in self.path), (404, None))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"told by the hub: {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What ``emotrace.load`` says of each model of a loopback hub, with ``HF_HUB_OFFLINE=0``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = textwrap.dedent("""
        import json, sys, time
        import emotrace
        time.sleep = lambda seconds: None  # the hub's client waits between its tries
        said = {}
        for name in sys.argv[1:]:
            try:
                emotrace.load(f"org/{name}")
            except emotrace.EmotraceError as error:
                said[name] = str(error)
        print(json.dumps(said))
    """)
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_TOKEN": "hf_wrong",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
    }
    command = [sys.executable, "-c", script, *ANSWERS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    server.shutdown()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gated", ("access to it is gated", "https://huggingface.co/org/gated", "hf auth login")),
        ("none", ("no model org/none for this user", "check the name", "HF_TOKEN")),
        ("token", ("refuses this user (401)", "hf auth login")),
        ("limited", ("429", "limits the rate")),
        ("down", ("503",)),
    ],
)
def test_the_hubs_answer_is_kept(name, parts, answers):
    message = answers[name]
    assert message.startswith(f"org/{name} cannot be loaded from the hub: ")  # and is not called offline
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert "hf_wrong" not in message


def test_a_packaged_model_is_recommended_for_its_hub_id():
    assert "smollm2-135m-instruct is the packaged copy" in failure("HuggingFaceTB/SmolLM2-135M-Instruct")


def split_elsewhere(folder: Path, letters: str) -> Path:
    """A tiny Mistral whose tokenizer has over 100,000 tokens and splits words as old conversions of Mistral's do."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("".join(word) for word in itertools.product(letters, repeat=4))
    vocabulary = [*alphabet, *itertools.islice(words, 100_001)]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(vocabulary)}, merges=[]))
    split = pre_tokenizers.Split(Regex(r"\w+|\s+"), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 64}
    config = MistralConfig(vocab_size=len(vocabulary), **sizes, num_attention_heads=2, num_key_value_heads=1)
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def of_mistral(tmp_path_factory) -> Path:
    return split_elsewhere(tmp_path_factory.mktemp("mistral"), string.ascii_lowercase)


@pytest.fixture(scope="module")
def of_another(tmp_path_factory) -> Path:
    """Tokens such as "aZ" and "12", which Mistral's pattern splits."""
    return split_elsewhere(tmp_path_factory.mktemp("another"), "abcdeXYZ" + string.digits)


def first_pieces(tokenizer, count: int) -> list[str]:
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("HelloWorld it's")
    return [piece for piece, _ in pieces][:count]


def with_config(folder: Path, into: Path, changes: dict[str, object]) -> Path:
    shutil.copytree(folder, into)
    config = json.loads((into / "config.json").read_text()) | changes
    (into / "config.json").write_text(json.dumps(config))
    return into


OLD = {"transformers_version": "4.55.0"}


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        (OLD, ["Hello", "World"]),
        ({"transformers_version": None}, ["Hello", "World"]),
        ({"transformers_version": "5.0.0"}, ["HelloWorld"]),  # converted since it was mended
        (OLD | {"model_type": "llama"}, ["HelloWorld"]),  # another family's own pattern
    ],
)
def test_mistrals_words_are_split_as_it_was_trained(of_mistral, tmp_path, changes, first):
    model = emotrace.load(str(with_config(of_mistral, tmp_path / "model", changes)))
    assert first_pieces(model.tokenizer, len(first)) == first


def test_a_mistral_with_another_vocabulary_keeps_its_pattern(of_another, tmp_path):
    folder = with_config(of_another, tmp_path / "model", OLD)
    model = emotrace.load(str(folder))
    assert first_pieces(model.tokenizer, 1) == ["HelloWorld"]
    warned_of = transformers.AutoTokenizer.from_pretrained(folder)
    assert first_pieces(emotrace.attach(model.nn._module, warned_of).tokenizer, 1) == ["HelloWorld"]


def test_a_tokenizer_in_memory_that_transformers_warns_of_is_refused_unless_it_was_asked_for(of_mistral, tmp_path):
    folder = with_config(of_mistral, tmp_path / "model", OLD)
    model = emotrace.load(str(folder))
    as_it_is, mended, kept = (
        transformers.AutoTokenizer.from_pretrained(folder, **how)
        for how in ({}, {"fix_mistral_regex": True}, {"fix_mistral_regex": False})
    )
    with pytest.raises(EmotraceError, match=r"fix_mistral_regex=True\), or False to keep it as it is$"):
        emotrace.attach(model.nn._module, as_it_is)
    attached = [emotrace.attach(model.nn._module, one) for one in (mended, kept)]
    assert [first_pieces(one.tokenizer, 1) for one in attached] == [["Hello"], ["HelloWorld"]]
    assert len({one.identity for one in attached}) == 2  # vectors of one are not taken for the other's


def test_a_judges_words_are_split_as_it_was_trained(of_mistral, tmp_path):
    from emotrace.judges.classifiers import load_classifier

    folder = with_config(of_mistral, tmp_path / "judge", OLD)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, fix_mistral_regex=False)
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("fix_mistral_regex")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = transformers.MistralConfig.from_pretrained(folder, num_labels=3, pad_token_id=tokenizer.pad_token_id)
    transformers.MistralForSequenceClassification(config).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text()) | OLD
    (folder / "config.json").write_text(json.dumps(saved))
    assert first_pieces(transformers.AutoTokenizer.from_pretrained(folder), 1) == ["HelloWorld"]
    assert first_pieces(load_classifier(str(folder)).tokenizer, 2) == ["Hello", "World"]


# -- code beside the weights -----------------------------------------------------------------------------------------

WRITTEN_FOR_TRANSFORMERS_4 = """
from transformers import LlamaConfig, LlamaForCausalLM


class OldConfig(LlamaConfig):
    model_type = "old"


class OldForCausalLM(LlamaForCausalLM):
    config_class = OldConfig

    def forward(self, input_ids=None, past_key_values=None, **settings):
        if past_key_values is not None:
            past_key_values.get_usable_length(1)
        return super().forward(input_ids, past_key_values=past_key_values, **settings)
"""


def test_code_that_no_longer_runs_is_named_with_what_it_raised(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    code = {"AutoConfig": "old_code.OldConfig", "AutoModelForCausalLM": "old_code.OldForCausalLM"}
    folder = with_config(tiny_folder("llama"), tmp_path / "old", {"model_type": "old", "auto_map": code})
    (folder / "old_code.py").write_text(WRITTEN_FOR_TRANSFORMERS_4)
    raised = "AttributeError: 'DynamicCache' object has no attribute 'get_usable_length'"
    assert failure(folder, trust_remote_code=True) == (
        f"old is a 'old' (OldForCausalLM) that emotrace cannot read: a short text does not go through it ({raised})"
    )
