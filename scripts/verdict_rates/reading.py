"""Before the reply: scenarios that hold no feeling, vectors that see no more than words, numbers without a dose."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.reading import claims, graded, implicit
from emotrace.study.reading.projection import Texts

from . import Draw, Simulation

_WIDTH, _PERMUTATIONS, _BOOTSTRAP = 60, 99, 200


def _directions(rng: np.random.Generator) -> np.ndarray:
    """One direction an emotion ``[emotion, width]``, of mean squared length equal to the width."""
    return rng.normal(size=(len(corpus.emotion_names()), _WIDTH))


def _passages(rng: np.random.Generator, directions: np.ndarray) -> Texts:
    """One passage a topic and emotion: as much of its emotion as of noise, and a direction of its topic."""
    names, topics = corpus.emotion_names(), list(corpus.topics().index)
    features = rng.normal(size=(len(topics), len(names), _WIDTH)) + rng.normal(size=(len(topics), 1, _WIDTH))
    features = (features + directions).reshape(-1, _WIDTH)
    return Texts(features, np.repeat(topics, len(names)), np.tile(names, len(topics)), names)


# -- implicit scenarios -----------------------------------------------------------------------------------------------


def _ranked(rng: np.random.Generator, strength: float, rank: int | None) -> tuple[implicit.Rows, implicit.Rows]:
    """The rows of a reader of scenarios that hold ``strength`` × their emotion, beside noise and what all share.

    ``rank``: most of the noise lies along so many directions, the same in all scenarios.
    """
    table, directions = corpus.implicit_scenarios(), _directions(rng)
    texts = _passages(rng, directions)
    noise = rng.normal(size=(len(table), _WIDTH))
    if rank is not None:
        noise = 0.3 * noise + rng.normal(size=(len(table), rank)) @ rng.normal(size=(rank, _WIDTH))
    targets = [texts.names.index(name) for name in table["emotion"]]
    states = noise + strength * directions[targets] + 20 * rng.normal(size=_WIDTH)
    return implicit.ranked(table, texts, states, _PERMUTATIONS, _BOOTSTRAP, lambda *purpose: rng)


def _implied(number: int, strength: float, words: float, rank: int | None = None) -> Draw:
    """The verdict on one claim of :func:`claims.implicit_claims`; ``words``: what the words hold of the emotion."""

    def draw(rng: np.random.Generator) -> str:
        found = {implicit.VECTORS: _ranked(rng, strength, rank), implicit.TFIDF: _ranked(rng, words, None)}
        scenarios = [rows for rows, _ in found.values()]
        over = implicit.over_words(*scenarios, "top3_over_tfidf", _BOOTSTRAP, lambda *purpose: rng)
        rates = [{"reader": reader, **row} for reader, (_, rows) in found.items() for row in rows]
        table = pd.DataFrame([*rates, {"reader": implicit.VECTORS, **over}]).assign(pooling="last", layer=1)
        return claims.implicit_claims({"implicit_rates": table}, "llama")[number].verdict()

    return draw


# -- graded intensity -------------------------------------------------------------------------------------------------


def _graded(own: float, number: float, course: float) -> Draw:
    """Messages along whose levels the own emotion changes by ``own`` (dose) or ``number``, all beside unit noise.

    ``course``: how far the number of each kind and scale, dose or not, moves them along a direction of its own.
    """

    def draw(rng: np.random.Generator) -> str:
        table, directions = corpus.graded_prompts(), _directions(rng)
        texts = _passages(rng, directions)
        states = rng.normal(size=(len(table), _WIDTH))
        for (_, kind), rows in table.groupby(["scale", "kind"]):
            step = np.linspace(-1, 1, len(rows))[:, None]
            emotion = directions[texts.names.index(rows["emotion"].iloc[0])]
            moved = rows["sign"].iloc[0] * (own if kind == graded.DOSE else number) * emotion
            states[rows.index] += step * (moved + course * rng.normal(size=_WIDTH))
        rows = graded.scales(table, texts, states, _PERMUTATIONS, rng)
        scales = pd.DataFrame(rows).assign(pooling="last", layer=1)
        return claims.graded_claims({"graded_scales": scales}, "llama")[0].verdict()

    return draw


_HALF = "0.425 above chance: half of what 12 of 12 are above it"
_GAIN = "0.2: about five of 24 scenarios"
_RHO = "0.5: half of the neighbour's, whose controls we take to be 0"
SIMULATIONS = (
    Simulation(
        name="implicit",
        claims=("neighbour.implicit.*",),
        rule=claims.implied(0.15).words,
        smallest=_HALF,
        null="24 scenarios of noise, ranked by vectors of 12 × 20 passages that hold their emotions",
        draw_null=_implied(0, 0.0, 0.0),
        effect="scenarios that hold their emotion: top-3 rate 0.97 on average",
        draw_effect=_implied(0, 0.5, 0.0),
        draws=200,
    ),
    Simulation(
        name="implicit, few directions",
        claims=("neighbour.implicit.*",),
        rule=claims.implied(0.15).words,
        smallest=_HALF,
        null="the same, but scenarios differ along three directions above all, so that hits are not independent",
        draw_null=_implied(0, 0.0, 0.0, rank=3),
        draws=200,
    ),
    Simulation(
        name="implicit over words",
        claims=("neighbour.implicit_over_words.*",),
        rule=claims.OVER_WORDS.words,
        smallest=_GAIN,
        null="vectors and words hold as much of the emotion, each beside noise of its own: top-3 rates of 0.5",
        draw_null=_implied(1, 0.18, 0.18),
        effect="vectors hold more: rates of 0.97 and 0.5",
        draw_effect=_implied(1, 0.5, 0.18),
        draws=200,
    ),
    Simulation(
        name="graded, noise",
        claims=("neighbour.graded.*",),
        rule=claims.GRADED_WORDS,
        smallest=_RHO,
        null="six scales of eight levels, two kinds of number, nothing but noise",
        draw_null=_graded(0.0, 0.0, 0.0),
        effect="the dose moves its emotion: ρ = 1.0, nothing else does anything",
        draw_effect=_graded(2.0, 0.0, 0.0),
        draws=200,
    ),
    Simulation(
        name="graded, any number does something",
        claims=("neighbour.graded.*",),
        rule=claims.GRADED_WORDS,
        smallest=_RHO,
        null="every number moves its messages smoothly along a random direction: ρ near 1 or −1 along any vector",
        draw_null=_graded(0.0, 0.0, 2.0),
        effect="so it does, and the dose moves its emotion besides: ρ = 1.0",
        draw_effect=_graded(2.0, 0.0, 2.0),
        draws=200,
    ),
    Simulation(
        name="graded, the number does it",
        claims=("neighbour.graded.*",),
        rule=claims.GRADED_WORDS,
        smallest=_RHO,
        null="a larger number moves the emotion as expected whether it means anything or not",
        draw_null=_graded(2.0, 2.0, 0.0),
        draws=200,
    ),
)
