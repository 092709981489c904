"""Editing the residual stream: what is added to it, and text written under the edit, one batch at a time.

How it is done with nnsight: one ``generate`` context a batch (:func:`generate`). At every step of the decoding loop the
output of each steered decoder layer gets one row's own vector added to one row, so that a batch holds many emotions and
strengths at once. Nothing is mutated but the activations of that pass: the weights stay as they are.

The edit is unit vector × strength × mean residual norm of the layer where it is added (claim C8). The author's
published code takes the norm of the activations at hand. We take one norm a model and layer, measured once on neutral
passages, so that a strength means the same in every batch (``on_the_fly=True`` is the author's way). Strength 0 adds
exact zeros.

Where the edit starts at the last token of the prompt, the prompt before it is the same for every emotion, strength and
seed: it is read once and its keys and values are shared by all rows, in writing and in scoring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from emotrace import arguments
from emotrace.errors import EmotraceError, shown
from emotrace.hosts import gpu_memory
from emotrace.hosts.open_edits import open_edits
from emotrace.hosts.turns import loop_to_the_end
from emotrace.in_trace import edited, make_input_contiguous, one_copy_a_row, residual
from emotrace.tokens import POSITIONS, Writing, end_tokens, pad_left, token_rows, until_end
from emotrace.vectors import Emotion, EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model

DEFAULT_WRITING = Writing()


@dataclass(frozen=True, eq=False)
class Edit:
    """What is done to the residual stream of each row of a batch, in writing and in reading again.

    Attributes:
        directions: layer index (1 … L) → float32 ``[row, d_model]``; added, or projected out where ``ablate`` is set.
        ablate: remove the component along each (unit) direction instead of adding it.
        on_the_fly: the directions are in units of the mean norm of the row's own activations at the layer (over the
            prompt's edited tokens, then token by token), as in the author's published code, and not of the stream.
        positions: ``all`` tokens, or ``generated``: from the last token of the prompt on, the first whose prediction is
            written.
    """

    directions: Mapping[int, torch.Tensor]
    ablate: bool = False
    on_the_fly: bool = False
    positions: str = "generated"

    def __post_init__(self) -> None:
        if not isinstance(self.directions, Mapping):
            raise EmotraceError(f"an edit is {{layer: directions [row, d_model]}}, not {shown(self.directions)}")
        tensors = {
            layer: rows if isinstance(rows, torch.Tensor) else _tensor(rows) for layer, rows in self.directions.items()
        }
        object.__setattr__(self, "directions", tensors)
        arguments.choice(self.positions, "positions", POSITIONS)
        if arguments.flag(self.on_the_fly, "on_the_fly") and arguments.flag(self.ablate, "ablate"):
            raise EmotraceError("an ablation has no strength: it takes no on_the_fly norm")

    @property
    def kind(self) -> dict[str, Any]:
        """The settings that :func:`emotrace.in_trace.edited` takes."""
        return {"ablate": self.ablate, "on_the_fly": self.on_the_fly}

    def check(self, model: Model, rows: int) -> Edit:
        """The edit unchanged, if it fits; one row alone would be added to all.

        Raises:
            EmotraceError: a layer that the model does not have, or not one vector of its width for each of ``rows``.
        """
        for layer in model.check_layers(list(self.directions)) if self.directions else ():
            if (shape := tuple(self.directions[layer].shape)) != (rows, model.d_model):
                raise EmotraceError(f"the edit at layer {layer} is {shape}, not ({rows}, {model.d_model}): a row each")
        return self

    def beside(self, model: Model) -> dict[int, torch.Tensor]:
        """The directions on the GPU of each layer, if the model is on one: no step has to fetch them anew. A layer that
        is offloaded has no place of its own."""
        if not gpu_memory.on_gpu(model):
            return dict(self.directions)
        weights = {layer: next(model.layers[max(layer, 1) - 1]._module.parameters()) for layer in self.directions}
        placed = {
            layer: rows.to(weights[layer].device)
            for layer, rows in self.directions.items()
            if not weights[layer].is_meta
        }
        return {**self.directions, **placed}

    def rows(self, rows: Sequence[int]) -> Edit:
        """The same edit of some of the rows."""
        return replace(self, directions={layer: values[list(rows)] for layer, values in self.directions.items()})

    def tokens(
        self, mask: torch.Tensor, written: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Which tokens of a left-padded batch are edited, and which of them share one norm on the fly.

        Args:
            mask: ``[row, token]``, 0 on padding.
            written: how many tokens at the end of each row were written after its prompt; default: none.

        Returns:
            What ``in_trace.edited`` takes as ``where`` and ``averaged``, ``[row, token]`` each.
        """
        columns = torch.arange(mask.shape[1], device="cpu")
        new = torch.tensor([0] * len(mask) if written is None else list(written), device="cpu")[:, None]
        prompt = mask * (columns < mask.shape[1] - new)
        if self.positions == "generated":
            return mask * (columns >= mask.shape[1] - 1 - new), None
        return mask, prompt if self.on_the_fly else None


def _tensor(rows: Any) -> torch.Tensor:
    return torch.from_numpy(arguments.array(rows, "the directions of an edit", None, None)).float()


# -- what to add ------------------------------------------------------------------------------------------------------


