"""The layer that steering itself chooses, beside the one that decoding chose and half depth → ``layer_strength``. Ours.

All layers at the strength of equal harm (``judges.layer_choice``); the harm is what the calibrated strength does at the
layer that decoding chose. The choice is made on the calibration's prompts and some neutral texts, and everything that
is reported of it on other prompts and texts; what it gains, on other emotions as well. The same choice is made for
vectors of permuted labels: what it gains there is what looking at many layers gains by itself, and what a layer does to
all kin words whatever the direction. The claims subtract it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.judges import layer_choice, regimes
from emotrace.judges.damage import damage, harm
from emotrace.judges.layer_choice import HARM_TEXTS, Place, neutral_texts
from emotrace.measures import geometry
from emotrace.measures.statistics import mean_interval
from emotrace.steered_texts import Row, write
from emotrace.study.effects.crossed import crossed_mean, crossed_rate
from emotrace.study.effects.dose import holm
from emotrace.study.steered import POOLING, Steering, permuted_vectors, prepare
from emotrace.study.study import Study
from emotrace.tokens import Writing
from emotrace.vectors import EmotionVectors

BY_EFFECT, DECODING, HALF = CHOICES = ("effect", "decoding", "half")
CANDIDATE = "candidate"
MOST_EMOTIONS, HELD_OUT, SHUFFLES, PLAIN = 10, 4, 2, 4
"""Emotions, prompts on which texts are written, shuffles of the labels, unsteered texts a prompt."""
DAMAGE_DOSES, DAMAGED = (1.0, 2.0), 4
EFFECT = "kin_log_probability"


def layers_table(study: Study) -> pd.DataFrame:
    """One row a choice of layer, source and metric; see ``docs/tables.md``."""
    steering = study.once(prepare)
    rows = steering.unit("layer and strength by effect", partial(_rows, steering))
    return with_holm(pd.DataFrame(rows))


def _rows(steering: Steering) -> list[dict[str, Any]]:
    study, model = steering.study, steering.model
    half = max(1, study.n_layers // 2)
    layers = layer_choice.candidates(study.n_layers, steering.layer, half)
    names = layer_choice.readable(model, study.names)[::2][:MOST_EMOTIONS]
    budget = harm(
        model, steering.vectors, [steering.layer], steering.strength, neutral_texts(HARM_TEXTS), layer_choice.few(names)
    )
    choosing, holding = corpus.prompts("calibration"), corpus.prompts("dose")
    rows: list[dict[str, Any]] = []
    sources = {"emotion": steering.vectors} | shuffled(study, names, SHUFFLES)
    for source, vectors in sources.items():
        found = layer_choice.places(
            model,
            vectors,
            layers,
            budget,
            steering.strength,
            prompts=choosing,
            texts=neutral_texts(HARM_TEXTS),
            emotions=names,
            progress=partial(_tell, study, len(layers) * len(sources)),
        )
        others = [layer_choice.effect(model, vectors, [place.layer], place.strength, holding, names) for place in found]
        rows += [
            study.row(POOLING, row.pop("layer"), source=source, **row)
            for row in choice_rows(found, others, half, steering.layer)
        ]
        if source == "emotion":
            rows += _harm_rows(steering, choices(found, half, steering.layer), names, holding[:HELD_OUT])
    return rows


def _tell(study: Study, of: int, done: int) -> None:
    study.progress("layers by effect", done, of)


def damage_table(study: Study) -> pd.DataFrame:
    """``damage``: what is lost at multiples of the calibrated strength, under emotions and under permuted labels.

    One row a source, multiple (0: unsteered) and metric of :func:`emotrace.judges.damage.damage`, means over its
    directions, interval over them.
    """
    steering = study.once(prepare)
    return pd.DataFrame(steering.unit("damage", partial(_damage_rows, steering)))


def _damage_rows(steering: Steering) -> list[dict[str, Any]]:
    study, rows = steering.study, list[dict[str, Any]]()
    strengths = [dose * steering.strength for dose in DAMAGE_DOSES]
    names = list(steering.vectors.emotions)[:: max(1, len(steering.vectors.emotions) // DAMAGED)][:DAMAGED]
    sources = {"emotion": (steering.vectors, names)}
    permuted = permuted_vectors(study, POOLING, DAMAGED)
    for source, (vectors, chosen) in (sources | {"permuted": (permuted, list(permuted.emotions))}).items():
        table = damage(steering.model, vectors, strengths, emotions=chosen, layers=[steering.layer])
        for (strength, metric), part in table.groupby(["strength", "metric"], sort=False):
            estimate = part.iloc[0][["value", "low", "high"]].to_dict()
            if len(part) > 1:
                estimate = mean_interval(part["value"].to_numpy())._asdict()
            front = {"source": source, "strength": strength, "relative": strength / steering.strength}
            extra = {"chance": part["chance"].iloc[0], "n": int(part["n"].iloc[0]), "directions": len(part)}
            rows.append(study.row(POOLING, steering.layer, **front, metric=metric, **estimate, **extra))
        study.progress("damage", 1, 2)
    return rows


def shuffled(study: Study, names: Sequence[str], count: int) -> dict[str, EmotionVectors]:
    """``permuted-1`` …: vectors of the emotions' names from texts whose labels were permuted within topics."""
    own, labels = study.reading.vectors(POOLING), study.reading.labels
    texts = study.reading.pooled[POOLING], labels["topic"].to_numpy(str), labels["emotion"].to_numpy(str)
    drawn = geometry.permuted_label_vectors(*texts, own.emotions, count, study.rng("layers, permuted labels"))
    kept = [own.emotions.index(name) for name in names]
    return {
        f"permuted-{number}": replace(own, emotions=tuple(names), values=values[kept].astype(np.float32))
        for number, values in enumerate(drawn, 1)
    }


