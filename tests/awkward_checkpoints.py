"""Tiny random checkpoints with the real world's files around them, and what plain transformers computes of them.

A report of a checkpoint that goes wrong is one more entry of ``CHECKPOINTS``: every function of emotrace that reads,
writes, edits or scores then runs over it (tests/test_awkward_checkpoints.py), against :class:`Plain`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
import transformers as tf
from tokenizers import AddedToken, decoders, pre_tokenizers, processors


@dataclass(frozen=True)
class Checkpoint:
    """What is awkward about one: the family of tests/tiny_models.py that it is, and what differs.

    Attributes:
        config: entries of ``config.json``; None removes one.
        generation: the whole ``generation_config.json``; None: none is written.
        model: changes the random model before it is saved.
        words: changes the tokenizer before it is saved, and before the model is made for its vocabulary.
        template: the chat template.
        shard: the largest file, as ``save_pretrained`` takes it.
        layers: number of layers.
    """

    family: str = "llama"
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None
    model: Callable[[Any], object] | None = None
    words: Callable[[Any], object] | None = None
    template: str | None = None
    shard: str = "1GB"
    layers: int = 4

    def build(self, folder: Path) -> Path:
        words = tiny_models.tokenizer(self.family)
        if self.words:
            self.words(words)
        module: Any = tiny_models._random(self.family, words, 0, self.layers, 32)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.model:
                self.model(module)
        module.save_pretrained(folder, max_shard_size=self.shard)
        words.chat_template = self.template or words.chat_template
        words.save_pretrained(folder)
        path = folder / "config.json"
        config = json.loads(path.read_text()) | dict(self.config)
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
        path = folder / "generation_config.json"
        path.unlink(missing_ok=True)
        if self.generation is not None:
            path.write_text(json.dumps(dict(self.generation)))
        return folder


# -- what differs -----------------------------------------------------------------------------------------------------


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    """As files before transformers 5 say it."""
    scaling = {"rope_type": kind, "factor": 4.0, **settings}
    return {"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": scaling}


def appends_eos(words: Any) -> None:
    bos, eos = words.bos_token, words.eos_token
    single, pair = (f"{bos} $A {eos}", f"{bos} $A {eos} $B {eos}") if bos else (f"$A {eos}", f"$A {eos} $B {eos}")
    names = [name for name in (bos, eos) if name]
    special = [(name, words.convert_tokens_to_ids(name)) for name in names]
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=special
    )


def prefix_space(words: Any) -> None:
    """As sentencepiece does: a space is put before the text, and taken away in decoding."""
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])


def ends_turns_by(token: str) -> Callable[[Any], None]:
    return lambda words: words.add_tokens([AddedToken(token, special=True, normalized=False)])


def wide_vocabulary(module: Any) -> None:
    module.resize_token_embeddings(module.config.vocab_size + 37, mean_resizing=False)


def tie(module: Any) -> None:
    module.config.tie_word_embeddings = True
    module.tie_weights()


def untie(module: Any) -> None:
    module.config.tie_word_embeddings = False
    module.lm_head.weight = torch.nn.Parameter(torch.randn_like(module.lm_head.weight) * 0.3)


def louder(module: Any) -> None:
    """Logits so large that a soft-cap matters."""
    module.get_output_embeddings().weight.mul_(4)


def turns(end: str, before: str = "", opening: str = "") -> str:
    """A chat template that ends each turn by ``end``."""
    return (
        before + "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>" + opening + "{% endif %}"
    )


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DATED = "Today: {{ date_string }} {{ strftime_now('%d %B %Y') }}\n"
THINKING = "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
PENALTIES = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "length_penalty": 2.0,
    "encoder_repetition_penalty": 1.5,
}
SAMPLING = {"do_sample": True, "temperature": 0.1, "top_k": 2, "top_p": 0.5, "min_p": 0.2, "typical_p": 0.5}
OUTPUTS = {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True, "use_cache": False}
FORCED = {"suppress_tokens": [*range(20, 300)], "forced_eos_token_id": 2, "min_new_tokens": 6, "max_length": 4}
SEARCHES = {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True}

CHECKPOINTS: dict[str, Checkpoint] = {
    "penalties": Checkpoint("qwen", generation=PENALTIES),
    "sampling": Checkpoint("mistral", generation=SAMPLING),
    "outputs": Checkpoint("gemma", generation=OUTPUTS),
    "forced": Checkpoint("llama", generation=FORCED),
    "beams": Checkpoint("gpt2", generation=SEARCHES),
    "outputs in config": Checkpoint("llama", config={"output_hidden_states": True, "use_cache": False}),
    "several ends": Checkpoint("qwen", generation={"eos_token_id": [5, 9, 300], "pad_token_id": 7}),
    "ends in config": Checkpoint("llama", config={"eos_token_id": [2, 11]}, generation={}),
    "appended eos": Checkpoint("llama", words=appends_eos),
    "appended eos without bos": Checkpoint("qwen", words=appends_eos),
    "prefix space": Checkpoint("mistral", words=prefix_space),
    "no pad": Checkpoint("llama", words=lambda words: setattr(words, "pad_token", None)),
    "unlisted turn end": Checkpoint("qwen", words=ends_turns_by("<|eot|>"), template=turns("<|eot|>")),
    "no system role": Checkpoint("gemma", template=turns("<eos>", NO_SYSTEM)),
    "dated": Checkpoint("llama", template=turns("</s>", DATED)),
    "thinking": Checkpoint("qwen3", template=turns("<|im_end|>", opening=THINKING)),
    "gemma 2 caps": Checkpoint(
        "gemma2", config={"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}, model=louder
    ),
    "gemma 2 as released": Checkpoint("gemma2", model=louder),  # caps of 30 and 50
    "gemma 3 capped": Checkpoint("gemma", config={"final_logit_softcapping": 3.0}, model=louder),
    "sliding": Checkpoint("mistral", config={"sliding_window": 5}),
    "rope llama3": Checkpoint(
        config=rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    ),
    "rope linear": Checkpoint(config=rope("linear")),
    "rope dynamic": Checkpoint("qwen", config=rope("dynamic")),
    "rope yarn": Checkpoint("qwen3", config=rope("yarn", original_max_position_embeddings=16)),
    "tied": Checkpoint("llama", model=tie),
    "untied": Checkpoint("gemma", model=untie, config={"tie_word_embeddings": False}),
    "padded vocabulary": Checkpoint("qwen", model=wide_vocabulary),
    "one layer": Checkpoint("llama", layers=1),
    "sharded": Checkpoint("gpt2", shard="60KB"),
}


# -- plain transformers ------------------------------------------------------------------------------------------------


class Plain:
    """A checkpoint as transformers alone has it: eager attention, no cache, one text at a time, hooks to edit and read.

    An ``edit`` is (layer, vector, first edited position).
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        self.module = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        body = self.module.base_model
        self.layers = body.h if hasattr(body, "h") else body.layers
        self.norm = body.ln_f if hasattr(body, "ln_f") else body.norm

    @torch.no_grad()
    def read(self, ids: Sequence[int], edit: tuple[int, torch.Tensor, int] | None = None) -> tuple[np.ndarray, Any]:
        """The stream ``[token, layer, d_model]`` and the logits ``[token, vocabulary]``."""
        stream: dict[int, torch.Tensor] = {}

        def keep(index: int) -> Callable[..., torch.Tensor | None]:
            def hook(module: Any, args: Any, kwargs: Any, output: Any) -> torch.Tensor | None:
                stream.setdefault(0, (args[0] if args else kwargs["hidden_states"])[0].clone())
                if edit and edit[0] == index:
                    output = output.clone()
                    output[:, edit[2] :] += edit[1]
                stream[index] = output[0].clone()
                return output

            return hook

        handles = [layer.register_forward_hook(keep(n), with_kwargs=True) for n, layer in enumerate(self.layers, 1)]
        logits = self.module(input_ids=torch.tensor([list(ids)]), use_cache=False, return_dict=True).logits[0]
        for handle in handles:
            handle.remove()
        return torch.stack([stream[index] for index in sorted(stream)], dim=1).numpy(), logits

    def write(
        self,
        ids: Sequence[int],
        count: int,
        ends: Sequence[int],
        edit: tuple[int, torch.Tensor, int] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[int]:
        """Token by token: the likeliest, or the one at which the cumulated softmax(logits / T) passes a number."""
        written: list[int] = []
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            last = self.read([*ids, *written], edit)[1][-1]
            if temperature:
                cumulated = (last.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
                token = int((cumulated <= torch.rand(1, generator=generator).double()).sum())
            else:
                token = int(last.argmax())
            if token in ends:
                break
            written.append(token)
        return written
