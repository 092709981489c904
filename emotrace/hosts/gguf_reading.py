"""A GGUF file is parsed once, whoever asks for it while it is converted.

transformers parses it three times (tokenizer, configuration, tensors), and for the names of the tensors it builds the
table of a whole architecture anew for every module: two thirds of what a conversion took.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Within it ``gguf`` gives one reader a file and one table of names an architecture, the same as ever.

    Nothing of it is kept afterwards.
    """
    import gguf

    class Reader(gguf.GGUFReader):
        """Slices of a plain array cost a fraction of a memory map's, and there are a million of them."""

        @property
        def data(self) -> Any:
            return self._plain

        @data.setter
        def data(self, mapped: Any) -> None:
            self._plain = mapped.view(np.ndarray)

    read = functools.cache(Reader)
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    replaced: Any = gguf  # a module's functions are no variables to a type checker
    replaced.GGUFReader = lambda path, mode="r": read(os.path.realpath(path), mode)
    replaced.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        replaced.GGUFReader, replaced.get_tensor_name_map = before
