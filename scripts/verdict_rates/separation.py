"""C6 and C7: shapes of curves over depth, the best depth, spread beyond chance, and two neighbours' figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from emotrace.measures import curves, geometry, spread, statistics
from emotrace.study.separation import claims, localisation
from emotrace.study.verdicts import Estimate, significant
from verdict_rates import Simulation

LAYERS = (12, 18, 24, 30)
NOISE, MEMORY = 0.05, 0.6
"""Noise of the topics on a curve: its standard deviation over the curve's range, and its correlation from layer to
layer. Measured on three models, two poolings, cosine, null and R, after what moves a curve as a whole is taken out:
0.004–0.053 and −0.1–0.9. A low noise makes every verdict easier."""
RESAMPLES, ORDERS = 200, 399

Curve = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(depths 0 … 1 of the layers, random numbers) → a curve."""


def topic_noise(layers: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Noise that neighbouring layers share, of standard deviation 1: ``[number, layer]``."""
    noise = rng.normal(size=(number, layers))
    for layer in range(1, layers):
        noise[:, layer] = MEMORY * noise[:, layer - 1] + np.sqrt(1 - MEMORY**2) * noise[:, layer]
    return noise


def judged(curve: Curve, rule: str, rng: np.random.Generator, noise: float = NOISE) -> str:
    """The verdict on one curve of a random number of layers, measured with the noise of its topics."""
    layers = int(rng.choice(LAYERS))
    truth = curve(np.linspace(0, 1, layers), rng)
    scale = noise * (np.ptp(truth) or 1.0)
    measured = truth + scale * topic_noise(layers, 1, rng)[0]
    found = curves.shape(measured, measured + scale * topic_noise(layers, RESAMPLES, rng), rng, ORDERS)
    estimate = Estimate(found.net, found.low, found.high, 12, found.p)
    if rule == "no u":
        return claims.no_u_rule(found.opposed, curves.smooth_walk_depth(layers), found.p).verdict(estimate)
    return claims.u_rule(found.opposed, curves.smooth_walk_depth(layers)).verdict(estimate)


def walk(memory: float, drift: float) -> Curve:
    """A random walk whose increments remember the one before."""

    def draw(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        increments = rng.normal(size=len(x))
        for layer in range(1, len(x)):
            increments[layer] += memory * increments[layer - 1]
        return np.cumsum(increments + drift)

    return draw


def paper(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As deep a U as the one measured with the paper's metric on Qwen2.5: 0.999 → 0.950 → 0.982, smooth."""
    down, up = np.sin(np.pi / 2 * np.minimum(x / 0.46, 1)), np.sin(np.pi / 2 * np.clip((x - 0.46) / 0.54, 0, 1))
    return 0.999 - 0.049 * down + 0.032 * up


def shallow(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A U whose lower end rises by a quarter of the range: the smallest of interest."""
    return np.interp(x, [0, 0.5, 1], [1, 0, 0.25])


SHAPES: dict[str, Curve] = {
    "exponential, exp(−5x)": lambda x, rng: np.exp(-5 * x),
    "exponential, exp(−3x)": lambda x, rng: np.exp(-3 * x),
    "1/x": lambda x, rng: 1 / (1 + np.arange(len(x))),
    "tanh": lambda x, rng: -np.tanh(4 * x),
    "step at a random depth": lambda x, rng: np.where(x < rng.uniform(0.2, 0.8), 1.0, 0.0),
    "drop, then flat": lambda x, rng: np.maximum(1 - x / 0.4, 0),
    "straight line": lambda x, rng: -x,
    "arch": lambda x, rng: np.sin(np.pi * x),
    "flat": lambda x, rng: np.zeros(len(x)),
    "W, even": lambda x, rng: np.abs(np.abs(x - 0.5) - 0.25),
    "W, uneven, as SmolLM2's": lambda x, rng: np.interp(x, [0, 0.27, 0.4, 0.6, 1], [1, 0.35, 0.75, 0, 0.25]),
    "random walk": walk(0, 0),
    "random walk with drift": walk(0, -0.3),
    "random walk whose increments remember 0.5 of the one before": walk(0.5, 0),
    "random walk whose increments remember 0.8 of the one before": walk(0.8, 0),
    "random walk whose increments remember 0.95 of the one before": walk(0.95, 0),
}

U_SMALLEST = (
    f"{claims.NET_DEPTH:g}: the lower end a quarter of the range above the lowest point; with less, a curve falls and "
    "levels off"
)
NOISE_WORDS = f"12, 18, 24 or 30 layers, noise of topics {NOISE:.0%} of the range"


def u_simulations() -> tuple[Simulation, ...]:
    """The shape test against each curve that is no U, and for Us."""
    words = claims.u_rule(1.0, 0.6).words
    common = {"claims": ("C6.u.*", "C6.u_ratio.*"), "rule": words, "smallest": U_SMALLEST}
    first = Simulation(
        name="u, paper",
        **common,
        null="random walk without noise of topics, 12, 18, 24 or 30 layers",
        draw_null=partial(judged, walk(0, 0), "u", noise=0.0),
        effect=f"smooth U, 0.999 → 0.950 → 0.982 as on Qwen2.5; {NOISE_WORDS}",
        draw_effect=partial(judged, paper, "u"),
    )
    second = Simulation(
        name="u, shallow",
        **common,
        effect=f"U of net depth {claims.NET_DEPTH:g}, the smallest of interest; {NOISE_WORDS}",
        draw_effect=partial(judged, shallow, "u"),
    )
    others = (
        Simulation(f"u, {name}", **common, null=f"{name}; {NOISE_WORDS}", draw_null=partial(judged, curve, "u"))
        for name, curve in SHAPES.items()
    )
    without = Simulation(
        name="no u",
        claims=("C6.u_null.*",),
        rule=claims.no_u_rule(1.0, 0.6, 0.01).words,
        smallest=U_SMALLEST,
        null=f"the space alone has the paper's U; {NOISE_WORDS}",
        draw_null=partial(judged, paper, "no u"),
        effect=f"the space alone falls and levels off; {NOISE_WORDS}",
        draw_effect=partial(judged, SHAPES["exponential, exp(−3x)"], "no u"),
    )
    return (first, second, *others, without)


# -- the best depth ---------------------------------------------------------------------------------------------------


DEPTH_NOISE = 0.025
"""Of the cosine's curves alone: 0.015–0.026 were measured."""
DEPTH_WORDS = f"12, 18, 24 or 30 layers, noise of topics {DEPTH_NOISE:.1%} of the range"


def depth(where: float, rng: np.random.Generator) -> str:
    """The lowest layer of a smooth U that is lowest at ``where``, with its interval as a run makes it."""
    layers = int(rng.choice(LAYERS))
    x = np.arange(1, layers + 1) / layers
    truth = np.where(x < where, (where - x) / where, (x - where) / (1 - where) * 0.65) ** 1.5
    measured = truth + DEPTH_NOISE * topic_noise(layers, 1, rng)[0]
    resampled = measured + DEPTH_NOISE * topic_noise(layers, RESAMPLES, rng)
    interval = statistics.percentile_interval(x[measured.argmin()], x[resampled.argmin(axis=1)])
    step = 0.5 / layers
    return claims.DEPTH.verdict(Estimate(interval.value, interval.low - step, interval.high + step, 12))


# -- the cosine against the space alone -------------------------------------------------------------------------------


def space(unexplained: float, rng: np.random.Generator) -> str:
    """A cosine's curve that shares all but ``unexplained`` of its variance with the space alone, both with noise."""
    layers = int(rng.choice(LAYERS))
    null = np.cumsum(rng.normal(size=layers))
    own = np.cumsum(rng.normal(size=layers))
    null = (null - null.mean()) / null.std()
    own -= own.mean() + null * (own @ null) / layers
    cosine = np.sqrt(1 - unexplained) * null + np.sqrt(unexplained) * own / own.std()

    def noisy(number: int) -> tuple[np.ndarray, np.ndarray]:
        shared, apart = topic_noise(layers, number, rng), topic_noise(layers, number, rng)
        return NOISE * shared, NOISE * (shared + 0.5 * apart)

    moves = [np.vstack([first, first + more]) for first, more in zip(noisy(1), noisy(RESAMPLES), strict=True)]
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(null + moves[0], cosine + moves[1], strict=True)])
    return claims.space_rule().verdict(Estimate(*localisation.unexplained(r), 12))


