"""Files on disk: written whole or not at all, results larger than memory, and how finished work is kept."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy

from emotrace.errors import writing


class Cache(Protocol):
    """Keeps finished work by its key, so that none is computed twice (``study.folder.RunFolder`` is one)."""

    def arrays(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array kept under ``key``; computed and kept first if there is none."""

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The table rows kept under the content of ``key``; computed and kept first if there are none."""


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; its folder is made.

    Raises:
        WriteError: it cannot be written.
    """
    write_with(path, lambda scratch: scratch.write_bytes(content))


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Has ``writer`` write to a scratch file beside ``path``, then renames that into place: no half file is ever read.

    What a link leads to is written, not the link; a pipe or a device takes the bytes and stays what it is.

    Raises:
        WriteError: it cannot be written.
    """
    with writing(path):
        _check_target(path)
        path = path.resolve()
        if path.exists() and not path.is_file():
            with tempfile.TemporaryDirectory() as folder:
                writer(scratch := Path(folder) / "content")
                path.write_bytes(scratch.read_bytes())
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(path)
        try:
            writer(scratch)
            _move(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def ensure_writable(path: Path) -> None:
    """Fails now rather than after minutes of work if a file cannot be written at ``path``."""
    with writing(path):
        _check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.is_file():
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass


def _check_target(path: Path) -> None:
    if not path.name:
        raise OSError("it names no file")
    if path.is_dir():
        raise OSError("it is a folder")


def safetensors_content(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its JSON header in alphabetical order; safetensors itself writes it in a random one."""
    from safetensors.numpy import save

    content = save(dict(tensors), metadata=dict(metadata))
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    header = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of 8 bytes
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name[-40:]}.{os.getpid()}")  # a name may be 255 bytes long, and no longer


def _move(scratch: Path, path: Path) -> None:
    with scratch.open("rb+") as file:
        os.fsync(file.fileno())  # on disk before it has the name, so that a power cut leaves no empty file there
    os.replace(scratch, path)


class ArrayFile:
    """A float32 array of ``shape [row, …]`` in the ``.npy`` file ``path``, filled row by row in any order.

    For results larger than memory. A context manager that leaves the whole file, replacing an older one, or changes
    nothing; a :class:`WriteError` says at the start, before hours of work, that there is no room. Rows are written, not
    mapped: the pages of a map count as this process's memory until it is closed (2 GB of 2 GB, measured), and a disk
    that fills up under a map kills the process where a write raises an error.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._row_bytes = 4 * int(np.prod(shape[1:]))
        self._scratch = _scratch(path)

    def __enter__(self) -> ArrayFile:
        size = self.shape[0] * self._row_bytes
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path.parent).free
            if size > free:
                raise OSError(f"it takes {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free")
            self._file = self._scratch.open("wb")
        npy.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": self.shape})
        self._start = self._file.tell()
        return self

    def __setitem__(self, rows: Sequence[int], values: np.ndarray) -> None:
        """``file[[4, 1]] = values`` with ``values [len(rows), …]``, as for an array in memory."""
        if values.shape != (len(rows), *self.shape[1:]):
            raise ValueError(f"rows of {self.shape[1:]} cannot be taken from {values.shape}")
        with writing(self.path):
            for row, value in zip(rows, np.ascontiguousarray(values, dtype="<f4"), strict=True):
                self._file.seek(self._start + row * self._row_bytes)
                self._file.write(value)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            # Closing writes what is buffered, which may fail too; an error under way is the one to report.
            with contextlib.suppress(OSError) if error else writing(self.path):
                self._file.close()
                if error is None:
                    _move(self._scratch, self.path)
        finally:
            self._scratch.unlink(missing_ok=True)

    def mapped(self) -> np.ndarray:
        """The finished array as a read-only map of the file, of which only what is used is read."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)
