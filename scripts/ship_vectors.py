"""Writes data/vectors/: what the first what-if of a packaged model needs, so that it reads no passages.

    python scripts/ship_vectors.py                                every model of data/calibration.csv
    python scripts/ship_vectors.py smollm2-135m-instruct --run runs/latest

To be run again when ``scripts/publish_run.py`` finds another layer, or the passages change. With ``--run`` what that
run has read already is taken from its cache.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import emotrace
from emotrace.activations import POOLINGS, residual_norms
from emotrace.errors import EmotraceError
from emotrace.files import write_file
from emotrace.instrument import corpus
from emotrace.judges import calibration
from emotrace.measures.randomness import generator
from emotrace.readings import Reading, read_texts
from emotrace.whatif import shipped
from emotrace.whatif.results import ENOUGH
from emotrace.whatif.token_reading import neutral_dots

POOLING = "mean"
MAX_BYTES = 300_000
"""Of one file: the calibrated layer comes first; of those beside it as many as fit, the lower first."""


class OfRun:
    """The activations that a run has read (``Cache`` of ``read_texts``); what it has not read is read now."""

    def __init__(self, run: Path) -> None:
        self.folder = run / ".cache"

    def arrays(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        path = self.folder / f"{key}.npy"
        return np.load(path, allow_pickle=False) if path.is_file() else compute()

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return compute()


def at(reading: Reading, layers: list[int]) -> Reading:
    """The reading at some of its layers."""
    indices = [reading.layers.index(layer) for layer in layers]
    return replace(reading, layers=layers, pooled={POOLING: reading.pooled[POOLING][:, indices]})


def shipped_of(model: emotrace.Model, run: Path | None = None) -> shipped.Shipped:
    """What is shipped for a model, computed from its weights and the passages."""
    calibrated = calibration.shipped(model)
    if calibrated is None:
        raise EmotraceError(f"{model.name} has no row in data/calibration.csv")
    (layer,) = calibrated.layers
    passages = corpus.passages()
    # As a run reads them, all layers and poolings at once, so that its cache has them.
    reading = read_texts(model, passages, poolings=POOLINGS, cache=None if run is None else OfRun(run))

    def vectors(layers: list[int]) -> emotrace.EmotionVectors:
        made = at(reading, layers).vectors(POOLING)
        return replace(made, provenance={**made.provenance, "shipped": "with emotrace"})

    alone = vectors([layer])
    dots, norms = neutral_dots(model, alone, [layer])
    drawn = at(reading, [layer]).permuted(POOLING, ENOUGH, generator(0, "permuted labels", POOLING))
    found = shipped.Shipped(
        vectors=alone,
        layer=layer,
        norms=residual_norms(model),
        dots=dots[:, 0].astype(np.float32),
        token_norms=norms[:, 0].astype(np.float32),
        permuted=drawn.values[:, 0],
    )
    for layers in ([layer - 1, layer], [layer - 1, layer, layer + 1]):
        wider = replace(found, vectors=vectors(layers))
        if set(layers) <= set(reading.layers) and len(wider.content()) <= MAX_BYTES:
            found = wider
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(corpus.calibrations()["model"]))
    parser.add_argument("--run", type=Path)
    arguments = parser.parse_args()
    for name in arguments.models:
        found = shipped_of(emotrace.load(name), arguments.run)
        content = found.content()
        write_file(shipped.path_of(name), content)
        print(f"{name}: layers {found.vectors.layers}, {len(content)} bytes")


if __name__ == "__main__":
    try:
        main()
    except EmotraceError as error:
        sys.exit(f"ship_vectors: {error}")