# -- spread beyond chance ---------------------------------------------------------------------------------------------

TOPICS, EMOTIONS, WIDTH = 6, 20, 40


def texts_of(share: float, rng: np.random.Generator, cone: float = 8.0) -> np.ndarray:
    """Activations on half of 12 topics: an offset, a topic, an emotion with this share of the variance, noise."""
    texts = cone + rng.normal(size=(TOPICS, 1, WIDTH)) + np.sqrt(1 - share) * rng.normal(size=(TOPICS, EMOTIONS, WIDTH))
    return (texts + np.sqrt(share) * rng.normal(size=(1, EMOTIONS, WIDTH))).reshape(-1, WIDTH)


def baseline(share: float, rng: np.random.Generator) -> str:
    """R on the half of the topics that did not choose the layer, its interval and p."""
    labels = np.indices((TOPICS, EMOTIONS)).reshape(2, -1)
    crossed = spread.Crossed.of(*labels, range(EMOTIONS))
    products = crossed.products(texts_of(share, rng))
    weights = np.vstack([np.ones(TOPICS), statistics.topic_draws(TOPICS, 150, rng)])
    orders = crossed.orders(99, rng)
    shuffled = spread.whole_cosines(products, crossed, orders, np.ones(TOPICS, dtype=bool))
    few = spread.centroid_cosines(products, crossed, orders[:13], weights)
    ratio = spread.ratio(few[0], few[1:].mean(axis=0), crossed.effective(weights))
    interval = statistics.centred_interval(float(ratio[0]), ratio[1:])
    p = statistics.permutation_p(float(shuffled[0]), shuffled[1:], "less")
    return claims.baseline_rule(TOPICS).verdict(Estimate(*interval, TOPICS, p))


