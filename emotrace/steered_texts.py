"""Prompts × emotions × strengths × seeds → a table of texts, many in one batch (:mod:`emotrace.steering`)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from emotrace import arguments
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError, shown
from emotrace.files import Cache
from emotrace.hosts import gpu_memory
from emotrace.hosts.open_edits import check_one_for_all, open_edits
from emotrace.hosts.remote import answers
from emotrace.steering import DEFAULT_WRITING, Edit, directions, generate
from emotrace.tokens import Writing, in_batches, in_parts, prompt_ids, text_after
from emotrace.vectors import Emotion, EmotionVectors, mixture_name

if TYPE_CHECKING:
    from emotrace.models import Model

# Rows of one pass, and of one of long texts or on a server, of which it is not known what else it has to do. SmolLM2
# writes 1.2 times as fast with 256 as with 128 on a CPU, and no faster with 512.
BATCH_ROWS, FEWER_ROWS = 256, 128
GPU_ROWS = 1024  # or what half of its free memory holds
# Tokens of a text, prompt and all, up to which more rows are written at once: keys and values take memory for each.
SHORT_TEXT = 128


class Row(NamedTuple):
    """One text to be written."""

    prompt: str
    vectors: EmotionVectors
    emotion: Emotion
    strength: float
    seed: int = 0


@arguments.checked
def steer(
    model: Model,
    prompts: str | Sequence[str],
    vectors: EmotionVectors,
    strengths: float | Sequence[float] | None = None,
    *,
    emotions: Emotion | Sequence[Emotion] | None = None,
    layers: int | Sequence[int] | str | None = None,
    writing: Writing = DEFAULT_WRITING,
    on_the_fly: bool = False,
    batch_rows: int | None = None,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Continues every prompt under every emotion, strength and seed.

    Args:
        model: the model.
        prompts: one prompt or several.
        vectors: emotion vectors of this model.
        strengths: multiples of the mean residual norm at the layer of the edit; negative steers away, 0 is unsteered.
            Default: the strength that the vectors were calibrated to (``judges.calibration.calibrate``).
        emotions: names in ``vectors`` or mixtures (emotion → weight); default: all of them.
        layers: where to add; default: the layers that the vectors were calibrated at, else their nearest to half
            depth; ``all`` is the author's published setting (with small strengths).
        writing: length, seeds, chat, temperature and the positions of the edit (both by default as calibrated: a
            strength that leaves sampled texts coherent may have greedy ones repeat themselves).
        on_the_fly: take the norm of each row's own activations as the unit of strength, as the author's code does.
        batch_rows: rows of one pass; default :func:`rows_at_once`.
        cache: keeps finished batches by content, so that none is written twice.
        progress: called with the number of texts just written.

    Returns:
        One row a text: ``prompt, emotion, strength, seed, text, tokens, n_tokens, ended`` (``tokens``: their ids;
        ``ended``: by end-of-text).

    Raises:
        EmotraceError: vectors of another model, a layer out of range, a strength that is not finite or that nothing
            gives, an empty or too long prompt, an unknown emotion, a chat asked of a model without a template.
    """
    vectors.check(model)
    layers = steered_layers(model, vectors, layers)
    prompts = arguments.texts(prompts, "prompt")
    emotions = vectors.emotions if emotions is None else arguments.emotions(emotions)
    crossed = itertools.product(prompts, emotions, strengths_of(vectors, strengths), writing.seeds)
    rows = [Row(prompt, vectors, emotion, strength, seed) for prompt, emotion, strength, seed in crossed]
    if not rows:
        raise EmotraceError("nothing is to be written: a prompt, an emotion and a strength are needed at least")
    texts = write(
        model, rows, layers, writing, on_the_fly=on_the_fly, batch_rows=batch_rows, cache=cache, progress=progress
    )
    settings = [(row.prompt, mixture_name(row.emotion), float(row.strength), row.seed) for row in rows]
    return pd.concat([pd.DataFrame(settings, columns=["prompt", "emotion", "strength", "seed"]), texts], axis=1)


