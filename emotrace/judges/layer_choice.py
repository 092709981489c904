"""Which layer to steer at, by what steering does there: the largest effect at equal harm. Ours.

At every layer the strength is the one that does as much harm on neutral texts as the others do (:func:`damage.harm`);
the effect is read in the next token, which needs no text to be written. What is largest among many layers on some
prompts looks larger there than it is, so a choice is reported on prompts and texts that took no part in it
(:func:`effect` on others).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges.damage import harm, strength_of_harm
from emotrace.scoring import score
from emotrace.steered_texts import steered_positions
from emotrace.steering import Edit, directions
from emotrace.tokens import Writing

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

CANDIDATES = 10
"""Layers that are tried, evenly over the depth."""
HARM_TEXTS, HARM_EMOTIONS = 3, 5
"""Neutral texts and emotions behind a harm: it is a mean of a smooth function, not a share of texts."""
_ROWS = 64


class Place(NamedTuple):
    """A layer with the strength of the harm that was asked for, the harm there, and effects ``[emotion, prompt]``."""

    layer: int
    strength: float
    kl: float
    effects: np.ndarray


def kin_tokens(model: Model, emotion: str) -> list[int]:
    """Tokens that by themselves are one of the emotion's kin words, with the space before it; none for an unknown one.

    The kin words are those of ``data/emotions.csv``.
    """
    words = corpus.emotions()["kin"].to_dict().get(emotion, ())
    ids = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    return sorted({tokens[0] for tokens in ids if len(tokens) == 1})


def readable(model: Model, emotions: Sequence[str]) -> list[str]:
    """The emotions whose kin words this model can write as its next token."""
    return [name for name in emotions if kin_tokens(model, name)]


def with_kin_words(model: Model, emotions: Sequence[str]) -> list[str]:
    """:func:`readable`, at least one.

    Raises:
        EmotraceError: none has kin words of one token.
    """
    if not (names := readable(model, emotions)):
        raise EmotraceError("no emotion of these vectors has a kin word of one token: choose the layer by decoding")
    return names


def few(names: Sequence[str]) -> list[str]:
    """``HARM_EMOTIONS`` of them, evenly from the list: under these the harm of a strength is measured."""
    count = min(len(names), HARM_EMOTIONS)
    return [names[place * len(names) // count] for place in range(count)]


def effect(
    model: Model,
    vectors: EmotionVectors,
    layers: Sequence[int],
    strength: float,
    prompts: Sequence[str],
    emotions: Sequence[str],
) -> np.ndarray:
    """By how much each emotion's kin words become more probable as the next token: ``[emotion, prompt]``, nats.

    Raises:
        EmotraceError: an emotion without kin words of one token.
    """
    if lost := [name for name in emotions if not kin_tokens(model, name)]:
        raise EmotraceError(f"the next token shows nothing of {lost[0]!r}: it has no kin words of one token")
    kin, norms = [kin_tokens(model, name) for name in emotions], residual_norms(model)
    cells = [(name, prompt) for name in emotions for prompt in prompts]
    positions, found = steered_positions(vectors, Writing()), list[float]()
    for start in range(0, len(cells), _ROWS):
        part = cells[start : start + _ROWS]
        edit = Edit(directions(vectors, [(name, strength) for name, _ in part], layers, norms), positions=positions)
        scores = score(model, [prompt for _, prompt in part], edit, read_layers=[0], groups=kin)["log_probabilities"]
        found += [row[emotions.index(name)] for (name, _), row in zip(part, scores, strict=True)]
    plain = score(model, list(prompts), None, read_layers=[0], groups=kin)["log_probabilities"]
    return np.array(found).reshape(len(emotions), len(prompts)) - plain.T


def candidates(n_layers: int, *others: int) -> list[int]:
    """``CANDIDATES`` layers from the first to the last but one, and ``others``, ascending."""
    spread = np.linspace(1, max(1, n_layers - 1), CANDIDATES).round().astype(int)
    return sorted({*spread.tolist(), *others})


def places(
    model: Model,
    vectors: EmotionVectors,
    layers: Sequence[int],
    budget: float,
    first: float,
    *,
    prompts: Sequence[str],
    texts: Sequence[str],
    emotions: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Place]:
    """Each layer at the strength of equal harm, with what it does there.

    Args:
        model: the model.
        vectors: its emotion vectors.
        layers: the layers to try, each by itself.
        budget: the harm, nats a token (:func:`damage.harm` of ``texts``).
        first: the strength to begin the search with; each layer begins at the one that the layer before it ended with.
        prompts: where the effect is read.
        texts: neutral texts on which harm is done.
        emotions: default: those of ``vectors`` with kin words of one token.
        progress: called with 1 after each layer.
    """
    names = with_kin_words(model, vectors.emotions) if emotions is None else list(emotions)
    some, found = few(names), []
    for layer in layers:
        harm_at = partial(_harm_at, model, vectors, layer, texts, some)
        first, kl = strength_of_harm(harm_at, budget, first)
        found.append(Place(layer, first, kl, effect(model, vectors, [layer], first, prompts, names)))
        if progress:
            progress(1)
    return found


def _harm_at(
    model: Model, vectors: EmotionVectors, layer: int, texts: Sequence[str], emotions: Sequence[str], strength: float
) -> float:
    return harm(model, vectors, [layer], strength, texts, emotions)


def best(found: Sequence[Place]) -> Place:
    """The place of the largest mean effect; of equal ones the first."""
    return max(found, key=lambda place: float(place.effects.mean()))


def neutral_texts(number: int, start: int = 0) -> list[str]:
    """So many neutral passages of ``data/passages.csv``, from the one at ``start`` on."""
    passages = corpus.passages()
    return list(passages[passages["emotion"] == corpus.NEUTRAL]["text"])[start : start + number]
