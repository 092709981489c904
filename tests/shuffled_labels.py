"""The null of separation, computed shuffle by shuffle: what the package's fast one is compared with."""

import numpy as np

from emotrace.measures import geometry


def shuffled_cosine(activations, topics, emotions, names, permutations, rng):
    """The centroids' mean pairwise cosine when labels are shuffled within each topic: ``[permutation]``.

    The control that keeps everything but the emotion: the same texts, topics, lengths and number of texts a centroid.
    Where every topic × emotion cell has the same number of texts, whole cells change places; else single texts do, so
    that every emotion keeps its number of texts on every topic. Arguments as of ``geometry.cells``.
    """
    summed = geometry.cells(activations, topics, emotions, names)
    n_topics, n_emotions, _ = summed.sums.shape
    null = np.empty(permutations)
    if (summed.counts == summed.counts[0, 0]).all():
        rows = np.arange(n_topics)[:, None]
        for permutation in range(permutations):
            columns = rng.permuted(np.tile(np.arange(n_emotions), (n_topics, 1)), axis=1)
            counts = summed.counts[rows, columns].sum(axis=0)
            null[permutation] = geometry.mean_pairwise_cosine(summed.sums[rows, columns].sum(axis=0) / counts[:, None])
        return null
    named = np.isin(np.asarray(emotions), names)
    texts, topic_of = activations[named].astype(np.float64), np.asarray(topics)[named]
    members = np.asarray(names)[:, None] == np.asarray(emotions)[named]  # [emotion, text]
    means = members / members.sum(axis=1, keepdims=True)
    for permutation in range(permutations):
        order = geometry.shuffle_within_topics(np.arange(len(texts)), topic_of, rng)
        null[permutation] = geometry.mean_pairwise_cosine(means @ texts[order])
    return null
