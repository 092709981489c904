"""Which emotions does a model's residual stream hold when it reads a text: the text's activation along each vector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.activations import read_activations
from emotrace.extraction import read_passages
from emotrace.hosts.gguf import cache_dir
from emotrace.instrument import corpus
from emotrace.judges import calibration
from emotrace.measures import geometry
from emotrace.steering import steered_layers
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model


def cached_vectors(
    model: Model, pooling: str = "mean", progress: Callable[[str, int, int], None] | None = None
) -> EmotionVectors:
    """The comprehension vectors of a model, extracted from ``data/passages.csv`` at the first call and kept in the cache.

    Those of a packaged model, pooled by mean, carry the layer and strength that they are calibrated to.
    """
    vectors = _cached(model, pooling, progress)
    known = calibration.shipped(model) if pooling == "mean" else None
    return known.onto(vectors) if known else vectors


def _cached(model: Model, pooling: str, progress: Callable[[str, int, int], None] | None) -> EmotionVectors:
    table = corpus.passages()
    kind, _, weights = model.provenance["weights_id"].partition(":")
    if kind != "sha256":  # a revision's name is not a model's alone
        weights = hashlib.sha256(f"{model.identity} {model.provenance.get('server')}".encode()).hexdigest()
    file = (
        cache_dir()
        / f"vectors-{weights[:12]}-{model.provenance['dtype']}-{pooling}-{corpus.fingerprint(table)}.safetensors"
    )
    if file.exists():
        return EmotionVectors.load(file).check(model)
    report = (lambda done: progress("reading passages, once", done, len(table))) if progress else None
    vectors = read_passages(model, table, poolings=(pooling,), progress=report).vectors(pooling)
    vectors.save(file)
    return vectors


def cosines(model: Model, vectors: EmotionVectors, text: str, layer: int) -> np.ndarray:
    """The cosine of a text's activation at a layer, pooled and centred as the vectors were, with each: ``[emotion]``."""
    pooling, place = vectors.provenance["pooling"], vectors.place(layer)
    activation = read_activations(model, [text], layers=[layer], poolings=(pooling,))[pooling][0, 0]
    return geometry.unit(vectors.at(layer)) @ geometry.unit((activation - vectors.grand_mean[place])[None])[0]


def vectors_for(
    model: Model, file: Path | None = None, progress: Callable[[str, int, int], None] | None = None
) -> EmotionVectors:
    """The vectors in a file if one is named, else :func:`cached_vectors`.

    Raises:
        EmotraceError: no such file, a damaged one, or one of another model.
    """
    return EmotionVectors.load(file).check(model) if file else cached_vectors(model, progress=progress)


def project_text(
    model: Model,
    text: str,
    *,
    vectors_file: Path | None = None,
    vectors: EmotionVectors | None = None,
    layer: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """The cosine of a text's pooled activation with each emotion's vector, highest first.

    The activation is centred on the mean of the classes the vectors were made from, pooled as they were.

    Args:
        model: the model that reads the text.
        text: the text.
        vectors_file: vectors saved by :meth:`EmotionVectors.save`; default: extracted once and cached.
        vectors: vectors at hand, in place of a file.
        layer: layer index; default: what the vectors are calibrated at, else half depth.
        progress: called with what is being done, how much of it, of how much.

    Returns:
        Columns ``emotion``, ``layer``, ``cosine``, and ``z``: the cosine standardised over the emotions.

    Raises:
        EmotraceError: an empty or too long text, a layer out of range, vectors of another model.
    """
    vectors = vectors_for(model, vectors_file, progress) if vectors is None else vectors.check(model)
    layer = steered_layers(model, vectors, None)[0] if layer is None else model.check_layers([layer])[0]
    found = cosines(model, vectors, text, layer)
    spread = np.std(found)
    table = pd.DataFrame(
        {
            "emotion": vectors.emotions,
            "layer": layer,
            "cosine": found,
            "z": (found - found.mean()) / (spread or 1),
        }
    ).sort_values("cosine", ascending=False, ignore_index=True)
    table.attrs["unit"] = "cosine with each emotion's vector, standardised over the 20"
    return table
