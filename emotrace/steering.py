"""The only place that edits a residual stream: prompts × emotions × strengths × seeds → texts, in batched passes.

How it is done with nnsight: one ``generate`` context a batch; at every step of the decoding loop the output of each
steered decoder layer gets one row's own vector added to one row, so that a batch holds many emotions and strengths at
once. Nothing is mutated but the activations of that pass: the weights stay as they are.

The edit is unit vector × strength × mean residual norm of the layer where it is added (claim C8). The author's published
code takes the norm of the activations at hand; we take one norm a model and layer, measured once on neutral passages, so
that a strength means the same in every batch (``on_the_fly=True`` is the author's way). Strength 0 adds exact zeros.

Where the edit starts at the last token of the prompt, the prompt before it is the same for every emotion, strength and
seed: it is read once and its keys and values are shared by all rows, in writing and in scoring.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from transformers import DynamicCache

from emotrace.activations import encode, residual_norms
from emotrace.errors import EmotraceError, unknown
from emotrace.hosts.remote import in_parts
from emotrace.in_trace import edited, group_log_probabilities, group_masses, masked_add
from emotrace.tokens import end_tokens, generation_settings, pad_left, until_end

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

POSITIONS = ("all", "generated")
BATCH_ROWS = 128
# Text positions whose probabilities over the whole vocabulary are held at once.
REREAD_TOKENS = 384


@dataclass(frozen=True)
class Edit:
    """What is done to the residual stream of each row of a batch.

    Attributes:
        directions: layer index (1 … L) → float32 ``[row, d_model]``; added, or projected out where ``ablate`` is set.
        ablate: remove the component along each (unit) direction instead of adding it.
        on_the_fly: the directions are in units of the mean norm of the row's own activations at the layer (over the
            prompt's tokens, then token by token), as in the author's published code, and not of the residual stream.
        positions: ``all`` tokens, or ``generated``: from the last token of the prompt on, the first whose prediction is
            written.
    """

    directions: Mapping[int, torch.Tensor]
    ablate: bool = False
    on_the_fly: bool = False
    positions: str = "generated"

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise unknown("positions", self.positions, POSITIONS)
        if self.ablate and self.on_the_fly:
            raise EmotraceError("an ablation has no strength: it takes no on_the_fly norm")

    def how(self) -> dict[str, Any]:
        """The settings that :func:`emotrace.in_trace.edited` takes."""
        return {"ablate": self.ablate, "on_the_fly": self.on_the_fly, "positions": self.positions}

    def at(self, layer: int, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``hidden [row, token, d_model]`` of a layer's output, edited; ``mask [row, token]`` is 0 on padding."""
        return edited(hidden, self.directions[layer], mask, **self.how())

    def rows(self, places: slice | list[int]) -> Edit:
        """The same edit of some of the rows."""
        return replace(self, directions={layer: rows[places] for layer, rows in self.directions.items()})


# -- what to add ------------------------------------------------------------------------------------------------------


def directions(
    vectors: EmotionVectors,
    rows: Sequence[tuple[str | Mapping[str, float], float]],
    layers: Sequence[int],
    norms: np.ndarray,
) -> dict[int, torch.Tensor]:
    """Each row's edit at each layer: unit vector × strength × the layer's norm.

    Args:
        vectors: emotion vectors.
        rows: for each row an emotion (or a mixture, emotion → weight) and a strength.
        layers: layer indices.
        norms: mean residual norm of every layer 0 … L (:func:`~emotrace.activations.residual_norms`).
    """
    chosen = {}
    for layer in layers:
        place = vectors.place(layer)
        edits = [_unit(vectors, what, place) * strength * norms[layer] for what, strength in rows]
        chosen[layer] = torch.from_numpy(np.stack(edits).astype(np.float32))
    return chosen


def _unit(vectors: EmotionVectors, what: str | Mapping[str, float], place: int) -> np.ndarray:
    vector = (vectors[what] if isinstance(what, str) else vectors.mix(what))[place].astype(np.float64)
    norm = np.linalg.norm(vector)
    if norm == 0:
        raise EmotraceError(f"the vector of {what} at layer {vectors.layers[place]} is zero and has no direction")
    return vector / norm