def directions(
    vectors: EmotionVectors, rows: Sequence[tuple[Emotion, float]], layers: Sequence[int], norms: np.ndarray
) -> dict[int, torch.Tensor]:
    """Each row's edit at each layer: unit vector × strength × the layer's norm.

    Args:
        vectors: emotion vectors.
        rows: for each row an emotion (or a mixture, emotion → weight) and a strength.
        layers: layer indices.
        norms: mean residual norm of every layer 0 … L (:func:`~emotrace.activations.residual_norms`).

    Returns:
        Layer index → float32 ``[row, d_model]``.
    """
    edits = {}
    for layer in layers:
        rows_at = [vectors.direction(emotion, layer) * strength * norms[layer] for emotion, strength in rows]
        edits[layer] = torch.from_numpy(np.stack(rows_at).astype(np.float32))
    return edits


@arguments.checked
def random_like(vectors: EmotionVectors, count: int, seed: int) -> EmotionVectors:
    """``count`` random directions, ``random-1`` …, of the emotions' mean norm at each layer: the control of a claim.

    Raises:
        EmotraceError: a count below 1, a negative seed.
    """
    count, seed = arguments.integer(count, "count", at_least=1), arguments.integer(seed, "a seed", at_least=0)
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, len(vectors.layers), vectors.d_model))
    norms = np.linalg.norm(vectors.values, axis=-1).mean(axis=0)
    values *= (norms / np.linalg.norm(values, axis=-1))[..., None]
    names = tuple(f"random-{number}" for number in range(1, count + 1))
    return replace(vectors, emotions=names, values=values.astype(np.float32))


@arguments.checked
def ablation(vectors: EmotionVectors, emotions: Sequence[str], layers: Sequence[int]) -> Edit:
    """The edit that projects each row's emotion direction out of the residual stream at the given layers."""
    if not (rows := [(emotion, 1.0) for emotion in arguments.emotions(emotions)]):
        raise EmotraceError("no emotion is asked for")
    layers = [layer for layer in arguments.integers(layers, "layer") if vectors.index(layer) is not None]
    ones = np.ones(max(layers, default=0) + 1)
    return Edit(directions(vectors, rows, layers, ones), ablate=True, positions="all")


# -- writing under an edit --------------------------------------------------------------------------------------------


@arguments.checked
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    edit: Edit | None = None,
    writing: Writing = DEFAULT_WRITING,
    seeds: Sequence[int] = (),
) -> list[list[int]]:
    """Continues one batch of tokenised prompts, each row under its own edit, with a KV cache.

    Args:
        model: the model.
        prompts: token ids of each row.
        edit: one direction a row and layer; None: unedited.
        writing: how the texts are written; the edit's own positions count, and prompts of a chat come in its template.
        seeds: one a row, where the temperature is above 0.

    Returns:
        The new token ids of each row, up to and without the token that ends the text, or in a chat the turn. Nothing is
        forced past it.

    Raises:
        EmotraceError: a prompt that is empty, no list of the model's tokens, or leaves no room in its context; an edit
            of other rows or layers; a row without a seed; logits that are no numbers.
    """
    prompts = token_rows(model, prompts, room=writing.max_new_tokens)
    seeds = writing.check_seeds(seeds, len(prompts))
    ids, mask = pad_left(prompts)
    batch, settings = {"input_ids": ids, "attention_mask": mask}, writing.settings(model, seeds)
    edit = (edit or Edit({})).check(model, len(prompts))
    by_layer, kind = edit.beside(model), edit.kind
    where, averaged = edit.tokens(mask)
    prefix, owner = shared_prefix(model, ids, mask, edit)
    if prefix is not None:
        where = where[:, -1:]
    # In one session, so that on a server keys and values stay where they are used. A prefix is read up to the last
    # layer: the unembedding never runs. Where nothing is edited the decoding loop has its first step alone, since a
    # loop without anything in it would wait for ever. (No comments within: see `in_trace`.)
    with torch.no_grad(), loop_to_the_end(model), model.session():
        cache = None
        if prefix is not None:
            cache = DynamicCache(config=model.nn._module.config)
            with model.trace(prefix, past_key_values=cache, use_cache=True) as reader:
                _ = model.layers[-1].output
                reader.stop()
            one_copy_a_row(cache, owner)
        with model.generate(**settings, past_key_values=cache) as tracer:
            with tracer.invoke(batch):
                for step in tracer.iter[:] if by_layer else tracer.iter[0:1]:
                    for layer in sorted(by_layer):
                        hidden = residual(model.layers, layer)
                        at = (where, averaged) if step == 0 else ()
                        hidden[:] = edited(hidden, by_layer[layer], *at, **kind)
                    if step == 0:
                        make_input_contiguous(model.unembedding)
            with tracer.invoke():
                written = tracer.result.save()
    ends = end_tokens(model, writing.chat)
    return [until_end(row[ids.shape[1] :].tolist(), ends) for row in written]


def shared_prefix(
    model: Model, ids: torch.Tensor, mask: torch.Tensor, edit: Edit
) -> tuple[dict[str, torch.Tensor] | None, torch.Tensor]:
    """What can be read once for all rows of a left-padded batch, since no edit touches it.

    Returns:
        Every different prompt but its last token (None if no prompt repeats, if the edit acts on all tokens, within a
        steered block, or if the class keeps more of a prompt than keys and values), and which of them each row has.
    """
    different, owner = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
    width, shares = ids.shape[1], model.architecture.shares_prefixes and not open_edits(model)
    if not shares or len(different) == len(ids) or width == 1 or (edit.directions and edit.positions == "all"):
        return None, owner
    return {"input_ids": different[:, : width - 1], "attention_mask": different[:, width:-1]}, owner
