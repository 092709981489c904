"""Files of tensors by anyone: ``.npz``, torch, safetensors and GGUF control vectors → named arrays. No code is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emotrace.errors import EmotraceError, first_line, named, of_extra, shown

SUFFIXES = (".npz", ".pt", ".pth", ".bin", ".safetensors", ".gguf")
"""What is looked for in a folder."""
ABOUT = {
    "emotions": "emotions",
    "labels": "emotions",
    "names": "emotions",
    "concepts": "emotions",
    "layers": "layers",
    "layers_are": "layers_are",
    "model": "model",
}
"""What a file, or a manifest beside it, may say of its tensors, by the names in use."""

Key = tuple[str | int, ...]


class Tensors(NamedTuple):
    """What a file holds.

    Attributes:
        leaves: the path of keys to each array → the array, float.
        about: ``emotions``, ``layers``, ``layers_are``, ``model``, as far as it says them.
        kind: of the file, in words.
    """

    leaves: dict[Key, np.ndarray]
    about: dict[str, Any]
    kind: str


def read(path: Path) -> Tensors:
    """The arrays of a file, by what it holds and not by its name.

    Raises:
        EmotraceError: a file of another kind, a damaged one, or one whose content would have to be unpickled.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"GGUF":
            return _gguf(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                torch_file = any(name.endswith("data.pkl") for name in archive.namelist())
            return _torch(path) if torch_file else _npz(path)
        return _torch(path) if path.suffix in (".pt", ".pth", ".bin") else _safetensors(path)
    except EmotraceError:
        raise
    except Exception as error:  # BadZipFile, SafetensorError, UnpicklingError, ValueError of numpy and gguf …
        raise EmotraceError(f"{named(path)} is damaged or no file of tensors ({first_line(error)})") from None


def _npz(path: Path) -> Tensors:
    with np.load(path, allow_pickle=False) as arrays:
        try:
            content = {name: arrays[name] for name in arrays.files}
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise EmotraceError(
                f"{named(path)} holds pickled objects, which are never run: save arrays alone"
            ) from None
    return Tensors(*_sorted_out(content), ".npz file")


def _torch(path: Path) -> Tensors:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise EmotraceError(
            f"{named(path)} holds more than tensors in dictionaries and lists: pickled code is never run"
        ) from None
    return Tensors(*_sorted_out(content), "torch file")


def _safetensors(path: Path) -> Tensors:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:  # numpy knows no bfloat16
        said = {name: _parsed(text) for name, text in (file.metadata() or {}).items()}
        content = {name: file.get_tensor(name) for name in list(file.keys())}
    leaves, about = _sorted_out(content)
    return Tensors(leaves, {**_about(said), **about}, "safetensors file")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _gguf(path: Path) -> Tensors:
    with of_extra():
        import gguf
    reader = gguf.GGUFReader(path)
    field = reader.get_field("general.architecture")
    kind = field.contents() if field else "none"
    if kind != "controlvector":
        raise EmotraceError(f"{named(path)} is a GGUF file of architecture {shown(kind)}, no control vector")
    leaves: dict[Key, np.ndarray] = {}
    for tensor in reader.tensors:
        name, _, number = tensor.name.partition(".")
        if name != "direction" or not number.isdecimal():
            raise EmotraceError(f"{named(path)}: tensor {shown(tensor.name)} is no direction.N")
        leaves[(int(number),)] = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    about: dict[str, Any] = {"layers_are": "block-output"}
    if own := reader.get_field("emotrace.provenance"):
        about |= {"provenance": dict(json.loads(own.contents()))}
    described = reader.get_field("general.description")
    if described and described.contents().startswith("emotrace: "):
        about |= {"emotion": described.contents().removeprefix("emotrace: ")}
    return Tensors(leaves, about, "GGUF control vector")


def _sorted_out(content: Any) -> tuple[dict[Key, np.ndarray], dict[str, Any]]:
    """Nested dictionaries of tensors → the arrays by their keys, and what stands beside them about them."""
    about = _about(content) if isinstance(content, Mapping) else {}
    return dict(_arrays(content, ())), about


def _arrays(content: Any, key: Key) -> Iterator[tuple[Key, np.ndarray]]:
    if isinstance(content, Mapping):
        for name, inside in content.items():
            if key or name not in ABOUT or _plain(inside) is None:
                yield from _arrays(inside, (*key, name if isinstance(name, int) else str(name)))
        return
    if hasattr(content, "detach"):
        content = content.detach().float().numpy()
    if isinstance(content, list) and content and all(hasattr(part, "detach") for part in content):
        content = np.stack([part.detach().float().numpy() for part in content])
    if isinstance(content, np.ndarray) and content.dtype.kind == "f" and content.ndim:
        yield key, content


def _about(content: Mapping[Any, Any]) -> dict[str, Any]:
    plain = {ABOUT[name]: _plain(value) for name, value in content.items() if name in ABOUT}
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any) -> Any:
    """Names or numbers of layers as a list, a word as it is; None for what is neither."""
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) < 2:
        value = value.tolist()
    if isinstance(value, list | tuple) and value and all(isinstance(part, str | int) for part in value):
        return list(value)
    return value if isinstance(value, str) else None


def manifest(path: Path) -> dict[str, Any]:
    """What ``STEM.json`` beside a file, or ``manifest.json`` in a folder, says of its tensors.

    Raises:
        EmotraceError: it is no JSON object.
    """
    file = path / "manifest.json" if path.is_dir() else path.with_suffix(".json")
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise EmotraceError(f"{named(file)} is no manifest of vectors ({first_line(error)})") from None
    return _about(said)
