"""Editing and reading without writing: next-token probabilities, texts read again, likelihoods, the unembedding.

How it is done with nnsight: one ``trace`` a batch, in which the residual stream is edited as in
:mod:`emotrace.steering`, and the logits are reduced next to the model to the few numbers that are asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache

from emotrace import arguments
from emotrace.errors import EmotraceError
from emotrace.hosts import gpu_memory
from emotrace.hosts.finite import finite, finite_logits
from emotrace.hosts.open_edits import check_one_for_all, prompts_end
from emotrace.hosts.remote import answers
from emotrace.in_trace import (
    chosen_log_probabilities,
    divergences,
    edited,
    gathered,
    group_log_probabilities,
    group_masses,
    make_input_contiguous,
    one_copy_a_row,
    residual,
)
from emotrace.steering import Edit, shared_prefix
from emotrace.tokens import Tokens, batches, encode, in_batches, in_parts, pad_left, pad_right, token_rows

if TYPE_CHECKING:
    from emotrace.models import Model

# Text positions whose probabilities over the whole vocabulary are held at once.
REREAD_TOKENS = 384
# Logits of a pass: rows × tokens × vocabulary, in float32 (256 MB, and up to four copies); on a GPU up to 4 GB.
LOGITS, GPU_LOGITS = 1 << 26, 1 << 30
# Rows × longest row of one forward pass, prompts and all.
SCORED_TOKENS = 1 << 15
# Up to so many tokens a prompt is read once and its keys and values kept: 0.2 GB on SmolLM2, 2 GB on a model of 7B.
CACHED_TOKENS = 1 << 12


def _logits_at_once(model: Model) -> int:
    if not gpu_memory.on_gpu(model):
        return LOGITS
    return gpu_memory.at_most(model, GPU_LOGITS, 4 * gpu_memory.LOGIT_COPIES, unknown=LOGITS)


def _tokens_at_once(model: Model) -> int:
    if not gpu_memory.on_gpu(model):
        return SCORED_TOKENS
    return gpu_memory.at_most(model, SCORED_TOKENS, gpu_memory.token_bytes(model), unknown=SCORED_TOKENS)


@arguments.checked
def score(
    model: Model,
    prompts: Sequence[str | Tokens],
    edit: Edit | None,
    *,
    read_layers: Sequence[int] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> dict[str, np.ndarray]:
    """One forward pass under an edit: what it does to later layers and to the next token.

    Args:
        model: the model.
        prompts: one a row of the edit.
        edit: per-row edit, or None for the unedited pass.
        read_layers: layers to read at each prompt's last token; default all.
        groups: token ids, group by group, whose joint probability is asked for (one that is there twice counts once);
            default each token of the vocabulary by itself, which is a lot to carry away from a server.

    Returns:
        ``stream`` float32 ``[row, layer, d_model]`` and ``log_probabilities`` float32 ``[row, vocabulary]`` or ``[row,
        group]`` (NaN for an empty group), both at the prompt's last token. The unembedding runs on that token alone.

    Raises:
        EmotraceError: no prompts, no groups or a token that is none; an edit of other rows or layers; NaN, infinity.
    """
    layers = model.check_layers(read_layers)
    if not (texts := encode(model, prompts, prompts=True)):
        raise EmotraceError("no prompts to read")
    members = None if groups is None else arguments.token_rows(groups, "group", model.vocabulary)
    members = members and [list(dict.fromkeys(group)) for group in members]
    if members == []:
        raise EmotraceError("no group of tokens is asked for: leave groups out for each token by itself")
    whole = (edit or Edit({})).check(model, len(texts))

    def part(rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        return _score_batch(model, [texts[row] for row in rows], whole.rows(rows), layers, members)

    stream, logs = map(np.concatenate, zip(*in_parts(model, range(len(texts)), part), strict=True))
    finite(model, stream, layers)
    finite_logits(model, logs if members is None else logs[:, [bool(group) for group in members]])
    return {"stream": stream, "log_probabilities": logs}


def _score_batch(
    model: Model, texts: Sequence[Tokens], edit: Edit, layers: list[int], groups: list[list[int]] | None
) -> tuple[np.ndarray, np.ndarray]:
    by_layer, kind = edit.directions, edit.kind
    ids, mask = pad_left([text.ids for text in texts])
    where, averaged = edit.tokens(mask)
    prefix, owner = shared_prefix(model, ids, mask, edit)
    batch, last = {"input_ids": ids, "attention_mask": mask}, model.last_logits(1)
    if prefix is not None:  # its own position has to be said: after a cache, transformers counts padding in
        where = where[:, -1:]
        batch |= {"input_ids": ids[:, -1:], "position_ids": mask.sum(dim=1, keepdim=True) - 1}
    # As in steering.generate: what rows share is read once. (No comments within: see `in_trace`.)
    with torch.no_grad(), model.session():
        cache = None
        if prefix is not None:
            cache = DynamicCache(config=model.nn._module.config)
            with model.trace(prefix, past_key_values=cache, use_cache=True) as reader:
                _ = model.layers[-1].output
                reader.stop()
            one_copy_a_row(cache, owner)
        with model.trace(batch, past_key_values=cache, use_cache=cache is not None, **last):
            read = []
            for index in range(len(model.layers) + 1):
                hidden = residual(model.layers, index)
                if index in by_layer:
                    hidden[:] = edited(hidden, by_layer[index], where, averaged, **kind)
                if index in layers:
                    read.append(hidden[:, -1].clone())
            stream = gathered(read).float().cpu().save()
            make_input_contiguous(model.unembedding)
            logits = model.nn.output.logits[:, -1]
            if groups is None:
                logs = logits.float().log_softmax(dim=-1).cpu().save()
            else:
                logs = group_log_probabilities(logits, groups).save()
    return stream.transpose(0, 1).numpy(), logs.numpy()


@arguments.checked
def reread(
    model: Model,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    edit: Edit | None,
    groups: np.ndarray,
) -> list[np.ndarray]:
    """The probability of each group of tokens at every step of texts already written, read again under their edit.

    Args:
        model: the model.
        prompts: token ids of each row's prompt.
        texts: the token ids that were written after it.
        edit: the edit under which they were written; None: the unedited model.
        groups: membership, float32 ``[vocabulary, group]``.

    Returns:
        For each row float64 ``[step, group]``: step t is the distribution from which token t of the text was drawn (an
        empty text has one step, at which it ended).

    Raises:
        EmotraceError: prompts or texts that are no lists of the model's tokens, not one text a prompt, or together
            longer than its context; groups of another shape; what :func:`score` refuses.
    """
    prompts, texts = _pairs(model, prompts, texts, "text")
    membership = torch.from_numpy(arguments.array(groups, "groups", model.vocabulary, None)).float()
    steps: list[np.ndarray] = []
    longest, rows_at_once = max([1, *map(len, texts)]), 0
    if gpu_memory.on_gpu(model):
        whole_rows = _tokens_at_once(model) // (longest + max(map(len, prompts), default=0))
        rows_at_once = min(whole_rows, _logits_at_once(model) // model.vocabulary // longest)
    rows_at_once = max(1, rows_at_once or REREAD_TOKENS // longest)
    whole = (edit or Edit({})).check(model, len(prompts))

    def part(rows: Sequence[int]) -> list[np.ndarray]:
        some = [prompts[row] for row in rows], [texts[row] for row in rows], whole.rows(rows)
        return [finite_logits(model, masses) for masses in _reread_batch(model, *some, membership)]

    groups_of_rows = in_batches(list(range(len(texts))), rows_at_once)
    for _, parts in answers(model.remote, groups_of_rows, lambda rows: in_parts(model, rows, part)):
        steps.extend(itertools.chain.from_iterable(parts))
    return steps


def _pairs(
    model: Model, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], what: str
) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and what follows each of them, as plain token ids."""
    before, after = token_rows(model, prompts), token_rows(model, texts, what)
    if len(before) != len(after):
        raise EmotraceError(f"each prompt goes with one {what}: {len(before)} and {len(after)} are given")
    return token_rows(model, before, after=[len(row) for row in after]), after


