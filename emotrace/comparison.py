"""Vectors against vectors, of one model or of several, by this package or by other tools → ``compare``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.errors import EmotraceError, named, shown
from emotrace.hosts import checkpoints
from emotrace.measures.randomness import generator
from emotrace.measures.rdm_agreement import Agreement, cosine_agreement, rdm_agreement, rdm_reliability
from emotrace.vectors import EmotionVectors

COLUMNS = ["a", "b", "metric", "layer_a", "layer_b", "value", "p", "p_max", "n", "best"]
SPLITS = 100
FEWEST = 4
"""Three emotions have three distances, which six permutations tell apart at best with p = 1/6."""


@arguments.checked
def compare(
    *sources: EmotionVectors | str | Path,
    layers_are: str | None = None,
    same_model: bool | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Compares every two of several sets of vectors over the emotions that both have (names without regard to case).

    Vectors are measured from their mean over these emotions, so that it does not matter from which centre (of all
    classes, of neutral texts) each tool measured them.

    Args:
        sources: two or more: vectors, or files and folders as :meth:`EmotionVectors.load` takes them.
        layers_are: what other tools' layer numbers are, where their files do not say: ``block-output`` or
            ``hidden-states``.
        same_model: whether their dimensions mean the same, so that cosines do too; default: where both name one model
            or the same weights.
        permutations: of emotions.
        seed: of the permutations.

    Returns:
        One row a pair of sets, metric and pair of layers (in our counting): ``rdm_rho``, Spearman's ρ between the
        emotions' pairwise distances, of every layer with every layer; ``cosine``, the mean over emotions, within one
        model, layer by layer. ``p``: one-sided, by permuted emotions; ``p_max``: of the highest value over all these
        pairs of layers; ``n`` emotions; ``best`` marks the highest value. ``rdm_ceiling``, where a file lies in the
        run folder that made it, with its texts' sums by topic beside it: √(reliability of a × of b), as high as ρ gets
        on such texts, at the layer that was kept; a set without its texts counts as wholly reliable.

    Raises:
        EmotraceError: fewer than two sets; fewer than four emotions in common; ``same_model`` of different widths.
    """
    if len(sources) < 2:
        raise EmotraceError(f"vectors are compared with vectors: name two or more, not {len(sources)}")
    permutations = arguments.integer(permutations, "permutations", at_least=1)
    same_model = same_model if same_model is None else arguments.flag(same_model, "same_model")
    seed = arguments.integer(seed, "a seed", at_least=0)
    if wrong := [one for one in sources if not isinstance(one, EmotionVectors | str | Path)]:
        raise EmotraceError(f"vectors, or the path of a file or folder of them, are compared, not {shown(wrong[0])}")
    sets = dict(zip(_names(sources), (_vectors(one, layers_are) for one in sources), strict=True))
    rows: list[dict[str, Any]] = []
    files = dict(zip(sets, sources, strict=True))
    for (name, first), (other, second) in itertools.combinations(sets.items(), 2):
        front = {"a": name, "b": other}
        rows += _pair(front, first, second, same_model, permutations, generator(seed, "compare", name, other))
        rows += _ceiling(front, [(files[one], sets[one]) for one in (name, other)], rows[-1]["n"], seed)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _vectors(source: Any, layers_are: str | None) -> EmotionVectors:
    return source if isinstance(source, EmotionVectors) else EmotionVectors.load(source, layers_are=layers_are)


def _names(sources: tuple[Any, ...]) -> list[str]:
    """What tells the sources apart: the last parts of their paths; of vectors in memory, their model and a number."""
    paths = [None if isinstance(one, EmotionVectors) else Path(one).parts for one in sources]
    for length in range(1, 1 + max((len(parts) for parts in paths if parts), default=1)):
        shown = [
            f"{sources[number].provenance.get('model', 'vectors')} {number + 1}"
            if parts is None
            else named(Path(*parts[-length:]))
            for number, parts in enumerate(paths)
        ]
        if len(set(shown)) == len(shown):
            return shown
    raise EmotraceError(f"the same file is named twice: {max(shown, key=shown.count)}")


def one_model(first: EmotionVectors, second: EmotionVectors) -> bool:
    """Whether both are of the same weights, or, where one does not name its weights, of a model of the same name."""
    weights, models = [], []
    for one in (first, second):
        about = one.provenance
        weights.append(checkpoints.content(about) if "weights_id" in about else about.get("weights"))
        models.append(about.get("model"))
    if None not in weights:
        return weights[0] == weights[1]
    return None not in models and models[0] == models[1]


