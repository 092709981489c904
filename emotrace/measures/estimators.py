"""How a vector for each class is computed from labelled texts at one layer: every estimator, and the one list of them.

The difference of means is the paper's (C4). The others are the field's common ones, in versions of ours, and two floors
that know the words alone. An estimator takes :class:`Texts` and gives one vector a class, float64 ``[class, d_model]``,
in the order of ``Texts.classes``. Estimators that find a direction alone give it the length |δ·u|: how far the class's
mean stands out along it, in units of the residual stream. So the lengths of all but the floors can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from emotrace.errors import EmotraceError, unknown
from emotrace.measures import geometry

NEUTRAL_SHARE = 0.5
"""Share of the unrelated texts' variance whose components :func:`neutral_removed` projects out."""


@dataclass(frozen=True)
class Texts:
    """Labelled texts at one layer, and what some estimators need beside them.

    Attributes:
        activations: ``[text, d_model]``.
        emotions: the class of each text, str ``[text]``; the baseline's class is one of them.
        topics: the topic of each text, str ``[text]``, for estimators that compare texts on one topic; None: unknown.
        unrelated: activations of unrelated texts at that layer, ``[other text, d_model]``.
        embeddings: the texts' mean token embedding, ``[text, d_model]``.
        names: class → the mean embedding of the tokens of its name, ``[d_model]``.
        baseline: the class that texts of the others are paired with in contrast pairs.
    """

    activations: np.ndarray
    emotions: np.ndarray
    topics: np.ndarray | None = None
    unrelated: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    names: Mapping[str, np.ndarray] | None = None
    baseline: str = "neutral"

    @property
    def classes(self) -> list[str]:
        """The classes in order of appearance: the rows of every estimate."""
        return list(map(str, dict.fromkeys(self.emotions)))

    def rows(self, kept: np.ndarray) -> Texts:
        """Some of the texts (bool or indices ``[text]``), with all that stands beside them."""
        return replace(
            self,
            activations=self.activations[kept],
            emotions=self.emotions[kept],
            topics=None if self.topics is None else self.topics[kept],
            embeddings=None if self.embeddings is None else self.embeddings[kept],
        )


def mean_difference(texts: Texts) -> np.ndarray:
    """Each class's mean minus the mean of the class means (C4). Takes noise that texts share for signal."""
    return _differences(texts.activations, texts)


def neutral_removed(texts: Texts) -> np.ndarray:
    """The difference of means without the leading components of unrelated texts (Sofroniew et al. 2026).

    Helps against noise that unrelated texts share; loses an emotion that lies along them.
    """
    if texts.unrelated is None:
        raise EmotraceError("removing neutral components needs unrelated texts")
    (components,) = geometry.neutral_components(texts.unrelated[:, None], NEUTRAL_SHARE)
    return geometry.project_out(mean_difference(texts), components)


def whitened(texts: Texts) -> np.ndarray:
    """Fisher's direction Σ⁻¹δ: Σ pools the covariance within classes, shrunk after Ledoit and Wolf (scikit-learn).

    Turns away from noise that texts share, topics among it. With fewer texts than dimensions Σ is mostly shrinkage.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    differences = mean_difference(texts)
    residuals = texts.activations.astype(np.float64)
    for name in texts.classes:
        residuals[texts.emotions == name] -= residuals[texts.emotions == name].mean(axis=0)
    n, width = residuals.shape
    shrinkage = float(ledoit_wolf_shrinkage(residuals, assume_centered=True))
    sphere, scale = shrinkage * (residuals**2).sum() / (n * width), (1 - shrinkage) / n
    if not sphere > 0:  # texts of a class are all alike: no noise to turn away from
        return differences
    # (sI + cRᵀR)⁻¹ by inner products of texts (Woodbury): as many of them as texts, not as dimensions.
    inner = np.eye(n) * sphere / scale + residuals @ residuals.T if scale > 0 else np.eye(n)
    solved = np.linalg.solve(inner, residuals @ differences.T)
    directions = differences - (residuals.T @ solved).T if scale > 0 else differences
    return _of_length(directions, differences)


def logistic(texts: Texts) -> np.ndarray:
    """The weights of a multinomial logistic regression (L2, C = 1) on standardised activations, in the stream's axes.

    The best decoder of many texts; from few it takes chance differences along quiet dimensions for signal.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(texts.classes) < 3:
        raise EmotraceError("a multinomial probe needs three classes or more")
    scaler = StandardScaler().fit(texts.activations.astype(np.float64))
    scaled = scaler.transform(texts.activations.astype(np.float64))
    # The optimum lies in the span of the texts.
    basis = np.linalg.qr(scaled.T)[0] if scaled.shape[0] < scaled.shape[1] else np.eye(scaled.shape[1])
    probe = LogisticRegression(C=1.0, max_iter=500, tol=1e-3).fit(scaled @ basis, texts.emotions)
    weights = (probe.coef_ @ basis.T) / scaler.scale_
    return _of_length(weights[np.searchsorted(probe.classes_, texts.classes)], mean_difference(texts))


