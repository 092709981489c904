"""Groups of unrelated texts, as many a group as an emotion has: the baseline that is fair to centroids. Ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotrace.errors import EmotraceError
from emotrace.measures import geometry


def group_count(n: int, sizes: Sequence[int]) -> int:
    """How many disjoint groups :func:`group_cosine` makes of ``n`` vectors.

    Of equal ``sizes`` as many as there is room for; of unequal as many as there is room for whichever are drawn.

    Raises:
        EmotraceError: there is no room for two groups.
    """
    largest = np.sort(np.asarray(sizes))[::-1]
    groups = n // largest[0] if largest[0] == largest[-1] else int((np.cumsum(largest) <= n).sum())
    if groups < 2:
        raise EmotraceError(f"{n} vectors do not make two groups of {largest[0]}")
    return int(groups)


def group_cosine(vectors: np.ndarray, sizes: Sequence[int], repeats: int, rng: np.random.Generator) -> float:
    """Mean pairwise cosine between means of disjoint random groups of vectors, averaged over ``repeats``.

    The anisotropy baseline that is fair to centroids: a mean of texts has less noise than one text, so centroids of
    anything are more alike than single texts, and the more so the more texts they have. ``sizes`` are therefore the
    numbers of texts of the centroids that it stands beside; of unequal ones each repeat draws which are used.
    """
    total = 0.0
    for members in group_members(len(vectors), sizes, repeats, rng):
        means = members / members.sum(axis=1, keepdims=True) @ vectors.astype(np.float64)
        total += float(geometry.mean_pairwise_cosine(means))
    return total / repeats


def group_members(n: int, sizes: Sequence[int], repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Which of ``n`` vectors lie in which of the groups of :func:`group_cosine`: 0 or 1, ``[repeat, group, n]``."""
    groups, equal = group_count(n, sizes), len(set(sizes)) == 1
    members = np.zeros((repeats, groups, n))
    for repeat in range(repeats):
        order = rng.permutation(n)
        ends = np.cumsum(np.repeat(sizes[:1], groups) if equal else rng.permutation(sizes)[:groups])
        for group, part in enumerate(np.split(order[: ends[-1]], ends[:-1])):
            members[repeat, group, part] = 1
    return members