def _pair(
    front: dict[str, Any],
    first: EmotionVectors,
    second: EmotionVectors,
    same_model: bool | None,
    permutations: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    spelt = [_spelt(front[side], one) for side, one in zip("ab", (first, second), strict=True)]
    shared = [name for name in spelt[0] if name in spelt[1]]
    if len(shared) < FEWEST:
        raise EmotraceError(
            f"{front['a']} and {front['b']} have {len(shared)} emotions in common ({', '.join(shared) or 'none'}): "
            f"{FEWEST} are needed"
        )
    a, b = (one.values[[at[name] for name in shared]] for one, at in zip((first, second), spelt, strict=True))
    front = {**front, "n": len(shared)}
    pairs = list(itertools.product(first.layers, second.layers))
    rows = _rows({**front, "metric": "rdm_rho"}, pairs, rdm_agreement(a, b, permutations, rng))
    if same_model is None:
        same_model = one_model(first, second) and first.d_model == second.d_model
    if same_model:
        if first.d_model != second.d_model:
            raise EmotraceError(
                f"{front['a']} and {front['b']} are of different widths ({first.d_model} and {second.d_model}), so of "
                "different models"
            )
        layers = [layer for layer in first.layers if layer in second.layers]
        if layers:
            parts = [
                values[:, [one.layers.index(layer) for layer in layers]] for values, one in ((a, first), (b, second))
            ]
            found = cosine_agreement(parts[0], parts[1], permutations, rng)
            rows += _rows({**front, "metric": "cosine"}, [(layer, layer) for layer in layers], found)
    return rows


def _spelt(name: str, vectors: EmotionVectors) -> dict[str, int]:
    """Where each emotion stands, by its name without regard to case."""
    found = {emotion.casefold().strip(): at for at, emotion in enumerate(vectors.emotions)}
    if len(found) < len(vectors.emotions):
        names = [emotion.casefold().strip() for emotion in vectors.emotions]
        raise EmotraceError(f"{name} has {shown(max(names, key=names.count))} twice, but for case: rename one")
    return found


def _ceiling(front: dict[str, Any], pair: list[tuple[Any, EmotionVectors]], n: int, seed: int) -> list[dict[str, Any]]:
    """The row ``rdm_ceiling`` of two sets, if the run that made one of them keeps its texts by topic."""
    others = [{name.casefold().strip() for name in one.emotions} for _, one in reversed(pair)]
    kept = [
        None if isinstance(source, EmotionVectors) else _reliability(Path(source), shared, seed)
        for (source, _), shared in zip(pair, others, strict=True)
    ]
    if not (known := [one for one in kept if one is not None]):
        return []
    layers = {f"layer_{side}": one[0] if one else np.nan for side, one in zip("ab", kept, strict=True)}
    value = float(np.sqrt(np.prod([reliability for _, reliability in known])))
    return [{**front, "n": n, "metric": "rdm_ceiling", **layers, "value": value, "best": False}]


def _reliability(file: Path, shared: set[str], seed: int) -> tuple[int, float] | None:
    """The layer of which a run kept its texts' sums beside this file, and the reliability of its distances."""
    beside = file.with_name(f"{file.stem}-topics.npz")
    if file.suffix != ".safetensors" or not beside.is_file():
        return None
    try:
        with np.load(beside, allow_pickle=False) as arrays:
            inside = [at for at, name in enumerate(arrays["emotions"]) if str(name).casefold().strip() in shared]
            gram, counts = arrays["gram"][:, inside][:, :, :, inside], arrays["counts"][:, inside]
            layer = int(arrays["layer"])
    except (OSError, ValueError, KeyError):  # not of a run
        return None
    return layer, rdm_reliability(gram, counts, SPLITS, generator(seed, "compare", "halves"))


def _rows(front: dict[str, Any], pairs: list[tuple[int, int]], found: Agreement) -> list[dict[str, Any]]:
    value, p, p_max = (part.ravel() for part in found)
    best = int(np.nanargmax(value)) if np.isfinite(value).any() else -1
    return [
        {
            **front,
            "layer_a": pair[0],
            "layer_b": pair[1],
            "value": float(value[number]),
            "p": float(p[number]),
            "p_max": float(p_max[number]),
            "best": number == best,
        }
        for number, pair in enumerate(pairs)
    ]
