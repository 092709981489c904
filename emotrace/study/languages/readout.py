"""What an edit brings up: changes for every token of the vocabulary, and the texts that are written under it (C11).

Two read-outs of a direction, each a change for every token of the vocabulary ``[direction, vocabulary]``:

- ``direct``: the model's own last-layer state at the end of each English prompt goes through final norm and unembedding
  with the edit added and without; the difference of the logits, averaged over prompts. That is what the edit does along
  the skip path alone. The vector alone is not put through the norm: a norm is not linear, and how much of a direction
  passes it depends on the few huge dimensions of the state that it is added to (ours; the paper does not say).
- ``steered``: the change of the next token's log-probability when the model runs under the edit; what steering does in
  fact, all later layers included.

Texts are written under the edit and read again under it, which gives the probability of every script at every step.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emotrace.activations import encode, residual_norms
from emotrace.instrument import corpus
from emotrace.steering import Edit, directions, generate, random_like, reread, score
from emotrace.study.languages.lexicon import Tokens, lexicon
from emotrace.study.languages.writing_systems import HAN, LATIN, script_counts

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

DIRECT_STRENGTH = 0.1


@dataclass(frozen=True)
class Sizes:
    """The sizes of the experiment. Texts are written at temperature 1: from the model's own distribution."""

    seed: int = 0
    random: int = 20
    new_tokens: int = 24
    written_prompts: int = 4
    bootstrap: int = 1000
    permutations: int = 999
    positions: str = "generated"

    @classmethod
    def quick(cls, seed: int = 0) -> Sizes:
        return cls(seed, random=10, new_tokens=16, written_prompts=2, bootstrap=200, permutations=199)

    def rng(self, *what: object) -> np.random.Generator:
        """The generator of one purpose, independent of every other and of the order of work."""
        return np.random.default_rng([self.seed, zlib.crc32(repr(what).encode())])


def with_controls(vectors: EmotionVectors, sizes: Sizes) -> EmotionVectors:
    """The emotions' vectors, followed by random directions of their mean norm."""
    controls = random_like(vectors, sizes.random, int(sizes.rng("random directions").integers(2**32)))
    return replace(
        vectors,
        emotions=(*vectors.emotions, *controls.emotions),
        values=np.concatenate([vectors.values, controls.values]),
    )


def _edits(model: Model, vectors: EmotionVectors, layer: int, strength: float) -> torch.Tensor:
    """One edit for each of the vectors: float32 ``[direction, d_model]``."""
    rows = [(name, strength) for name in vectors.emotions]
    return directions(vectors, rows, [layer], residual_norms(model))[layer]


def direct_readout(
    model: Model, vectors: EmotionVectors, layer: int, prompts: Sequence[str], strength: float = DIRECT_STRENGTH
) -> np.ndarray:
    """The logit change along the skip path (see above), mean over prompts: float64 ``[direction, vocabulary]``.

    The edit is unit vector × ``strength`` × the mean residual norm of ``layer``; it is added to the last layer's state.
    """
    edits = _edits(model, vectors, layer, strength)
    states = score(model, prompts, None, read_layers=[model.n_layers])["stream"][:, 0]
    total = 0.0
    for state in torch.from_numpy(states):
        logits = _unembedded(model, torch.cat([state[None], state + edits]))
        total = total + (logits[1:] - logits[:1])
    return total / len(states)


def _unembedded(model: Model, stream: torch.Tensor) -> np.ndarray:
    """Last-layer states ``[row, d_model]`` through final norm and unembedding: float64 logits ``[row, vocabulary]``."""
    nothing = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
    nn, last, norm, unembedding = model.nn, model.layers[-1], model.part("final_norm"), model.part("unembedding")
    with torch.no_grad(), nn.trace(nothing, use_cache=False, backend=model.backend()):
        like = last.output
        logits = unembedding(norm(stream.to(like.device, like.dtype))).double().cpu().save()
    return logits.numpy()


