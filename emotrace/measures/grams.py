"""Separation and decoding at every layer at once, from inner products between texts: fast, whatever d_model. Ours.

Shapes: inner products are ``[layer, topic, emotion, topic, emotion]``, with zeros in the rows of texts that do not
exist; ``present``, bool ``[topic, emotion]``, says which exist. All of it equals what :mod:`emotrace.measures.geometry`
computes from the activations.
"""

from __future__ import annotations

import numpy as np

from emotrace.measures import geometry


def gram(activations: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Inner products at each layer: ``[topic, emotion, layer, d_model]`` → ``[layer, topic, emotion, topic, emotion]``.

    Between all texts of ``activations``; with ``others``, of the same shape, between each of theirs and each of these.
    """
    topics, emotions, layers, _ = activations.shape
    flat = _by_layer(activations)
    other_flat = flat if others is None else _by_layer(others)
    return (flat @ other_flat.transpose(0, 2, 1)).reshape(layers, topics, emotions, topics, emotions)


def _by_layer(activations: np.ndarray) -> np.ndarray:
    """``[topic, emotion, layer, d_model]`` → ``[layer, text, d_model]``."""
    return activations.reshape(-1, *activations.shape[2:]).transpose(1, 0, 2)


def within(products: np.ndarray, topics: np.ndarray) -> np.ndarray:
    """Inner products among some topics only."""
    return products[:, topics][:, :, :, topics]


def mean_cosine(grams: np.ndarray) -> np.ndarray:
    """Mean cosine over pairs of distinct centroids, those without any text left out: ``[…, n, n]`` → ``[…]``."""
    rows, columns = np.triu_indices(grams.shape[-1], 1)
    return np.nanmean(geometry.cosines_of_gram(grams)[..., rows, columns], axis=-1)


def centroid_cosine(products: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean pairwise cosine of the emotions' centroids at each layer: ``[layer]``."""
    counts = present.sum(axis=0).astype(np.float64)
    counts[counts == 0] = np.nan
    return mean_cosine(products.sum(axis=(1, 3)) / (counts[:, None] * counts))


def decode(train: np.ndarray, across: np.ndarray, present: np.ndarray, centre: str = "train") -> np.ndarray:
    """Nearest-centroid decoding with one topic after another held out.

    Args:
        train: inner products among the training author's texts ``[layer, topic, emotion, topic, emotion]``.
        across: those of the tested author's texts (first topic and emotion) with the training author's.
        present: bool ``[topic, emotion]``.
        centre: what is subtracted from a tested text, always over the training topics: ``train``, the mean of the
            training texts, as from themselves; ``own``, the mean of the tested author's own texts.

    Returns:
        Whether each text is decoded correctly, float64 ``[layer, topic, emotion]``; NaN where there is no text.
    """
    counts = present.sum(axis=0) - present  # training texts [held-out topic, emotion]
    total = counts.sum(axis=1).astype(np.float64)[:, None]
    same_topic = np.einsum("ltetf->ltef", train)
    rows = train.sum(axis=3)  # each training text with each emotion's sum: [layer, topic, emotion, emotion]
    sums = rows.sum(axis=1)[:, None] - rows - rows.swapaxes(-1, -2) + same_topic
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / (counts[:, :, None] * counts[:, None, :])
        to_centre = sums.sum(axis=-1) / (counts * total)  # each centroid with the training mean
        centre_square = (sums.sum(axis=(-1, -2)) / total[:, 0] ** 2)[:, :, None]
        tested = across.sum(axis=3) - np.einsum("ltetf->ltef", across)  # each tested text with the training sums
        scores = tested / counts[:, None, :] - tested.sum(axis=-1, keepdims=True) / total[:, :, None]
        if centre == "train":
            shift = to_centre - centre_square
        else:
            pairs = across.sum(axis=2)  # the tested author's topics with the training author's texts
            sums = pairs.sum(axis=(1, 2))[:, None] - pairs.sum(axis=2) - pairs.sum(axis=1)
            sums = sums + np.einsum("lttf->ltf", pairs)
            shift = sums / (total * counts) - sums.sum(axis=-1, keepdims=True) / total**2
        norms = np.sqrt(np.einsum("ltee->lte", means) - 2 * to_centre + centre_square)
        scores = (scores - shift[:, :, None, :]) / norms[:, :, None, :]
    scores = np.where(counts[:, None, :] > 0, scores, -np.inf)
    correct = scores.argmax(axis=-1) == np.arange(present.shape[1])
    return np.where(present, correct, np.nan)


def decode_resampled(products: np.ndarray, present: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """:func:`decode` within one author and layer, trained anew in every bootstrap resample of the topics.

    Args:
        products: ``[topic, emotion, topic, emotion]``.
        present: bool ``[topic, emotion]``.
        weights: how often each topic is drawn ``[draw, topic]``. A held-out topic trains nothing however often it is
            drawn.

    Returns:
        float64 ``[draw, topic]``, the share of each topic's texts decoded correctly.
    """
    own = weights[:, :, None, None]
    same_topic = np.einsum("tetf->tef", products)
    rows = np.moveaxis(np.tensordot(products, weights, axes=(2, 1)), -1, 0)  # [draw, topic, emotion, emotion]
    counts = (weights @ present)[:, None, :] - weights[:, :, None] * present
    total = counts.sum(axis=-1)[:, :, None]
    all_sums = np.einsum("btef,bt->bef", rows, weights)[:, None]
    sums = all_sums - own * (rows + rows.swapaxes(-1, -2)) + own**2 * same_topic
    tested = rows - own * same_topic
    with np.errstate(divide="ignore", invalid="ignore"):
        to_centre = sums.sum(axis=-1) / (counts * total)
        centre_square = (sums.sum(axis=(-1, -2)) / total[..., 0] ** 2)[:, :, None]
        norms = np.sqrt(np.einsum("btee->bte", sums) / counts**2 - 2 * to_centre + centre_square)
        scores = tested / counts[:, :, None] - tested.sum(axis=-1, keepdims=True) / total[..., None]
        scores = (scores - (to_centre - centre_square)[:, :, None]) / norms[:, :, None]
    scores = np.where(counts[:, :, None] > 0, scores, -np.inf)
    correct = scores.argmax(axis=-1) == np.arange(present.shape[1])
    return np.nanmean(np.where(present, correct, np.nan), axis=2)