@arguments.checked
def write(
    model: Model,
    rows: Sequence[Row],
    layers: Sequence[int],
    writing: Writing = DEFAULT_WRITING,
    *,
    on_the_fly: bool = False,
    batch_rows: int | None = None,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """One text a row, in the order given, whatever prompts, vectors, strengths and seeds the rows mix.

    Args as in :func:`steer`, but for the seeds, which are the rows' own.

    Returns:
        Columns ``text, tokens, n_tokens, ended``.
    """
    for row in (rows := list(arguments.ordered(rows, "Row"))):
        if not isinstance(row, Row) or not isinstance(row.vectors, EmotionVectors):
            raise EmotraceError(f"rows are steered_texts.Row, with vectors of the model, not {shown(row)}")
        arguments.number(row.strength, "a strength")
        arguments.seeds([row.seed])
    if not rows:
        raise EmotraceError("nothing is to be written: a row is needed at least")
    layers = model.check_layers(layers)
    check_one_for_all(model)
    if batch_rows is not None:
        batch_rows = arguments.integer(batch_rows, "batch_rows", at_least=1)
    settled = {as_calibrated(row.vectors, writing) for row in rows}
    if len(settled) > 1:
        raise EmotraceError(
            "these vectors are calibrated at different positions or temperatures: say which, "
            "Writing(positions=…, temperature=…)"
        )
    (writing,) = settled
    prompts = prompt_ids(model, [row.prompt for row in rows], writing.chat, writing.max_new_tokens)
    norms = np.ones(model.n_layers + 1) if on_the_fly else residual_norms(model)
    # Rows of one prompt share a batch, and the longest come first; the caller's order is restored at the end.
    numbers = {prompt: number for number, prompt in enumerate(prompts)}
    order = sorted(
        range(len(rows)), key=lambda index: (-len(prompts[rows[index].prompt]), numbers[rows[index].prompt], index)
    )
    written: dict[int, dict[str, Any]] = {}

    def batch_of(indices: list[int]) -> list[dict[str, Any]]:
        batch = [rows[index] for index in indices]
        edit = Edit(
            row_directions(batch, layers, norms), on_the_fly=on_the_fly, positions=writing.positions or "generated"
        )
        return _write_batch(model, batch, [prompts[row.prompt] for row in batch], edit, writing, cache)

    batch_rows = batch_rows or rows_at_once(model, prompts.values(), writing.max_new_tokens)
    for indices, texts in answers(model.remote, in_batches(order, batch_rows), batch_of):
        written.update(zip(indices, texts, strict=True))
        if progress:
            progress(len(indices))
    return pd.DataFrame([written[index] for index in range(len(rows))])


def rows_at_once(model: Model, prompts: Iterable[Sequence[int]], new: int) -> int:
    """How many rows are written together, by default: ``BATCH_ROWS`` here if no prompt with ``new`` tokens is longer
    than ``SHORT_TEXT``, else ``FEWER_ROWS``; on a GPU ``GPU_ROWS``, if there is memory for them."""
    longest = max(map(len, prompts))
    fewer = BATCH_ROWS if longest + new <= SHORT_TEXT and not model.remote else FEWER_ROWS
    if not gpu_memory.on_gpu(model):
        return fewer
    return gpu_memory.at_most(model, GPU_ROWS, gpu_memory.row_bytes(model, longest, new), unknown=fewer)


def row_directions(batch: Sequence[Row], layers: Sequence[int], norms: np.ndarray) -> dict[int, torch.Tensor]:
    """Each row's own edit at each layer: layer index → float32 ``[row, d_model]``."""
    edits = [directions(row.vectors, [(row.emotion, row.strength)], layers, norms) for row in batch]
    return {layer: torch.cat([edit[layer] for edit in edits]) for layer in layers}


def _write_batch(
    model: Model,
    batch: Sequence[Row],
    prompts: list[tuple[int, ...]],
    edit: Edit,
    writing: Writing,
    cache: Cache | None,
) -> list[dict[str, Any]]:
    """The batch's texts, from the cache if they are there, in as few requests as the server takes."""
    seeds, limit = [int(row.seed) for row in batch], writing.max_new_tokens

    def part(rows: Sequence[int]) -> list[list[int]]:
        chosen = [prompts[row] for row in rows], edit.rows(rows), writing, [seeds[row] for row in rows]
        return generate(model, *chosen)

    def text_of(prompt: Sequence[int], tokens: list[int]) -> dict[str, Any]:
        text = text_after(model, prompt, tokens)
        return {"text": text, "tokens": tokens, "n_tokens": len(tokens), "ended": len(tokens) < limit}

    def compute() -> list[dict[str, Any]]:
        texts = itertools.chain.from_iterable(in_parts(model, range(len(batch)), part))
        return [text_of(prompt, tokens) for prompt, tokens in zip(prompts, texts, strict=True)]

    if cache is None or open_edits(model):  # no key tells of them
        return compute()
    digest = hashlib.sha256()
    for layer, values in sorted(edit.directions.items()):
        digest.update(f"{layer}".encode() + values.numpy().tobytes())
    key: dict[str, Any] = {
        "what": "steered texts",
        "model": model.identity,
        "dtype": model.provenance["dtype"],
        "prompts": prompts,
    }
    key |= {"seeds": seeds, "edit": digest.hexdigest(), "positions": edit.positions, "on_the_fly": edit.on_the_fly}
    key |= {"tokens": limit, "temperature": writing.temperature}
    if writing.chat:  # a turn ends where a text does not
        key["chat"] = True
    return cache.rows(key, compute)


# -- defaults and names -----------------------------------------------------------------------------------------------


def strengths_of(vectors: EmotionVectors, strengths: float | Sequence[float] | None) -> list[float]:
    if strengths is None:
        strengths = vectors.calibration.get("strength")
        if strengths is None:
            raise EmotraceError("these vectors are not calibrated: give a strength, or calibrate them first")
    return arguments.numbers(strengths, "strength")


def steered_positions(vectors: EmotionVectors, writing: Writing) -> str:
    """Where a text is edited: as the writing says, else as the vectors were calibrated, else what is generated."""
    return writing.positions or vectors.calibration.get("positions") or "generated"


def as_calibrated(vectors: EmotionVectors, writing: Writing) -> Writing:
    """The writing with what it leaves open as the vectors were calibrated: positions and temperature.

    The calibrated strength is the largest that leaves texts coherent which are written just so.
    """
    temperature = writing.temperature
    if temperature is None:
        temperature = float(vectors.calibration.get("temperature") or 0)
    return replace(writing, positions=steered_positions(vectors, writing), temperature=temperature)


def steered_layers(model: Model, vectors: EmotionVectors, layers: int | Sequence[int] | str | None) -> list[int]:
    """The layers to edit: those given, else those of the calibration, else the vectors' nearest to half depth.

    Raises:
        EmotraceError: a layer out of range, or layer 0, which is not steered.
    """
    if layers is None:
        layers = vectors.calibration.get("layers") or nearest_half(model, [one for one in vectors.layers if one] or [0])
    every = isinstance(layers, str) and layers == "all"
    chosen = [layer for layer in model.check_layers(layers) if layer > 0 or not every]
    if 0 in chosen:
        raise EmotraceError(f"layer 0 is the embedding output, which is not steered: layers are 1 to {model.n_layers}")
    return chosen


def read_layer(model: Model, vectors: EmotionVectors) -> int:
    """The layer at which a text is read where one alone is: of those steered by default the nearest to half depth."""
    return nearest_half(model, steered_layers(model, vectors, None))


def nearest_half(model: Model, layers: Sequence[int]) -> int:
    """The layer nearest to half depth; of two the lower."""
    return min(layers, key=lambda layer: abs(layer - model.n_layers // 2))