def unrelated(width: float, rng: np.random.Generator) -> str:
    """Emotion centroids ``width`` times as far apart (squared) as groups of unrelated texts, both of six texts."""
    draws, ratios = statistics.topic_draws(TOPICS, 150, rng), []
    offset = 8 + rng.normal(size=(2, 1, WIDTH))
    groups = offset[0] + rng.normal(size=(12, TOPICS, WIDTH))
    emotions = offset[0] + np.sqrt(width) * rng.normal(size=(EMOTIONS, TOPICS, WIDTH))
    weights = np.vstack([np.ones(TOPICS), draws])
    other = np.vstack([np.ones(12 * TOPICS), statistics.topic_draws(12 * TOPICS, 150, rng)]).reshape(-1, 12, TOPICS)
    for row, of_text in zip(weights, other, strict=True):
        ours = geometry.mean_pairwise_cosine(np.einsum("t,etd->ed", row, emotions))
        theirs = geometry.mean_pairwise_cosine(np.einsum("gt,gtd->gd", of_text, groups))
        ratios.append((1 - ours) / (1 - theirs))
    interval = statistics.centred_interval(ratios[0], np.array(ratios[1:]))
    return claims.UNRELATED.verdict(Estimate(*interval, TOPICS))


# -- neighbours -------------------------------------------------------------------------------------------------------


def probe(accuracy: float, rng: np.random.Generator) -> str:
    """An accuracy on six topics of 20 texts, which differ by a standard deviation of 0.07 beyond chance."""
    by_topic = rng.binomial(20, np.clip(rng.normal(accuracy, 0.07, 6), 0, 1)) / 20
    return claims.PROBE.verdict(Estimate(*statistics.mean_interval(by_topic), 6))


def valence(r: float, rng: np.random.Generator) -> str:
    """A component that correlates with the valence of 19 emotions, whichever its sign."""
    first = rng.normal(size=19)
    second = r * first + np.sqrt(1 - r**2) * rng.normal(size=19)
    found = statistics.pearson(first, second * np.sign(first @ second))
    null = [abs(np.corrcoef(first, rng.permutation(second))[0, 1]) for _ in range(199)]
    p = statistics.permutation_p(found.value, np.array(null), "two-sided")
    return significant(claims.VALENCE).verdict(Estimate(*found, 19, p))


def anisotropy(cosine: float, rng: np.random.Generator) -> str:
    """A mean cosine of 150 unrelated texts: a common offset and noise in 60 dimensions."""
    texts = np.sqrt(cosine * 60) * np.eye(1, 60) + np.sqrt(1 - cosine) * rng.normal(size=(150, 60))
    draws = statistics.topic_draws(150, 300, rng)
    value = float(geometry.mean_pairwise_cosine(texts))
    interval = statistics.centred_interval(value, geometry.resampled_pairwise_cosine(texts, draws))
    return claims.ANISOTROPY.verdict(Estimate(*interval, 150))


