"""Separation, anisotropy, decoding and principal axes of the emotions' activations at one layer.

Plain numpy on activations already read: no model, no layer loop, no file. Sums are in float64.

The separation measure of the paper, as we read it (the full text of the paper could not be read here; see the report):
the **mean pairwise cosine similarity between the emotions' centroids before any centring**; lower is better separated.
After centring on the mean of n emotions it is pinned near −1/(n − 1) and says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from emotrace import arguments
from emotrace.errors import EmotraceError, of_extra

Labels = Sequence[str] | np.ndarray


@dataclass(frozen=True)
class Cells:
    """Activations at one layer, summed over the texts of each topic × emotion cell.

    Attributes:
        sums: float64 ``[topic, emotion, d_model]``.
        counts: texts in each cell, ``[topic, emotion]``.
    """

    sums: np.ndarray
    counts: np.ndarray

    def centroids(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The emotions' mean activations ``[emotion, d_model]``, topics weighted by ``weights [topic]`` (default 1)."""
        weights = np.ones(len(self.sums)) if weights is None else weights
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.tensordot(weights, self.sums, 1) / (weights @ self.counts)[:, None]

    @cached_property
    def gram(self) -> np.ndarray:
        """Inner products between cells ``[topic, emotion, topic, emotion]``: all that resampling of topics needs."""
        flat = self.sums.reshape(-1, self.sums.shape[2])
        return (flat @ flat.T).reshape(self.counts.shape * 2)

    def centroid_grams(self, draws: np.ndarray) -> np.ndarray:
        """Inner products between the centroids under each row of topic weights ``draws [draw, topic]``.

        float64 ``[draw, emotion, emotion]``; NaN for an emotion that has no text in a draw.
        """
        topics, n = self.counts.shape
        half = (draws @ self.gram.reshape(topics, -1)).reshape(len(draws), n, topics, n)
        summed = np.einsum("betf,bt->bef", half, draws, optimize=True)
        counts = draws @ self.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            return summed / (counts[:, :, None] * counts[:, None, :])


def cells(activations: np.ndarray, topics: Labels, emotions: Labels, names: Sequence[str]) -> Cells:
    """Sums activations ``[text, d_model]`` by topic, in order of appearance, and by the emotions ``names``."""
    topic_index = {topic: index for index, topic in enumerate(dict.fromkeys(topics))}
    emotion_index = {name: index for index, name in enumerate(names)}
    sums = np.zeros((len(topic_index), len(names), activations.shape[1]))
    counts = np.zeros((len(topic_index), len(names)))
    for row, topic, emotion in zip(activations, topics, emotions, strict=True):
        if emotion in emotion_index:
            sums[topic_index[topic], emotion_index[emotion]] += row
            counts[topic_index[topic], emotion_index[emotion]] += 1
    return Cells(sums, counts)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors ``[…, d_model]`` divided by their norms; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def mean_pairwise_cosine(vectors: np.ndarray) -> np.ndarray:
    """Mean cosine over all pairs of distinct vectors: ``[…, n, d_model]`` → ``[…]``.

    Closed form: the sum of n unit vectors has squared norm n + Σ_{i≠j} cos_ij.
    """
    directions = unit(np.asarray(vectors, dtype=np.float64))
    n = directions.shape[-2]
    if n < 2:
        raise EmotraceError("a pairwise cosine needs at least two vectors")
    return ((directions.sum(axis=-2) ** 2).sum(axis=-1) - (directions**2).sum(axis=(-1, -2))) / (n * (n - 1))


