"""Settings of a GGUF file that transformers' reader drops: restored as llama.cpp means them, or refused by name.

Every key ``<architecture>.*`` and every tensor is accounted for; what is neither read, nor restored, nor without effect
is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotrace.errors import EmotraceError

if TYPE_CHECKING:
    from gguf import GGUFReader

# What transformers' reader takes over, and what says nothing of the computation.
_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "tensor_data_layout"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.layer_norm_epsilon", "rope.scaling.finetuned"),
}
# What changes nothing at these values.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (-1, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
}
# llama.cpp scales the attention of the 27B models, known by their number of layers, by hidden size / heads.
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
# Byte-level vocabularies that llama.cpp begins with BOS where the file does not say.
_BEGIN_WITH_BOS = {
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    *("tekken", "chameleon"),
}
# How these split text is how GPT-2's reader in transformers does, as far as their merges go.
_LIKE_GPT2 = {None, "default", "gpt-2", "gpt2", "smollm"}
_FREQUENCIES = "rope_freqs.weight"


class Settings:
    """The metadata of one GGUF file: ``take`` a key, and refuse what is left."""

    def __init__(self, reader: GGUFReader, name: str) -> None:
        self.name = name
        self.fields = {key: reader.fields[key] for key in reader.fields}
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = str(self.get("general.architecture", ""))
        prefix = f"{self.architecture}."
        self.left = {key.removeprefix(prefix): self.get(key) for key in self.fields if key.startswith(prefix)}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a whole key."""
        return self.fields[key].contents() if key in self.fields else default

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture, which is accounted for from now on."""
        return self.left.pop(key, default)

    def refuse(self, key: str, value: object, why: str = "") -> EmotraceError:
        """The error that names a setting."""
        return EmotraceError(
            f"{self.name} cannot be read rightly: {self.architecture}.{key} = {value} has no counterpart in "
            f"transformers' {self.architecture}{why}; take the model's safetensors"
        )


def check_model(settings: Settings) -> None:
    """Refuses a GGUF file that is no whole language model."""
    kind = settings.get("general.type", "model")
    if settings.architecture == "controlvector":
        raise EmotraceError(f"{settings.name} is a llama.cpp control vector, no model: llama.cpp takes it")
    if kind != "model":
        raise EmotraceError(f"{settings.name} is a GGUF {kind}, no model")
    if (parts := settings.get("split.count", 1)) > 1:
        raise EmotraceError(f"{settings.name} is one of {parts} parts: llama-gguf-split --merge joins them")


def restore(config: Any, settings: Settings) -> None:
    """Puts into a configuration of transformers what its reader dropped.

    Raises:
        EmotraceError: a setting that has no counterpart.
    """
    _restore_heads(config, settings)
    if getattr(config, "rope_parameters", None):
        _restore_rope(config, settings)
    gemma = settings.architecture in _LAYERS_OF_27B
    if gemma:
        _restore_gemma(config, settings)
    elif settings.left.get("attention.sliding_window", 0) >= config.max_position_embeddings:
        settings.take("attention.sliding_window")  # as wide as the context: nothing slides out of it
    if settings.architecture == "gpt2":
        config.n_positions = settings.left.get("context_length", config.n_positions)
        width = settings.left.get("feed_forward_length", 4 * config.n_embd)
        config.n_inner = None if width == 4 * config.n_embd else width
    if settings.architecture == "llama":
        config.attention_bias = any(name.endswith("attn_q.bias") for name in settings.tensors)
        config.mlp_bias = any(name.endswith("ffn_up.bias") for name in settings.tensors)
    for key, value in settings.left.items():
        if key in _READ and not isinstance(value, list):
            continue
        if key not in _NEUTRAL or value not in _NEUTRAL[key]:
            raise settings.refuse(key, value)


def _restore_heads(config: Any, settings: Settings) -> None:
    default = config.hidden_size // config.num_attention_heads
    width = settings.take("attention.key_length", default)
    if getattr(config, "head_dim", default) != width:
        config.head_dim = width
    for key in ("attention.value_length", "rope.dimension_count"):
        if (value := settings.take(key, width)) != width:
            raise settings.refuse(key, value, f" beside heads of {width}")


def _restore_rope(config: Any, settings: Settings) -> None:
    """Base and scaling of the rotary embedding; of gemma3, those of the layers that attend to everything."""
    nested = "full_attention" in config.rope_parameters
    rope = config.rope_parameters["full_attention"] if nested else config.rope_parameters
    rope["rope_theta"] = base = settings.take("rope.freq_base", 10000.0)
    local = settings.take("rope.freq_base_swa")
    if local is not None and nested:
        config.rope_parameters["sliding_attention"]["rope_theta"] = local
    elif local not in (None, base):
        raise settings.refuse("rope.freq_base_swa", local)
    kind = settings.take("rope.scaling.type", "linear")
    factor = settings.take("rope.scaling.factor") or settings.take("rope.scale_linear") or 1.0
    settings.take("rope.scale_linear")
    length = settings.take("rope.scaling.original_context_length", config.max_position_embeddings)
    if frequencies := settings.tensors.get(_FREQUENCIES):
        if kind != "none" and factor != 1:
            raise settings.refuse("rope.scaling.type", kind, f" beside {_FREQUENCIES}")
        factors = np.asarray(frequencies.data, dtype=np.float32).ravel().tolist()
        # longrope divides each frequency by a factor of its own: any table of llama.cpp, Llama 3's among them.
        rope |= {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
        rope |= {"factor": 1.0, "original_max_position_embeddings": config.max_position_embeddings}
    elif kind == "linear" and factor != 1:
        rope |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        rope |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
        for name in ("beta_fast", "beta_slow"):
            if (value := settings.take(f"rope.scaling.yarn_{name}")) is not None:
                rope[name] = value
        share = settings.take("rope.scaling.attn_factor", settings.take("rope.scaling.yarn_attn_factor", 1.0))
        rope["attention_factor"] = share * (0.1 * math.log(max(factor, 1.0)) + 1.0)
    elif kind not in ("none", "linear"):
        raise settings.refuse("rope.scaling.type", kind)


def _restore_gemma(config: Any, settings: Settings) -> None:
    """Windows, soft-caps and the scale of the attention of Gemma 2 and 3."""
    settings.take("attention.sliding_window")  # the reader takes it
    pattern = settings.take("attention.sliding_window_pattern")
    if pattern is not None:
        slides = pattern if isinstance(pattern, list) else [(i + 1) % pattern for i in range(config.num_hidden_layers)]
        config.layer_types = ["sliding_attention" if slide else "full_attention" for slide in slides]
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := settings.take(key)) is not None:
            setattr(config, key, cap or None)
    large = config.num_hidden_layers == _LAYERS_OF_27B[settings.architecture]
    scale = config.hidden_size // config.num_attention_heads if large else config.head_dim
    config.query_pre_attn_scalar = scale


def restore_tokens(tokenizer: Any, settings: Settings) -> dict[str, Any]:
    """Has the tokenizer begin and end a text as llama.cpp would; what had to be changed."""
    from tokenizers.processors import TemplateProcessing
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind, pre = settings.get("tokenizer.ggml.model"), settings.get("tokenizer.ggml.pre")
    if kind == "gpt2" and pre not in (*_LIKE_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        raise EmotraceError(
            f"{settings.name} cannot be read rightly: tokenizer.ggml.pre = {pre} splits text in a way that "
            "transformers' reader does not know; take the model's safetensors"
        )
    begins = settings.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre in _BEGIN_WITH_BOS)
    ends = settings.get("tokenizer.ggml.add_eos_token", False)
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    if kind == "llama" and "gemma" not in settings.architecture:
        spaced = tokenizer.convert_ids_to_tokens(bare)[0].startswith("▁")
        if spaced != (wanted := settings.get("tokenizer.ggml.add_space_prefix", True)):
            raise EmotraceError(
                f"{settings.name} cannot be read rightly: tokenizer.ggml.add_space_prefix = {wanted} has no "
                "counterpart in transformers' reader; take the model's safetensors"
            )
    first = [tokenizer.bos_token] if begins and tokenizer.bos_token else []
    last = [tokenizer.eos_token] if ends and tokenizer.eos_token else []
    special = dict(zip([*first, *last], tokenizer.convert_tokens_to_ids([*first, *last]), strict=True))
    if tokenizer("a")["input_ids"] == [special[t] for t in first] + bare + [special[t] for t in last]:
        return {}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *first, "$B", *last],
        special_tokens=list(special.items()),
    )
    for attribute, value in (("_add_bos_token", bool(first)), ("_add_eos_token", bool(last))):
        if hasattr(tokenizer, attribute):
            setattr(tokenizer, attribute, value)
    return {"begins": first, "ends": last}


def ends(settings: Settings) -> list[int]:
    """The ids that end a text or a turn by the file's metadata."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    return sorted({int(settings.get(key)) for key in keys if settings.get(key) is not None})


def check_tensors(module: Any, settings: Settings) -> None:
    """Refuses tensors of the file that no parameter of the model took."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(settings.architecture, TensorProcessor)(config=module.config.to_dict())
    known: Mapping[str, str] = get_gguf_hf_weights_map(module, processor)
    left: Sequence[str] = [name for name in settings.tensors if name not in known and name != _FREQUENCIES]
    if left:
        raise EmotraceError(
            f"{settings.name} cannot be read rightly: {len(left)} of its tensors have no place in transformers' "
            f"{settings.architecture} ({', '.join(left[:3])}); take the model's safetensors"
        )


def read_settings(path: Path) -> Settings:
    """The metadata and the table of tensors of a GGUF file."""
    from gguf import GGUFReader

    return Settings(GGUFReader(path), path.name)