OTHERS = (
    Simulation(
        name="depth",
        claims=("C6.depth.*",),
        rule=claims.DEPTH.words,
        smallest="0.15: tells a half from a third and from two thirds, which others name",
        null=f"a U that is lowest at depth 0.65, the margin's end; {DEPTH_WORDS}",
        draw_null=partial(depth, 0.65),
        effect=f"a U that is lowest at depth 0.5; {DEPTH_WORDS}",
        draw_effect=partial(depth, 0.5),
    ),
    Simulation(
        name="depth, two thirds",
        claims=("C6.depth.*",),
        rule=claims.DEPTH.words,
        smallest="as above",
        null=f"a U that is lowest at depth 0.67; {DEPTH_WORDS}",
        draw_null=partial(depth, 0.67),
    ),
    Simulation(
        name="space",
        claims=("C6.space.*",),
        rule=claims.space_rule().words,
        smallest=f"{claims.UNEXPLAINED:g} of the variance over layers: r of 0.89",
        null=f"the space alone explains all but 0.1 of the cosine's curve; {NOISE_WORDS}",
        draw_null=partial(space, 0.1),
        effect=f"the space alone explains half of it; {NOISE_WORDS}",
        draw_effect=partial(space, 0.5),
    ),
    Simulation(
        name="space, margin",
        claims=("C6.space.*",),
        rule=claims.space_rule().words,
        smallest="as above",
        null=f"the space alone explains all but {claims.UNEXPLAINED:g}, the margin itself; {NOISE_WORDS}",
        draw_null=partial(space, claims.UNEXPLAINED),
    ),
    Simulation(
        name="baseline",
        claims=("C7.baseline.*",),
        rule=claims.baseline_rule(TOPICS).words,
        smallest="R of 1.2 on six topics: emotions hold 4% of the variance among texts on a topic",
        null="six topics × 20 emotions, labels that say nothing, in a narrow cone",
        draw_null=partial(baseline, 0.0),
        effect="emotions hold 0.1 of the variance: R of 1.5 on six topics, as little as was measured on three models",
        draw_effect=partial(baseline, 0.1),
    ),
    Simulation(
        name="unrelated",
        claims=("C7.unrelated.*",),
        rule=claims.UNRELATED.words,
        smallest="a fifth wider than unrelated texts",
        null="emotions as far apart as groups of unrelated texts",
        draw_null=partial(unrelated, 1.0),
        effect="twice as far",
        draw_effect=partial(unrelated, 2.0),
    ),
    Simulation(
        name="probe",
        claims=("neighbour.probe.*",),
        rule=claims.PROBE.words,
        smallest="0.1 below the neighbour's 0.897",
        null="an accuracy of 0.797, the margin's end, on six topics",
        draw_null=partial(probe, 0.797),
        effect="0.897",
        draw_effect=partial(probe, 0.897),
    ),
    Simulation(
        name="valence",
        claims=("neighbour.valence.*",),
        rule=significant(claims.VALENCE).words,
        smallest="r of 0.5: a quarter of the component's variance",
        null="r of 0.5, the margin's end, over 19 emotions",
        draw_null=partial(valence, 0.5),
        effect="r of 0.81",
        draw_effect=partial(valence, 0.81),
    ),
    Simulation(
        name="valence, stronger",
        claims=("neighbour.valence.*",),
        rule=significant(claims.VALENCE).words,
        smallest="as above",
        null="r of 0",
        draw_null=partial(valence, 0.0),
        effect="r of 0.95, stronger than the neighbour's",
        draw_effect=partial(valence, 0.95),
    ),
    Simulation(
        name="anisotropy",
        claims=("C7.gemma",),
        rule=claims.ANISOTROPY.words,
        smallest="0.018: twice as wide a cone as the sequel's instruct model has",
        null="a mean cosine of 0.964, the margin's end",
        draw_null=partial(anisotropy, 0.964),
        effect="0.982",
        draw_effect=partial(anisotropy, 0.982),
    ),
)

SIMULATIONS = (*u_simulations(), *OTHERS)


NOTES = """
Of a curve that is a random walk one in seven has a net depth of 0.25 or more, and the smoother the walk, the deeper its
Us: of walks whose increments remember 0.8 of the one before one in twenty reaches 0.58. So a curve has to outdo both
the walks of its own increments and smooth ones. A U shallower than about 0.6 is therefore *inconclusive* however little
its noise: its shape alone cannot be told from a smooth walk. That it is a *law* can only be told from several models.
"""