def cosines_of_gram(gram: np.ndarray) -> np.ndarray:
    """Cosines from inner products: ``[…, n, n]`` → ``[…, n, n]``."""
    norms = np.sqrt(np.einsum("...ii->...i", gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        return gram / (norms[..., :, None] * norms[..., None, :])


def mean_cosine_of_gram(gram: np.ndarray) -> np.ndarray:
    """:func:`mean_pairwise_cosine` from inner products: ``[…, n, n]`` → ``[…]``."""
    n = gram.shape[-1]
    cosines = cosines_of_gram(gram)
    return (cosines.sum(axis=(-1, -2)) - np.einsum("...ii->...", cosines)) / (n * (n - 1))


def centre_gram(gram: np.ndarray) -> np.ndarray:
    """Inner products ``[…, n, n]`` after subtracting the mean of the n vectors, from those before."""
    rows = gram.mean(axis=-1, keepdims=True)
    return gram - rows - rows.swapaxes(-1, -2) + rows.mean(axis=-2, keepdims=True)


def resampled_pairwise_cosine(vectors: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mean pairwise cosine of the vectors ``[n, d_model]`` under each row of counts ``draws [draw, n]``: ``[draw]``.

    A vector drawn twice forms no pair with itself: such pairs have cosine 1 and would bias the resamples upward.
    """
    directions = unit(np.asarray(vectors, dtype=np.float64))
    squares = draws**2
    self_pairs = squares @ (directions**2).sum(axis=-1)
    return (((draws @ directions) ** 2).sum(axis=-1) - self_pairs) / (draws.sum(axis=1) ** 2 - squares.sum(axis=1))


def silhouettes(activations: np.ndarray, emotions: Labels) -> np.ndarray:
    """Silhouette of each text by emotion ``[text]``, in cosine distance after subtracting the mean of all texts.

    0 for the only text of an emotion; NaN for all where every emotion has one text, or there is one emotion.
    """
    with of_extra():
        from sklearn.metrics import silhouette_samples

    if not 1 < len(set(emotions)) < len(emotions):
        return np.full(len(emotions), np.nan)
    centred = activations - activations.mean(axis=0, dtype=np.float64)
    return silhouette_samples(centred, np.asarray(emotions), metric="cosine")


def topic_folds(topics: Labels, folds: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows of each fold; a topic lies in one test fold only, so none is on both sides."""
    with of_extra():
        from sklearn.model_selection import GroupKFold

    folds = min(folds, len(set(topics)))
    if folds < 2:
        raise EmotraceError("cross-validation over topics needs at least two topics")
    dummy = np.zeros(len(topics))
    return list(GroupKFold(folds).split(dummy, groups=np.asarray(topics)))


def nearest_centroid(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicts each test row's label: the class whose mean has the highest cosine, training rows' mean subtracted."""
    names = np.unique(labels)
    centre = train.mean(axis=0, dtype=np.float64)
    centroids = unit(np.stack([train[labels == name].mean(axis=0, dtype=np.float64) for name in names]) - centre)
    return names[(unit(test - centre) @ centroids.T).argmax(axis=1)]


def logistic_regression(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicts each test row's label by multinomial logistic regression (L2, C = 1) on standardised features.

    Scaling is fitted on the training rows. With fewer rows than dimensions the regression is solved in the span of
    the training rows, where its optimum lies: the same predictions, faster. Of a single class all are predicted to be.
    """
    with of_extra():
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

    if len(set(labels)) == 1:
        return np.repeat(labels[:1], len(test))
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    if train.shape[0] < train.shape[1]:
        basis = np.linalg.qr(train.T.astype(np.float64))[0]
        train, test = train @ basis, test @ basis
    return LogisticRegression(C=1.0, max_iter=500).fit(train, labels).predict(test)


DECODERS = {"nearest_centroid": nearest_centroid, "logistic_regression": logistic_regression}


def decode(activations: np.ndarray, emotions: Labels, topics: Labels, decoder: str) -> np.ndarray:
    """Whether each text's emotion is decoded correctly when its topic was held out: bool ``[text]``."""
    labels = np.asarray(emotions)
    correct = np.zeros(len(labels), dtype=bool)
    for train, test in topic_folds(topics):
        correct[test] = DECODERS[decoder](activations[train], labels[train], activations[test]) == labels[test]
    return correct


def shuffle_within_topics(emotions: Labels, topics: Labels, rng: np.random.Generator) -> np.ndarray:
    """The labels, permuted among the texts of each topic."""
    labels, topic_of = np.array(emotions), np.asarray(topics)
    for topic in np.unique(topic_of):
        rows = np.flatnonzero(topic_of == topic)
        labels[rows] = labels[rng.permutation(rows)]
    return labels


def permuted_label_vectors(
    activations: np.ndarray,
    topics: Labels,
    emotions: Labels,
    names: Sequence[str],
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Emotion vectors of labels that say nothing: shuffled among the texts of each topic, ``draws`` times.

    The control for a vector that lies where texts lie (a Gaussian direction does not): the same texts, as many of them
    a class, the same topics. As the real vectors are, each is a class's mean minus the mean of the class means, over
    all labels that ``emotions`` holds (with *neutral* among them: the paper's centre, C4).

    Args:
        activations: ``[text, …]``, the trailing axes any (one layer, or several: the shuffles are the same in all).
        topics, emotions: of each text.
        names: the classes whose vectors are returned, all of them among ``emotions``.
        draws: independent shuffles.
        rng: what shuffles.

    Returns:
        float64 ``[draw, name, …]``.

    Raises:
        EmotraceError: a name that no text has.
    """
    classes = list(dict.fromkeys(emotions))
    if missing := [name for name in names if name not in classes]:
        raise EmotraceError(f"no text of {', '.join(map(repr, missing))} was read")
    flat = activations.reshape(len(activations), -1).astype(np.float64)
    wanted = [classes.index(name) for name in names]
    vectors = np.empty((draws, len(names), flat.shape[1]))
    for draw in range(draws):  # memberships of all draws at once would grow with classes × texts × draws
        shuffled = shuffle_within_topics(emotions, topics, rng)
        members = (shuffled == np.asarray(classes)[:, None]).astype(np.float64)  # [class, text]
        members /= members.sum(axis=1, keepdims=True)
        vectors[draw] = (members - members.mean(axis=0))[wanted] @ flat
    return vectors.reshape(draws, len(names), *activations.shape[1:])


def principal_components(vectors: np.ndarray, n: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[emotion, component]`` and shares of variance of emotion vectors ``[emotion, d_model]``."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return (left * values)[:, :n], (values**2 / (values**2).sum())[:n]


def neutral_components(neutral: np.ndarray, share: float = 0.5) -> list[np.ndarray]:
    """The leading principal components of neutral texts: directions that vary without any feeling.

    Removing them from emotion vectors follows Sofroniew et al. 2026 (arXiv:2604.07729).

    Args:
        neutral: activations of neutral or unrelated texts ``[text, layer, d_model]``.
        share: as few components a layer as hold at least this share of the texts' variance there; ours.

    Returns:
        For each layer orthonormal rows ``[component, d_model]``, float64; none where the texts do not vary (at the
        embeddings the last token of every text is the same full stop).

    Raises:
        EmotraceError: fewer than two texts, or a share outside 0 … 1.
    """
    if len(neutral) < 2:
        raise EmotraceError(f"principal components need two neutral texts or more, not {len(neutral)}")
    share = variance_share(share)
    return [_leading_components(neutral[:, index].astype(np.float64), share) for index in range(neutral.shape[1])]


def variance_share(value: float) -> float:
    """A share of variance to remove: above 0 and below 1, where every direction that the texts vary along would go."""
    if not 0 < (share := arguments.number(value, "a share of variance")) < 1:
        raise EmotraceError(f"a share of variance lies between 0 and 1, not at {share:g}")
    return share


def _leading_components(texts: np.ndarray, share: float) -> np.ndarray:
    centred = texts - texts.mean(axis=0)
    if np.abs(centred).max() <= 1e-6 * np.abs(texts).max():
        return np.zeros((0, texts.shape[1]))
    _, scale, rows = np.linalg.svd(centred, full_matrices=False)
    explained = np.cumsum(scale**2) / (scale**2).sum()
    return rows[: int(np.searchsorted(explained, share)) + 1]


def project_out(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """``vectors [..., d_model]`` without their parts along orthonormal rows ``basis [component, d_model]``."""
    return vectors - (vectors @ basis.T) @ basis


def rdm(vectors: np.ndarray) -> np.ndarray:
    """Representational dissimilarity matrix ``[n, n]``: 1 − cosine between ``vectors [n, d_model]`` as they are."""
    directions = unit(np.asarray(vectors, dtype=np.float64))
    return 1 - directions @ directions.T


def plane_distances(valence: np.ndarray, arousal: np.ndarray) -> np.ndarray:
    """Euclidean distances in the valence–arousal plane (both in units of the 1–9 norms): ``[n, n]``."""
    points = np.stack([valence, arousal], axis=1)
    return np.linalg.norm(points[:, None] - points[None], axis=-1)
