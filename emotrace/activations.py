"""Reading the residual stream: texts → pooled activations ``[text, layer, d_model]``, or one vector a token.

How it is done with nnsight: one ``trace`` a batch, and a ``session`` around those that a server is sent at once. In a
trace, each decoder layer's output is pooled over tokens, so that what leaves it is one vector a text and layer instead
of one a token. ``tracer.stop()`` ends the forward pass after the last layer asked for, so that the unembedding never
runs.

Layers: index 0 is the embedding output (what enters the first decoder layer), index i the output of decoder layer i, as
in ``hidden_states`` of transformers. TransformerLens and nnterp count the decoder layers from 0.

Padding: texts are padded on the right by us, whatever the tokenizer's own side. In a causal model no real token attends
to a token on its right, so padding can change neither an activation nor a position, and no attention mask is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nnsight
import numpy as np
import torch

from emotrace import arguments
from emotrace.errors import EmotraceError, unknown
from emotrace.files import ArrayFile, Cache
from emotrace.hosts import gpu_memory
from emotrace.hosts.finite import finite
from emotrace.hosts.open_edits import open_edits, right_padded, unedited
from emotrace.hosts.remote import answers
from emotrace.hosts.turns import loop_to_the_end
from emotrace.in_trace import gathered, make_input_contiguous, pooled, residual
from emotrace.instrument import corpus
from emotrace.tokens import Tokens, batches, encode, end_tokens, in_parts, pad_left, pad_right, token_rows, until_end

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.tokens import Writing

POOLINGS = ("last", "mean")

# Rows × longest row of one batch. On a CPU more is slower, up to half as fast at 2048 (docs/performance.md), and takes
# memory. A GPU wants more, as its memory allows (docs/performance.md). A server's is not known.
BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 8192
SERVER_BATCH_TOKENS = 2048
# A request to a server costs 0.1 s and the network's latency: small batches travel together, up to so many tokens, and
# bytes of what comes back.
REQUEST_TOKENS = 4 * SERVER_BATCH_TOKENS
REQUEST_BYTES = 8_000_000


@arguments.checked
def read_activations(
    model: Model,
    texts: Sequence[str | Tokens],
    *,
    layers: Sequence[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    batch_tokens: int | None = None,
    out: str | Path | None = None,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """The residual stream of each text, pooled over its tokens.

    Args:
        model: the model to read.
        texts: plain texts, or :class:`~emotrace.tokens.Tokens` from :func:`~emotrace.tokens.encode`.
        layers: layer indices (0 = embeddings … L); default all.
        poolings: ``last``, the text's last token; ``mean``, the mean over the text's tokens without special tokens
            and without its first, whose massive activation would drown the rest.
        batch_tokens: budget of rows × longest row for one forward pass; default :data:`BATCH_TOKENS` on this
            machine's CPU, on its GPU :data:`GPU_BATCH_TOKENS` or what half of its free memory holds,
            :data:`SERVER_BATCH_TOKENS` on a server.
        out: a folder for results larger than memory: each pooling goes to ``POOLING.npy`` in it as it is read.
        cache: keeps finished batches by content, so that none is read twice.
        progress: called with the number of texts just finished.

    Returns:
        For each pooling a float32 array ``[text, layer, d_model]``, texts in the order given, layers ascending. With
        ``out`` it is a read-only map of the file, of which only what is used is read.

    Raises:
        EmotraceError: no texts, an unknown pooling, a layer out of range, a text that is empty or too long, or has
            one token only where ``mean`` is asked for; ``out`` cannot be written, or has no room for the result.
    """
    layers, poolings = model.check_layers(layers), arguments.names(poolings, "pooling")
    for pooling in poolings:
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
    if batch_tokens is not None:
        batch_tokens = arguments.integer(batch_tokens, "batch_tokens", at_least=1)
    if not poolings:
        raise EmotraceError(f"no pooling is asked for: known are {', '.join(POOLINGS)}")
    if not (tokens := encode(model, texts)):
        raise EmotraceError("no texts to read")
    if "mean" in poolings:
        _check_two_tokens(tokens)
    shape = (len(tokens), len(layers), model.d_model)
    with contextlib.ExitStack() as files:
        results: dict[str, Any]
        if out is None:
            results = {pooling: np.empty(shape, np.float32) for pooling in poolings}
        else:
            results = {name: files.enter_context(ArrayFile(Path(out) / f"{name}.npy", shape)) for name in poolings}
        budget = batch_tokens or _budget(model)

        def read(rows: list[int]) -> np.ndarray:
            return _read_batches(model, [tokens[row] for row in rows], layers, poolings, budget, cache)

        text_bytes = 4 * len(poolings) * len(layers) * model.d_model
        requests = _requests(model, [len(text.ids) for text in tokens], budget, text_bytes)
        for rows, vectors in answers(model.remote, requests, read):
            for pooling, values in zip(poolings, vectors, strict=True):
                results[pooling][rows] = values
            if progress:
                progress(len(rows))
    return results if out is None else {pooling: file.mapped() for pooling, file in results.items()}


def _check_two_tokens(texts: Sequence[Tokens]) -> None:
    for number, text in enumerate(texts, 1):
        if text.stop - text.start < 2:
            raise EmotraceError(f"text {number} has one token: pooling by mean leaves the first out and needs two")


def _budget(model: Model) -> int:
    if gpu_memory.on_gpu(model):
        return gpu_memory.at_most(model, GPU_BATCH_TOKENS, gpu_memory.token_bytes(model), unknown=GPU_BATCH_TOKENS)
    return SERVER_BATCH_TOKENS if next(model.nn._module.parameters()).is_meta else BATCH_TOKENS


def _requests(model: Model, lengths: Sequence[int], budget: int, text_bytes: int) -> list[list[int]]:
    """What is asked for at once: a batch; of a server as many small ones as may travel together."""
    requests: list[list[int]] = []
    tokens = 0
    for rows in batches(lengths, budget):
        new, size = len(rows) * lengths[rows[0]], len(rows) * text_bytes
        last = requests[-1] if requests and next(model.nn._module.parameters()).is_meta else None
        if last and tokens + new <= REQUEST_TOKENS and size + text_bytes * len(last) <= REQUEST_BYTES:
            last += rows
        else:
            requests.append(rows)
            tokens = 0
        tokens += new
    return requests


def _read_batches(
    model: Model, texts: list[Tokens], layers: list[int], poolings: Sequence[str], budget: int, cache: Cache | None
) -> np.ndarray:
    """One request, from the cache if it is there: ``[pooling, row, layer, d_model]``."""

    def compute() -> np.ndarray:
        parts = in_parts(model, texts, lambda part: _pool(model, part, layers, poolings, budget))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    cache = None if open_edits(model) else cache  # no key tells of them
    vectors = compute() if cache is None else cache.arrays(_batch_key(model, texts, layers, poolings), compute)
    return finite(model, vectors, layers)


def _batch_key(model: Model, batch: list[Tokens], layers: list[int], poolings: Sequence[str]) -> str:
    content = (
        f"{model.identity} {model.provenance['dtype']} {layers} {list(poolings)} {[tuple(text) for text in batch]}"
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _pool(model: Model, texts: list[Tokens], layers: list[int], poolings: Sequence[str], budget: int) -> np.ndarray:
    """One forward pass a batch, in one request: ``[pooling, row, layer, d_model]``. The longest text comes first."""
    passes = [[texts[row] for row in rows] for rows in batches([len(text.ids) for text in texts], budget)]
    ids = [pad_right([text.ids for text in batch]) for batch in passes]
    weights = [torch.stack([pooling_weights(batch, pooling) for pooling in poolings], dim=1) for batch in passes]
    # A GPU is waited for when it is sent something, and when something is fetched: before and after all layers only.
    ids, weights = [batch.to(model.device) for batch in ids], [batch.to(model.device) for batch in weights]
    given = [right_padded(model, batch, texts) for batch, texts in zip(ids, passes, strict=True)]
    with torch.no_grad(), model.session():
        vectors = nnsight.save([])
        for number in range(len(given)):
            with model.trace(given[number], use_cache=False) as tracer:
                read = gathered([pooled(residual(model.layers, i), weights[number]) for i in layers])
                vectors.append(read.permute(2, 1, 0, 3).contiguous().cpu())
                tracer.stop()
    return vectors[0].numpy() if len(vectors) == 1 else torch.cat(vectors, dim=1).numpy()


def pooling_weights(batch: Sequence[Tokens], pooling: str) -> torch.Tensor:
    """What each token of a right-padded batch counts in a pooling: ``[row, token]``, 0 on padding, rows sum to 1."""
    weights = torch.zeros(len(batch), max(len(text.ids) for text in batch), dtype=torch.float32, device="cpu")
    for row, text in enumerate(batch):
        if pooling == "last":
            weights[row, text.stop - 1] = 1
        else:
            weights[row, text.start + 1 : text.stop] = 1 / (text.stop - text.start - 1)
    return weights


@arguments.checked
def read_tokens(
    model: Model,
    texts: Sequence[str | Tokens],
    *,
    layers: Sequence[int] | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """The residual stream at every token of each text, special tokens included.

    Args:
        model: the model to read.
        texts: plain texts, or tokens.
        layers: layer indices; default all.
        progress: called with the number of texts just finished.

    Returns:
        For each text float32 ``[token, layer, d_model]``.
    """
    layers, tokens = model.check_layers(layers), encode(model, texts)
    streams: dict[int, np.ndarray] = {}

    def read(rows: Sequence[int]) -> None:  # each row is of one batch: threads do not meet
        given = right_padded(model, pad_right([tokens[row].ids for row in rows]), [tokens[row] for row in rows])
        with torch.no_grad(), model.trace(given, use_cache=False) as tracer:
            stream = torch.stack([residual(model.layers, index).float().cpu() for index in layers], dim=2).save()
            tracer.stop()
        for row, values in zip(rows, stream.numpy(), strict=True):
            streams[row] = finite(model, values[: len(tokens[row].ids)], layers)

    groups = batches([len(text.ids) for text in tokens], _budget(model))
    for batch, _ in answers(model.remote, groups, lambda rows: in_parts(model, rows, read)):
        if progress:
            progress(len(batch))
    return [streams[row] for row in range(len(tokens))]


@arguments.checked
def residual_norms(model: Model, texts: Sequence[str] | None = None) -> np.ndarray:
    """The mean Euclidean norm of the residual stream at each layer 0 … L: float64 ``[layer]``.

    Over the tokens of ``texts`` (default: the neutral passages) without special tokens and each text's first. This is
    the unit of a steering strength. With the default texts it is measured once for a model, unsteered, and remembered.
    """
    if texts is None:
        if model.norms is None:
            passages = corpus.passages()
            with unedited(model):
                model.norms = residual_norms(model, list(passages[passages["emotion"] == corpus.NEUTRAL]["text"]))
        return model.norms
    if not (tokens := encode(model, texts)):
        raise EmotraceError("no texts to read")
    _check_two_tokens(tokens)
    parts = in_parts(model, tokens, lambda part: _norms_batch(model, part))
    mean: np.ndarray = np.sum(parts, axis=0) / sum(text.stop - text.start - 1 for text in tokens)
    return finite(model, mean[:, None], range(model.n_layers + 1))[:, 0]


def _norms_batch(model: Model, texts: Sequence[Tokens]) -> np.ndarray:
    """The norms at each layer, summed over the tokens that count: float64 ``[layer]``."""
    ids, counts = pad_right([text.ids for text in texts]), [[text.stop - text.start - 1] for text in texts]
    counted = pooling_weights(texts, "mean") * torch.tensor(counts, device="cpu")  # 1 at every token that counts
    with torch.no_grad(), model.trace(right_padded(model, ids, texts), use_cache=False) as tracer:
        sums = []
        for index in range(model.n_layers + 1):
            hidden = residual(model.layers, index)
            sums.append((hidden.float().norm(dim=-1) * counted.to(hidden.device)).sum())
        norms = gathered(sums).cpu().save()
        tracer.stop()
    summed: np.ndarray = norms.double().numpy()
    return summed


class Written(NamedTuple):
    """What a model wrote, and what its residual stream held at each written token while it did.

    Attributes:
        ids: the new tokens, up to and without the end-of-text token.
        stream: float32 ``[token, layer, d_model]``, one row for each of ``ids``.
    """

    ids: list[int]
    stream: np.ndarray


@arguments.checked
def read_while_writing(
    model: Model,
    prompts: Sequence[Sequence[int]],
    writing: Writing,
    seeds: Sequence[int],
    *,
    layers: Sequence[int] | str | None = None,
) -> list[Written]:
    """Continues one batch of tokenised prompts and reads the residual stream at every token it writes (C3).

    The texts are those of :func:`~emotrace.steering.generate` without an edit. A token has an activation only once it
    is fed back to write the next one, so one token more than asked for is written and thrown away. On the CPU side it
    takes rows × tokens × layers × d_model × 4 bytes.

    Args:
        model: the model.
        prompts: token ids of each row.
        writing: how the texts are written.
        seeds: one a row.
        layers: layer indices (0 = embeddings … L); default all.

    Raises:
        EmotraceError: a prompt that is no list of the model's tokens, or leaves no room in its context.
    """
    chosen, prompts = model.check_layers(layers), token_rows(model, prompts, room=writing.max_new_tokens)
    seeds = writing.check_seeds(seeds, len(prompts))

    def part(rows: Sequence[int]) -> list[Written]:
        own = [seeds[row] for row in rows] if seeds else []
        return _read_while_writing(model, [prompts[row] for row in rows], writing, own, chosen)

    return list(itertools.chain.from_iterable(in_parts(model, range(len(prompts)), part)))


def _read_while_writing(
    model: Model, prompts: Sequence[Sequence[int]], writing: Writing, seeds: Sequence[int], layers: list[int]
) -> list[Written]:
    limit, (ids, mask) = writing.max_new_tokens, pad_left(prompts)
    settings = writing.settings(model, seeds, one_more=True)
    with torch.no_grad(), loop_to_the_end(model), model.generate(**settings) as tracer:
        with tracer.invoke({"input_ids": ids, "attention_mask": mask}):
            seen = nnsight.save([])
            for step in tracer.iter[:]:
                seen.append(gathered([residual(model.layers, i)[:, -1].clone().float() for i in layers]).cpu())
                if step == 0:
                    make_input_contiguous(model.unembedding)
        with tracer.invoke():
            written = tracer.result.save()
    ends = end_tokens(model, writing.chat)
    # Each pass read one token: the first the prompt's last, every later one the token written by the pass before it.
    stream = torch.stack(seen)[1:].permute(2, 0, 1, 3).numpy()
    rows = [until_end(row[ids.shape[1] :].tolist(), ends)[:limit] for row in written]
    return [
        Written(row, finite(model, read[: len(row)].copy(), layers)) for row, read in zip(rows, stream, strict=True)
    ]