def choices(found: Sequence[Place], half: int, decoding: int) -> dict[str, Place]:
    """What each way to choose takes among the places."""
    at = {place.layer: place for place in found}
    return {BY_EFFECT: layer_choice.best(found), DECODING: at[decoding], HALF: at[half]}


def choice_rows(found: Sequence[Place], others: Sequence[np.ndarray], half: int, decoding: int) -> list[dict[str, Any]]:
    """The effect at every layer on the prompts that choose and on held-out ones, and what the choice gains there.

    Args:
        found: every layer at the strength of equal harm, with its effects on the prompts that choose.
        others: its effects on held-out prompts, ``[emotion, prompt]``.
        half: the layer at half depth.
        decoding: the layer that decoding chose.
    """
    rows = []
    held = {place.layer: cells for place, cells in zip(found, others, strict=True)}
    picked = choices(found, half, decoding)
    for choice, place in [*((CANDIDATE, place) for place in found), *picked.items()]:
        front = {"choice": choice, "layer": place.layer, "strength": place.strength, "kl": place.kl}
        for where, cells in (("choosing", place.effects), ("held out", held[place.layer])):
            estimate = crossed_mean(cells)._asdict()
            rows.append({**front, "where": where, "metric": EFFECT, **estimate, **_sizes(cells)})
    return [*rows, *gain_rows(found, held, picked)]


def gain_rows(found: Sequence[Place], held: dict[int, np.ndarray], picked: dict[str, Place]) -> list[dict[str, Any]]:
    """What the choice gains over either rival, on the prompts that choose and on held-out ones; as :func:`choice_rows`.

    Args:
        found: every layer at the strength of equal harm, with its effects on the prompts that choose.
        held: layer → its effects on held-out prompts, ``[emotion, prompt]``.
        picked: what each way to choose takes, as :func:`choices` gives it.
    """
    rows, own = list[dict[str, Any]](), picked[BY_EFFECT]
    for rival in (DECODING, HALF):
        front = {"choice": BY_EFFECT, "layer": own.layer, "strength": own.strength, "kl": own.kl, "rival": rival}
        other = picked[rival]
        reported, taken = cross_fitted(found, held, other.layer)
        for where, cells in (("choosing", own.effects - other.effects), ("held out", reported)):
            rows.append({**front, "where": where, "metric": f"{EFFECT}_gain", **gain(cells), **_sizes(cells)})
            rows[-1] |= {"rival_layer": other.layer, "first_layer": taken[0], "second_layer": taken[1]}
    return rows


