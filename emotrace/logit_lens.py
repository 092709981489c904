"""What a direction says in words: the tokens that it raises and lowers on its way past all later layers.

A logit lens of a vector. The vector alone is not put through final norm and unembedding: a norm is not linear, and how
much of a direction passes it depends on the few huge dimensions of the state that it is added to. So the model's own
last-layer state at the end of each of some prompts goes through them with the edit added and without, and the
difference of the logits is averaged over the prompts (ours; the paper does not say). It is what the edit does along the
skip path alone; what the later layers make of it is :func:`emotrace.scoring.score`'s to say.

Any direction raises some tokens most. Beside each number stands what random directions of the same norm give, and, if
they are at hand, vectors of the same texts with permuted labels: those lie where texts lie, and random ones do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from emotrace import arguments
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.scoring import score, unembed
from emotrace.steering import Edit, directions, random_like

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

DIRECT_STRENGTH = 0.1
"""Of the edit, in mean residual norms of its layer; in half precision in norms of the state, if that is more."""
EXACT = ("float32", "float64")
PROMPTS = 8


@dataclass(frozen=True, eq=False)
class Directions:
    """The vectors of ``vectors`` at one layer of the model, each an edit of its own."""

    model: Model
    vectors: EmotionVectors
    layer: int

    def edit(self, strength: float, positions: str = "generated") -> Edit:
        """A row a direction: unit vector × ``strength`` × the mean residual norm of the layer."""
        rows = [(name, strength) for name in self.vectors.emotions]
        return Edit(directions(self.vectors, rows, [self.layer], residual_norms(self.model)), positions=positions)


def last_states(model: Model, prompts: Sequence[str]) -> torch.Tensor:
    """What leaves the last layer at the end of each prompt: float32 ``[prompt, d_model]``."""
    return torch.from_numpy(score(model, prompts, None, read_layers=[model.n_layers], groups=[[0]])["stream"][:, 0])


def direct_readout(steered: Directions, states: torch.Tensor, strength: float = DIRECT_STRENGTH) -> np.ndarray:
    """The logit change along the skip path, mean over :func:`last_states`: float64 ``[direction, vocabulary]``.

    The edit is in mean residual norms of its own layer; it is added to the last layer's state. That has up to 200 times
    the norm, so that logits in half precision would say of an early layer's edit what rounding makes of it. There the
    edit is lengthened to ``DIRECT_STRENGTH`` of the state, and the change divided by as much (ours).
    """
    edits, total = steered.edit(strength).directions[steered.layer], np.zeros(1)
    longest = float(edits.norm(dim=1).max())
    for state in states:
        times = 1.0
        if steered.model.provenance["dtype"] not in EXACT and longest > 0:
            times = max(1.0, DIRECT_STRENGTH * float(state.norm()) / longest)
        logits = unembed(steered.model, torch.cat([state[None], state + times * edits]))
        total = total + (logits[1:] - logits[:1]) / times
    return total / len(states)


@arguments.checked
def lens(
    model: Model,
    vectors: EmotionVectors,
    emotions: str | Sequence[str] | None = None,
    *,
    layers: int | Sequence[int] | str | None = None,
    top: int = 10,
    random: int = 19,
    seed: int = 0,
    permuted: EmotionVectors | None = None,
    prompts: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """The tokens that each emotion's vector raises and lowers most, layer by layer, beside random directions.

    Args:
        model: the model.
        vectors: emotion vectors of it.
        emotions: one or several; default: all of the vectors.
        layers: layer indices; default: all of the vectors, but those at which one of them is zero, as all are at layer
            0 where every text ends in the same token (``attrs["left_out"]`` of the table names them).
        top: how many tokens on either side.
        random: control directions a layer, of equal norm; with m of them the smallest p is 1 / (m + 1).
        seed: of the control.
        permuted: a second control, vectors of permuted labels (:meth:`emotrace.readings.Reading.permuted`).
        prompts: at whose end the logits are compared; default: eight openings without a tone.
        progress: called with what is being done, how much of it, of how much.

    Returns:
        One row an emotion, layer, side and rank: ``emotion, layer, depth, side`` (``top``, ``bottom``), ``rank,
        token_id, token, change`` (of the logit, in nats), ``z`` (``change`` in standard deviations over the
        vocabulary), ``null`` (mean z of the token that has the same rank under a random direction) and ``p`` (of as
        extreme a one, one-sided), ``permuted`` and ``permuted_p`` likewise (NaN without). The same in all rows of an
        emotion and layer: ``own_words``, the mean z of the emotion's kin words that are one token less that of the
        other emotions', ``own_words_null``, ``own_words_p``, ``own_words_permuted``, ``own_words_permuted_p`` and
        ``n_words``; empty where there is no such word.

    Raises:
        EmotraceError: vectors of another model, an unknown emotion or layer, a vector that is zero at a layer that is
            asked for, or at every layer.
    """
    vectors.check(model)
    names = list(vectors.emotions) if emotions is None else list(dict.fromkeys(arguments.names(emotions, "emotion")))
    for name in names:
        if name not in vectors.emotions:
            raise unknown("emotion", name, vectors.emotions)
    all_layers = layers is None or (isinstance(layers, str) and layers == "all")
    chosen = sorted(vectors.layers) if all_layers else model.check_layers(layers)
    top, random = arguments.integer(top, "top", at_least=1), arguments.integer(random, "random", at_least=1)
    texts = corpus.prompts("dose")[:PROMPTS] if prompts is None else arguments.texts(prompts, "prompt")
    if not (names and texts):
        raise EmotraceError("the lens needs an emotion and a prompt at least")
    own = replace(vectors, emotions=tuple(names), values=np.stack([vectors[name] for name in names]))
    control = random_like(own, random, seed)
    parts = [*own.emotions, *control.emotions], [own.values, control.values]
    if permuted is not None:
        parts[0].extend(permuted.check(model).emotions)
        parts[1].append(np.stack([permuted.at(layer) for layer in vectors.layers], axis=1))
    values = np.concatenate(parts[1])  # by number: vectors that are a control themselves have its names
    both = replace(own, emotions=tuple(map(str, range(len(values)))), values=values)
    kept = _with_direction(both, parts[0], chosen, all_layers)
    nulls = {"null": slice(len(names), len(names) + random), "permuted": slice(len(names) + random, None)}
    states, words, pool = last_states(model, texts), _kin_tokens(model, names), _ordinary(model)
    rows: list[dict[str, Any]] = []
    for layer in kept:
        change = direct_readout(Directions(model, both, layer), states)
        if progress:
            progress("layers", 1, len(kept))
        for row in _rows(model, change, names, min(top, len(pool)), words, pool, nulls):
            rows.append({"emotion": row.pop("emotion"), "layer": layer, "depth": layer / model.n_layers, **row})
    table = pd.DataFrame(rows)
    table.attrs["left_out"] = [layer for layer in chosen if layer not in kept]
    return table


def by_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """What :func:`lens` returns in a line an emotion and layer, as text: ``emotion, layer, raised, lowered, own``; in
    brackets the mean under random directions, and under permuted labels where there are any."""

    def controls(row: pd.Series, name: str, other: str) -> str:
        return f"({row[name]:+.1f})" if np.isnan(row[other]) else f"({row[name]:+.1f}; {row[other]:+.1f})"

    lines = []
    for (emotion, layer), part in rows.groupby(["emotion", "layer"], sort=False):
        line = {"emotion": emotion, "layer": str(layer)}
        for side, name in (("top", "raised"), ("bottom", "lowered")):
            some = part[part["side"] == side].sort_values("rank")
            tokens = " ".join(repr(token)[1:-1].strip() or "␣" for token in some["token"])
            line[name] = f"{some['z'].iloc[0]:+.1f} {controls(some.iloc[0], 'null', 'permuted')} {tokens}"
        own = part.iloc[0]
        beside = controls(own, "own_words_null", "own_words_permuted")
        p = np.nanmax([own["own_words_p"], own["own_words_permuted_p"]]) if own["n_words"] else np.nan
        compared = f"{own['own_words']:+.1f} {beside}, p = {p:.2g}"
        lines.append({**line, "own": compared if own["n_words"] else "–"})
    return pd.DataFrame(lines)


def _with_direction(vectors: EmotionVectors, names: Sequence[str], layers: list[int], some: bool) -> list[int]:
    """The layers at which no vector is zero but for rounding; ``names`` are the vectors'.

    Raises:
        EmotraceError: there is none, or not every one where ``some`` are not enough.
    """
    zero = (vectors.values.astype(np.float64) ** 2).sum(axis=-1) <= vectors.rounding
    first = {}
    for layer in layers:
        if (here := zero[:, vectors.index(layer)]).any():
            first[layer] = names[int(here.argmax())]
    kept = [layer for layer in layers if layer not in first]
    if first and not (some and kept):
        layer, name = next(iter(first.items()))
        raise EmotraceError(f"the vector of {name} at layer {layer} is zero and has no direction")
    return kept


def _rows(
    model: Model,
    change: np.ndarray,
    names: Sequence[str],
    top: int,
    words: dict[str, list[int]],
    pool: np.ndarray,
    nulls: dict[str, slice],
) -> list[dict[str, Any]]:
    """The rows of one layer; the first directions are the emotions', then come those of each control."""
    rows, inside = [], change[:, pool]
    z = (change - inside.mean(axis=1, keepdims=True)) / inside.std(axis=1, keepdims=True)
    for side, sign in (("top", 1), ("bottom", -1)):
        order = pool[np.argsort(-sign * inside, axis=1, kind="stable")[:, :top]]
        ranked = np.take_along_axis(z, order, axis=1)
        for index, name in enumerate(names):
            about = _own_words(z, index, name, words, nulls)
            for rank in range(top):
                token, value = int(order[index, rank]), ranked[index, rank]
                found = {"emotion": name, "side": side, "rank": rank + 1, "token_id": token}
                found |= {"token": model.tokenizer.decode([token]), "change": change[index, token], "z": value}
                for control, part in nulls.items():
                    null, p = ranked[part, rank], "p" if control == "null" else f"{control}_p"
                    found |= {control: _mean(null), p: _p(sign * value, sign * null)}
                rows.append({**found, **about})
    return rows


