"""Tiny random checkpoints with the real world's files around them, and what plain transformers computes of them.

A report of a checkpoint that goes wrong is one more entry of ``CHECKPOINTS``: every function of emotrace that reads,
writes, edits or scores then runs over it (tests/test_awkward_checkpoints.py), against :class:`Plain`. What cannot be
computed rightly is an entry too, with the words by which it is ``refused``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import tiny_gguf
import tiny_models
import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from emotrace.instrument import corpus


@dataclass(frozen=True)
class Checkpoint:
    """What is awkward about one: the family of tests/tiny_models.py that it is, and what differs.

    Attributes:
        config: entries of ``config.json``; None removes one.
        generation: the whole ``generation_config.json``; None: none is written.
        model: changes the random model before it is saved.
        words: changes the tokenizer before it is saved, and before the model is made for its vocabulary.
        template: the chat template.
        turn_end: the token by which it ends a turn, where no list of ends names it.
        shard: the largest file, as ``save_pretrained`` takes it.
        layers: number of layers.
        tensors: changes the saved tensors, name → tensor.
        files: changes the folder, once all is saved.
        gguf: the architecture by llama.cpp's name: the folder's model is loaded from a GGUF file of it.
        keys: of that file's metadata, as tests/tiny_gguf.py takes them.
        load: settings of ``emotrace.load``.
        refused: words of the line by which it is refused; empty: it is read rightly.
        at: where it is refused: in ``load``, or by what reads the ``stream`` (all that there is), or the ``logits``.
    """

    family: str = "llama"
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None
    model: Callable[[Any], object] | None = None
    words: Callable[[Any], object] | None = None
    template: str | None = None
    turn_end: str = ""
    shard: str = "1GB"
    layers: int = 4
    tensors: Callable[[dict[str, Any]], object] | None = None
    files: Callable[[Path], object] | None = None
    gguf: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    at: str = "load"

    def build(self, folder: Path) -> Path:
        """Writes it into ``folder``; what ``emotrace.load`` takes: the folder, or a file in it."""
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
        if self.tensors:
            file = folder / "model.safetensors"
            stored = safetensors.torch.load_file(file)
            self.tensors(stored)
            safetensors.torch.save_file(stored, file, metadata={"format": "pt"})
        if self.files:
            self.files(folder)
        return tiny_gguf.write(folder, folder / "model.gguf", self.gguf, **self.keys) if self.gguf else folder


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


def sentencepiece(words: Any) -> None:
    """As Gemma's: blanks are ▁, what has no piece is its bytes, and pieces are merged in their order."""
    trained, special = Tokenizer(models.BPE()), [words.pad_token, words.eos_token, words.bos_token, "<unk>"]
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    trained.train_from_iterator(corpus.passages()["text"], trainer)
    pieces = sorted(trained.get_vocab(), key=lambda piece: (len(piece) == 1, trained.token_to_id(piece)))
    vocabulary = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    splits = [[(piece[:cut], piece[cut:]) for cut in range(1, len(piece))] for piece in pieces]
    merges = [pair for some in splits for pair in sorted(some, key=lambda pair: [ids.get(part, -1) for part in pair])]
    merges = [pair for pair in merges if ids.keys() >= set(pair)]
    core = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    bos = words.bos_token
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, ids[bos])]
    )
    words._tokenizer = core
    words.unk_token = "<unk>"


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

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64, "rope_theta": 5e5}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e4}
SLIDES = [True, True, False, True]  # the tiny Gemmas' own pattern


def gguf(family: str, architecture: str, config: Mapping[str, Any] | None = None, **keys: Any) -> Checkpoint:
    """A model as llama.cpp writes it."""
    return Checkpoint(family, config=config or {}, gguf=architecture, keys=keys)


def gguf_refused(words: str, **keys: Any) -> Checkpoint:
    return Checkpoint("llama", gguf="llama", keys=keys, refused=words)


