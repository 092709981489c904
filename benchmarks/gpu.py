"""Reading and steering on a GPU, in one script of a few minutes that needs nothing but the package.

``python benchmarks/gpu.py [--out FOLDER] [--small]``. The models have real shapes (Llama of 1B, 3B and 8B, Gemma 3 of
1B with its vocabulary) and random weights, made on the device in bfloat16: speed does not depend on what they say.
``--small`` tries every part with small shapes, on a CPU if there is no GPU.

For each model, medians of several turns:

- *reading*, all layers and both poolings, 252 texts of 40 to 110 tokens, in batches of each budget of tokens; against
  the bare body (the same batches, no head, nothing kept), ``output_hidden_states`` of transformers with the same
  pooling after it, one text at a time, and the products of the weights alone on the batches' tokens (the chip's limit);
- *steering sweep*, 480 rows of 4 prompts, 40 tokens, each row with a vector of its own: against ``generate`` of
  transformers unsteered on the same batches, and one row at a time with a hook;
- *memory* over the weights, at its peak, of both.

Exactness: a small model in float32 on the device against the CPU, and in bfloat16 against that.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as token_models

import emotrace
from emotrace import activations, steering
from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.tokens import Tokens, Writing, batches, pad_left, pad_right

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHARED = {"max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _llama(width: int, inner: int, layers: int, heads: int, keys: int, tied: bool) -> tf.PretrainedConfig:
    return tf.LlamaConfig(
        vocab_size=128256,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        tie_word_embeddings=tied,
        **SHARED,
    )


# Shapes as the publishers' config.json have them.
SHAPES: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "llama-1b": lambda: _llama(2048, 8192, 16, 32, 8, True),
    "llama-3b": lambda: _llama(3072, 8192, 28, 24, 8, True),
    "llama-8b": lambda: _llama(4096, 14336, 32, 32, 8, False),
    "gemma-1b": lambda: tf.Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=1152,
        intermediate_size=6912,
        num_hidden_layers=26,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        **SHARED,
    ),
}
SMALL: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "llama-small": lambda: tf.LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, **SHARED
    )
}


def tokenizer() -> tf.PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on the passages: the benchmarks use token ids, a handle needs one."""
    core = Tokenizer(token_models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus.passages()["text"], trainer)
    return tf.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def random_model(config: tf.PretrainedConfig, dtype: torch.dtype, device: str) -> Model:
    """Random weights made where they are used."""
    torch.manual_seed(0)
    of_class: Any = tf.AutoModelForCausalLM
    with torch.device(device):
        module = of_class.from_config(config, dtype=dtype).eval()
    return emotrace.attach(module, tokenizer(), name="random")


def texts(count: int, vocabulary: int, low: int, high: int) -> list[Tokens]:
    """Random token ids, lengths even between ``low`` and ``high``."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(low, high, count).round().astype(int)
    rows = [tuple(int(token) for token in rng.integers(3, vocabulary, size=length)) for length in lengths]
    return [Tokens(row, 0, len(row)) for row in rows]


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], repetitions: int = 3) -> float:
    """The median of several runs after one that warms up."""
    run()
    taken = []
    for _ in range(repetitions):
        wait()
        start = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def peak(run: Callable[[], object]) -> float:
    """Gigabytes that a run takes on the device beyond what is there before."""
    if DEVICE == "cpu":
        run()
        return float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    wait()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


# -- reading ----------------------------------------------------------------------------------------------------------


def bare_body(model: Model, rows: Sequence[Tokens], budget: int) -> None:
    body = model.nn._module.base_model
    for group in batches([len(row.ids) for row in rows], budget):
        with torch.no_grad():
            body(input_ids=pad_right([rows[index].ids for index in group]).to(DEVICE), use_cache=False)


def hidden_states(model: Model, rows: Sequence[Tokens], budget: int) -> None:
    """What most scripts do: every layer's whole stream is kept, pooled afterwards."""
    for group in batches([len(row.ids) for row in rows], budget):
        members = [rows[index] for index in group]
        weights = torch.stack([activations.pooling_weights(members, name) for name in activations.POOLINGS], dim=1)
        with torch.no_grad():
            batch = pad_right([row.ids for row in members]).to(DEVICE)
            states = model.nn._module(input_ids=batch, use_cache=False, output_hidden_states=True).hidden_states
            torch.stack([weights.to(DEVICE) @ state.float() for state in states]).cpu()


def products(model: Model, rows: Sequence[Tokens], budget: int) -> Callable[[], None]:
    """The products of the body's weights alone, on as many tokens a batch."""
    maps = [part for part in model.nn._module.base_model.modules() if isinstance(part, torch.nn.Linear)]
    sizes = [
        len(group) * max(len(rows[index].ids) for index in group)
        for group in batches([len(row.ids) for row in rows], budget)
    ]
    dtype = maps[0].weight.dtype
    inputs = {
        width: torch.randn(max(sizes), width, dtype=dtype, device=DEVICE) for width in {m.in_features for m in maps}
    }

    def run() -> None:
        with torch.no_grad():
            for size in sizes:
                for part in maps:
                    torch.nn.functional.linear(inputs[part.in_features][:size], part.weight)

    return run


