"""Control vectors of llama.cpp: a GGUF file with one direction a layer, added there by ``--control-vector FILE``.

llama.cpp counts decoder layers from 0 and adds ``direction.N`` to the output of layer N, for N ≥ 1: layer index i of
ours becomes ``direction.(i - 1)``. The embedding (0) and the first decoder layer (1) cannot be expressed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from emotrace.errors import EmotraceError, of_extra
from emotrace.files import write_with

FIRST_LAYER = 2


def check_layers(layers: Collection[int]) -> None:
    """Refuses layers that llama.cpp cannot take, and none at all."""
    for layer in layers:
        if layer < FIRST_LAYER:
            raise EmotraceError(f"layer {layer} cannot be exported: llama.cpp control vectors start at our layer 2")
    if not layers:
        raise EmotraceError("no layer to export: llama.cpp control vectors start at our layer 2")


def write(path: Path, directions: Mapping[int, np.ndarray], *, name: str, provenance: Mapping[str, str]) -> None:
    """Writes a control vector, whole or not at all.

    Args:
        path: of the file.
        directions: layer index → ``[d_model]``, in the units of the residual stream.
        name: of what the directions stand for.
        provenance: of the directions; ``class`` is the architecture they belong to.

    Raises:
        EmotraceError: no layer, or one that llama.cpp cannot take.
        WriteError: the file cannot be written.
    """
    check_layers(directions)
    with of_extra():
        import gguf

    def write_gguf(scratch: Path) -> None:
        writer = gguf.GGUFWriter(scratch, "controlvector")
        writer.add_string("controlvector.model_hint", provenance.get("class", "unknown"))
        writer.add_uint32("controlvector.layer_count", len(directions))
        writer.add_string("general.description", f"emotrace: {name}")
        writer.add_string("emotrace.provenance", json.dumps(provenance, sort_keys=True))
        for layer, direction in directions.items():
            writer.add_tensor(f"direction.{layer - 1}", np.ascontiguousarray(direction))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_with(path, write_gguf)