def _reread_batch(
    model: Model, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], edit: Edit, groups: torch.Tensor
) -> list[np.ndarray]:
    # The last token of a text predicts what was never written.
    ids, mask = pad_left([[*prompt, *text[:-1]] for prompt, text in zip(prompts, texts, strict=True)])
    steps = [max(1, len(text)) for text in texts]
    where, averaged = edit.tokens(mask, [count - 1 for count in steps])
    by_layer, kind = edit.directions, edit.kind
    batch = {"input_ids": ids, "attention_mask": mask}
    ends, last = [ids.shape[1] - count for count in steps], model.last_logits(max(steps))
    with torch.no_grad(), prompts_end(model, ends), model.trace(batch, use_cache=False, **last):
        for layer in sorted(by_layer):
            hidden = residual(model.layers, layer)
            hidden[:] = edited(hidden, by_layer[layer], where, averaged, **kind)
        make_input_contiguous(model.unembedding)
        masses = group_masses(model.nn.output.logits, groups).save()
    return [row[-count:].numpy() for row, count in zip(masses, steps, strict=True)]


@arguments.checked
def divergence(model: Model, texts: Sequence[str], edit: Edit) -> np.ndarray:
    """How far an edit moves the model's predictions on texts that are given: KL(unedited ‖ edited), nats a token.

    Each text is read once without and once under the edit, from its first token on (positions ``all``: and what the
    tokenizer puts before it); the mean is over all predictions from the first token on, with that after the last.

    Args:
        model: the model.
        texts: one a row of the edit.
        edit: one direction a text.

    Returns:
        float64 ``[text]``.
    """
    tokens, vocabulary = encode(model, texts), model.nn._module.config.get_text_config().vocab_size
    check_one_for_all(model)
    whole, found = edit.check(model, len(tokens)), np.empty(len(tokens))

    def part(rows: Sequence[int]) -> list[np.floating]:
        values = _divergence_batch(model, [tokens[row] for row in rows], whole.rows(rows))
        return [finite_logits(model, text).mean() for text in values]

    groups = batches([len(text.ids) for text in tokens], max(1, _logits_at_once(model) // (2 * vocabulary)))
    for rows, parts in answers(model.remote, groups, lambda rows: in_parts(model, rows, part)):
        found[rows] = list(itertools.chain.from_iterable(parts))
    return found


def _divergence_batch(model: Model, texts: Sequence[Tokens], edit: Edit) -> list[np.ndarray]:
    """The first half of the batch is read as it is, the second under the edit."""
    ids, mask = pad_left([text.ids for text in texts] * 2)
    widths = [len(text.ids) - text.start for text in texts]
    where, averaged = edit.tokens(mask, [width - 1 for width in widths] * 2)
    by_layer = {layer: torch.cat([torch.zeros_like(rows), rows]) for layer, rows in edit.directions.items()}
    kind, kept, batch = edit.kind, max(widths), {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad(), model.trace(batch, use_cache=False, **model.last_logits(kept)):
        for layer in sorted(by_layer):
            hidden = residual(model.layers, layer)
            hidden[:] = edited(hidden, by_layer[layer], where, averaged, **kind)
        make_input_contiguous(model.unembedding)
        values = divergences(model.nn.output.logits[:, -kept:]).save()
    return [row[-width:].double().numpy() for row, width in zip(values, widths, strict=True)]


@arguments.checked
def log_likelihoods(
    model: Model,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """The log-probability, in nats, that the unedited model gives each token of each continuation after its prompt.

    Token ids in, as they were written, not text tokenised again. Of an empty continuation, an empty array.

    Returns:
        For each continuation float64 ``[token]``.

    Raises:
        EmotraceError: prompts or continuations that are no lists of the model's tokens, not one continuation a prompt,
            nothing before one, or together longer than the model's context; logits that are no numbers.
    """
    prompts, continuations = _pairs(model, prompts, continuations, "continuation")
    results: list[np.ndarray] = [np.empty(0)] * len(prompts)
    filled = [row for row, tokens in enumerate(continuations) if len(tokens)]
    for row in filled:
        if not prompts[row]:
            raise EmotraceError(f"continuation {row + 1} has no token before it, which its first would follow")
    lengths = [len(continuations[row]) for row in filled]

    def part(rows: Sequence[int]) -> list[np.ndarray]:
        some = [prompts[row] for row in rows], [continuations[row] for row in rows]
        return [finite_logits(model, values) for values in _log_likelihoods_batch(model, *some)]

    groups: list[list[int]] = []
    for group in batches(lengths, max(1, _logits_at_once(model) // model.vocabulary)):
        rows = [filled[member] for member in group]
        # Prompts make no logits, but they are read: long ones part a batch of short continuations.
        size = max(1, _tokens_at_once(model) // max(len(prompts[row]) + len(continuations[row]) for row in rows))
        groups += in_batches(rows, size)
    for rows, parts in answers(model.remote, groups, lambda rows: in_parts(model, rows, part)):
        for row, values in zip(rows, itertools.chain.from_iterable(parts), strict=True):
            results[row] = values
        if progress:
            progress(len(rows))
    return results


def _log_likelihoods_batch(
    model: Model, prompts: Sequence[list[int]], continuations: Sequence[list[int]]
) -> list[np.ndarray]:
    """Prompts end, and continuations begin, at one edge: logits are made from there on, and a prompt is read once."""
    ids, mask = pad_left(prompts)
    targets, kept = pad_right(continuations), max(map(len, continuations))
    prefix, owner = shared_prefix(model, ids, mask, Edit({}))
    if ids.numel() + targets.numel() > CACHED_TOKENS:
        prefix = None
    ids, mask = torch.cat([ids, targets[:, :-1]], dim=1), torch.cat([mask, torch.ones_like(targets[:, 1:])], dim=1)
    batch, last = {"input_ids": ids, "attention_mask": mask}, model.last_logits(kept)
    if prefix is not None:
        batch |= {"input_ids": ids[:, -kept:], "position_ids": (mask.cumsum(dim=1) - 1)[:, -kept:]}
    with torch.no_grad(), prompts_end(model, [ids.shape[1] - kept]), model.session():
        cache = None
        if prefix is not None:
            cache = DynamicCache(config=model.nn._module.config)
            with model.trace(prefix, past_key_values=cache, use_cache=True) as reader:
                _ = model.layers[-1].output
                reader.stop()
            one_copy_a_row(cache, owner)
        with model.trace(batch, past_key_values=cache, use_cache=cache is not None, **last):
            make_input_contiguous(model.unembedding)
            values = chosen_log_probabilities(model.nn.output.logits[:, -kept:], targets).save()
    return [row[: len(tokens)].double().numpy() for row, tokens in zip(values, continuations, strict=True)]


@arguments.checked
def unembed(model: Model, stream: torch.Tensor) -> np.ndarray:
    """Last-layer states ``[row, d_model]`` as the model itself reads them: float64 logits ``[row, vocabulary]``.

    They take the place of the last layer's output, so that final norm, unembedding and whatever follows (the soft-cap
    of Gemma 2) are the model's own.

    Raises:
        EmotraceError: states of another shape; logits that are no numbers.
    """
    states = torch.from_numpy(arguments.array(stream, "last-layer states", None, model.d_model, finite=False))
    nothing = {"input_ids": torch.zeros(1, 1, dtype=torch.long, device="cpu")}
    with torch.no_grad(), model.trace(nothing, use_cache=False):
        like = model.layers[-1].output
        model.layers[-1].output = states.to(like.device, like.dtype)[:, None]
        logits = model.nn.output.logits[:, 0].cpu().double().save()
    return finite_logits(model, logits.numpy())
