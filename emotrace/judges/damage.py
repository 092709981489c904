"""What steering does to a model beside its own text: predictions on neutral texts, and 60 items with a right answer.

Perplexity asks how likely the steered text is; a fluent text can come from a model that has lost its arithmetic. Ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.measures import statistics
from emotrace.scoring import divergence, score
from emotrace.steered_texts import steered_layers, strengths_of
from emotrace.steering import Edit, directions
from emotrace.tokens import encode
from emotrace.vectors import Emotion, EmotionVectors, mixture_name

if TYPE_CHECKING:
    from emotrace.models import Model

CHANCE = 0.5
"""Of the checkable items: two words, each right in one item and wrong in another."""
ALL = "all"


@arguments.checked
def damage(
    model: Model,
    vectors: EmotionVectors,
    strengths: float | Sequence[float] | None = None,
    *,
    emotions: Sequence[Emotion] | None = None,
    layers: int | Sequence[int] | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """What is lost under each emotion and strength.

    Args:
        model: the model.
        vectors: its emotion vectors.
        strengths: in mean residual norms; default: the calibrated one. The unsteered model (0) comes first in any case.
        emotions: names in ``vectors`` or mixtures; default: all of them.
        layers: where to add; default as in :func:`~emotrace.steered_texts.steer`.
        progress: called with 1 after each emotion and strength.

    Returns:
        One row a strength, emotion and metric, ``value`` with ``low``, ``high`` over ``n`` and ``chance``: ``kl``,
        KL(unsteered ‖ steered) of the predictions on the neutral passages, nats a token, Student's interval over texts;
        ``checkable``, share of the items of ``data/checkable.csv`` whose right word is more probable than the wrong
        one, Wilson's interval; ``checkable_KIND`` of one kind of them. Items whose words the tokenizer does not tell
        apart are left out.

    Raises:
        EmotraceError: what :func:`~emotrace.steered_texts.steer` refuses.
    """
    vectors.check(model)
    layers, strengths = steered_layers(model, vectors, layers), strengths_of(vectors, strengths)
    passages = corpus.passages()
    texts = list(passages[passages["emotion"] == corpus.NEUTRAL]["text"])
    items, words = answerable(model)
    cases: list[tuple[Emotion | None, float]] = [(None, 0.0)]
    chosen: Sequence[Emotion] = vectors.emotions if emotions is None else arguments.emotions(emotions)
    cases += [(emotion, strength) for strength in strengths if strength for emotion in chosen]
    rows = []
    for emotion, strength in cases:
        edits = [_edit(model, vectors, emotion, strength, layers, len(of)) for of in (texts, items)]
        kl = np.zeros(len(texts)) if edits[0] is None else divergence(model, texts, edits[0])
        right = _right(model, items, words, edits[1])
        name = "" if emotion is None else mixture_name(emotion)
        rows += [{"strength": strength, "emotion": name, **row} for row in _measures(kl, right, items)]
        if progress:
            progress(1)
    return pd.DataFrame(rows)


def harm(
    model: Model,
    vectors: EmotionVectors,
    layers: Sequence[int],
    strength: float,
    texts: Sequence[str],
    emotions: Sequence[str] | None = None,
) -> float:
    """KL(unsteered ‖ steered) on these texts, nats a token: the mean over emotions (default: all) and texts.

    Raises:
        EmotraceError: no emotion or no text.
    """
    names = vectors.emotions if emotions is None else emotions
    if not len(names) or not len(texts):
        raise EmotraceError("a harm is a mean over emotions and texts: one of each is needed at least")
    rows = [(name, strength) for name in names for _ in texts]
    edit = Edit(directions(vectors, rows, layers, residual_norms(model)))
    return float(divergence(model, list(texts) * len(names), edit).mean())


LOWEST, HIGHEST, STEP = 0.005, 5.0, 4.0


def strength_of_harm(
    harm_at: Callable[[float], float], target: float, first: float, *, within: float = 0.1, tries: int = 5
) -> tuple[float, float]:
    """The strength that does so much harm, and the harm it does: different vectors are compared there.

    Harm grows about as the square of the strength, so that the next try lies on the line through the last two in the
    logarithms. Ours.

    Args:
        harm_at: strength → harm, as :func:`harm` gives it.
        target: the harm that is sought.
        first: the strength to begin with.
        within: how far the logarithm of the harm may lie from the target's.
        tries: after so many the nearest is taken. What is found says how near it is.
    """
    tried: list[tuple[float, float]] = []
    strength, slope = float(np.clip(first, LOWEST, HIGHEST)), 2.0
    for _ in range(tries):
        tried.append((strength, max(harm_at(strength), 1e-9)))
        missing = float(np.log(target / tried[-1][1]))
        if abs(missing) <= within:
            break
        if len(tried) > 1:
            (near, less), (far, more) = sorted(tried[-2:])
            slope = float(np.clip(np.log(more / less) / np.log(far / near), 0.5, 4.0)) if far > near else slope
        step = float(np.clip(np.exp(missing / slope), 1 / STEP, STEP))
        if (moved := float(np.clip(strength * step, LOWEST, HIGHEST))) == strength:
            break  # at an end of the range
        strength = moved
    return min(tried, key=lambda one: abs(np.log(one[1] / target)))


def answerable(model: Model) -> tuple[pd.DataFrame, np.ndarray]:
    """The checkable items whose two words begin with different tokens after the prompt, and those tokens ``[item, 2]``.

    Raises:
        EmotraceError: there is none for this tokenizer.
    """
    items, kept, tokens = corpus.checkable(), [], []
    for row in items.itertuples():
        texts = encode(model, [row.prompt, f"{row.prompt} {row.right}", f"{row.prompt} {row.wrong}"], prompts=True)
        prompt, *answers = (text.ids for text in texts)
        first = [ids[len(prompt)] if ids[: len(prompt)] == prompt else -1 for ids in answers]
        if -1 not in first and first[0] != first[1]:
            kept.append(row.Index)
            tokens.append(first)
    if not kept:
        raise EmotraceError(f"the tokenizer of {model.name} tells no pair of answers apart")
    return items.loc[kept].reset_index(drop=True), np.array(tokens)


def _edit(
    model: Model, vectors: EmotionVectors, emotion: Emotion | None, strength: float, layers: list[int], rows: int
) -> Edit | None:
    """The same edit in every row; None without an emotion."""
    if emotion is None:
        return None
    return Edit(directions(vectors, [(emotion, strength)] * rows, layers, residual_norms(model)))


def _right(model: Model, items: pd.DataFrame, words: np.ndarray, edit: Edit | None) -> np.ndarray:
    """Whether the right word's token is the more probable one under the edit: bool ``[item]``."""
    tokens = np.unique(words)
    found = score(model, list(items["prompt"]), edit, read_layers=[0], groups=[[int(token)] for token in tokens])
    logs = np.take_along_axis(found["log_probabilities"], np.searchsorted(tokens, words), axis=1)
    return logs[:, 0] > logs[:, 1]


def _measures(kl: np.ndarray, right: np.ndarray, items: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"metric": "kl", **statistics.mean_interval(kl)._asdict(), "n": len(kl)}]
    for kind in (ALL, *items["kind"].unique()):
        those = right if kind == ALL else right[(items["kind"] == kind).to_numpy()]
        share = statistics.wilson(int(those.sum()), len(those))._asdict()
        name = "checkable" if kind == ALL else f"checkable_{kind}"
        rows.append({"metric": name, **share, "n": len(those), "chance": CHANCE})
    return rows
