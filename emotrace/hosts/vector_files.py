"""Safetensors files of vectors: read whole and checked, or refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from emotrace.errors import EmotraceError, first_line, named


def read(path: Path, kind: str, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the header of a file.

    Args:
        path: the file.
        kind: what its header says it is.
        names: of the tensors.

    Raises:
        EmotraceError: no such file, or one that is cut short, damaged or of another kind.
    """
    from safetensors import safe_open

    try:
        here = path.is_file()
    except OSError:  # a name that is too long for a file
        here = False
    if not here:
        raise EmotraceError(f"no file {named(path)}")
    with path.open("rb") as head:
        if head.read(4) == b"GGUF":
            raise EmotraceError(
                f"{path} is a GGUF file (a llama.cpp control vector, say): vectors are read from the safetensors file "
                "that emotrace extract writes"
            )
    with damage_named(path), safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
        if header.get("format") != kind:
            raise EmotraceError(f"{path} is no file of emotion vectors ({kind})")
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
