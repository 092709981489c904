"""What vectors are made of, and files of them, ours and other tools': checked whole, or refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotrace import arguments
from emotrace.errors import EmotraceError, first_line, named, shown
from emotrace.hosts import foreign_vectors, tensor_files


def checked(emotions: Any, layers: Any, provenance: Any, **arrays: Any) -> dict[str, Any]:
    """What :class:`~emotrace.vectors.EmotionVectors` is made of: names and numbers as Python's, arrays as float32.

    Lists, tensors and arrays of any floats are as good; a float32 array is not copied.

    Raises:
        EmotraceError: names that are no texts, layers that are no numbers, one of them twice, a provenance that is not
            text by name, arrays that fit neither each other nor the names, or that are not finite.
    """
    names = arguments.names(list(arguments.ordered(emotions, "emotion")), "emotion")
    numbers = [arguments.integer(layer, "a layer", at_least=0) for layer in arguments.ordered(layers, "layer")]
    _check_once("emotion", names)
    _check_once("layer", numbers)
    if not isinstance(provenance, Mapping) or not all(
        isinstance(part, str) for said in provenance.items() for part in said
    ):
        raise EmotraceError(f"a provenance is {{name: text}}, not {shown(provenance)}")
    found = {name: _float32(value, name, 3 if name == "values" else 2) for name, value in arrays.items()}
    shape = found["values"].shape
    if len(shape) != 3 or shape[:2] != (len(names), len(numbers)):
        raise EmotraceError(f"vectors of shape {shape} do not fit {len(names)} emotions and {len(numbers)} layers")
    for name, array in found.items():
        if name != "values" and array.shape != shape[1:]:
            raise EmotraceError(f"{name} of shape {array.shape} does not fit {shape[1:]}")
    if not all(np.isfinite(array).all() for array in found.values()):
        raise EmotraceError("vectors of NaN or infinity are none")
    return {"emotions": tuple(names), "layers": tuple(numbers), "provenance": dict(provenance), **found}


def _check_once(kind: str, several: Sequence[Any]) -> None:
    if twice := [one for one in several if several.count(one) > 1]:
        raise EmotraceError(f"vectors have each {kind} once: {shown(twice[0])} is there twice")


def _float32(value: Any, what: str, axes: int) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return value
    array = arguments.array(value, what, *[None] * getattr(value, "ndim", axes), finite=False)
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def load(path: Path, kind: str, names: Sequence[str], layers_are: str | None = None) -> dict[str, Any]:
    """What :class:`~emotrace.vectors.EmotionVectors` is made of, from a file of ours or of another tool.

    Another tool's vectors bring no means, which are zeros then, and no centring.

    Args:
        path: the file; of another tool also a folder.
        kind: what the header of ours says it is.
        names: of the tensors in ours.
        layers_are: what another tool's layer numbers are (``foreign_vectors.LAYERS_ARE``).

    Raises:
        EmotraceError: no such file, or one that is cut short, damaged or of another kind.
    """
    try:
        here = path.is_file(), path.is_dir()
    except OSError:  # a name that is too long for a file
        here = False, False
    if not any(here):
        raise EmotraceError(f"no file {named(path)}")
    if not here[0] or not _ours(path, kind, names):
        found = foreign_vectors.read(path, layers_are)
        means = {name: np.zeros(found.values.shape[1:], np.float32) for name in names if name != "values"}
        return {**found._asdict(), **means}
    tensors, header = read(path, names)
    with damage_named(path):
        emotions, layers = (tuple(json.loads(header[name])) for name in ("emotions", "layers"))
        return {"emotions": emotions, "layers": layers, "provenance": json.loads(header["provenance"]), **tensors}


def _ours(path: Path, kind: str, names: Sequence[str]) -> bool:
    """Whether a file is a safetensors file of ours.

    Raises:
        EmotraceError: it is a damaged one, or one of another version.
    """
    from safetensors import safe_open

    try:
        with path.open("rb") as start:  # by what it holds: save takes any name
            head = start.read(9)
    except OSError as error:
        raise EmotraceError(f"{named(path)} cannot be read: {error.strerror}") from None
    other = path.suffix in tensor_files.SUFFIXES and path.suffix != ".safetensors"
    if head[:4] in (b"GGUF", b"PK\x03\x04") or (other and head[8:] != b"{"):
        return False
    with damage_named(path), safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("format") == kind:
            return True
        if set(names) <= set(file.keys()):
            raise EmotraceError(f"{path} is no file of emotion vectors ({kind})")
    return False


def read(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the header of a file of ours.

    Raises:
        EmotraceError: it is damaged.
    """
    from safetensors import safe_open

    with damage_named(path), safe_open(path, framework="numpy") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in names}
        if checksum(tensors) != header["sha256"]:
            raise ValueError("its sha256 does not agree with its content")
    return tensors, header


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Whatever else goes wrong in reading a file means that it is damaged."""
    try:
        yield
    except EmotraceError:
        raise
    except Exception as error:  # SafetensorError, KeyError, JSONDecodeError …
        raise EmotraceError(f"{path} is damaged or no vector file ({first_line(error)})") from None


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over the tensors' bytes in the order of their names: safetensors itself has no checksum."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
