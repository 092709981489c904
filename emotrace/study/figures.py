"""Which figures a run gets, what each says, and how they are drawn from its tables and vectors."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd

from emotrace.study.across import figures as plots_across
from emotrace.study.effects import figures as plots_steering
from emotrace.study.folder import RunFolder, file_name, select
from emotrace.study.languages import figures as plots_crosslingual
from emotrace.study.methods import figures as plots_methods
from emotrace.study.separation import figures as plots
from emotrace.vectors import EmotionVectors

CAPTIONS = {
    "separation_over_depth": "The paper's measure of separation, layer by layer. Blue: mean cosine between the centroids of "
    "the 20 emotions, before any centring. Orange: the same texts with their labels shuffled within topics, so nothing but "
    "the emotion differs. Green: groups of unrelated factual texts. What lies between blue and orange is emotion; what "
    "lies between orange and 1 is topic, noise and the shape of the activation space.",
    "decoding_over_depth": "How often the emotion of a text is decoded right when its topic was never seen in training. "
    "The green line is what the words alone give (embeddings averaged, no context): only what lies above it is the model's.",
    "localisation": "Where over depth the emotions separate best, by five criteria and two poolings.",
    "anisotropy_over_depth": "How alike the activations of unrelated factual texts are. Near 1, every text points the same way and "
    "raw cosines say little; the orange curve shows how far a single dimension is the reason.",
    "axes_over_depth": "Whether the emotion vectors are laid out by valence and arousal (norms of Warriner et al. 2013).",
    "cosine_matrix": "Cosines between the emotion vectors at the layer that one half of the topics chose.",
    "valence_arousal_plane": "The emotions on the first two principal components of their vectors at that layer.",
    "method_by_layer": "C5, layer by layer: how alike the emotions' centroids are when the model reads our passages, and when it reads its own "
    "stories after the request for them.",
    "factorial_effects": "What each respect in which the two methods differ does by itself, averaged over all the others. Right of zero is better only "
    "for accuracy; for both cosines, left is.",
    "factorial_decomposition": "The whole difference between generation as it is used and comprehension, and the parts that author, frame and pooling "
    "contribute to it; the parts add up to the whole.",
    "factorial_decoding": "Vectors trained on one author's texts, tested on another's, on topics never seen: what carries over is the emotion, not the author.",
    **plots_steering.CAPTIONS,
    "script_mass": "C11: how probable Chinese and other scripts become when an English prompt is steered, beside random directions of equal norm.",
    "lexicon_alignment": "C11: does an emotion's vector raise its own Chinese (and English) words more than other emotions' words?",
}


def _of_one(draw: Any, name: str) -> Any:
    """A figure drawn from one table, called as the others are."""
    return lambda tables: draw(tables[name])


TABLE_FIGURES = {
    **plots.TABLE_FIGURES,
    **{figure: (_of_one(draw, needs), needs) for figure, (draw, needs) in plots_methods.METHOD_FIGURES.items()},
    **plots_steering.TABLE_FIGURES,
    **plots_crosslingual.FIGURES,
}


def best_layer(tables: dict[str, pd.DataFrame], model: str, pooling: str) -> int | None:
    """The layer chosen on one half of the topics by nearest centroid, if localisation was run."""
    if "localisation" not in tables:
        return None
    rows = select(tables["localisation"], model=model, pooling=pooling, criterion="nearest_centroid")
    return int(rows["chosen_layer"].iloc[0]) if len(rows) else None


def draw_figures(run: RunFolder, tables: dict[str, pd.DataFrame], model: str) -> None:
    """Draws every figure that the run's tables and vectors of one model allow, as png and svg."""
    mine = {name: select(table, model=model) for name, table in tables.items() if "model" in table}
    for name, (draw, needs) in TABLE_FIGURES.items():
        if needs in mine and len(mine[needs]) and (figure := draw(mine)) is not None:
            _save(run, figure, f"{name}-{file_name(model)}")
    file = run.path / "vectors" / f"{file_name(model)}-comprehension-mean.safetensors"
    layer = best_layer(tables, model, "mean")
    if file.exists() and layer is not None:
        for name, draw in plots.VECTOR_FIGURES.items():
            _save(run, draw(EmotionVectors.load(file), layer), f"{name}-{file_name(model)}")


def draw_across(run: RunFolder, tables: dict[str, pd.DataFrame]) -> None:
    """Draws the figures over models, once a run; their names have no model in them."""
    for name, (draw, needs) in plots_across.FIGURES.items():
        if needs in tables and len(tables[needs]):
            _save(run, draw(tables), name)


def _save(run: RunFolder, figure: Any, name: str) -> None:
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
        run.write(run.path / "figures" / f"{name}.{suffix}", buffer.getvalue())
    plots.plt.close(figure)
