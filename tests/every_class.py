"""A tiny model of every causal-LM class that the installed transformers has, from its own registry.

``CLASSES`` maps each ``model_type`` to its class; :func:`build` makes one, or says why it cannot. The settings go by
the names that configurations share, not by class.
"""

from __future__ import annotations

import inspect
from typing import Any

import tiny_models
import torch
import transformers as tf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

WIDTH, LAYERS, HEADS, CONTEXT = 32, 4, 4, 256
VOCABULARY = len(tiny_models.tokenizer("llama"))
LARGEST = 3_000_000
"""Parameters of the largest model that a test builds."""

CLASSES: dict[str, str] = {
    kind: name if isinstance(name, str) else name[0] for kind, name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items())
}
_SAME = (
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    (
        WIDTH,
        "hidden_size n_embd d_model dim word_embed_proj_dim embedding_size moe_intermediate_size "
        "shared_expert_intermediate_size",
    ),
    (
        LAYERS,
        "num_hidden_layers n_layers n_layer num_layers decoder_layers num_experts num_local_experts n_routed_experts",
    ),
    (HEADS, "num_attention_heads n_head n_heads num_heads decoder_attention_heads attention_heads"),
    (2, "num_key_value_heads num_experts_per_tok encoder_layers attn_layer_period expert_layer_period"),
    (1, "attn_layer_offset expert_layer_offset"),
    (
        WIDTH // HEADS,
        "head_dim rotary_dim qk_rope_head_dim qk_nope_head_dim v_head_dim kv_lora_rank q_lora_rank "
        "hidden_size_per_layer_input",
    ),
    (2 * WIDTH, "intermediate_size ffn_dim d_ff n_inner decoder_ffn_dim ffn_hidden_size"),
    (CONTEXT, "max_position_embeddings n_positions n_ctx max_seq_len"),
    # Of state spaces: a state and chunks that a short text fills. Their defaults take a minute of a core.
    (16, "mamba_d_state mamba_chunk_size"),
    (128, "mamba_d_ssm"),  # a multiple of the default number of heads
)
_SETTINGS = {name: value for value, names in _SAME for name in names.split()}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": 16}


class NoTinyModel(Exception):
    """A class that these settings make no tiny model of, and why."""


def build(kind: str) -> Any:
    """A random tiny model of one ``model_type``, on the CPU in float32.

    Raises:
        NoTinyModel: it cannot be configured so, is too large, or does not run.
    """
    try:
        of_kind = CONFIG_MAPPING[kind]
        fields = set(getattr(of_kind, "__dataclass_fields__", ())) or set(inspect.signature(of_kind).parameters)
        config = of_kind(**{name: value for name, value in (_SETTINGS | _TOKENS).items() if name in fields})
        model_class = getattr(tf, CLASSES[kind])
        with torch.device("meta"):
            size = sum(weights.numel() for weights in model_class._from_config(config).parameters())
        if size > LARGEST:
            raise NoTinyModel(f"{size:,} parameters with these settings")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = model_class._from_config(config).float().eval()
            for name, weights in module.named_parameters():  # far from zero, so that layers and attention matter
                if weights.dim() > 1:
                    torch.nn.init.normal_(weights, std=0.2 if "embed" not in name else 1.0)
        with torch.no_grad():
            module(input_ids=torch.arange(3, 9)[None], use_cache=False)
    except NoTinyModel:
        raise
    except Exception as error:  # whatever a class raises on settings that are not its own
        raise NoTinyModel(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from None
    return module
