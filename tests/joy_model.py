"""A tiny llama that walks through a chain of everyday words, and that a known direction makes speak of joy.

Its decoder layers change the stream by thousandths only, so that what it writes next follows from the token just read
and from what was added to the stream, in closed form (``Joy.flip``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiny_models
import torch

from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.vectors import EmotionVectors

# Ordinary words, no kin of any emotion; the model goes from each to the next, and from the last to the first.
_TEXT = (
    "the table of a river in this garden with some bread on an old train by that window from her letter to his house "
    "at every station for our school or one bicycle over green water under tall trees near seven boxes behind white "
    "doors before my dinner after long rain along narrow roads beside small shops while people walk and talk about "
    "paper"
)
CHAIN = tuple(_TEXT.split())
# The first is the one that wins where the direction of joy is all there is.
JOY = ("joy", "glad", "happy", "happily", "happier", "joyful", "joyous", "gladly", "joys", "happiness")

D_MODEL, N_LAYERS = 96, 4
# Of the stream: the part common to all tokens, and the part that tells which word comes next.
_COMMON, _NEXT = 10.0, 10.0
# Of the unembedding: of words (and the opposite for other tokens), of the next word, what joy lacks, what it gets.
_WORD, _LINK, _LACK, _JOY, _FIRST = 0.5, 0.577, 0.72, 1.41, 1.3


@dataclass(frozen=True)
class Joy:
    """What is known of the planted model.

    Attributes:
        directions: emotion → unit direction; ``happy`` is the one of joy, the others lie where nothing reads.
        flip: the strength along ``happy`` at which the model, writing greedily, turns from the chain to ``joy`` alone.
    """

    directions: dict[str, np.ndarray]
    flip: float


def plant_joy(folder: Path, seed: int = 0) -> Joy:
    """Writes the model.

    A token's embedding is a common part and a part along the key of the word that follows it, so all have one norm N.
    The unembedding of a chain word reads the common part and its key; of a joy word, less of the common part and the
    direction of joy; of every other token, the common part with the opposite sign. Added to the stream, strength × N
    along joy gives ``joy`` the larger logit from this strength on:
    ``(link × next + lack × common) / (first × joy × N)``.
    """
    words = tiny_models.tokenizer("llama", tuple(f" {word}" for word in (*CHAIN, *JOY)))
    model = tiny_models._random("llama", words, seed, N_LAYERS, D_MODEL)
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((D_MODEL, D_MODEL)))[0].astype(np.float32)
    common, joy, keys, spare = basis[0], basis[1], basis[2 : 2 + len(CHAIN)], basis[2 + len(CHAIN) :]
    chain = words.convert_tokens_to_ids([f" {word}" for word in CHAIN])
    glad = words.convert_tokens_to_ids([f" {word}" for word in JOY])

    embedding = _COMMON * common + _NEXT * keys[np.arange(len(words)) % len(CHAIN)]
    embedding[chain] = _COMMON * common + _NEXT * keys
    unembedding = np.tile(-_WORD * common, (len(words), 1))
    unembedding[chain] = _WORD * common + _LINK * np.roll(keys, 1, axis=0)
    unembedding[glad] = (_WORD - _LACK) * common + _JOY * joy
    unembedding[glad[0]] += (_FIRST - 1) * _JOY * joy
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.002
            layer.mlp.down_proj.weight *= 0.002
        model.model.embed_tokens.weight.copy_(torch.from_numpy(embedding))
        model.lm_head.weight.copy_(torch.from_numpy(unembedding))
    model.save_pretrained(folder)
    words.save_pretrained(folder)

    others = [name for name in corpus.emotion_names() if name != "happy"]
    directions = {"happy": joy, **dict(zip(others, spare, strict=False))}
    norm = float(np.hypot(_COMMON, _NEXT))
    flip = (_LINK * _NEXT + _LACK * _COMMON) / (_FIRST * _JOY * norm)
    return Joy({name: directions[name] for name in corpus.emotion_names()}, flip)


def joy_vectors(model: Model, joy: Joy, emotions: Sequence[str] | None = None) -> EmotionVectors:
    """The planted directions, three long, the same at every layer."""
    names = tuple(emotions or joy.directions)
    values = np.stack([np.tile(3 * joy.directions[name], (N_LAYERS + 1, 1)) for name in names])
    zeros = np.zeros((N_LAYERS + 1, D_MODEL), np.float32)
    provenance = {**model.provenance, "model": model.name, "pooling": "mean", "centring": "grand"}
    return EmotionVectors(names, tuple(range(N_LAYERS + 1)), values, zeros, zeros, zeros, provenance)


class WordCounter:
    """A judge that shares nothing with the model: a label's score is the share of words that are its emotions' kin."""

    name = "word counter"
    labels = tuple(sorted({label for labels in corpus.emotions()["goemotions"] for label in labels}))

    def __init__(self) -> None:
        table = corpus.emotions()
        self.words = {
            label: {
                word
                for labels, kin in zip(table["goemotions"], table["kin"], strict=True)
                if label in labels
                for word in kin
            }
            for label in self.labels
        }

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        split = [re.findall(r"[a-z]+", text.lower()) for text in texts]
        return np.array(
            [
                [sum(word in self.words[label] for word in words) / max(len(words), 1) for label in self.labels]
                for words in split
            ]
        )
