"""Vectors of other tools → one direction an emotion and layer, in our counting of layers.

Understood are a tensor ``[emotion, layer, d]``, one ``[layer, d]`` an emotion, one ``[emotion, d]`` a layer, and one
``[d]`` an emotion and layer, by nested keys or by names such as ``layer_8__sad``, ``sad.8`` or ``direction.8``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emotrace import arguments
from emotrace.errors import EmotraceError, named, shown
from emotrace.hosts import checkpoints, tensor_files
from emotrace.hosts.tensor_files import Key, Tensors

LAYERS_ARE = {
    "block-output": "N is the output of decoder layer N, counted from 0",
    "hidden-states": "N is hidden_states[N]: 0 the embeddings, N the output of the Nth decoder layer",
}
"""What a tool's layer numbers may mean. Ours are those of ``hidden-states``."""
_SHIFT = {"block-output": 1, "hidden-states": 0}
_GENERIC = {"values", "value", "vectors", "vector", "directions", "direction", "data", "tensor", "tensors", "arr_0"}
_GENERIC |= {"weight", "weights", "steering_vectors", "steering_vector", "control_vector", "emotion_vectors"}
_LAYER = r"(?:(?:layers?|blocks?|blk|hidden|direction|h|l)[ _.\-]?)?(\d+)"
_LAYER_ALONE = re.compile(_LAYER, re.IGNORECASE)
_LAYER_FIRST = re.compile(rf"{_LAYER}(?:__|[/.:_ \-])(.*\D.*)", re.IGNORECASE | re.DOTALL)
_LAYER_LAST = re.compile(rf"(.*?[^\W\d].*?)(?:__|[/.:_ \-]){_LAYER}", re.IGNORECASE | re.DOTALL)


class Directions(NamedTuple):
    """``values`` float32 ``[emotion, layer, d_model]``; layers as ours; what the file said of itself."""

    values: np.ndarray
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    provenance: dict[str, str]


def read(path: Path, layers_are: str | None = None) -> Directions:
    """The directions in a file, or in the files of a folder, each of which is an emotion unless it names several.

    Args:
        path: of the file or folder; ``STEM.json`` beside it (``manifest.json`` in a folder) may say ``emotions``,
            ``layers``, ``layers_are`` and ``model``.
        layers_are: a key of ``LAYERS_ARE``, for files that do not say it themselves.

    Raises:
        EmotraceError: one line on what is damaged, missing, given twice or not understood.
    """
    if layers_are is not None:
        arguments.choice(layers_are, "layer convention", LAYERS_ARE)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in tensor_files.SUFFIXES and file.is_file())
        if not files:
            raise EmotraceError(f"no file of vectors in {named(path)}: {', '.join(tensor_files.SUFFIXES)} are read")
    found: dict[tuple[str, int], np.ndarray] = {}
    said: dict[str, Any] = {}
    for file in files:
        tensors = tensor_files.read(file)
        said = {**tensors.about, **tensor_files.manifest(path), **(tensor_files.manifest(file) if path != file else {})}
        for emotion, layer, vector in _named(tensors, said, file, layers_are):
            if (emotion, layer) in found:
                raise EmotraceError(f"{named(file)}: {shown(emotion)} at layer {layer} is there twice")
            found[emotion, layer] = vector
    return _whole(found, said, path, f"{tensors.kind}{'s' if len(files) > 1 else ''}, {_convention(said, layers_are)}")


def _convention(said: Mapping[str, Any], layers_are: str | None) -> str:
    return str(said.get("layers_are", layers_are))