def reading(model: Model, name: str, budgets: Sequence[int], count: int) -> list[dict[str, Any]]:
    rows = texts(count, model.nn._module.config.vocab_size, 40, 110)
    tokens = sum(len(row.ids) for row in rows)
    made = []
    for budget in budgets:
        ways: dict[str, Callable[[], object]] = {
            "emotrace": partial(activations.read_activations, model, rows, batch_tokens=budget),
            "bare body": partial(bare_body, model, rows, budget),
            "output_hidden_states": partial(hidden_states, model, rows, budget),
            "products of the weights": products(model, rows, budget),
        }
        for way, run in ways.items():
            taken = seconds(run)
            made.append(
                {
                    "model": name,
                    "what": "reading",
                    "way": way,
                    "budget": budget,
                    "tokens_per_second": tokens / taken,
                    "peak_gb": peak(run),
                }
            )
    single = rows[:: max(1, count // 24)]
    taken = seconds(lambda: activations.read_activations(model, single, batch_tokens=1), 1)
    alone = {"model": name, "what": "reading", "way": "one text at a time", "budget": 1}
    return [*made, {**alone, "tokens_per_second": sum(len(row.ids) for row in single) / taken}]


# -- steering ---------------------------------------------------------------------------------------------------------


def sweep(model: Model, name: str, rows_at_once: Sequence[int], rows: int, new: int) -> list[dict[str, Any]]:
    """Rows of four prompts, each with a vector of its own, that never end before ``new`` tokens are written."""
    prompts = [row.ids for row in texts(4, model.nn._module.config.vocab_size, 14, 22)]
    order = [prompts[number * 4 // rows] for number in range(rows)]
    layer = model.n_layers // 2
    vectors = torch.randn(rows, model.d_model, generator=torch.Generator().manual_seed(0))
    module, settings = model.nn._module, {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}

    def steered(size: int) -> None:
        for start in range(0, rows, size):
            part = slice(start, start + size)
            steering.generate(model, order[part], steering.Edit({layer: vectors[part]}), Writing(max_new_tokens=new))

    def unsteered(size: int) -> None:
        for start in range(0, rows, size):
            ids, mask = pad_left(order[start : start + size])
            with torch.no_grad():
                module.generate(input_ids=ids.to(DEVICE), attention_mask=mask.to(DEVICE), **settings)

    def one_row(number: int) -> None:
        def hook(_: object, args: object, output: torch.Tensor) -> torch.Tensor:
            output[:, -1] += vectors[number].to(output)
            return output

        handle = model.layers[layer - 1]._module.register_forward_hook(hook)
        with torch.no_grad():
            module.generate(input_ids=torch.tensor([order[number]], device=DEVICE), **settings)
        handle.remove()

    made = []
    for size in rows_at_once:
        for way, run in {"emotrace": steered, "generate, unsteered": unsteered}.items():
            taken = seconds(lambda run=run, size=size: run(size), 1)
            speed, memory = rows * new / taken, peak(lambda run=run, size=size: run(size))
            made.append(
                {
                    "model": name,
                    "what": "sweep",
                    "way": way,
                    "budget": size,
                    "tokens_per_second": speed,
                    "peak_gb": memory,
                }
            )
    taken = seconds(lambda: [one_row(number) for number in (0, rows // 2)], 1)
    made.append(
        {
            "model": name,
            "what": "sweep",
            "way": "one row at a time, a hook",
            "budget": 1,
            "tokens_per_second": 2 * new / taken,
        }
    )
    return made


# -- exactness --------------------------------------------------------------------------------------------------------


def exactness(config: tf.PretrainedConfig) -> list[dict[str, Any]]:
    """Largest difference to the CPU in float32, over the largest number; and the share of equal greedy tokens."""
    reference = random_model(config, torch.float32, "cpu")
    rows = texts(24, config.vocab_size, 10, 60)
    prompts = [row.ids[:10] for row in rows[:8]]
    edit = steering.Edit({2: torch.randn(8, reference.d_model, generator=torch.Generator().manual_seed(0))})
    plain = activations.read_activations(reference, rows)["mean"]
    written = steering.generate(reference, prompts, edit, Writing(max_new_tokens=24))
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        module = tf.AutoModelForCausalLM.from_config(config)
        module.load_state_dict(reference.nn._module.state_dict())
        model = emotrace.attach(module.to(DEVICE, dtype).eval(), tokenizer(), name="random")
        read = activations.read_activations(model, rows)["mean"]
        texts_here = steering.generate(model, prompts, edit, Writing(max_new_tokens=24))
        same = np.mean([mine == theirs for mine, theirs in zip(texts_here, written, strict=True)])
        made.append(
            {
                "dtype": str(dtype).removeprefix("torch."),
                "largest_relative_difference": float(np.abs(read - plain).max() / np.abs(plain).max()),
                "equal_texts": float(same),
            }
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--small", action="store_true", help="small shapes: to try the script")
    parser.add_argument("--models", nargs="*", help="some of the shapes")
    chosen = parser.parse_args()
    shapes = SMALL if chosen.small else SHAPES
    shapes = {name: shapes[name] for name in chosen.models or shapes}
    budgets, sizes = ((512, 2048), (16, 64)) if chosen.small else ((512, 2048, 8192, 32768), (64, 128, 256, 480))
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = False
    chosen.out.mkdir(parents=True, exist_ok=True)
    chip = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or platform.machine()
    small = next(iter(SMALL.values()))()
    exact = exactness(small)
    print(chip, json.dumps(exact), flush=True)
    pd.DataFrame(exact).assign(device=chip).to_csv(chosen.out / "gpu_exactness.csv", index=False)
    rows: list[dict[str, Any]] = []
    for name, config in shapes.items():
        start = time.perf_counter()
        model = random_model(config(), dtype, DEVICE)
        rows += reading(model, name, budgets, 24 if chosen.small else 252)
        rows += sweep(model, name, sizes, 64 if chosen.small else 480, 8 if chosen.small else 40)
        del model
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        table = pd.DataFrame(rows).assign(device=chip)
        table.to_csv(chosen.out / "gpu.csv", index=False)
        shown = table[table["model"] == name].drop(columns=["device", "model"])
        print(f"{name}, {time.perf_counter() - start:.0f} s\n{shown.to_string(index=False)}", flush=True)


if __name__ == "__main__":
    main()
