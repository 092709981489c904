"""What an edit brings up: changes for every token of the vocabulary, and the texts that are written under it (C11).

Two read-outs of a direction, each a change for every token of the vocabulary ``[direction, vocabulary]``:

- ``direct``: what the edit does along the skip path alone (:func:`emotrace.logit_lens.direct_readout`).
- ``steered``: the change of the next token's log-probability when the model runs under the edit; what steering does in
  fact, all later layers included.

Texts are written under the edit and read again under it, which gives the probability of every script at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emotrace.instrument import corpus
from emotrace.logit_lens import Directions
from emotrace.measures.randomness import generator
from emotrace.scoring import reread, score
from emotrace.steering import generate, random_like
from emotrace.study.languages.lexicon import LexiconTokens, lexicon
from emotrace.study.languages.writing_systems import HAN, LATIN, script_counts
from emotrace.tokens import Writing, encode

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors


@dataclass(frozen=True)
class Sizes:
    """The sizes of the experiment. Texts are written at temperature 1: from the model's own distribution."""

    seed: int = 0
    permuted: int = 20
    random: int = 8
    new_tokens: int = 24
    written_prompts: int = 4
    bootstrap: int = 1000
    permutations: int = 999
    positions: str = "generated"

    @classmethod
    def quick(cls, seed: int = 0) -> Sizes:
        return cls(seed, permuted=20, random=4, new_tokens=16, written_prompts=2, bootstrap=200, permutations=199)


def with_controls(vectors: EmotionVectors, permuted: EmotionVectors, sizes: Sizes) -> EmotionVectors:
    """The emotions' vectors, followed by those of permuted labels and by random directions of their mean norm.

    An edit makes all of them alike in length.
    """
    seed = int(generator(sizes.seed, "random directions").integers(2**32))
    random = random_like(vectors, sizes.random, seed)
    values = np.concatenate([vectors.values, permuted.values[: sizes.permuted], random.values])
    names = (*vectors.emotions, *permuted.emotions[: sizes.permuted], *random.emotions)
    return replace(vectors, emotions=names, values=values)


def steered_readout(
    steered: Directions, prompts: Sequence[str], strength: float, positions: str, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The next token under each direction's edit; ``groups`` is the membership of tokens, ``[vocabulary, group]``.

    Returns:
        The change of log-probability, mean over prompts, ``[direction, vocabulary]``; the probability of each group of
        tokens, ``[direction, prompt, group]``, and that of the unedited model in a last row: ``[direction + 1, …]``.
    """
    model, read, n = steered.model, [steered.layer], len(steered.vectors.emotions)
    edit, unedited = steered.edit(strength, positions), score(model, prompts, None, read_layers=read)
    masses = np.empty((n + 1, len(prompts), groups.shape[1]))
    masses[-1] = np.exp(unedited["log_probabilities"]) @ groups
    total = np.zeros((n, len(groups)))
    for index, prompt in enumerate(prompts):  # rows of one prompt, one a direction, need no padding
        edited = score(model, [prompt] * n, edit, read_layers=read)["log_probabilities"]
        masses[:-1, index] = np.exp(edited) @ groups
        total += edited - unedited["log_probabilities"][index]
    return total / len(prompts), masses


def ranks(readout: np.ndarray, token: int, pool: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The rank of a token among those of ``pool`` (1 = raised most) under each direction: int ``[direction]``."""
    return 1 + (readout[:, pool] > readout[:, [token]]).sum(axis=1)


def standardised(readout: np.ndarray, tokens: LexiconTokens) -> np.ndarray:
    """The read-out at the lexicon's tokens in standard deviations over the script's tokens: ``[direction, token]``."""
    pool = readout[:, tokens.pool]
    return (readout[:, tokens.ids] - pool.mean(axis=1, keepdims=True)) / pool.std(axis=1, keepdims=True)


# -- text written under the edit --------------------------------------------------------------------------------------


def write_texts(
    steered: Directions, strength: float, prompts: Sequence[str], sizes: Sizes, groups: np.ndarray
) -> list[dict[str, Any]]:
    """Continues the prompts under each of the vectors (at strength 0: once, unedited) and measures what was written.

    Returns:
        One row a text: ``emotion`` (``unsteered`` at strength 0), ``strength``, ``prompt``, ``text``; ``letters``, the
        characters that have a script, of which ``han`` and ``other_script``; ``chinese`` and ``english``, the emotions
        whose words it holds; ``steps``, the groups' probability at each step ``[step][group]``.
    """
    names = list(steered.vectors.emotions) if strength else ["unsteered"]
    edit = steered.edit(strength, sizes.positions) if strength else None
    model, writing = steered.model, Writing(sizes.new_tokens, temperature=1.0)
    rows = []
    for prompt, tokens in zip(prompts, encode(model, prompts), strict=True):  # a prompt's rows are alike in length
        seed = int(generator(sizes.seed, "text", prompt).integers(2**31))
        same = [tokens.ids] * len(names)
        texts = generate(model, same, edit, writing, [seed] * len(names))
        masses = reread(model, same, texts, edit, groups)
        for name, text, steps in zip(names, texts, masses, strict=True):
            row = {"emotion": name, "strength": strength, "prompt": prompt, "steps": steps.tolist()}
            rows.append({**row, **_measured(model, text)})
    return rows


def _measured(model: Model, tokens: Sequence[int]) -> dict[str, Any]:
    text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    counts, words = script_counts(text), zip(lexicon()["emotion"], lexicon()["word"], strict=True)
    return {
        "text": text,
        "letters": counts.total(),
        "han": counts[HAN],
        "other_script": counts.total() - counts[HAN] - counts[LATIN],
        "chinese": sorted({emotion for emotion, word in words if word in text}),
        "english": [name for name in corpus.emotion_names() if corpus.leaks(text, [name])],
    }