def _named(
    tensors: Tensors, said: Mapping[str, Any], file: Path, layers_are: str | None
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(emotion, layer in our counting, ``[d]``) of all that a file holds."""
    if not tensors.leaves:
        raise EmotraceError(f"{named(file)} holds no tensor of floats")
    if (convention := said.get("layers_are", layers_are)) is None:
        meanings = "; ".join(f"{name} ({meaning})" for name, meaning in LAYERS_ARE.items())
        raise EmotraceError(f"{named(file)} does not say what its layer numbers are: name layers_are, {meanings}")
    shift = _SHIFT[arguments.choice(convention, "layer convention", LAYERS_ARE)]
    for key, array in tensors.leaves.items():
        for emotion, layer, vector in _along_axes(key, array, said, file):
            yield emotion, layer + shift, vector


def _along_axes(
    key: Key, array: np.ndarray, said: Mapping[str, Any], file: Path
) -> Iterator[tuple[str, int, np.ndarray]]:
    emotion, layer = _parse(key, file)
    name = "/".join(map(str, key)) or "the tensor"
    axes = (emotion is None) + (layer is None)
    while array.ndim > 1 + axes and 1 in array.shape[:-1]:
        array = array.squeeze(array.shape.index(1))
    if emotion is None and array.ndim == axes:  # one emotion a file
        emotion, axes = said.get("emotion", file.stem), axes - 1
    if array.ndim != 1 + axes:
        raise EmotraceError(
            f"{named(file)}: {shown(name)} of shape {array.shape} is not understood: docs/your_texts.md"
        )
    emotions = [emotion] if emotion is not None else _axis("emotions", said, array.shape[0], name, file)
    layers: Sequence[Any] = [layer]
    if layer is None:
        count = array.shape[-2]
        layers = range(count) if said.get("layers") == "all" else _axis("layers", said, count, name, file)
    values = array.reshape(len(emotions), len(layers), array.shape[-1])
    for at, one in enumerate(emotions):
        for index, number in enumerate(layers):
            yield str(one), int(number), values[at, index]


def _parse(key: Key, file: Path) -> tuple[str | None, int | None]:
    """The emotion and the layer that a tensor's keys name, None where they name none."""
    emotions: list[str] = []
    layers: list[int] = []
    for part in key:
        if (text := str(part)).casefold() in _GENERIC:
            continue
        if isinstance(part, int):
            layers.append(part)
        elif match := _LAYER_ALONE.fullmatch(text):
            layers.append(int(match[1]))
        elif match := _LAYER_FIRST.fullmatch(text):
            layers.append(int(match[1]))
            emotions.append(match[2])
        elif match := _LAYER_LAST.fullmatch(text):
            layers.append(int(match[2]))
            emotions.append(match[1])
        else:
            emotions.append(text)
    emotions = [name for name in emotions if name.casefold() not in _GENERIC]
    if len(emotions) > 1 or len(layers) > 1:
        raise EmotraceError(f"{named(file)}: {shown('/'.join(map(str, key)))} names more than an emotion and a layer")
    if layers and layers[0] < 0:
        raise _from_the_end(file, layers[0])
    return next(iter(emotions), None), next(iter(layers), None)


def _axis(what: str, said: Mapping[str, Any], count: int, name: str, file: Path) -> Sequence[Any]:
    """The names along an axis, of the file itself or its manifest."""
    known = said.get(what)
    kind = str if what == "emotions" else int
    if known is None:
        beside = f'put {{"{what}": […]}} into {named(file.with_suffix(".json"))}'
        raise EmotraceError(f"{named(file)} does not name its {count} {what}: {beside}")
    if not isinstance(known, list) or not all(isinstance(part, kind) for part in known) or len(known) != count:
        number = f"{len(known)}: " if isinstance(known, list) else ""
        raise EmotraceError(f"{named(file)}: {shown(name)} has {count} {what}, its names are {number}{shown(known)}")
    if what == "layers" and min(known) < 0:
        raise _from_the_end(file, min(known))
    return known


def _from_the_end(file: Path, layer: int) -> EmotraceError:
    return EmotraceError(f"{named(file)}: layer {layer} counts from the end, which says not which it is")


def _whole(found: Mapping[tuple[str, int], np.ndarray], said: Mapping[str, Any], path: Path, kind: str) -> Directions:
    emotions = list(dict.fromkeys(emotion for emotion, _ in found))
    layers = sorted({layer for _, layer in found})
    missing = next(((one, layer) for one in emotions for layer in layers if (one, layer) not in found), None)
    if missing:
        raise EmotraceError(
            f"{named(path)}: {shown(missing[0])} has no layer {missing[1]} (by our counting), others have"
        )
    widths = sorted({len(vector) for vector in found.values()})
    if len(widths) > 1:
        raise EmotraceError(f"{named(path)}: vectors of different widths: {', '.join(map(str, widths))}")
    if not widths[0]:
        raise EmotraceError(f"{named(path)}: its vectors have no numbers (width 0)")
    with np.errstate(over="ignore"):
        values = np.array([[found[one, layer] for layer in layers] for one in emotions]).astype(np.float32)
    for at, index in np.argwhere(~np.isfinite(values).all(axis=-1)):
        raise EmotraceError(f"{named(path)}: {shown(emotions[at])} at layer {layers[index]} is not finite")
    provenance = {"of": f"another tool: {kind}"}
    own: Mapping[str, str] = said.get("provenance", {})
    if model := own.get("model", said.get("model")):
        provenance["model"] = str(model)
    if "weights_id" in own:
        provenance["weights"] = checkpoints.content(own)
    return Directions(values, tuple(emotions), tuple(layers), provenance)