def steered_readout(
    model: Model,
    vectors: EmotionVectors,
    layer: int,
    prompts: Sequence[str],
    strength: float,
    positions: str,
    groups: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The next token under each direction's edit; ``groups`` is the membership of tokens, ``[vocabulary, group]``.

    Returns:
        The change of log-probability, mean over prompts, ``[direction, vocabulary]``; the probability of each group of
        tokens, ``[direction, prompt, group]``, and that of the unedited model in a last row: ``[direction + 1, …]``.
    """
    edits = _edits(model, vectors, layer, strength)
    plain = score(model, prompts, None, read_layers=[layer])["log_probabilities"]
    masses = np.empty((len(edits) + 1, len(prompts), groups.shape[1]))
    masses[-1] = np.exp(plain) @ groups
    total = np.zeros((len(edits), plain.shape[1]))
    for place, prompt in enumerate(prompts):  # rows of one prompt, one a direction, need no padding
        edit = Edit({layer: edits}, positions=positions)
        steered = score(model, [prompt] * len(edits), edit, read_layers=[layer])["log_probabilities"]
        masses[:-1, place] = np.exp(steered) @ groups
        total += steered - plain[place]
    return total / len(prompts), masses


def ranks(readout: np.ndarray, token: int, pool: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The rank of a token among those of ``pool`` (1 = raised most) under each direction: int ``[direction]``."""
    return 1 + (readout[:, pool] > readout[:, [token]]).sum(axis=1)


def standardised(readout: np.ndarray, tokens: Tokens) -> np.ndarray:
    """The read-out at the lexicon's tokens in standard deviations over the script's tokens: ``[direction, token]``."""
    pool = readout[:, tokens.pool]
    return (readout[:, tokens.ids] - pool.mean(axis=1, keepdims=True)) / pool.std(axis=1, keepdims=True)


# -- text written under the edit --------------------------------------------------------------------------------------


def write_texts(
    model: Model,
    vectors: EmotionVectors,
    layer: int,
    strength: float,
    prompts: Sequence[str],
    sizes: Sizes,
    groups: np.ndarray,
) -> list[dict[str, Any]]:
    """Continues the prompts under each of the vectors (at strength 0: once, unedited) and measures what was written.

    Returns:
        One row a text: ``emotion`` (``unsteered`` at strength 0), ``strength``, ``prompt``, ``text``; ``letters``, the
        characters that have a script, of which ``han`` and ``other_script``; ``chinese`` and ``english``, the emotions
        whose words it holds; ``steps``, the groups' probability at each step ``[step][group]``.
    """
    names = list(vectors.emotions) if strength else ["unsteered"]
    edits = _edits(model, vectors, layer, strength) if strength else None
    found = []
    for prompt, (tokens, *_) in zip(
        prompts, encode(model, prompts), strict=True
    ):  # a prompt's rows are alike in length
        seeds = [int(sizes.rng("text", prompt).integers(2**31))] * len(names)
        edit = None if edits is None else Edit({layer: edits}, positions=sizes.positions)
        same = [tokens] * len(names)
        texts = generate(model, same, edit, max_new_tokens=sizes.new_tokens, temperature=1.0, seeds=seeds)
        masses = reread(model, same, texts, edits, layer, sizes.positions, groups)
        for name, text, steps in zip(names, texts, masses, strict=True):
            row = {"emotion": name, "strength": strength, "prompt": prompt, "steps": steps.tolist()}
            found.append({**row, **_measured(model, text)})
    return found


def _measured(model: Model, tokens: Sequence[int]) -> dict[str, Any]:
    text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    counts, words, names = script_counts(text), lexicon(), corpus.emotion_names()
    other = counts.total() - counts[HAN] - counts[LATIN]
    return {
        "text": text, "letters": counts.total(), "han": counts[HAN], "other_script": other,
        "chinese": sorted({emotion for emotion, word in zip(words["emotion"], words["word"], strict=True) if word in text}),
        "english": [name for name in names if corpus.leaks(text, [name])],
    }  # fmt: skip