def random_like(vectors: EmotionVectors, count: int, seed: int) -> EmotionVectors:
    """``count`` random directions named ``random-1`` …, of the emotions' mean norm at each layer: the control that every
    causal claim needs beside it."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, len(vectors.layers), vectors.d_model))
    norms = np.linalg.norm(vectors.values, axis=-1).mean(axis=0)
    values *= (norms / np.linalg.norm(values, axis=-1))[..., None]
    names = tuple(f"random-{number}" for number in range(1, count + 1))
    return replace(vectors, emotions=names, values=values.astype(np.float32))


# -- generating -------------------------------------------------------------------------------------------------------


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    edit: Edit | None,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continues one batch of tokenised prompts, each row under its own edit, with a KV cache.

    Returns:
        The new token ids of each row, up to and without the end-of-text token. Nothing is forced past it.
    """
    ids, mask = pad_left(prompts)
    whole = {"input_ids": ids, "attention_mask": mask}
    prefix, owner = _shared_prefix(ids, mask) if edit is None or edit.positions == "generated" else (None, None)
    settings = generation_settings(model, max_new_tokens, temperature, seeds)
    vectors, how = (edit.directions, edit.how()) if edit else ({}, {})
    nn, stream, unembedding = model.nn, model.layers, model.part("unembedding")
    with torch.no_grad(), warnings.catch_warnings():
        # The loop below ends with the generation, as it should; nnsight warns of it each time.
        warnings.filterwarnings("ignore", message=".*was never reached")
        # One session, so that on a server the keys and values stay where they are used.
        with nn.session(backend=model.backend()):
            cache = None
            if prefix is not None:
                cache = DynamicCache(config=nn._module.config)
                with nn.trace(prefix, past_key_values=cache, use_cache=True) as reader:
                    _ = stream[-1].output
                    reader.stop()  # the unembedding never runs
                cache.batch_select_indices(owner.to(cache.layers[0].keys.device))
            with nn.generate(**settings, past_key_values=cache) as tracer:
                with tracer.invoke(whole):
                    # A loop without anything in it would wait for ever; without an edit, the first step has all there is.
                    for step in tracer.iter[:] if vectors else tracer.iter[0:1]:
                        for layer in sorted(vectors):
                            hidden = stream[layer - 1].output
                            real = mask[:, -hidden.shape[1] :] if step == 0 else torch.ones(hidden.shape[:2])
                            hidden[:] = edited(hidden, vectors[layer], real, **how)
                        if step == 0:
                            unembedding.input = unembedding.input.contiguous()  # see regimes._score_batch
                with tracer.invoke():
                    written = tracer.result.save()
    ends = end_tokens(model)
    return [until_end(row[ids.shape[1] :].tolist(), ends) for row in written]


def _shared_prefix(
    ids: torch.Tensor, mask: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor] | tuple[None, None]:
    """What is read once for all rows: every different prompt but its last token, and which of them each row has; nothing
    if no prompt repeats."""
    different, rows = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
    width = ids.shape[1]
    if len(different) == len(ids) or width == 1:
        return None, None
    return {"input_ids": different[:, : width - 1], "attention_mask": different[:, width:-1]}, rows


# -- the sweep --------------------------------------------------------------------------------------------------------


class Cache(Protocol):
    """Keeps finished batches by content, so that none is written twice (``runs.RunFolder`` is one)."""

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]: ...