def prefixed(prefix: str) -> Callable[[dict[str, Any]], None]:
    """All tensors under the name that a wrapper around the model gave them."""

    def change(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return change


def scaled(name: str, factor: float) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.__setitem__(name, tensors[name] * factor)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.pop(name)


def with_lora(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(4, 32)


def lora_folder(folder: Path) -> None:
    """What ``save_pretrained`` of PEFT writes: no model, its changes alone."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    safetensors.torch.save_file({name: torch.zeros(4, 32)}, folder / "adapter_model.safetensors")
    (folder / "model.safetensors").unlink()
    adapter_beside(folder)


def adapter_beside(folder: Path) -> None:
    content = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "org/base", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(content))


def stored_as_bin(folder: Path) -> None:
    """As before safetensors."""
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_pictures(folder: Path) -> None:
    """As Gemma 3 from 4B on is stored: the language model within one that also sees."""
    text = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sight = tf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    whole = tf.Gemma3ForConditionalGeneration(
        tf.Gemma3Config(text_config=text.config, vision_config=sight, mm_tokens_per_image=4)
    )
    whole.model.language_model.load_state_dict(text.model.state_dict())
    whole.lm_head.load_state_dict(text.lm_head.state_dict())
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder)


def templates_by_name(*names: str) -> Callable[[Path], None]:
    """Several chat templates, as Command R has them."""

    def change(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        path = folder / "tokenizer_config.json"
        named = [{"name": name, "template": turns("</s>")} for name in names]
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": named}))

    return change


NORM, DOWN, UP = "model.norm.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight"
HERE, NAN = "in float32 gives", float("nan")

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
    "sentencepiece": Checkpoint("gemma", words=sentencepiece),
    "no pad": Checkpoint("llama", words=lambda words: setattr(words, "pad_token", None)),
    "unlisted turn end": Checkpoint(
        "qwen", words=ends_turns_by("<|eot|>"), template=turns("<|eot|>"), turn_end="<|eot|>"
    ),
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
    "without prefix": Checkpoint(  # as openai-community/gpt2 is stored
        "gpt2", tensors=lambda t: [t.__setitem__(name.removeprefix("transformer."), t.pop(name)) for name in list(t)]
    ),
    "with what training left": Checkpoint(
        files=lambda folder: (folder / "training_args.bin").write_bytes(b"no weights")
    ),
    # of the public reports of 2025 and 2026
    "head of its own though tied": Checkpoint(config={"tie_word_embeddings": True}),  # transformers#42612
    "language model within another": Checkpoint("gemma", files=with_pictures),  # kvpress#129, vllm#15031
    "templates by name": Checkpoint(files=templates_by_name("default", "tool_use")),
    "end as text": Checkpoint(generation={"eos_token_id": "</s>"}),
    "negative ids": Checkpoint(config={"pad_token_id": -1}, generation={"eos_token_id": -1, "pad_token_id": -1}),
    "cache by name": Checkpoint("gemma2", generation={"cache_implementation": "hybrid", "eos_token_id": [1]}),
    "bin": Checkpoint("gpt2", files=stored_as_bin),
    # GGUF, as llama.cpp writes it
    "gguf llama": gguf("llama", "llama"),
    "gguf mistral": gguf("mistral", "llama"),
    "gguf qwen2": gguf("qwen", "qwen2"),
    "gguf qwen3": gguf("qwen3", "qwen3"),
    "gguf gemma2": Checkpoint(
        "gemma2", words=sentencepiece, gguf="gemma2", keys={"attention__sliding_window_pattern": SLIDES}
    ),
    "gguf gemma2 caps": Checkpoint(
        "gemma2",
        {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
        words=sentencepiece,
        gguf="gemma2",
        keys={
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
            "attention__sliding_window_pattern": SLIDES,
        },
    ),
    "gguf gemma3": Checkpoint(
        "gemma", words=sentencepiece, gguf="gemma3", keys={"attention__sliding_window_pattern": SLIDES}
    ),
    "gguf rope llama3": gguf(
        "llama",
        "llama",
        {"rope_parameters": LLAMA3},
        tensors={"rope_freqs.weight": tiny_gguf.llama3_factors(5e5, 8, 32.0, 1.0, 4.0, 64)},
    ),
    "gguf rope linear": gguf(
        "llama",
        "llama",
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}},
        rope__scaling__type="linear",
        rope__scaling__factor=4.0,
    ),
    "gguf rope yarn": gguf(
        "qwen",
        "qwen2",
        {"rope_parameters": YARN},
        rope__scaling__type="yarn",
        rope__scaling__factor=4.0,
        rope__scaling__original_context_length=128,
    ),
    "gguf no word of bos": gguf(
        "llama", "llama", whole={"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}
    ),
    "gguf end of turn": Checkpoint(
        "llama", generation={"eos_token_id": [2, 7]}, gguf="llama", keys={"whole": {"tokenizer.ggml.eot_token_id": 7}}
    ),
    "gguf tied": Checkpoint("qwen", model=tie, gguf="qwen2"),
    "gguf one layer": Checkpoint("llama", layers=1, gguf="llama"),
    "gguf penalties beside": Checkpoint("qwen", generation=PENALTIES, gguf="qwen2"),
    # refused: nothing half-loaded
    "missing tensor": Checkpoint(tensors=without(UP), refused=r"not whole, tensors: 1 missing \(" + UP),
    "missing head": Checkpoint(tensors=without("lm_head.weight"), refused="1 missing \\(lm_head.weight"),
    "missing bias": Checkpoint("gpt2", tensors=without("transformer.h.1.attn.c_attn.bias"), refused="1 missing"),
    "another shape": Checkpoint(
        tensors=lambda t: t.update({NORM: torch.ones(31)}), refused=r"another shape .*norm.weight \[31\] for \[32\]"
    ),
    "more layers than said": Checkpoint(config={"num_hidden_layers": 3}, refused=r"no place for \(model.layers.3"),
    "fewer layers than said": Checkpoint(config={"num_hidden_layers": 5}, refused=r"missing \(model.layers.4"),
    "peft prefix": Checkpoint("mistral", tensors=prefixed("base_model.model."), refused="PEFT adapter is merged first"),
    "lora left over": Checkpoint(tensors=with_lora, refused="PEFT adapter is merged first"),
    "adapter alone": Checkpoint("qwen", files=lora_folder, refused="holds a PEFT adapter"),
    "adapter beside its model": Checkpoint("gemma", files=adapter_beside, refused="holds a PEFT adapter"),
    "prefix of a whole that sees": Checkpoint(  # transformers#45953
        "gemma", tensors=prefixed("language_model."), refused="54 that the model has no place for .language_model.model"
    ),
    "classifier": Checkpoint(
        "qwen", model=tie, tensors=lambda t: t.update({"score.weight": torch.zeros(2, 32)}), refused="for .score.weight"
    ),
    "gguf of a projector": gguf_refused("is a GGUF mmproj, no model", whole={"general.type": "mmproj"}),
    "compiled": Checkpoint(tensors=prefixed("_orig_mod."), refused="not whole, tensors: .* missing"),
    "shard lost": Checkpoint(
        "gpt2",
        shard="60KB",
        files=lambda folder: sorted(folder.glob("model-*"))[1].unlink(),
        refused="cannot be loaded .*model-00002-of-",
    ),
    "cut short": Checkpoint(
        files=lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 999), refused="cannot be loaded"
    ),
    "unknown quantisation": Checkpoint(config={"quantization_config": {"quant_method": "own"}}, refused="'own' is not"),
    "nan weights": Checkpoint(tensors=scaled(UP, NAN), refused="weights in float32 are NaN or infinite: " + UP),
    "one infinite weight": Checkpoint(
        "gemma", tensors=lambda t: t[DOWN].view(-1)[5:6].fill_(-torch.inf), refused="NaN or infinite: " + DOWN
    ),
    "too large for float16": Checkpoint(
        tensors=scaled(UP, 1e7), load={"dtype": "float16"}, refused="weights in float16 are NaN or infinite: " + UP
    ),
    "gguf nan weights": Checkpoint(tensors=scaled(UP, NAN), gguf="llama", refused="NaN or infinite"),
    "gguf missing tensor": gguf_refused("1 missing", tensors={"blk.1.ffn_up.weight": None}),
    "gguf tensor more": gguf_refused("ffn_gate_inp", tensors={"blk.0.ffn_gate_inp.weight": np.zeros((4, 32))}),
    "gguf unknown scaling": gguf_refused("rope.scaling.type = longrope", rope__scaling__type="longrope"),
    "gguf window": gguf_refused("llama.attention.sliding_window = 16", attention__sliding_window=16),
    "gguf unknown key": gguf_refused("llama.attention.brand_new = 3", attention__brand_new=3),
    "gguf unknown words": gguf_refused("pre = deepseek-llm", whole={"tokenizer.ggml.pre": "deepseek-llm"}),
    "gguf adapter": gguf_refused("is a GGUF adapter, no model", whole={"general.type": "adapter"}),
    "gguf part": gguf_refused("one of 3 parts", whole={"split.count": 3}),
    # refused where it shows: numbers that overflow on the way
    "stream overflows": Checkpoint(
        tensors=scaled(DOWN, 1e38),
        refused=HERE + " (activations from layer 2 on|logits) that are NaN or infinite",
        at="stream",
    ),
    "stream overflows in float16": Checkpoint(
        "qwen",
        tensors=scaled(DOWN, 3e4),
        load={"dtype": "float16"},
        refused="in float16 gives (activations from layer 2 on|logits) .* .float16 overflows: take bfloat16",
        at="stream",
    ),
    "stream overflows on a server": Checkpoint(
        "gemma",
        tensors=scaled(DOWN, 1e38),
        load={"remote": "local"},
        refused=HERE + " (activations from|logits)",
        at="stream",
    ),
    "logits overflow": Checkpoint(
        tensors=scaled(NORM, 1e38), model=louder, refused=HERE + " logits that are NaN or infinite", at="logits"
    ),
    "logits overflow on a server": Checkpoint(
        "mistral",
        tensors=scaled(NORM, 1e38),
        model=louder,
        load={"remote": "local"},
        refused=HERE + " logits that are NaN or infinite",
        at="logits",
    ),
    "logits overflow in float16": Checkpoint(
        "qwen",
        model=louder,
        tensors=scaled(NORM, 3e4),
        load={"dtype": "float16"},
        refused="in float16 gives logits that are NaN or infinite .float16 overflows: take bfloat16 or float32",
        at="logits",
    ),
}


# -- plain transformers ------------------------------------------------------------------------------------------------


class Plain:
    """A checkpoint as transformers alone has it: eager attention, no cache, one text at a time, hooks to edit and read.

    An ``edit`` is (layer, vector, first edited position).
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint | None = None) -> None:
        self.checkpoint = checkpoint or Checkpoint()
        self.tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        self.module = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        body = getattr(self.module.base_model, "language_model", self.module.base_model)
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
