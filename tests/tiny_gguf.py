"""Tiny models as GGUF files, written with the ``gguf`` package as llama.cpp's converter writes them."""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

_LEAVES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
_AFTER = {"gemma": {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm"}}
_AFTER["gemma"]["post_feedforward_layernorm"] = "post_ffw_norm"
_AFTER["other"] = {"post_attention_layernorm": "ffn_norm"}


def write(folder: Path, path: Path, architecture: str, **extra: Any) -> Path:
    """The model of a folder as GGUF: keys ``a__b`` of ``extra`` are ``<architecture>.a.b``.

    Values None leave a key out; ``tensors={name: array}`` adds tensors (None: leaves one out), ``whole={key: value}``
    keys without prefix.
    """
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    config = module.config
    width = config.hidden_size // config.num_attention_heads
    head = getattr(config, "head_dim", None) or width
    writer = gguf.GGUFWriter(path, architecture)
    rope = config.rope_parameters
    keys: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
        "rope.dimension_count": head,
    }
    gemma = architecture.startswith("gemma")
    if gemma or head != width:
        keys |= {"attention.key_length": head, "attention.value_length": head}
    if gemma:
        keys["attention.sliding_window"] = config.sliding_window
    keys |= {key.replace("__", "."): value for key, value in extra.items() if key not in ("tensors", "whole")}
    for key, value in keys.items():
        if value is not None:
            _add(writer, f"{architecture}.{key}", value)
    _tokens(writer, words, {**extra.get("whole", {})})
    for name, tensor in module.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy().astype(np.float32)
        if gemma and name.endswith("norm.weight"):
            array = array + 1
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _permuted(array, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        stored = _gguf_name(name, "gemma" if gemma else "other")
        if stored not in extra.get("tensors", {}):
            writer.add_tensor(stored, array)
    for name, array in extra.get("tensors", {}).items():
        if array is not None:
            writer.add_tensor(name, np.asarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_factors(theta: float, head: int, factor: float, low: float, high: float, length: int) -> np.ndarray:
    """``rope_freqs.weight`` as llama.cpp's convert_hf_to_gguf computes it for Llama 3."""
    factors = []
    for frequency in 1.0 / (theta ** (np.arange(0, head, 2, dtype=np.float32) / head)):
        wavelength = 2 * np.pi / frequency
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _tokens(writer: gguf.GGUFWriter, words: Any, whole: dict[str, Any]) -> None:
    vocabulary = [token for token, _ in sorted(words.get_vocab().items(), key=lambda item: item[1])]
    special, stored = set(words.all_special_tokens), json.loads(words.backend_tokenizer.to_str())["model"]
    sentencepiece = stored["byte_fallback"]  # such a file has scores, and no merges
    kinds = [3 if token in special else 6 if re.fullmatch("<0x..>", token) else 1 for token in vocabulary]
    writer.add_tokenizer_model("llama" if sentencepiece else "gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types(kinds)
    if sentencepiece:
        writer.add_token_scores([-float(position) for position in range(len(vocabulary))])
    else:
        merges = stored["merges"]
        writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in merges])
    keys: dict[str, Any] = {"tokenizer.ggml.pre": "default" if sentencepiece else "gpt-2"}
    keys |= {"tokenizer.ggml.add_bos_token": words.bos_token_id is not None, "tokenizer.ggml.add_space_prefix": False}
    keys |= {"tokenizer.chat_template": words.chat_template}
    ids = {"bos": words.bos_token_id, "eos": words.eos_token_id, "padding": words.pad_token_id}
    ids["unknown"] = words.unk_token_id
    keys |= {f"tokenizer.ggml.{name}_token_id": value for name, value in ids.items()}
    for key, value in {**keys, **whole}.items():
        if value is not None:
            _add(writer, key, value)


def _gguf_name(name: str, kind: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        number, inside = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{number}.{(_LEAVES | _AFTER[kind])[inside]}.{suffix}"
    return f"{_LEAVES[stem]}.{suffix}"


def _permuted(array: np.ndarray, heads: int) -> np.ndarray:
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