def _own_words(
    z: np.ndarray, index: int, name: str, words: dict[str, list[int]], nulls: dict[str, slice]
) -> dict[str, float]:
    """How much more a direction raises its emotion's own words than other emotions', beside the controls."""
    others = [token for other, tokens in words.items() if other != name for token in tokens]
    if not (own := words.get(name)) or not others:
        empty = ("", "_null", "_p", "_permuted", "_permuted_p")
        return {**{f"own_words{what}": np.nan for what in empty}, "n_words": 0}
    contrast = z[:, own].mean(axis=1) - z[:, others].mean(axis=1)
    found = {"own_words": contrast[index], "n_words": len(own)}
    for control, part in nulls.items():
        p = "own_words_p" if control == "null" else f"own_words_{control}_p"
        found |= {f"own_words_{control}": _mean(contrast[part]), p: _p(contrast[index], contrast[part])}
    return found


def _p(value: float, null: np.ndarray) -> float:
    """The share of the null that is as large, the value itself among it; NaN without a null."""
    return float((1 + (null >= value).sum()) / (1 + len(null))) if len(null) else np.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _kin_tokens(model: Model, names: Sequence[str]) -> dict[str, list[int]]:
    """Each emotion's kin words that are one token within a sentence, but those of several emotions."""
    kin, found = corpus.emotions()["kin"], {}
    for name in {*corpus.emotion_names(), *names} & set(kin.index):
        ids = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in kin[name]]
        found[name] = {tokens[0] for tokens in ids if len(tokens) == 1}
    every = [token for tokens in found.values() for token in tokens]
    return {name: sorted(token for token in tokens if every.count(token) == 1) for name, tokens in found.items()}


def _ordinary(model: Model) -> np.ndarray:
    """The tokens that are neither special nor unused rows of the unembedding, ``[token]``."""
    size = model.nn._module.config.get_text_config().vocab_size
    special = set(model.tokenizer.all_special_ids)
    return np.array([token for token in range(min(size, len(model.tokenizer))) if token not in special])
