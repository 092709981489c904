"""C5: two methods that separate the emotions alike, although their clouds differ in place, width and directions."""

from __future__ import annotations

import itertools

import numpy as np

from emotrace.instrument import corpus
from emotrace.study.methods import claims, factorial
from emotrace.study.methods.comparison import compare_methods
from emotrace.study.methods.design import AUTHORS, FRAMES, Design

from . import Draw, Simulation

TOPICS, LAYERS = 8, 3
_WIDTH = 40


def _emotions(rng: np.random.Generator, n: int) -> np.ndarray:
    """Directions ``[emotion, width]`` with mean 0 and mean squared length equal to the width."""
    drawn = rng.normal(size=(n, _WIDTH))
    drawn -= drawn.mean(axis=0)
    return drawn * np.sqrt(n * _WIDTH) / np.linalg.norm(drawn)


def _texts(rng: np.random.Generator, emotions: np.ndarray, share: float) -> np.ndarray:
    """Texts ``[topic, emotion, width]`` of which ``share`` of the variance within a topic is the emotion's."""
    noise = rng.normal(size=(TOPICS, *emotions.shape)) + rng.normal(size=(TOPICS, 1, _WIDTH))
    return np.sqrt(share / (1 - share)) * emotions + noise


def _design(pooled: dict[tuple[str, str, str], np.ndarray], emotions: int) -> Design:
    """A design of these readings ``[topic, emotion, width]``, the same in each of a few layers but for their noise."""
    names = tuple(corpus.topics().index[:TOPICS]), tuple(corpus.emotion_names()[:emotions])
    present = np.ones((TOPICS, emotions), dtype=bool)
    return Design("simulated", LAYERS, *names, tuple(range(1, LAYERS + 1)), pooled, present, bootstrap=100)


def _separation(generation: float, shared: bool) -> Draw:
    """Comprehension with a share of 0.14 against generation, whose cloud lies elsewhere and is five times as large."""

    def draw(rng: np.random.Generator) -> str:
        ours = _emotions(rng, 20)
        own = ours if shared else _emotions(rng, 20)
        cone = 30 * rng.normal(size=_WIDTH)
        pooled = {}
        for key, emotions, share, scale in (
            (("ours", "plain"), ours, 0.14, 1.0),
            (("self", "chat"), own, generation, 5.0),
        ):
            place = scale * (cone + 30 * rng.normal(size=_WIDTH))
            layers = [place + scale * _texts(rng, emotions, share) for _ in range(LAYERS)]
            for pooling in claims.POOLINGS:
                pooled[(*key, pooling)] = np.stack(layers, axis=2).astype(np.float32)
        table = compare_methods(_design(pooled, 20), family="llama", instruct=True)
        return claims.comparison_claims({"method_comparison": table}, "llama")[0].verdict()

    return draw


def _authorship(gain: float) -> Draw:
    """Who wrote the texts changes the emotions' share by ``gain``, and nothing else does."""

    def draw(rng: np.random.Generator) -> str:
        emotions, pooled = _emotions(rng, 10), {}
        for author in AUTHORS:
            share = 0.14 + (gain if author == "self" else 0)
            for frame, pooling in itertools.product(FRAMES, claims.POOLINGS):
                layers = [10 * rng.normal(size=_WIDTH) + _texts(rng, emotions, share) for _ in range(LAYERS)]
                pooled[author, frame, pooling] = np.stack(layers, axis=2).astype(np.float32)
        tables = factorial.factorial_tables(_design(pooled, 10))
        return claims.factorial_claims(tables, "llama")[0].verdict()

    return draw


_SMALLEST = "0.02: 2% of the variance among texts on one topic; our passages have 0.14 on SmolLM2"
SIMULATIONS = (
    Simulation(
        name="separation, shared directions",
        claims=("C5.separation.*",),
        rule=claims.SEPARATION.words,
        smallest=_SMALLEST,
        null="8 topics × 20 emotions; either method's emotions have 0.14 of the variance, along the same directions; "
        "generation's cloud lies elsewhere in another cone, five times as large",
        draw_null=_separation(0.14, shared=True),
        effect="0.24 in generation (R of 2.7 against 2.0)",
        draw_effect=_separation(0.24, shared=True),
    ),
    Simulation(
        name="separation, own directions",
        claims=("C5.separation.*",),
        rule=claims.SEPARATION.words,
        smallest=_SMALLEST,
        null="the same, each method's emotions along directions of its own",
        draw_null=_separation(0.14, shared=False),
        effect="0.24 in generation",
        draw_effect=_separation(0.24, shared=False),
    ),
    Simulation(
        name="authorship",
        claims=("C5.authorship",),
        rule=claims.AUTHORSHIP.words,
        smallest="0.05: one text in twenty, which is chance among 20 emotions",
        null="8 topics × 10 emotions, three authors, frames and two poolings; the emotions' share is 0.14 in all",
        draw_null=_authorship(0.0),
        effect="0.3 in the model's own texts",
        draw_effect=_authorship(0.16),
        draws=100,
    ),
)
