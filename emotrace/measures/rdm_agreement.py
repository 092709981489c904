"""Two sets of vectors of the same emotions, over all their layers: are the emotions laid out alike? Ours.

Many pairs of layers are looked at, so beside each p by permuted emotions stands one for the highest of all pairs under
the same permutations (maxT; Westfall & Young 1993).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from emotrace.measures.geometry import centre_gram, cosines_of_gram, rdm, unit


class Agreement(NamedTuple):
    """Of every pair of layers ``[layer_a, layer_b]``.

    Attributes:
        value: the measure.
        p: one-sided, over permutations of the emotions.
        p_max: the same of the highest value of all pairs.
    """

    value: np.ndarray
    p: np.ndarray
    p_max: np.ndarray


def centred(values: np.ndarray) -> np.ndarray:
    """``[emotion, layer, d] → [layer, emotion, d]``, float64, measured from the mean over these emotions."""
    layers = np.asarray(values, dtype=np.float64).swapaxes(0, 1)
    return layers - layers.mean(axis=1, keepdims=True)


def rdm_agreement(first: np.ndarray, second: np.ndarray, permutations: int, rng: np.random.Generator) -> Agreement:
    """Spearman's ρ between the emotions' pairwise distances (1 − cosine, centred on these emotions).

    Args:
        first, second: ``[emotion, layer, d_model]``, of the same emotions in one order; layers and widths may differ.
        permutations: of the emotions of one of them.
        rng: for the permutations.
    """
    n = len(first)
    upper = np.triu_indices(n, 1)
    ranks = [
        np.stack([_standardised(rdm(vectors)[upper]) for vectors in centred(values)]) for values in (first, second)
    ]
    square = np.zeros((len(ranks[0]), n, n))
    square[:, *upper] = ranks[0]
    square += square.swapaxes(1, 2)

    def rho(order: np.ndarray) -> np.ndarray:
        return square[:, order[upper[0]], order[upper[1]]] @ ranks[1].T / len(upper[0])

    return _against(rho, n, permutations, rng)


def cosine_agreement(first: np.ndarray, second: np.ndarray, permutations: int, rng: np.random.Generator) -> Agreement:
    """The mean over emotions of the cosine between both vectors of one emotion, centred on these emotions.

    Args:
        first, second: ``[emotion, layer, d_model]``, of the same emotions, layers and model.
        permutations, rng: as for :func:`rdm_agreement`.

    Returns:
        Arrays ``[layer]``.
    """
    between = np.stack([unit(a) @ unit(b).T for a, b in zip(centred(first), centred(second), strict=True)])
    rows = np.arange(len(first))
    return _against(lambda order: between[:, order, rows].mean(axis=1), len(first), permutations, rng)


def rdm_reliability(gram: np.ndarray, counts: np.ndarray, splits: int, rng: np.random.Generator) -> float:
    """How far the emotions' distances repeat on other topics: ρ between halves of the topics, by Spearman and Brown.

    Args:
        gram: inner products of the activations' sums, ``[topic, emotion, topic, emotion]``, from any one origin.
        counts: texts of each, ``[topic, emotion]``.
        splits: of the topics into halves, at random; those that leave an emotion without a text, or in a half of which
            all distances are equal, are not counted.
        rng: for the splits.

    Returns:
        2 ρ / (1 + ρ) of the mean ρ; 0 for a ρ below 0; NaN where no split counts.
    """
    upper, rhos = np.triu_indices(gram.shape[1], 1), []
    for _ in range(splits):
        order, ranks = rng.permutation(len(gram)), []
        for half in (order[: len(order) // 2], order[len(order) // 2 :]):
            texts = counts[half].sum(axis=0)
            if not texts.all():
                break
            summed = gram[half][:, :, half].astype(np.float64).sum(axis=(0, 2))
            ranks.append(_standardised(1 - cosines_of_gram(centre_gram(summed / np.outer(texts, texts)))[upper]))
        else:
            rhos.append((ranks[0] * ranks[1]).mean())
    known = [rho for rho in rhos if np.isfinite(rho)]
    rho = max(float(np.mean(known)), 0.0) if known else np.nan
    return 2 * rho / (1 + rho)


def _standardised(values: np.ndarray) -> np.ndarray:
    ranks = stats.rankdata(values)
    spread = ranks.std()
    return (ranks - ranks.mean()) / (spread if spread > 0 else np.nan)


def _against(
    measure: Callable[[np.ndarray], np.ndarray], n: int, permutations: int, rng: np.random.Generator
) -> Agreement:
    observed = measure(np.arange(n))
    slack = 1e-12  # draws that equal the observation up to rounding count as extreme
    above, above_max = np.zeros(observed.shape), np.zeros(observed.shape)
    for _ in range(permutations):
        drawn = measure(rng.permutation(n))
        above += drawn >= observed - slack
        above_max += np.nanmax(drawn, initial=-np.inf) >= observed - slack
    unknown = np.where(np.isfinite(observed), 0.0, np.nan)
    p, p_max = ((count + 1) / (permutations + 1) + unknown for count in (above, above_max))
    return Agreement(observed, p, p_max)
