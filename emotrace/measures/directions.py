"""What directions read in texts: who is decoded, how texts are ranked, how much of a direction lies among texts. Ours.

A direction is judged by projections on its unit vector alone, so that estimators of any scale compare.
"""

from __future__ import annotations

import numpy as np

from emotrace.measures import geometry


def decoded(vectors: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Which direction each test text projects highest on, in standard deviations of the training texts.

    Args:
        vectors: one a class ``[class, d_model]``; a row of NaN is never chosen.
        train: the texts that give each projection its mean and standard deviation, ``[text, d_model]``.
        test: the texts to decode ``[text, d_model]``.

    Returns:
        Indices into ``vectors``, ``[text]``.
    """
    units = geometry.unit(vectors)
    known, found = train @ units.T, test @ units.T
    spread = known.std(axis=0)
    scores = (found - known.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    return np.where(np.isfinite(scores), scores, -np.inf).argmax(axis=1)


def ranks(vectors: np.ndarray, texts: np.ndarray, classes: np.ndarray, topics: np.ndarray) -> np.ndarray:
    """How each text ranks on its own class's direction among the other classes' texts on its topic: ``[text]``.

    The share of them that project lower, ties counting half: 1 the highest, 0.5 chance; its mean is the area under the
    ROC curve within topics. NaN without another class on the topic or a vector. No bias, scale or offset of a topic
    changes it.

    Args:
        vectors: ``[class, d_model]``.
        texts: ``[text, d_model]``.
        classes: index of each text's class ``[text]``.
        topics: of each text ``[text]``.
    """
    scores = texts @ geometry.unit(vectors).T
    found = np.full(len(texts), np.nan)
    for row, (own, topic) in enumerate(zip(classes, topics, strict=True)):
        others = scores[(topics == topic) & (classes != own), own]
        if len(others) and np.isfinite(scores[row, own]):
            found[row] = (others < scores[row, own]).mean() + (others == scores[row, own]).mean() / 2
    return found


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of each row of the one with the same row of the other: ``[…, d_model]`` each → ``[…]``."""
    return (geometry.unit(first) * geometry.unit(second)).sum(axis=-1)


def share_within(vectors: np.ndarray, texts: np.ndarray, share: float = 0.9) -> tuple[np.ndarray, float]:
    """How much of each vector's squared norm lies where texts vary.

    Args:
        vectors: ``[class, d_model]``.
        texts: ``[text, d_model]``; their leading principal components that hold ``share`` of their variance count.
        share: of the variance.

    Returns:
        The shares ``[class]``, and that of a random direction: components over dimensions.
    """
    (basis,) = geometry.neutral_components(texts[:, None], share)
    return ((geometry.unit(vectors) @ basis.T) ** 2).sum(axis=1), len(basis) / texts.shape[1]