def first_component(texts: Texts) -> np.ndarray:
    """The first principal component of contrasts, not centred, turned towards the class (reading vectors, RepE).

    A contrast is a text of the class minus the mean of the other classes' texts on the same topic. Finds the emotion
    where it is the largest thing that differs; where something else varies more between texts it finds that.
    """
    topics, differences = _topics(texts), mean_difference(texts)
    directions = np.zeros_like(differences)
    activations = texts.activations.astype(np.float64)
    for index, name in enumerate(texts.classes):
        others = {t: activations[(texts.emotions != name) & (topics == t)] for t in dict.fromkeys(topics)}
        rows = [row for row in np.flatnonzero(texts.emotions == name) if len(others[topics[row]])]
        if not rows:
            raise EmotraceError(f"no text of another class shares a topic with those of {name!r}")
        contrasts = np.stack([activations[row] - others[topics[row]].mean(axis=0) for row in rows])
        component = np.linalg.svd(contrasts, full_matrices=False)[2][0]
        directions[index] = component * np.sign(contrasts.mean(axis=0) @ component)
    return _of_length(directions, differences)


def contrast_pairs(texts: Texts) -> np.ndarray:
    """The mean difference between a text of the class and the baseline's text on the same topic (CAA).

    Of fully crossed passages that is the class's mean minus the baseline's; where topics are not crossed it keeps the
    topic out of the vector. What all feelings have in common is in every one of these vectors.
    """
    topics = _topics(texts)
    means = {
        topic: texts.activations[(texts.emotions == texts.baseline) & (topics == topic)].mean(axis=0, dtype=np.float64)
        for topic in dict.fromkeys(topics[texts.emotions == texts.baseline])
    }
    vectors = np.zeros((len(texts.classes), texts.activations.shape[1]))
    for index, name in enumerate(texts.classes):
        rows = [row for row in np.flatnonzero(texts.emotions == name) if topics[row] in means]
        if not rows:
            raise EmotraceError(f"no {texts.baseline} text shares a topic with those of {name!r}: no contrast pair")
        vectors[index] = np.mean([texts.activations[row] - means[topics[row]] for row in rows], axis=0)
    return vectors


def embedding_bag(texts: Texts) -> np.ndarray:
    """Floor: the difference of means of the texts' token embeddings, words without context, used at any layer."""
    if texts.embeddings is None:
        raise EmotraceError("a bag of embeddings needs the texts' mean token embeddings")
    return _differences(texts.embeddings, texts)


def name_token(texts: Texts) -> np.ndarray:
    """Floor: the embedding of the class's own name minus the mean over the names; no text is read."""
    if texts.names is None or any(name not in texts.names for name in texts.classes):
        raise EmotraceError("the floor of names needs the embedding of every class's name")
    rows = np.stack([texts.names[name] for name in texts.classes]).astype(np.float64)
    return rows - rows.mean(axis=0)


@dataclass(frozen=True)
class Estimator:
    """One entry of the list.

    Attributes:
        estimate: texts → one vector a class.
        title: what it is called in figures.
        needs: the fields of :class:`Texts` that it needs beside activations and classes.
        centring: what its vectors are measured from: ``grand``, the mean of all classes, or ``neutral``.
        floor: it reads no activations, and a vector that is no better than it holds words alone.
        learns: labels change it, so that permuted labels are a control for it.
    """

    estimate: Callable[[Texts], np.ndarray]
    title: str
    needs: tuple[str, ...] = ()
    centring: str = "grand"
    floor: bool = False
    learns: bool = True


MEAN_DIFFERENCE = "mean_difference"
ESTIMATORS: dict[str, Estimator] = {
    MEAN_DIFFERENCE: Estimator(mean_difference, "difference of means (the paper's)"),
    "neutral_removed": Estimator(neutral_removed, "… neutral components removed", ("unrelated",)),
    "whitened": Estimator(whitened, "whitened (shrinkage LDA)"),
    "logistic": Estimator(logistic, "logistic probe"),
    "first_component": Estimator(first_component, "first component of contrasts (RepE)", ("topics",)),
    "contrast_pairs": Estimator(contrast_pairs, "contrast pairs (CAA)", ("topics",), "neutral"),
    "embedding_bag": Estimator(embedding_bag, "floor: bag of embeddings", ("embeddings",), floor=True),
    "name_token": Estimator(name_token, "floor: the name's token", ("names",), floor=True, learns=False),
}
"""Every estimator by name: what ``extract(estimator=…)`` and the study's comparison take."""


def estimate(name: str, texts: Texts) -> np.ndarray:
    """The vectors of the estimator of this name, float64 ``[class, d_model]``.

    Zero where all texts hold the same (a full stop's embedding, say); floors do not look.

    Raises:
        EmotraceError: an unknown estimator, or texts that lack what it needs.
    """
    if name not in ESTIMATORS:
        raise unknown("estimator", name, ESTIMATORS)
    one = ESTIMATORS[name]
    if not one.floor:
        spread = np.abs(texts.activations - texts.activations.mean(axis=0, dtype=np.float64)).max()
        if spread <= 1e-6 * np.abs(texts.activations).max():
            return np.zeros((len(texts.classes), texts.activations.shape[1]))
    return one.estimate(texts)


def _differences(values: np.ndarray, texts: Texts) -> np.ndarray:
    means = np.stack([values[texts.emotions == name].mean(axis=0, dtype=np.float64) for name in texts.classes])
    return means - means.mean(axis=0)


def _of_length(directions: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """The directions, each as long as the class's difference of means is along it."""
    units = geometry.unit(directions)
    return units * np.abs((units * differences).sum(axis=1, keepdims=True))


def _topics(texts: Texts) -> np.ndarray:
    if texts.topics is None:
        raise EmotraceError("contrasts are taken between texts on one topic: the texts need a column topic")
    return texts.topics
