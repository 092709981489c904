"""This prompt, that emotion, this strength: what changes? Plain and steered text side by side, and what differs."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError
from emotrace.instrument.instrument import Instrument
from emotrace.judges import regimes
from emotrace.judges.classifiers import Classifier, load_classifier
from emotrace.steered_texts import as_calibrated, nearest_half, steer, steered_layers
from emotrace.tokens import Writing, tokenised
from emotrace.vectors import Emotion, mixture_name
from emotrace.whatif.results import Side, TokenReading, WhatIf
from emotrace.whatif.text_reading import Progress, cached_vectors, cosines, permuted_like
from emotrace.whatif.token_reading import read_emotions

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

WRITING = Writing(max_new_tokens=60)
UNCALIBRATED = 0.2
LABELS_SHOWN = 6


@arguments.checked
def what_if(
    model: Model,
    prompt: str,
    emotion: Emotion,
    strength: float | None = None,
    *,
    vectors: EmotionVectors | None = None,
    instrument: Instrument | None = None,
    layer: int | None = None,
    writing: Writing = WRITING,
    judge: bool | Classifier = True,
    control: int = 0,
    progress: Progress | None = None,
) -> WhatIf:
    """Continues a prompt without and with an emotion added to the residual stream.

    Args:
        model: the model.
        prompt: what to continue.
        emotion: a name, or a mixture (emotion → weight): the weighted sum of their vectors.
        strength: multiple of the mean residual norm at the layer; negative steers away, 0 changes nothing. Default:
            what the vectors are calibrated to, else 0.2.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        instrument: of which they are extracted; default: ``data/``.
        layer: layer index; default: what the vectors are calibrated at, else half depth. Of several layers that the
            text is steered at, what it changes is read at the one nearest to half depth.
        writing: length, temperature, chat; default: 60 tokens, sampled as the vectors are calibrated, else greedy. Both
            texts are sampled with the first of its seeds.
        judge: ask the embedded classifier for its opinion of both texts; another classifier is taken as it is.
        control: as many texts are written under vectors of permuted labels, of the same norm at the same layers; what
            they change stands beside what the emotion does, with its rank among them as p: 19 are the fewest of which p
            can be 0.05. Of vectors that come with emotrace 19 do too; of others the texts are read again, once in a
            process.
        progress: called while vectors are extracted the first time.

    Raises:
        EmotraceError: whatever :func:`~emotrace.steered_texts.steer` refuses; no classifier where one is asked for.
    """
    control = arguments.integer(control, "control", at_least=0)  # before anything that takes long
    prompt, emotion = arguments.text(prompt, "the prompt"), arguments.emotion(emotion)
    if vectors is None:
        vectors = cached_vectors(model, progress=progress, instrument=instrument, needed=layer)
    edited = steered_layers(model, vectors, None if layer is None else arguments.integer(layer, "a layer"))
    layer = nearest_half(model, edited)
    if strength is None:
        strength = float(vectors.calibration.get("strength") or UNCALIBRATED)
    strength = arguments.number(strength, "a strength")
    writing = replace(as_calibrated(vectors, writing), seeds=writing.seeds[:1])
    written = steer(model, prompt, vectors, [0.0, strength], emotions=[emotion], layers=edited, writing=writing)
    texts = list(written["text"])
    if control:
        permuted = permuted_like(model, vectors, control, layers=edited, instrument=instrument, progress=progress)
        texts += list(steer(model, prompt, permuted, strength, layers=edited, writing=writing)["text"])
    # In a chat the answer does not go on in the middle of the user's last word.
    before = prompt + ("\n\n" if writing.chat else "")
    try:
        parsed = not writing.chat and _spells_special(model, prompt)
        how: dict[str, Any] = {"layer": layer, "vectors": vectors, "instrument": instrument, "prompt": parsed}
        readings = [read_emotions(model, before + text, emotion, **how) for text in texts]
    except EmotraceError as error:
        raise EmotraceError(f"the texts cannot be read again: {error}") from None
    plain, steered, *others = (cosines(vectors, reading.activation[0], layer) for reading in readings)
    changes = pd.DataFrame({"emotion": vectors.emotions, "plain": plain, "steered": steered, "change": steered - plain})
    if control:
        changes = _beside_control(changes, np.stack(others) - plain, emotion, strength)
    direction = vectors[emotion] if isinstance(emotion, str) else vectors.mix(emotion)
    gap = np.linalg.norm(direction[vectors.index(layer)])
    judged, name = _judged(list(written["text"]), judge)
    return WhatIf(
        prompt=prompt,
        emotion=mixture_name(emotion),
        strength=float(strength),
        gaps=float(strength * residual_norms(model)[layer] / gap),
        layer=layer,
        layers=tuple(edited),
        sides=_sides(model, written, writing.chat, readings[:2]),
        changes=changes.sort_values("change", ascending=False, ignore_index=True, kind="stable"),
        targets=(emotion,) if isinstance(emotion, str) else tuple(emotion),
        judged=judged,
        judge=name,
        control=control,
        writing=writing,
    )


def _beside_control(changes: pd.DataFrame, null: np.ndarray, emotion: Emotion, strength: float) -> pd.DataFrame:
    """The changes with mean and range of the control's, ``null [draw, emotion]``, and their rank among them.

    A fall counts in place of a rise at a negative strength, and for what has a negative weight at a positive one.
    """
    weights = {} if isinstance(emotion, str) else emotion
    towards = [np.sign(strength or 1) * (np.sign(weights.get(name, 0)) or 1) for name in changes["emotion"]]
    beyond = np.multiply(towards, null) >= towards * changes["change"].to_numpy()
    return changes.assign(
        permuted=null.mean(axis=0),
        permuted_low=null.min(axis=0),
        permuted_high=null.max(axis=0),
        p=(1 + beyond.sum(axis=0)) / (1 + len(null)),
    )


def _spells_special(model: Model, prompt: str) -> bool:
    """Whether the prompt, continued without a chat, holds special tokens of the model: then they are read as such."""
    special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    return not special.isdisjoint(tokenised(model, prompt, special=True, add_special_tokens=False)["input_ids"])


def _sides(model: Model, written: pd.DataFrame, chat: bool, readings: list[TokenReading]) -> tuple[Side, Side]:
    """Each text with its regime; each is scored by itself, so that two equal texts get equal numbers."""
    unsteered = regimes.references(model, written.iloc[[0]], chat)

    def side(name: str, index: int) -> Side:
        row = regimes.measure(model, written.iloc[[index]], unsteered, chat=chat).iloc[0]
        ratio = float(row["perplexity_ratio"])
        reading, real_words = readings[index], float(row["real_words"])
        return Side(name, row["text"], int(row["n_tokens"]), row["regime"], ratio, reading, real_words)

    return side("plain", 0), side("steered", 1)


def _judged(texts: list[str], judge: bool | Classifier) -> tuple[pd.DataFrame | None, str | None]:
    """The labels that score highest in either text, the largest change first, and the judge's name."""
    if judge is False:
        return None, None
    classifier = _default_judge() if judge is True else judge
    scores = classifier.scores(texts)
    table = pd.DataFrame({"label": classifier.labels, "plain": scores[0], "steered": scores[1]})
    table["change"] = table["steered"] - table["plain"]
    highest = table[["plain", "steered"]].max(axis=1).nlargest(LABELS_SHOWN).index
    table = table.loc[highest].sort_values("change", ascending=False, ignore_index=True, kind="stable")
    return table, classifier.name


@functools.cache
def _default_judge() -> Classifier:
    try:
        return load_classifier()
    except EmotraceError as error:
        raise EmotraceError(f"{error}; without an outside judge: judge=False (--no-judge)") from None
