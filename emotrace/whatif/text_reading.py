"""Which emotions does a model's residual stream hold when it reads a text: the text's activation along each vector."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import POOLINGS, read_activations
from emotrace.errors import EmotraceError, WriteError, shown
from emotrace.hosts.gguf import cache_dir
from emotrace.hosts.open_edits import unedited
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.judges import calibration
from emotrace.measures import geometry
from emotrace.measures.randomness import generator
from emotrace.readings import read_texts
from emotrace.steered_texts import read_layer
from emotrace.vectors import EmotionVectors
from emotrace.whatif import shipped

if TYPE_CHECKING:
    from emotrace.models import Model

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it was just done, of how much."""

_UNSAVED: dict[str, EmotionVectors] = {}
"""What could not be kept in the cache, by the name of its file."""
_PERMUTED: dict[str, EmotionVectors] = {}


def cached_vectors(
    model: Model,
    pooling: str = "mean",
    progress: Progress | None = None,
    instrument: Instrument | None = None,
    needed: shipped.Needed = "all",
) -> EmotionVectors:
    """A model's comprehension vectors of an instrument, extracted at the first call, without the edits that are open,
    and kept in the cache.

    Those of a packaged model on the default instrument, pooled by mean, carry the layer and strength that they are
    calibrated to. Where its calibrated layer or one beside it is all that is ``needed``, they are those that come with
    emotrace (:mod:`~emotrace.whatif.shipped`), of these layers alone, and nothing is read.
    """
    if instrument is not None and instrument.default and instrument.name == corpus.MAIN_INSTRUMENT:
        instrument = None
    calibrated = calibration.shipped(model) if pooling == "mean" and instrument is None else None
    if calibrated and (found := shipped.of(model)):
        if model.norms is None:
            model.norms = found.norms
        if calibrated.layers == [found.layer] and found.covers(model, needed):
            return calibrated.onto(found.vectors)
    with model.lock, unedited(model):  # so that threads which come at the same time read the passages once
        vectors = _extracted(model, pooling, progress, instrument)
    return calibrated.onto(vectors) if calibrated else vectors


def _extracted(model: Model, pooling: str, progress: Progress | None, instrument: Instrument | None) -> EmotionVectors:
    table = corpus.passages() if instrument is None else instrument.passages
    if table.empty:
        raise EmotraceError("names of emotions alone have no texts to read")
    texts = corpus.fingerprint(table)
    if instrument is not None:  # baseline texts stand in for neutral, and the order of emotions is its own
        about = f"{texts} {instrument.name} {instrument.emotions} {instrument.unfelt} {instrument.pairs}"
        about += instrument.norms.to_json()
        texts = hashlib.sha256(about.encode()).hexdigest()[:16]
    kind, _, weights = model.provenance["weights_id"].partition(":")
    if kind != "sha256" or "+" in weights:  # a revision's name is not a model's alone, nor is what was quantised
        weights = hashlib.sha256(f"{model.identity} {model.provenance.get('server')}".encode()).hexdigest()
    name = f"vectors-{weights[:12]}-{model.provenance['dtype']}-{pooling}-{texts}.safetensors"
    file = cache_dir() / name
    if name in _UNSAVED:
        return _UNSAVED[name]
    with contextlib.suppress(EmotraceError, OSError):  # damaged, or not of this model: extracted again
        return EmotionVectors.load(file).check(model)
    report = (lambda done: progress("reading passages, once", done, len(table))) if progress else None
    reading = read_texts(model, table, instrument=instrument, poolings=(pooling,), progress=report)
    vectors = reading.vectors(pooling)
    try:
        vectors.save(file)
    except WriteError as error:
        print(f"emotrace: the vectors are kept for this process only: {error}; set EMOTRACE_CACHE", file=sys.stderr)
        _UNSAVED[name] = vectors
    return vectors


