"""From one set of texts to another: are the second's emotions decoded by the first's vectors, or by its words? Ours.

Vectors that hold an emotion should hold it in texts by another author too. What words alone carry over is the floor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotrace.measures.geometry import Labels, unit
from emotrace.measures.words_floor import Words


def centred_vectors(activations: np.ndarray, emotions: Labels, names: Sequence[str]) -> np.ndarray:
    """The mean of each emotion's texts minus the mean of those means: ``[text, d] → [emotion, d]``, float64."""
    labels = np.asarray(emotions)
    means = np.stack([activations[labels == name].mean(axis=0, dtype=np.float64) for name in names])
    return means - means.mean(axis=0)


def decode_by_vectors(
    vectors: np.ndarray,
    activations: np.ndarray,
    emotions: Labels,
    names: Sequence[str],
    centre: np.ndarray | None = None,
) -> np.ndarray:
    """Whether each text lies nearest, by cosine, to the vector of its own emotion: bool ``[text]``.

    Args:
        vectors: ``[emotion, d_model]``, centred, of the other texts.
        activations: ``[text, d_model]``.
        emotions: of each text, each one of ``names``.
        names: along the vectors' first axis.
        centre: what the texts are measured from, ``[d_model]``; default: their own mean, which needs no label. Another
            author shifts all texts alike.
    """
    centred = activations - (activations.mean(axis=0, dtype=np.float64) if centre is None else centre)
    nearest = (unit(centred) @ unit(vectors).T).argmax(axis=1)
    found: np.ndarray = np.asarray(names)[nearest] == np.asarray(emotions)
    return found


def decode_by_words(train: Words, labels: Labels, test: Words, truth: Labels) -> np.ndarray:
    """Whether each text's emotion is decoded from its words, learnt from the other texts alone: bool ``[text]``.

    TF-IDF and logistic regression as in :func:`~emotrace.measures.words_floor.decode_tfidf`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    weigh = TfidfVectorizer(analyzer=list)
    seen = weigh.fit_transform([list(tokens) for tokens in train])
    decoder = LogisticRegression(C=10.0, max_iter=500).fit(seen, np.asarray(labels))
    found: np.ndarray = decoder.predict(weigh.transform([list(tokens) for tokens in test])) == np.asarray(truth)
    return found


def mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The mean cosine between the vectors of one emotion in two sets, each ``[emotion, d_model]``."""
    return float((unit(first) * unit(second)).sum(axis=1).mean())