def steer(
    model: Model,
    prompts: str | Sequence[str],
    vectors: EmotionVectors,
    strengths: float | Sequence[float] | None = None,
    *,
    emotions: Sequence[str | Mapping[str, float]] | None = None,
    layers: Sequence[int] | str | None = None,
    positions: str = "generated",
    on_the_fly: bool = False,
    chat: bool = False,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seeds: Sequence[int] = (0,),
    batch_rows: int = BATCH_ROWS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Continues every prompt under every emotion, strength and seed.

    Args:
        model: the model.
        prompts: one prompt or several.
        vectors: emotion vectors of this model.
        strengths: multiples of the mean residual norm at the layer of the edit; negative steers away, 0 is unsteered.
            Default: the strength that the vectors were calibrated to (``regimes.calibrate``).
        emotions: names in ``vectors`` or mixtures (emotion → weight); default: all of them.
        layers: where to add; default: the layers that the vectors were calibrated at, else half depth; ``all`` is the
            author's published setting (with small strengths).
        positions: ``generated`` tokens or ``all`` (see :class:`Edit`).
        on_the_fly: take the norm of each row's own activations as the unit of strength, as the author's code does.
        chat: put each prompt into the model's chat template as the user's words.
        max_new_tokens: at most; a text that ends is never forced on.
        temperature: 0 is greedy; otherwise each row is sampled with its own seed, whatever its batch.
        seeds: one text for each.
        batch_rows: rows of one pass.
        cache: keeps finished batches; see :class:`Cache`.
        progress: called with the number of texts just written.

    Returns:
        One row a text: ``prompt, emotion, strength, seed, text, tokens, n_tokens, ended`` (``tokens``: their ids;
        ``ended``: by end-of-text).

    Raises:
        EmotraceError: vectors of another model, a layer out of range, a strength that is not finite or that nothing
            gives, an empty or too long prompt, an unknown emotion, a chat asked of a model without a template.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    named = list(vectors.emotions) if emotions is None else list(emotions)
    chosen, strengths = _check(model, vectors, strengths, layers, temperature)
    rows = list(itertools.product(prompts, named, strengths, seeds))
    texts = write(
        model, [(prompt, vectors, what, strength, seed) for prompt, what, strength, seed in rows], chosen,
        positions=positions, on_the_fly=on_the_fly, chat=chat, max_new_tokens=max_new_tokens, temperature=temperature,
        batch_rows=batch_rows, cache=cache, progress=progress,
    )  # fmt: skip
    settings = [
        {"prompt": prompt, "emotion": mixture_name(what), "strength": float(strength), "seed": seed}
        for prompt, what, strength, seed in rows
    ]
    return pd.concat([pd.DataFrame(settings), texts], axis=1)


Row = tuple[str, "EmotionVectors", "str | Mapping[str, float]", float, int]
"""A prompt, the vectors, which of them (or a mixture), the strength, the seed."""


def write(
    model: Model,
    rows: Sequence[Row],
    layers: Sequence[int],
    *,
    positions: str = "generated",
    on_the_fly: bool = False,
    chat: bool = False,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    batch_rows: int = BATCH_ROWS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """One text a row, in the order given, whatever prompts, vectors and strengths the rows mix (see :func:`steer`).

    Returns:
        Columns ``text, tokens, n_tokens, ended``.
    """
    tokens = {
        prompt: prompt_ids(model, number, prompt, chat, max_new_tokens)
        for number, prompt in enumerate(dict.fromkeys(row[0] for row in rows), 1)
    }
    units = np.ones(model.n_layers + 1) if on_the_fly else residual_norms(model)
    # Rows of one prompt share a batch, and the longest come first; the caller's order is restored at the end.
    numbers = {prompt: number for number, prompt in enumerate(tokens)}
    order = sorted(
        range(len(rows)), key=lambda place: (-len(tokens[rows[place][0]]), numbers[rows[place][0]], place)
    )  # fmt: skip
    written: dict[int, dict[str, Any]] = {}
    for start in range(0, len(order), batch_rows):
        places = order[start : start + batch_rows]
        batch = [rows[place] for place in places]
        edit = Edit(stacked(batch, layers, units), on_the_fly=on_the_fly, positions=positions)

        def compute(batch: Sequence[Row] = batch, edit: Edit = edit) -> list[dict[str, Any]]:
            ids = [tokens[prompt] for prompt, *_ in batch]
            texts = _in_parts(model, ids, edit, [seed for *_, seed in batch], max_new_tokens, temperature)
            return [_text(model, ids, max_new_tokens) for ids in texts]

        if cache is None:
            done = compute()
        else:
            sampling = {"tokens": max_new_tokens, "temperature": temperature}
            done = cache.rows(_batch_key(model, [tokens[row[0]] for row in batch], batch, edit, sampling), compute)
        written.update(zip(places, done, strict=True))
        if progress:
            progress(len(places))
    return pd.DataFrame([written[place] for place in range(len(rows))])


def _in_parts(
    model: Model,
    prompts: Sequence[Sequence[int]],
    edit: Edit,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
) -> Iterator[list[int]]:
    """:func:`generate`, in as few requests as the server takes."""

    def part(rows: Sequence[int]) -> list[list[int]]:
        return generate(
            model, [prompts[row] for row in rows], edit.rows(list(rows)),
            max_new_tokens=max_new_tokens, temperature=temperature, seeds=[seeds[row] for row in rows],
        )  # fmt: skip

    return itertools.chain.from_iterable(in_parts(model, range(len(prompts)), part))


def stacked(batch: Sequence[Row], layers: Sequence[int], units: np.ndarray) -> dict[int, torch.Tensor]:
    """Each row's own edit at each layer."""
    edits = [directions(vectors, [(what, strength)], layers, units) for _, vectors, what, strength, _ in batch]
    return {layer: torch.cat([edit[layer] for edit in edits]) for layer in layers}


def _batch_key(
    model: Model, prompts: list[tuple[int, ...]], batch: Sequence[Row], edit: Edit, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for layer, rows in sorted(edit.directions.items()):
        digest.update(f"{layer}".encode() + rows.numpy().tobytes())
    return {
        "what": "steered texts", "model": model.identity, "dtype": model.provenance["dtype"], "prompts": prompts,
        "seeds": [int(seed) for *_, seed in batch], "edit": digest.hexdigest(), "positions": edit.positions,
        "on_the_fly": edit.on_the_fly, **sampling,
    }  # fmt: skip


def _text(model: Model, tokens: list[int], limit: int) -> dict[str, Any]:
    text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return {"text": text, "tokens": tokens, "n_tokens": len(tokens), "ended": len(tokens) < limit}


def mixture_name(what: str | Mapping[str, float]) -> str:
    """``happy``, or ``happy×0.5 + calm×0.5`` for a mixture."""
    return what if isinstance(what, str) else " + ".join(f"{name}×{weight:g}" for name, weight in what.items())


def calibrated(vectors: EmotionVectors) -> dict[str, Any]:
    """The layers, window and strength that ``regimes.calibrate`` stored with the vectors; empty if it never ran."""
    return json.loads(vectors.provenance.get("calibration", "{}"))


def _check(
    model: Model,
    vectors: EmotionVectors,
    strengths: float | Sequence[float] | None,
    layers: Sequence[int] | str | None,
    temperature: float,
) -> tuple[list[int], list[float]]:
    """The layers to edit and the strengths, once everything that a caller can get wrong is right."""
    vectors.check(model)
    known = calibrated(vectors)
    if strengths is None:
        if known.get("strength") is None:
            raise EmotraceError("these vectors are not calibrated: give a strength, or calibrate them first")
        strengths = known["strength"]
    strengths = [strengths] if isinstance(strengths, (int, float)) else list(strengths)
    for strength in strengths:
        if not np.isfinite(strength):
            raise EmotraceError(f"a strength is a finite number, not {strength}")
    if not np.isfinite(temperature) or temperature < 0:
        raise EmotraceError(f"a temperature is 0 (greedy) or a positive number, not {temperature}")
    return steered_layers(model, vectors, layers), strengths


def steered_layers(model: Model, vectors: EmotionVectors, layers: Sequence[int] | str | None) -> list[int]:
    """The layers to edit: those given, else those of the calibration, else half depth.

    Raises:
        EmotraceError: a layer out of range, or layer 0, which is not steered.
    """
    if layers is None:
        layers = calibrated(vectors).get("layers") or [model.n_layers // 2]
    chosen = [layer for layer in model.check_layers(layers) if layer > 0 or layers != "all"]
    if 0 in chosen:
        raise EmotraceError(
            "layer 0 is the embedding output, which is not steered: layers are 1 to " + str(model.n_layers)
        )
    return chosen


def prompt_ids(model: Model, number: int, prompt: str, chat: bool, max_new_tokens: int) -> tuple[int, ...]:
    """A prompt's token ids, tokenised once, with room for what is to be written."""
    if chat:
        if model.tokenizer.chat_template is None:
            raise EmotraceError(f"{model.name} has no chat template: leave chat off, or take an instruct model")
        if not prompt.strip():
            raise EmotraceError(f"prompt {number} is empty")
        message = [{"role": "user", "content": prompt}]
        ids = tuple(model.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False))
    else:
        ids = encode(model, [prompt])[0].ids
    if len(ids) + max_new_tokens > model.context:
        raise EmotraceError(
            f"prompt {number} ({len(ids)} tokens) and {max_new_tokens} new ones exceed the {model.context} of {model.name}"
        )
    return ids


# -- without generating -----------------------------------------------------------------------------------------------


def score(
    model: Model,
    prompts: Sequence[str],
    edit: Edit | None,
    *,
    read_layers: Sequence[int] | None = None,
    groups: list[list[int]] | None = None,
) -> dict[str, np.ndarray]:
    """One forward pass under an edit: what it does to later layers and to the next token.

    Args:
        model: the model.
        prompts: one a row of the edit.
        edit: per-row edit, or None for the unedited pass.
        read_layers: layers to read at each prompt's last token; default all.
        groups: token ids, group by group, whose joint probability is asked for; default each token of the vocabulary
            by itself, which is a lot to carry away from a server.

    Returns:
        ``stream`` float32 ``[row, layer, d_model]`` and ``log_probabilities`` float32 ``[row, vocabulary]`` or ``[row,
        group]`` (NaN for an empty group), both at the last token of the prompt. The unembedding runs on that token alone.
    """
    layers = model.check_layers(list(read_layers) if read_layers is not None else None)
    ids, mask = pad_left([item.ids for item in encode(model, prompts)])
    prefix, owner = _shared_prefix(ids, mask) if edit is None or edit.positions == "generated" else (None, None)
    vectors, how = (edit.directions, edit.how()) if edit else ({}, {})
    batch = {"input_ids": ids, "attention_mask": mask}
    if prefix is not None:  # its own position has to be said: after a cache, transformers counts padding in
        batch |= {"input_ids": ids[:, -1:], "position_ids": mask.sum(dim=1, keepdim=True) - 1}
    nn, envoys, unembedding = model.nn, model.layers, model.part("unembedding")
    with torch.no_grad(), nn.session(backend=model.backend()):
        cache = None
        if prefix is not None:  # as in generate
            cache = DynamicCache(config=nn._module.config)
            with nn.trace(prefix, past_key_values=cache, use_cache=True) as reader:
                _ = envoys[-1].output
                reader.stop()
            cache.batch_select_indices(owner.to(cache.layers[0].keys.device))
        with nn.trace(batch, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1):
            found = []
            for index in range(len(envoys) + 1):
                hidden = envoys[0].input if index == 0 else envoys[index - 1].output
                if index in vectors:
                    hidden[:] = edited(hidden, vectors[index], mask[:, -hidden.shape[1] :], **how)
                if index in layers:
                    found.append(hidden[:, -1].float().cpu())
            stream = torch.stack(found, dim=1).save()
            unembedding.input = unembedding.input.contiguous()  # see regimes._score_batch
            logits = unembedding.output[:, -1]
            if groups is None:
                logs = logits.float().log_softmax(dim=-1).cpu().save()
            else:
                logs = group_log_probabilities(logits, groups).save()
    return {"stream": stream.numpy(), "log_probabilities": logs.numpy()}


def reread(
    model: Model,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    edits: torch.Tensor | None,
    layer: int,
    positions: str,
    groups: np.ndarray,
) -> list[np.ndarray]:
    """The probability of each group of tokens at every step of texts already written, read again under their edit.

    Args:
        model: the model.
        prompts: token ids of each row's prompt.
        texts: the token ids that were written after it.
        edits: float32 ``[row, d_model]``, added to the output of ``layer``; None for the unedited model.
        layer: layer index (1 … L).
        positions: ``all``, or ``generated`` (see :class:`Edit`).
        groups: membership, float32 ``[vocabulary, group]``.

    Returns:
        For each row float64 ``[step, group]``: step t is the distribution from which token t of the text was drawn (an
        empty text has one step, at which it ended).
    """
    found: list[np.ndarray] = []
    longest = max([1, *map(len, texts)])
    for start in range(0, len(texts), max(1, REREAD_TOKENS // longest)):
        rows = slice(start, start + max(1, REREAD_TOKENS // longest))
        edit = None if edits is None else edits[rows]
        found += _reread_batch(model, prompts[rows], texts[rows], edit, layer, positions, torch.from_numpy(groups))
    return found


def _reread_batch(
    model: Model,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    edits: torch.Tensor | None,
    layer: int,
    positions: str,
    groups: torch.Tensor,
) -> list[np.ndarray]:
    # The last token of a text predicts what was never written.
    rows = [[*prompt, *text[:-1]] for prompt, text in zip(prompts, texts, strict=True)]
    steps = [max(1, len(text)) for text in texts]
    ids, mask = pad_left(rows)
    edited_tokens = mask.clone()
    if positions == "generated":
        for place, count in enumerate(steps):
            edited_tokens[place, : ids.shape[1] - count] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    nn, envoy, unembedding, kept = model.nn, model.layers[layer - 1], model.part("unembedding"), max(steps)
    with torch.no_grad(), nn.trace(batch, use_cache=False, logits_to_keep=kept, backend=model.backend()):
        hidden = envoy.output
        hidden[:] = masked_add(hidden, edits, edited_tokens)
        unembedding.input = unembedding.input.contiguous()  # see regimes._score_batch
        masses = group_masses(unembedding.output, groups).save()
    return [row[-n:].numpy() for row, n in zip(masses, steps, strict=True)]


def ablation(vectors: EmotionVectors, emotions: Sequence[str], layers: Sequence[int]) -> Edit:
    """The edit that projects each row's emotion direction out of the residual stream at the given layers."""
    chosen = {}
    for layer in layers:
        rows = [_unit(vectors, emotion, vectors.place(layer)) for emotion in emotions]
        chosen[layer] = torch.from_numpy(np.stack(rows).astype(np.float32))
    return Edit(chosen, ablate=True, positions="all")
