"""A llama that knows every Chinese word as one token, whose unembedding is its emotion's direction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tiny_models
import torch

import emotrace
from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.study.languages.lexicon import EXAMPLES, lexicon
from emotrace.study.languages.readout import Sizes
from emotrace.vectors import EmotionVectors

PROMPTS = ["The door opened and", "After supper they all went down to the river, where the boats were", "On Monday"]
SMALL = Sizes(permuted=8, random=4, new_tokens=5, written_prompts=2, bootstrap=60, permutations=99)
NAMES = corpus.emotion_names()


def permuted_labels(vectors: EmotionVectors, count: int = 20) -> EmotionVectors:
    """Vectors of means over all emotions in random proportions, which is what shuffled labels give."""
    weights = np.random.default_rng(3).standard_normal((count, len(vectors.emotions)))
    values = np.tensordot(weights - weights.mean(axis=1, keepdims=True), vectors.values, 1).astype(np.float32)
    return replace(vectors, emotions=tuple(f"permuted-{number}" for number in range(1, count + 1)), values=values)


def plant_chinese(folder: Path) -> tuple[Model, EmotionVectors]:
    """The model, and vectors that are the words' directions at every layer."""
    table, examples = lexicon(), [word for words in EXAMPLES.values() for word in words]
    used = set("".join([*table["word"], *examples]))
    filler = [chr(code) for code in range(0x4E00, 0x9FFF, 97) if chr(code) not in used]
    words = tiny_models.tokenizer("llama", (*table["word"], *examples, *filler))
    network = tiny_models._random("llama", words, seed=0, n_layers=4, d_model=64)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0][: len(NAMES)].astype(np.float32)
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight *= 0.01
            layer.mlp.down_proj.weight *= 0.01
        for row in table.itertuples():
            direction = torch.from_numpy(basis[NAMES.index(row.emotion)])
            network.lm_head.weight[words.convert_tokens_to_ids(row.word)] = direction
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    model = emotrace.load(str(folder))
    values = np.repeat(basis[:, None], model.n_layers + 1, axis=1)
    zero = np.zeros_like(values[0])
    made = {**model.provenance, "model": model.name, "method": "planted", "pooling": "mean", "centring": "grand"}
    return model, EmotionVectors(tuple(NAMES), tuple(range(model.n_layers + 1)), values, zero, zero, zero, made)
