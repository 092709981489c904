"""Texts without topics: which are nearly the same, and folds that keep those together. Ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

FOLDS = 12
"""At most so many folds stand in for topics: as many as the default instrument has topics."""
ALIKE = 0.5
"""Two texts are near-duplicates if they share this much of their runs of three words (Jaccard index)."""
RUN = 3


def _runs(words: list[str]) -> list[str]:
    starts = range(max(1, len(words) - RUN + 1) if words else 0)
    return [" ".join(words[start : start + RUN]) for start in starts]


def alike(words: Sequence[Sequence[str]]) -> list[tuple[int, int, float]]:
    """The pairs of near-duplicates among texts: ``(first, second, Jaccard index)``, by the first.

    Args:
        words: of each text, in lower case. A text of fewer than three words is one run, one without words is like none.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    texts = [list(tokens) for tokens in words]
    if len(texts) < 2 or not any(texts):
        return []
    counts = CountVectorizer(analyzer=_runs, binary=True).fit_transform(texts).astype(np.float32)
    sizes = np.asarray(counts.sum(axis=1)).ravel()
    found = []
    step = max(1, 20_000_000 // len(texts))  # rows at once: a corpus that repeats itself makes a dense product
    for start in range(0, len(texts), step):
        shared = (counts[start : start + step] @ counts.T).tocoo()
        rows, columns = shared.row + start, shared.col
        index = shared.data / (sizes[rows] + sizes[columns] - shared.data)
        near = (index >= ALIKE) & (rows < columns)
        found += list(zip(rows[near].tolist(), columns[near].tolist(), index[near].tolist(), strict=True))
    return sorted(found)


def groups(words: Sequence[Sequence[str]]) -> np.ndarray:
    """A number for each text, the same for those that a chain of near-duplicates joins: int ``[text]``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, pairs = len(words), alike(words)
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(n, n))
    numbers: np.ndarray = connected_components(graph, directed=False)[1]
    return numbers


def text_folds(words: Sequence[Sequence[str]], emotions: Sequence[str], folds: int = FOLDS) -> list[str]:
    """Folds in place of topics: ``fold 01`` … of each text, near-duplicates together, every emotion spread evenly.

    Nothing random: groups of near-duplicates, the largest first, go to the fold with the fewest texts of their
    emotions, then with the fewest texts. There are as many folds as half the emotions have texts, ``folds`` at most.

    Args:
        words: of each text.
        emotions: of each text.
        folds: at most so many; two at least.
    """
    of_text, labels = groups(words), list(emotions)
    folds = max(2, min(folds, int(np.median(list(Counter(labels).values())))))
    members: dict[int, list[int]] = {}
    for row, number in enumerate(of_text.tolist()):
        members.setdefault(number, []).append(row)
    held: list[Counter[str]] = [Counter() for _ in range(folds)]
    chosen = [0] * len(labels)
    for rows in sorted(members.values(), key=lambda rows: (-len(rows), rows[0])):
        own = Counter(labels[row] for row in rows)
        best = min(range(folds), key=lambda fold: (sum(held[fold][name] for name in own), held[fold].total(), fold))
        held[best].update(own)
        for row in rows:
            chosen[row] = best
    return [f"fold {fold + 1:02d}" for fold in chosen]
