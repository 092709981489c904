"""Tiny randomly initialised models of the real classes, with a tokenizer each: one builder, five families and kin.

``build`` writes a folder that ``emotrace.load`` takes. ``plant`` writes one whose emotion directions are known.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from emotrace.instrument import corpus

FAMILIES = ("gpt2", "gemma", "qwen", "llama", "mistral")
# Further architectures that emotrace knows: tiny model of this name → the family it belongs to.
KIN = {"gemma1": "gemma", "gemma2": "gemma", "qwen3": "qwen"}
FAMILY_OF = {**{family: family for family in FAMILIES}, **KIN}
ADDS_BOS = ("gemma", "gemma1", "gemma2", "llama", "mistral")

CONTEXT, VOCABULARY = 512, 600
SLIDING_WINDOW = 12  # shorter than most test texts, so that a wrong mask or position shows

# Beginning, end and padding of each family; real Qwen has no BOS, real GPT-2 one token for all three.
_SPECIAL = {
    "gpt2": ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "qwen": (None, "<|im_end|>", "<|endoftext|>"),
    "gemma": ("<bos>", "<eos>", "<pad>"),
    "llama": ("<s>", "</s>", "<pad>"),
    "mistral": ("<s>", "</s>", "</s>"),
}
_CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>\n{{ m['content'] }}</{{ m['role'] }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
_TEMPLATED = ("qwen", "llama")


def build(family: str, folder: Path, *, seed: int = 0, n_layers: int = 4, d_model: int = 32) -> Path:
    """Writes a tiny model of ``family`` (or one of ``KIN``) with random weights that depend on ``seed`` alone."""
    words = tokenizer(family)
    model = _random(family, words, seed, n_layers, d_model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return Path(folder)


def tokenizer(family: str, markers: tuple[str, ...] = ()) -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the family's special tokens; each of ``markers`` is one ordinary token."""
    bos, eos, pad = _SPECIAL[FAMILY_OF[family]]
    core = Tokenizer.from_str(_trained(tuple(dict.fromkeys(token for token in (pad, eos, bos) if token))))
    core.add_tokens([AddedToken(marker, normalized=False) for marker in markers])
    if family in ADDS_BOS:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, core.token_to_id(bos))]
        )
    wrapped = tf.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad, model_max_length=CONTEXT
    )
    wrapped.chat_template = _CHAT if family in _TEMPLATED else None
    return wrapped


@functools.cache
def _trained(special: tuple[str, ...]) -> str:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus.passages()["text"], trainer)
    return core.to_str()


def _random(family: str, words: tf.PreTrainedTokenizerFast, seed: int, n_layers: int, d_model: int) -> torch.nn.Module:
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    modern = {
        **ids,
        "vocab_size": len(words),
        "max_position_embeddings": CONTEXT,
        "hidden_size": d_model,
        "intermediate_size": 2 * d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # Wider than the default, so that attention is far from uniform and a wrong mask is visible.
        "initializer_range": 0.2,
    }
    # All but every third layer slide, as in the real ones.
    kinds = ["full_attention" if layer % 3 == 2 else "sliding_attention" for layer in range(n_layers)]
    gemma = {**modern, "head_dim": d_model // 4, "query_pre_attn_scalar": d_model // 4}
    sliding = {"sliding_window": SLIDING_WINDOW, "layer_types": kinds}
    made = {
        "gpt2": lambda: tf.GPT2LMHeadModel(
            tf.GPT2Config(
                vocab_size=len(words),
                n_positions=CONTEXT,
                n_embd=d_model,
                n_layer=n_layers,
                n_head=4,
                initializer_range=0.2,
                **ids,
            )
        ),
        "gemma": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**gemma, **sliding)),
        "gemma1": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**modern, head_dim=d_model // 4)),
        "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**gemma, **sliding)),
        "qwen": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**modern)),
        "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**modern, head_dim=d_model // 4)),
        "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**modern)),
        "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**modern, sliding_window=None)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made[family]().eval()


# -- a model whose emotion directions are known ---------------------------------------------------------------------

PLANTED = ("happy", "sad", "angry", "afraid", "calm", "proud", "guilty", "hopeful")
_TOPICS = ("bread", "trains", "letters", "gardens", "schools", "football", "bicycles", "music", "dogs", "doctors")


def plant(
    folder: Path, *, strength: float = 20.0, seed: int = 0, n_layers: int = 4, d_model: int = 64
) -> dict[str, np.ndarray]:
    """Writes a llama that says an emotion's direction wherever it reads the emotion's marker; returns the directions.

    The embedding of each marker is that of the neutral marker plus ``strength`` × the emotion's unit direction, and the
    decoder layers change the stream by a few hundredths only. Directions are random, so nearly orthogonal.
    """
    words = tokenizer("llama", tuple(marker(emotion) for emotion in (*PLANTED, corpus.NEUTRAL)))
    model = _random("llama", words, seed, n_layers, d_model)
    directions = np.random.default_rng(seed).standard_normal((len(PLANTED), d_model)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.01
            layer.mlp.down_proj.weight *= 0.01
        rows = model.model.embed_tokens.weight
        neutral = rows[words.convert_tokens_to_ids(marker(corpus.NEUTRAL))]
        for emotion, direction in zip(PLANTED, directions, strict=True):
            rows[words.convert_tokens_to_ids(marker(emotion))] = neutral + strength * torch.from_numpy(direction)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return dict(zip(PLANTED, directions, strict=True))


def marker(emotion: str) -> str:
    return f"⟦{emotion}⟧"


def planted_passages(template: str = "She talked about {topic} and {marker} went home at six.") -> pd.DataFrame:
    """Topics × (planted emotions and *neutral*), the texts alike but for topic and marker."""
    rows = [
        {
            "id": f"{topic}-{emotion}",
            "topic": topic,
            "emotion": emotion,
            "person": "third",
            "gender": "female",
            "tense": "past",
            "text": template.format(topic=topic, marker=marker(emotion)),
        }
        for topic in _TOPICS
        for emotion in (*PLANTED, corpus.NEUTRAL)
    ]
    return pd.DataFrame(rows)