def cross_fitted(found: Sequence[Place], held: dict[int, np.ndarray], rival: int) -> tuple[np.ndarray, list[int]]:
    """What the choice gains on prompts *and* emotions that took no part in it: ``[emotion, prompt]``.

    Every second emotion is read at the layer that the others chose. A layer that suits these very emotions by chance
    would suit them on other prompts too.

    Returns:
        The gains, and the layers that either half of the emotions was read at.
    """
    cells, taken = np.empty_like(held[rival]), []
    second = np.arange(len(cells)) % 2 == 1
    for half in (second, ~second):
        choosing = ~half if (~half).any() else half  # one emotion alone chooses for itself
        place = layer_choice.best([place._replace(effects=place.effects[choosing]) for place in found])
        cells[half] = held[place.layer][half] - held[rival][half]
        taken.append(place.layer)
    return cells, taken


def gain(cells: np.ndarray) -> dict[str, float]:
    """The mean gain over emotions and prompts; of one and the same layer exactly none."""
    if not cells.any():
        return {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    return crossed_mean(cells)._asdict()


def _sizes(cells: np.ndarray) -> dict[str, int]:
    return {"n": cells.shape[0], "prompts": cells.shape[1]}


def _harm_rows(
    steering: Steering, picked: dict[str, Place], names: Sequence[str], prompts: Sequence[str]
) -> list[dict[str, Any]]:
    """The harm of each choice on texts that took no part in it: KL, and the share of coherent texts."""
    study, model, vectors = steering.study, steering.model, steering.vectors
    writing = Writing(max_new_tokens=study.settings.tokens, temperature=0.7)
    seed, texts = study.settings.seed, neutral_texts(HARM_TEXTS, HARM_TEXTS)
    plain = [Row(prompt, vectors, names[0], 0.0, seed + copy) for prompt in prompts for copy in range(PLAIN)]
    unsteered = regimes.references(model, _written(steering, plain, steering.layer, writing))
    rows = []
    for choice, place in picked.items():
        kl = harm(model, vectors, [place.layer], place.strength, texts, names)
        steered = [Row(prompt, vectors, name, place.strength, seed) for name in names for prompt in prompts]
        measured = regimes.measure(model, _written(steering, steered, place.layer, writing), unsteered)
        cells = (measured["regime"] == regimes.SURGICAL).to_numpy(float).reshape(len(names), len(prompts))
        front = {"choice": choice, "strength": place.strength, "kl": place.kl, "where": "held out", "source": "emotion"}
        rows += [
            study.row(POOLING, place.layer, **front, metric="kl", value=kl, n=len(names), prompts=len(texts)),
            study.row(
                POOLING,
                place.layer,
                **front,
                metric="coherent",
                **crossed_rate(cells, cells.size)._asdict(),
                **_sizes(cells),
            ),
        ]
    return rows


def _written(steering: Steering, rows: list[Row], layer: int, writing: Writing) -> pd.DataFrame:
    table = pd.DataFrame({"prompt": [row.prompt for row in rows]})
    texts = write(steering.model, rows, [layer], writing, cache=steering.study.run)
    return pd.concat([table, texts], axis=1)


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``p_holm``: Holm's correction over the two rivals, for each source and kind of prompts."""
    table = table.assign(p_holm=np.nan)
    for _, rows in table[table["metric"] == f"{EFFECT}_gain"].groupby(["source", "where"]):
        table.loc[rows.index, "p_holm"] = holm(list(rows["p"]))
    return table
