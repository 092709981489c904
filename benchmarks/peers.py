"""The other ways to read the same texts: the usual loop, nnsight text by text, repeng and steering-vectors.

Each takes a model and texts and returns, for the poolings it computes, ``[text, layer, d_model]`` with layers as
emotrace counts them (0 = embeddings); what a peer does not compute, or computes as something else, is NaN there. The
packages come from ``requirements-peers.lock``, unchanged, and do their own job at their own settings:

- *repeng* 0.4.0: ``extract.batched_get_hiddens``, the extraction inside ``ControlVector.train``, at its batch size 32;
  last tokens, all layers, no mean. The last layer's is after the final norm. Importing it needs ``numpy.float_``, which
  numpy 2 no longer has: the name is lent to numpy while it is imported.
- *steering-vectors* 0.12.2: ``extract_activations``, the extraction inside ``train_steering_vector``, on pairs of texts
  as it wants them; last tokens, decoder layers, no mean, no embeddings. Its batch size is 1 by default; 32 is a second
  contender.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from types import ModuleType

import nnsight
import numpy as np
import torch

from emotrace import tokens
from emotrace.models import Model

Pooled = dict[str, np.ndarray]


def one_at_a_time(model: Model, texts: Sequence[str]) -> Pooled:
    """One text a call with ``output_hidden_states`` through the language model, then pooled: the usual loop."""
    rows = []
    with torch.no_grad():
        for item in tokens.encode(model, texts):
            states = model.nn._module(input_ids=torch.tensor([item.ids]), output_hidden_states=True).hidden_states
            rows.append(_pooled(torch.stack([state[0] for state in states]), item))
    return _without_last_layer(_by_pooling(rows))


def one_trace_a_text(model: Model, texts: Sequence[str]) -> Pooled:
    """One nnsight trace a text with every layer's output saved, then pooled: nnsight's own tutorials."""
    rows = []
    for item in tokens.encode(model, texts):
        with torch.no_grad(), model.nn.trace({"input_ids": torch.tensor([item.ids])}):
            states = nnsight.save([model.layers[0].input])
            for layer in model.layers:
                states.append(layer.output)
        rows.append(_pooled(torch.cat(list(states)), item))
    return _by_pooling(rows)


def repeng(model: Model, texts: Sequence[str], batch_size: int = 32) -> Pooled:
    """``repeng.extract.batched_get_hiddens`` at every layer."""
    layers = list(range(model.n_layers))
    read = _repeng().extract.batched_get_hiddens
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        hidden = read(model.nn._module, model.tokenizer, list(texts), layers, batch_size)
    return _without_last_layer({"last": _with_embeddings([hidden[layer] for layer in layers])})


def steering_vectors(model: Model, texts: Sequence[str], batch_size: int = 1) -> Pooled:
    """``steering_vectors.extract_activations`` at every layer, the first half of the texts paired with the second."""
    import steering_vectors as package

    half = -(-len(texts) // 2)
    pairs = list(zip(texts[:half], [*texts[half:], texts[-1]][:half], strict=True))
    sides = package.extract_activations(model.nn._module, model.tokenizer, pairs, batch_size=batch_size)
    layers = [torch.cat([row for side in sides for row in side[layer]]).numpy() for layer in range(model.n_layers)]
    return {"last": _with_embeddings(layers)[: len(texts)]}


def _repeng() -> ModuleType:
    lent = not hasattr(np, "float_")
    if lent:
        np.float_ = np.float64  # noqa: NPY201
    try:
        import repeng as package
    finally:
        if lent:
            del np.float_  # noqa: NPY201
    return package


def _pooled(states: torch.Tensor, item: tokens.Tokens) -> Pooled:
    """``[layer, token, d_model]`` → ``[layer, d_model]``: the last token, and the mean without the first."""
    mean = states[:, item.start + 1 : item.stop].mean(dim=1)
    return {"last": states[:, item.stop - 1].numpy(), "mean": mean.numpy()}


def _by_pooling(rows: list[Pooled]) -> Pooled:
    return {pooling: np.stack([row[pooling] for row in rows]) for pooling in rows[0]}


def _with_embeddings(layers: list[np.ndarray]) -> np.ndarray:
    """``[text, d_model]`` of layers 1 … L → ``[text, layer, d_model]`` of layers 0 … L, the unknown layer 0 NaN."""
    return np.stack([np.full_like(layers[0], np.nan), *layers], axis=1)


def _without_last_layer(pooled: Pooled) -> Pooled:
    """transformers returns the last of its hidden states after the final norm: another quantity."""
    for array in pooled.values():
        array[:, -1] = np.nan
    return pooled
