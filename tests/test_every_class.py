"""Every causal-LM class of transformers is read, edited, continued and scored as plain hooks do, or refused in a line.

The classes come from the library's registry (tests/every_class.py). ``python tests/test_every_class.py`` writes the
table of docs/models.md.
"""

from __future__ import annotations

from pathlib import Path

import every_class
import numpy as np
import pytest
import tiny_models
import torch
import transformers as tf

import emotrace
from emotrace import EmotraceError, Writing
from emotrace.activations import read_activations
from emotrace.hosts.remote import Remote
from emotrace.scoring import log_likelihoods, score
from emotrace.steering import Edit, generate
from emotrace.tokens import end_tokens

TEXTS = ["The kettle had begun to sing.", "Nobody came.", "She walked along the river until it was dark."]
BEGIN, END = "<!-- classes: made by tests/test_every_class.py -->", "<!-- end of classes -->"
TOLERANCE = 1e-5
"""Largest deviation, relative to the largest number of the plain computation."""


def hooked(module, ids, edits=None, *, layers, cache=None):
    """Plain transformers, one row: the stream at each layer and the logits, under edits at some layers."""
    stream = {}

    def hook(index):
        def run(_, args, kwargs, output):
            hidden = output[0] if isinstance(output, (tuple, list)) else output
            if index == 1:
                stream[0] = (args[0] if args else next(iter(kwargs.values())))[0].clone()
            if edits and index in edits:
                hidden += edits[index]
            stream[index] = hidden[0].clone()

        return run

    handles = [layer.register_forward_hook(hook(index), with_kwargs=True) for index, layer in enumerate(layers, 1)]
    try:
        with torch.no_grad():
            given = {"past_key_values": cache} if cache is not None else {}
            logits = module(input_ids=torch.tensor([ids]), use_cache=cache is not None, **given).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([stream[index] for index in range(len(layers) + 1)]), logits


def deviation(ours, plain) -> float:
    ours, plain = np.asarray(ours, np.float64), np.asarray(plain, np.float64)
    assert ours.shape == plain.shape
    return float(np.abs(ours - plain).max() / max(np.abs(plain).max(), 1e-9))


def compare(kind: str) -> dict[str, float]:
    """Largest relative deviation of each function from the plain computation; EmotraceError where it is refused."""
    module = every_class.build(kind)
    model = emotrace.attach(module, tiny_models.tokenizer("llama"), name=kind)
    model.context = every_class.CONTEXT  # Moshi's is its window, and the texts are longer
    layers = module.get_submodule(model.architecture.layers)
    ids = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    plain = [hooked(module, row, layers=layers) for row in ids]
    found = {
        "read": deviation(
            read_activations(model, TEXTS, poolings=("last",))["last"], [stream[:, -1] for stream, _ in plain]
        )
    }
    prompts = [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[1]]  # two of each: prefixes that rows share
    rows = [ids[0], ids[0], ids[1], ids[1]]
    directions = torch.randn(len(rows), model.d_model, generator=torch.Generator().manual_seed(1))
    at = {2: directions, 3: directions.flip(0)}
    scored = score(model, prompts, Edit(at))
    expected = []
    for number, row in enumerate(rows):
        change = {index: torch.zeros(1, len(row), model.d_model) for index in at}
        for index, values in at.items():
            change[index][:, -1] = values[number]
        expected.append(hooked(module, row, change, layers=layers))
    found["edit"] = deviation(scored["stream"], [stream[:, -1] for stream, _ in expected])
    found["score"] = deviation(scored["log_probabilities"], [logits[-1].log_softmax(-1) for _, logits in expected])
    written = generate(model, rows, Edit(at), Writing(max_new_tokens=6))
    for number, row in enumerate(rows):
        own = {index: values[number] for index, values in at.items()}
        reference = module, row, own, 6, layers, end_tokens(model)
        # Where the class itself goes on otherwise with a cache than without (Moshi, past its window), with one counts.
        assert written[number] == loop(*reference) or written[number] == loop(*reference, cached=True), "tokens differ"
    found["likelihood"] = max(
        deviation(ours, logits[:-1].log_softmax(-1)[torch.arange(2, len(row) - 1), torch.tensor(row[3:])])
        for ours, (_, logits), row in zip(  # each twice: a prompt that rows share is read once
            log_likelihoods(model, [row[:3] for row in ids * 2], [row[3:] for row in ids * 2]),
            plain * 2,
            ids * 2,
            strict=True,
        )
    )
    model.remote = Remote("local")
    found["remote"] = deviation(
        read_activations(model, TEXTS, poolings=("last",))["last"], [stream[:, -1] for stream, _ in plain]
    )
    again = score(model, prompts, Edit(at))
    found["remote_edit"] = deviation(again["stream"], scored["stream"])
    return found


