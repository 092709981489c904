"""Arrays too large for memory: a ``.npy`` file that is filled row by row, in any order, and mapped when it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from emotrace.errors import writing


class ArrayFile:
    """A float32 array ``[row, …]`` on disk; a context manager that leaves the whole file at its place, or none.

    Written and not mapped while it grows: written pages belong to the system's cache, mapped ones would count as this
    process's memory. Whether there is room is asked at the start, so that a full disk is told then and not hours later.

    Args:
        path: where the file goes, once whole; an older one there is replaced then.
        shape: of the array, rows first.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._row_bytes = 4 * int(np.prod(shape[1:]))
        self._scratch = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> ArrayFile:
        size = self.shape[0] * self._row_bytes
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path.parent).free
            if size > free:
                raise OSError(f"it takes {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free")
            self._file = self._scratch.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        npy.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()
        return self

    def __setitem__(self, rows: Sequence[int], values: np.ndarray) -> None:
        """``file[[4, 1]] = values``: as an array in memory would take them, ``values [len(rows), …]``."""
        if values.shape != (len(rows), *self.shape[1:]):
            raise ValueError(f"rows of {self.shape[1:]} cannot be taken from {values.shape}")
        with writing(self.path):
            for row, value in zip(rows, values, strict=True):
                self._file.seek(self._start + row * self._row_bytes)
                self._file.write(np.ascontiguousarray(value, dtype="<f4"))

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self._drop()
            return
        with writing(self.path):
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._scratch, self.path)
            except OSError:
                self._drop()
                raise

    def _drop(self) -> None:
        with contextlib.suppress(OSError):  # closing writes what is buffered, which a full disk refuses once more
            self._file.close()
        self._scratch.unlink(missing_ok=True)

    def mapped(self) -> np.ndarray:
        """The finished array, read-only; a part is read from disk when it is used."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)