def permuted_like(
    model: Model,
    vectors: EmotionVectors,
    count: int,
    *,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    instrument: Instrument | None = None,
    progress: Progress | None = None,
) -> EmotionVectors:
    """``count`` vectors of permuted labels (:meth:`~emotrace.readings.Reading.permuted`) of the texts that ``vectors``
    are of, which are read again, once in a process, unless emotrace brings them (:mod:`~emotrace.whatif.shipped`). They
    are steered with as ``vectors`` are, at ``layers``, default all of theirs.

    Raises:
        EmotraceError: vectors of other texts than the instrument's, of stories, or that are not plain differences of
            class means from their grand mean; a count below 1.
    """
    table, made = corpus.passages() if instrument is None else instrument.passages, vectors.provenance
    count = arguments.integer(count, "the number of permuted-label vectors", at_least=1)
    if (made.get("method"), made.get("texts")) != ("comprehension", corpus.fingerprint(table)):
        raise EmotraceError("permuted labels need the texts that the vectors are of: name their instrument")
    if made.get("centring") != "grand" or {"estimator", "steps", "frame"} & set(made):
        raise EmotraceError("permuted labels stand beside plain differences of class means from their grand mean alone")
    chosen = list(vectors.layers if layers is None else layers)
    found = shipped.of(model) if seed == 0 and instrument is None else None
    if found and count <= len(found.permuted) and found.same(vectors, chosen):
        return replace(found.controls(count), provenance=made)
    pooling, key = made["pooling"], f"{model.identity} {count} {seed} {sorted(made.items())} {chosen}"
    with model.lock, unedited(model):
        if key not in _PERMUTED:
            how: dict[str, Any] = {"layers": chosen, "poolings": (pooling,), "instrument": instrument}
            report = (lambda done: progress("reading for permuted labels", done, len(table))) if progress else None
            reading = read_texts(model, table, progress=report, **how)
            _PERMUTED[key] = reading.permuted(pooling, count, generator(seed, "permuted labels", pooling))
    return replace(_PERMUTED[key], provenance=made)


def vectors_for(
    model: Model,
    file: Path | None = None,
    progress: Progress | None = None,
    instrument: Instrument | None = None,
    needed: shipped.Needed = "all",
) -> EmotionVectors:
    """The vectors in a file if one is named, else :func:`cached_vectors`.

    Raises:
        EmotraceError: no such file, a damaged one, or one of another model.
    """
    return (
        EmotionVectors.load(file).check(model)
        if file
        else cached_vectors(model, progress=progress, instrument=instrument, needed=needed)
    )


def pooling_of(vectors: EmotionVectors) -> str:
    """How the vectors' texts were pooled, and a text is to be that is compared with them: ``last`` or ``mean``.

    Raises:
        EmotraceError: their provenance does not say.
    """
    if (pooling := vectors.provenance.get("pooling")) not in POOLINGS:
        raise EmotraceError(
            f'the vectors say not how texts were pooled: provenance["pooling"] is last or mean, not {shown(pooling)}'
        )
    return pooling


def cosines(vectors: EmotionVectors, activation: np.ndarray, layer: int) -> np.ndarray:
    """The cosine of a text's activation at a layer, centred as the vectors were, with each of them: ``[emotion]``.

    Args:
        vectors: emotion vectors.
        activation: ``[d_model]``, pooled over the text's tokens as the vectors were.
        layer: layer index.
    """
    centred = activation - vectors.grand_mean[vectors.index(layer)]
    return geometry.unit(vectors.at(layer)) @ geometry.unit(centred[None])[0]


@arguments.checked
def project_text(
    model: Model, text: str, *, vectors: EmotionVectors | None = None, layer: int | None = None
) -> pd.DataFrame:
    """The cosine of a text's pooled activation with each emotion's vector, highest first.

    The activation is centred on the mean of the classes the vectors were made from, pooled as they were.

    Args:
        model: the model that reads the text.
        text: the text.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        layer: layer index; default: what the vectors are calibrated at, else half depth.

    Returns:
        Columns ``emotion``, ``layer``, ``cosine``, and ``z``: the cosine standardised over the emotions.

    Raises:
        EmotraceError: an empty or too long text, a layer out of range, vectors of another model.
    """
    vectors = cached_vectors(model, needed=layer) if vectors is None else vectors.check(model)
    if layer is None:
        layer = read_layer(model, vectors)
    layer = model.check_layers([arguments.integer(layer, "a layer")])[0]
    pooling = pooling_of(vectors)
    activation = read_activations(model, [text], layers=[layer], poolings=(pooling,))[pooling][0, 0]
    values = cosines(vectors, activation, layer)
    z = (values - values.mean()) / (np.std(values) or 1)
    table = pd.DataFrame({"emotion": vectors.emotions, "layer": layer, "cosine": values, "z": z})
    table = table.sort_values("cosine", ascending=False, ignore_index=True)
    table.attrs["unit"] = f"cosine with each emotion's vector, standardised over the {len(vectors.emotions)}"
    return table
