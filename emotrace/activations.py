"""The only place that reads a residual stream: texts → pooled activations ``[text, layer, d_model]``.

How it is done with nnsight: one ``trace`` a batch; in it, each decoder layer's output is pooled over tokens at once,
so that what leaves the trace is one vector a text and layer instead of one a token; ``tracer.stop()`` ends the forward
pass after the last layer asked for, so that the unembedding never runs.

Layers: index 0 is the embedding output (what enters the first decoder layer), index i the output of decoder layer i.

Padding: texts are padded on the right by us, whatever the tokenizer's own side. In a causal model no real token attends
to a token on its right, so padding can change neither an activation nor a position, and no attention mask is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import nnsight
import numpy as np
import torch

from emotrace.errors import EmotraceError, unknown
from emotrace.files import ArrayFile
from emotrace.hosts.remote import in_parts
from emotrace.in_trace import pooled
from emotrace.tokens import end_tokens, generation_settings, pad_left, until_end

if TYPE_CHECKING:
    from emotrace.models import Model

POOLINGS = ("last", "mean")

# Rows × longest row of one batch. On a CPU more is slower, up to half as fast at 2048 (docs/performance.md), and takes
# memory; a GPU, here or at a server, wants more.
BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 2048


class Tokens(NamedTuple):
    """A text as token ids, and the half-open span of them to be pooled: from the first that is not special to the last."""

    ids: tuple[int, ...]
    start: int
    stop: int


class Cache(Protocol):
    """Keeps finished batches by content, so that none is computed twice (``runs.RunFolder`` is one)."""

    def arrays(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray: ...


def encode(model: Model, texts: Sequence[str]) -> list[Tokens]:
    """Tokenises each text once, with the special tokens that the model's tokenizer adds.

    Raises:
        EmotraceError: a text that is empty, has no token beside special ones, or is longer than the model's context.
    """
    return [_encode(model, number, text) for number, text in enumerate(texts, 1)]


def _encode(model: Model, number: int, text: str) -> Tokens:
    if not text.strip():
        raise EmotraceError(f"text {number} is empty")
    # A token takes at most a few dozen characters: refuse a huge text before the tokenizer works on it for minutes.
    if len(text) > 40 * model.context:
        raise EmotraceError(_too_long(model, number, f"{len(text)} characters"))
    ids = model.tokenizer(text)["input_ids"]
    bos, special = model.tokenizer.bos_token_id, set(model.tokenizer.all_special_ids)
    if len(ids) > 1 and bos is not None and ids[0] == ids[1] == bos:  # the text brought its own
        ids = ids[1:]
    # By id, so that a special token counts as one whether the tokenizer added it or the text spelt it out.
    plain = [place for place, token in enumerate(ids) if token not in special]
    if not plain:
        raise EmotraceError(f"text {number} has no token beside special ones: {text[:40]!r}")
    if len(ids) > model.context:
        raise EmotraceError(_too_long(model, number, f"{len(ids)} tokens"))
    return Tokens(tuple(ids), plain[0], plain[-1] + 1)


def _too_long(model: Model, number: int, size: str) -> str:
    return f"text {number} is too long ({size}): {model.name} takes up to {model.context} tokens"


def read_activations(
    model: Model,
    texts: Sequence[str | Tokens],
    *,
    layers: list[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    batch_tokens: int | None = None,
    out: str | Path | None = None,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """The residual stream of each text, pooled over its tokens.

    Args:
        model: the model to read.
        texts: plain texts, or :class:`Tokens` from :func:`encode`.
        layers: layer indices (0 = embeddings … L); default all.
        poolings: ``last``, the text's last token; ``mean``, the mean over the text's tokens without special tokens
            and without its first, whose massive activation would drown the rest.
        batch_tokens: budget of rows × longest row for one forward pass; default :data:`BATCH_TOKENS` on this
            machine's CPU and :data:`GPU_BATCH_TOKENS` elsewhere.
        out: a folder for results larger than memory: each pooling goes to ``POOLING.npy`` in it as it is read.
        cache: keeps finished batches; see :class:`Cache`.
        progress: called with the number of texts just finished.

    Returns:
        For each pooling a float32 array ``[text, layer, d_model]``, texts in the order given, layers ascending; with
        ``out`` it is a read-only map of the file, of which only what is used is read.

    Raises:
        EmotraceError: no texts, an unknown pooling, a layer out of range, a text that is empty or too long, or has
            one token only where ``mean`` is asked for; ``out`` cannot be written, or has no room for the result.
    """
    layers = model.check_layers(layers)
    for pooling in poolings:
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
    if not len(texts):
        raise EmotraceError("no texts to read")
    tokens = [
        text if isinstance(text, Tokens) else _encode(model, number, text) for number, text in enumerate(texts, 1)
    ]
    if "mean" in poolings:
        for number, item in enumerate(tokens, 1):
            if item.stop - item.start < 2:
                raise EmotraceError(f"text {number} has one token: pooling by mean leaves the first out and needs two")
    shape = (len(tokens), len(layers), model.d_model)
    with contextlib.ExitStack() as files:
        results = {
            pooling: np.empty(shape, np.float32)
            if out is None
            else files.enter_context(ArrayFile(Path(out) / f"{pooling}.npy", shape))
            for pooling in poolings
        }
        for rows in batches([len(item.ids) for item in tokens], batch_tokens or _budget(model)):
            found = _read_batch(model, [tokens[row] for row in rows], layers, poolings, cache)
            for pooling, values in zip(poolings, found, strict=True):
                results[pooling][rows] = values
            if progress:
                progress(len(rows))
    return results if out is None else {pooling: file.mapped() for pooling, file in results.items()}


def _budget(model: Model) -> int:
    return BATCH_TOKENS if next(model.nn._module.parameters()).device.type == "cpu" else GPU_BATCH_TOKENS


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers, longest first, in groups whose count × longest stays within ``batch_tokens`` (one row at least)."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= batch_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _read_batch(
    model: Model, batch: list[Tokens], layers: list[int], poolings: Sequence[str], cache: Cache | None
) -> np.ndarray:
    """One batch, from the cache if it is there: ``[pooling, row, layer, d_model]``."""

    def compute() -> np.ndarray:
        parts = in_parts(model, batch, lambda part: _pool_batch(model, part, layers, poolings))
        return np.concatenate(parts, axis=1)

    return compute() if cache is None else cache.arrays(_batch_key(model, batch, layers, poolings), compute)


def _batch_key(model: Model, batch: list[Tokens], layers: list[int], poolings: Sequence[str]) -> str:
    content = (
        f"{model.identity} {model.provenance['dtype']} {layers} {list(poolings)} {[tuple(item) for item in batch]}"
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _pool_batch(model: Model, batch: list[Tokens], layers: list[int], poolings: Sequence[str]) -> np.ndarray:
    """One forward pass: ``[pooling, row, layer, d_model]``."""
    ids, weights = _pad(batch, poolings)
    nn, stream = model.nn, model.layers
    with torch.no_grad(), nn.trace({"input_ids": ids}, use_cache=False, backend=model.backend()) as tracer:
        found = []
        for index in layers:
            hidden = stream[0].input if index == 0 else stream[index - 1].output
            found.append(pooled(hidden, weights))
        vectors = torch.stack(found).save()  # what leaves the trace, and the server: [layer, row, pooling, d_model]
        tracer.stop()
    return vectors.permute(2, 1, 0, 3).numpy()


def _pad(batch: list[Tokens], poolings: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids ``[row, token]`` and the pooling weights ``[row, pooling, token]``, which are zero on padding."""
    longest = max(len(item.ids) for item in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    weights = torch.zeros(len(batch), len(poolings), longest)
    for row, item in enumerate(batch):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        for place, pooling in enumerate(poolings):
            if pooling == "last":
                weights[row, place, item.stop - 1] = 1
            else:
                weights[row, place, item.start + 1 : item.stop] = 1 / (item.stop - item.start - 1)
    return ids, weights


def read_tokens(model: Model, text: str | Tokens, *, layers: list[int] | str | None = None) -> np.ndarray:
    """The residual stream at every token of one text: float32 ``[token, layer, d_model]``, special tokens included."""
    layers = model.check_layers(layers)
    tokens = text if isinstance(text, Tokens) else encode(model, [text])[0]
    ids = torch.tensor([tokens.ids])
    nn, stream = model.nn, model.layers
    with torch.no_grad(), nn.trace({"input_ids": ids}, use_cache=False, backend=model.backend()) as tracer:
        found = []
        for index in layers:
            hidden = stream[0].input if index == 0 else stream[index - 1].output
            found.append(hidden[0].float().cpu())
        vectors = torch.stack(found, dim=1).save()
        tracer.stop()
    return vectors.numpy()


def residual_norms(model: Model, texts: Sequence[str] | None = None) -> np.ndarray:
    """The mean Euclidean norm of the residual stream at each layer 0 … L: float64 ``[layer]``.

    Over the tokens of ``texts`` (default: the neutral passages) without special tokens and each text's first. This is
    the unit of a steering strength; with the default texts it is measured once for a model and remembered.
    """
    from emotrace.instrument import corpus

    if texts is None:
        if model.norms is None:
            passages = corpus.passages()
            model.norms = residual_norms(model, list(passages[passages["emotion"] == corpus.NEUTRAL]["text"]))
        return model.norms
    tokens = encode(model, texts)
    ids, weights = _pad(tokens, ("mean",))
    weights = weights[:, 0] * torch.tensor(
        [[item.stop - item.start - 1] for item in tokens]
    )  # 1 at every token that counts
    nn, stream, last = model.nn, model.layers, model.n_layers
    with torch.no_grad(), nn.trace({"input_ids": ids}, use_cache=False, backend=model.backend()) as tracer:
        found = []
        for index in range(last + 1):
            hidden = stream[0].input if index == 0 else stream[index - 1].output
            found.append((hidden.float().norm(dim=-1) * weights.to(hidden.device)).sum().cpu())
        norms = torch.stack(found).save()
        tracer.stop()
    return norms.double().numpy() / float(weights.sum())


class Written(NamedTuple):
    """What a model wrote, and what its residual stream held at each written token while it did.

    Attributes:
        ids: the new tokens, up to and without the end-of-text token.
        stream: float32 ``[token, layer, d_model]``, one row for each of ``ids``.
    """

    ids: list[int]
    stream: np.ndarray


def read_while_writing(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    layers: list[int] | str | None = None,
) -> list[Written]:
    """Continues one batch of tokenised prompts and reads the residual stream at every token it writes (C3).

    The texts are those of :func:`~emotrace.steering.generate` without an edit. A token has an activation only once it is
    fed back to write the next one, so one token more than ``max_new_tokens`` is written and thrown away. On the CPU side
    it takes rows × tokens × layers × d_model × 4 bytes.

    Args:
        model: the model.
        prompts: token ids of each row.
        max_new_tokens: at most; a text that ends is never forced on.
        temperature: 0 is greedy; otherwise each row is sampled with its own of ``seeds``.
        seeds: one a row.
        layers: layer indices (0 = embeddings … L); default all.
    """
    layers = model.check_layers(layers)
    ids, mask = pad_left(prompts)
    settings = generation_settings(model, max_new_tokens + 1, temperature, seeds)
    nn, envoys, unembedding, backend = model.nn, model.layers, model.part("unembedding"), model.backend()
    with torch.no_grad(), warnings.catch_warnings():
        # The loop below ends with the generation, as it should; nnsight warns of it each time.
        warnings.filterwarnings("ignore", message=".*was never reached")
        with nn.generate(**settings, backend=backend) as tracer:
            with tracer.invoke({"input_ids": ids, "attention_mask": mask}):
                seen = nnsight.save([])
                for step in tracer.iter[:]:
                    for index in layers:
                        hidden = envoys[0].input if index == 0 else envoys[index - 1].output
                        seen.append(hidden[:, -1].float().cpu().clone())  # a view would carry the whole prompt away
                    if step == 0:
                        unembedding.input = unembedding.input.contiguous()  # see regimes._score_batch
            with tracer.invoke():
                written = tracer.result.save()
    ends = end_tokens(model)
    # Each pass read one token: the first the prompt's last, every later one the token written by the pass before it.
    stream = torch.stack(seen).unflatten(0, (-1, len(layers)))[1:].permute(2, 0, 1, 3).numpy()
    rows = [until_end(row[ids.shape[1] :].tolist(), ends)[:max_new_tokens] for row in written]
    return [Written(row, read[: len(row)].copy()) for row, read in zip(rows, stream, strict=True)]
