"""Steering around whatever runs the model: ``with emotrace.steered(model, vectors, "afraid", 0.2): …``.

Within the block the user's own ``generate`` of transformers, a pipeline, a streamer in its thread, and nnsight's
contexts on the handle all see the edit. It is a forward hook on each steered layer, taken away at the end of the block
whatever happens in it; the weights stay as they are. The edit itself is that of :mod:`emotrace.steering`: the same
unit, the same positions, the same tokens as :func:`~emotrace.steered_texts.steer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emotrace import arguments
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError, unknown
from emotrace.in_trace import edited
from emotrace.steered_texts import steered_layers, steered_positions, strengths_of
from emotrace.steering import DEFAULT_WRITING, directions
from emotrace.vectors import Emotion, EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model

Schedule = Callable[[int], float]
"""A factor on the strength for each token, counted from the last token of the prompt, which is 0."""
PLACES = {"generated": (0, None), "all": (None, None), "prompt": (None, 0)}
"""Windows of tokens by name, counted from the last token of the prompt, their end excluded; None: no bound."""


@contextlib.contextmanager
def steered(
    model: Model,
    vectors: EmotionVectors,
    emotions: Emotion | Sequence[Emotion],
    strength: float | None = None,
    *,
    layers: int | Sequence[int] | str | None = None,
    tokens: str | tuple[int, int | None] | None = None,
    schedule: Schedule | None = None,
    ablate: bool = False,
) -> Iterator[None]:
    """Everything that runs the model within the block is steered.

    In a trace of nnsight the ``.output`` of a steered layer is what it was before the edit; the next layer's ``.input``
    and all after it have it. Contexts nest, and their edits add up. Another thread that enters one on the same model
    waits for this one to end; a plain ``generate`` of another thread meanwhile is steered too, as a streamer's is.

    Args:
        model: a model of this machine (:func:`emotrace.load`, :func:`emotrace.attach`).
        vectors: its emotion vectors.
        emotions: one name or mixture for all rows of a batch, or a list with one a row. Where a row is copied (several
            sequences, beams), its copies are steered alike.
        strength: in mean residual norms, negative away; default as calibrated.
        layers: as in :func:`~emotrace.steered_texts.steer`.
        tokens: ``generated`` (from the last token of the prompt on), ``all``, ``prompt`` (all but its last), or a
            window ``(from, to)`` of tokens counted as in ``schedule``, ``to`` excluded and None for the end; default:
            as the vectors were calibrated, else ``generated``.
        schedule: token → factor on the strength, counted from the last token of the prompt, which is 0.
        ablate: project the emotions' directions out instead of adding them.

    Raises:
        EmotraceError: a remote model; an unknown emotion, layer or place; a batch whose rows do not go with the list.
    """
    vectors.check(model)
    if model.remote:
        raise EmotraceError("hooks reach no server: write with emotrace.steer, or edit within a trace of your own")
    several = isinstance(emotions, Sequence) and not isinstance(emotions, str)
    rows = arguments.emotions(emotions) if several else arguments.emotions([emotions])
    layers, place = steered_layers(model, vectors, layers), tokens or steered_positions(vectors, DEFAULT_WRITING)
    if isinstance(place, str) and place not in PLACES:
        raise unknown("place", place, PLACES)
    size = 1.0 if ablate else strengths_of(vectors, strength)[0]
    norms = np.ones(model.n_layers + 1) if ablate else residual_norms(model)
    edit = directions(vectors, [(emotion, size) for emotion in rows], layers, norms)
    window = PLACES[place] if isinstance(place, str) else place
    passes = _Passes(window, schedule or (lambda token: 1.0))
    module = model.nn._module
    with model.lock, contextlib.ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(passes.begin, with_kwargs=True).remove)
        for layer, values in edit.items():
            block = model.layers[layer - 1]._module
            hooks.callback(block.register_forward_hook(_hook(values, passes, ablate)).remove)
        yield


def _hook(values: torch.Tensor, passes: _Passes, ablate: bool) -> Callable[..., Any]:
    def change(_: torch.nn.Module, args: object, output: Any) -> Any:
        hidden = output[0] if isinstance(output, (tuple, list)) else output
        factors = passes.factors(hidden.shape[1])
        if not factors.any():
            return output
        copies, left = divmod(len(hidden), len(values))
        if left:
            raise EmotraceError(f"{len(values)} rows are to be steered, and the batch has {len(hidden)}")
        direction = values.repeat_interleave(copies, dim=0)
        where = factors.to(hidden.device).expand(len(hidden), -1)
        hidden = edited(hidden, direction, where, ablate=ablate)
        return type(output)((hidden, *output[1:])) if isinstance(output, (tuple, list)) else hidden

    return change


@dataclass
class _Passes:
    """Which tokens of a text the forward passes of a generation read.

    Attributes:
        window: the tokens that are edited, counted from the last token of the prompt.
        schedule: as :func:`steered` takes it.
        first: the first token of this pass, counted from the last token of the prompt.
        following: the first token of the next pass, if it reads what is written after this one's.
        ids: what a pass without a cache read.
    """

    window: tuple[int | None, int | None]
    schedule: Schedule
    first: int = 0
    following: int = 1
    ids: torch.Tensor | None = None

    def begin(self, _: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Called before each pass: does a text begin, or does it go on?"""
        given = [inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None]
        ids = (given or list(args))[0]
        cache, width = inputs.get("past_key_values"), ids.shape[1]
        if width == 1 and cache is not None and cache.get_seq_length() > 0:
            self.first, self.following = self.following, self.following + 1
        elif self.ids is None or ids.dim() != 2 or not torch.equal(ids[:, :-1], self.ids):
            self.first, self.following = 1 - width, 1
        # Else a text is read from its beginning once more, with one token more: it is written without a cache.
        self.ids = ids if cache is None else None

    def factors(self, width: int) -> torch.Tensor:
        """What the strength is multiplied with at each token of the pass: float32 ``[token]``."""
        return torch.tensor([self._factor(self.first + index) for index in range(width)], dtype=torch.float32)

    def _factor(self, token: int) -> float:
        low, high = self.window
        inside = (low is None or token >= low) and (high is None or token < high)
        return float(self.schedule(token)) if inside else 0.0