def loop(module, row, edits, count, layers, ends, *, cached=False) -> list[int]:
    """Greedy tokens, one row: the edit acts from the prompt's last token on."""
    ids, cache = list(row), tf.DynamicCache(config=module.config) if cached else None
    for step in range(count):
        new = ids[-1:] if cached and step else ids
        change = {index: torch.zeros(1, len(new), len(values)) for index, values in edits.items()}
        for index, values in edits.items():
            change[index][:, len(new) - 1 - (0 if cached else step) :] = values
        _, logits = hooked(module, new, change, layers=layers, cache=cache)
        ids.append(int(logits[-1].argmax()))
        if ids[-1] in ends:
            return ids[len(row) : -1]
    return ids[len(row) :]


def test_a_window_that_a_class_keeps_in_its_cache_alone_is_its_context():
    """Moshi reads without a window what it writes with one: past it, its own text is not what it would score."""
    module = every_class.build("moshi")
    model = emotrace.attach(module, tiny_models.tokenizer("llama"))
    assert (model.context, module.config.sliding_window) == (16, 16)
    row = list(range(20, 36))
    written = generate(model, [row[:8]], None, Writing(max_new_tokens=8))[0]
    layers = module.get_submodule(model.architecture.layers)
    assert written == loop(module, row[:8], {}, 8, layers, end_tokens(model))
    with pytest.raises(EmotraceError, match=r"too long \(8 tokens and 9 new ones\)"):
        generate(model, [row[:8]], None, Writing(max_new_tokens=9))
    assert emotrace.attach(every_class.build("mistral"), tiny_models.tokenizer("llama")).context == every_class.CONTEXT


# What the issue of the field is this year, and each kind of decoder: attention with rotary, learnt or no positions,
# parallel blocks, mixtures of experts, sliding windows, linear attention and state spaces beside attention.
MUST_PASS = (
    *("gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "mpt", "phi", "phi3", "stablelm", "starcoder2", "cohere2"),
    *("llama", "llama4_text", "mistral", "ministral3", "mixtral", "qwen2", "qwen3", "qwen3_moe", "qwen3_5_text"),
    *("gemma", "gemma2", "gemma3_text", "gemma4_text", "olmo2", "olmo3", "olmoe", "glm4", "glm4_moe", "granite"),
    *("granitemoe", "smollm3", "gpt_oss", "jamba", "nemotron_h", "falcon_h1", "qwen3_next", "lfm2", "olmo_hybrid"),
)


@pytest.mark.parametrize("kind", every_class.CLASSES)
def test_a_class_does_as_plain_hooks_or_is_refused_in_one_line(kind):
    try:
        found = compare(kind)
    except every_class.NoTinyModel as reason:
        assert kind not in MUST_PASS
        pytest.skip(f"no tiny model: {reason}")
    except EmotraceError as refusal:
        found, message = {}, str(refusal)
        begins = f"{kind} is a {kind!r} ({every_class.CLASSES[kind]}) that emotrace cannot read: "
    if found:
        assert max(found.values()) <= TOLERANCE, found
    else:
        assert kind not in MUST_PASS
        assert message.startswith(begins)
        assert "\n" not in message


def table() -> str:
    """The rows of docs/models.md: every class of the registry, what became of it, and the largest deviation."""
    passed, refused, untried = [], [], []
    for kind, name in every_class.CLASSES.items():
        try:
            found = compare(kind)
            passed.append(f"| `{kind}` | {name} | {max(found.values()):.0e} |")
        except every_class.NoTinyModel:
            untried.append(f"`{kind}`")
        except EmotraceError as refusal:
            refused.append(f"| `{kind}` | {name} | {str(refusal).rpartition('cannot read: ')[2]} |")
    return "\n".join(
        [
            f"{len(passed)} pass, {len(refused)} are refused, of {len(untried)} no tiny model was made "
            f"(transformers {tf.__version__}).",
            "",
            "| `model_type` | class | largest relative deviation from plain hooks |",
            "|---|---|---|",
            *passed,
            "",
            "| `model_type` | class | refused, since |",
            "|---|---|---|",
            *refused,
            "",
            f"No tiny model: {', '.join(untried)}.",
        ]
    )


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "models.md"
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}")
