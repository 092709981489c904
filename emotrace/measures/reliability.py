"""How far an emotion vector can be trusted: from other topics, is it the same vector? Is it longer than chance? Ours.

A vector whose halves disagree cannot steer reliably; Braun et al. 2025 find that the agreement of training activations
predicts how well steering works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from emotrace.errors import EmotraceError
from emotrace.measures import geometry, statistics
from emotrace.measures.geometry import Labels


class Reliability(NamedTuple):
    """Of each emotion ``[name]``.

    Attributes:
        split_half: cosine between the vectors of two disjoint halves of the topics, mean over random splits; NaN where
            an emotion has texts on one topic alone.
        spearman_brown: the same for a vector of all topics, 2 c / (1 + c); the cosine of the vector with that of as
            many other topics. NaN for a cosine below 0, which nothing corrects.
        length: the vector's length over the mean length of its permuted-label vectors; 1 where a label says nothing.
        p: share of permuted-label vectors of that emotion at least as long, (b + 1) / (m + 1).
        texts: of the emotion.
    """

    split_half: np.ndarray
    spearman_brown: np.ndarray
    length: np.ndarray
    p: np.ndarray
    texts: np.ndarray


def reliability(
    activations: np.ndarray,
    topics: Labels,
    emotions: Labels,
    names: Sequence[str],
    rng: np.random.Generator,
    splits: int = 50,
    draws: int = 199,
) -> Reliability:
    """:class:`Reliability` of the vectors at one layer, centred on the mean of all class means, in each half alike.

    Args:
        activations: ``[text, d_model]``.
        topics, emotions: of each text; an emotion that is not in ``names`` takes part in the centre, as *neutral* does.
        names: whose vectors.
        rng: splits the topics and shuffles the labels.
        splits: of the topics into halves.
        draws: permuted-label vectors.

    Raises:
        EmotraceError: fewer than four topics, which do not make two halves of two.
    """
    topic_names = list(dict.fromkeys(topics))
    if len(topic_names) < 4:
        raise EmotraceError(f"a split-half reliability needs at least four topics, not {len(topic_names)}")
    classes = list(dict.fromkeys(emotions))
    wanted = [classes.index(name) for name in names]
    cells = geometry.cells(activations, topics, emotions, classes)

    def vectors(weights: np.ndarray) -> np.ndarray:
        means = cells.centroids(weights)
        return (means - np.nanmean(means, axis=0))[wanted]

    cosines = np.empty((splits, len(names)))
    for split in range(splits):
        half = np.zeros(len(topic_names))
        half[rng.permutation(len(half))[: len(half) // 2]] = 1
        first, second = geometry.unit(vectors(half)), geometry.unit(vectors(1 - half))
        cosines[split] = (first * second).sum(axis=1)
    known = np.isfinite(cosines)
    split_half = np.where(known, cosines, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    lengths = np.linalg.norm(vectors(np.ones(len(topic_names))), axis=1)
    permuted = geometry.permuted_label_vectors(activations, topics, emotions, names, draws, rng)
    null = np.linalg.norm(permuted, axis=2)  # [draw, name]
    corrected = np.where(split_half > 0, 2 * split_half / (1 + np.abs(split_half)), np.nan)
    p = [statistics.permutation_p(length, column, "greater") for length, column in zip(lengths, null.T, strict=True)]
    texts = np.array([np.sum(np.asarray(emotions) == name) for name in names])
    return Reliability(split_half, corrected, lengths / null.mean(axis=0), np.array(p), texts)
