"""Steering around whatever runs the model: ``with emotrace.steered(model, vectors, "afraid", 0.2): …``.

Within the block the user's own ``generate`` of transformers, a pipeline, a streamer in its thread, and nnsight's
contexts on the handle all see the edit. It is a forward hook on each steered layer, taken away at the end of the block
whatever happens in it; the weights stay as they are. The edit itself is that of :mod:`emotrace.steering`: the same
unit, the same positions, the same tokens as :func:`~emotrace.steered_texts.steer`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor as Guidance

from emotrace import arguments
from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError, shown, unknown
from emotrace.hosts.open_edits import OpenEdit
from emotrace.in_trace import RawGeneration, edited
from emotrace.steered_texts import steered_layers, steered_positions, strengths_of
from emotrace.steering import DEFAULT_WRITING, directions
from emotrace.vectors import Emotion, EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model

Schedule = Callable[[int], float]
"""A factor on the strength for each token, counted from the last token of the prompt, which is 0."""
Window = tuple[int | None, int | None]
PLACES: dict[str, Window] = {"generated": (0, None), "written": (1, None), "prompt": (None, 0), "all": (None, None)}
"""Windows of tokens by name, counted from the last token of the prompt, their end excluded; None: no bound."""


@contextlib.contextmanager
@arguments.checked
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

    Where a prompt ends is known within ``generate``, whatever its cache, beams, chunks or assistants, and where a text
    is scored or read again after its prompt. Any other forward pass is a text whose last token (by its attention mask)
    is the prompt's last, and what is read on with the same cache, given or made by the model, follows it.

    What emotrace measures once and remembers is measured without the edit: the unit of a strength, the neutral tokens
    of a score, default vectors, permuted labels. What it reads or writes within is not kept in a ``cache``.

    Args:
        model: a model of this machine (:func:`emotrace.load`, :func:`emotrace.attach`).
        vectors: its emotion vectors.
        emotions: one name or mixture for all rows of a batch, or a list with one a row. Where ``generate`` makes copies
            of a row (several sequences, beams), they are steered alike.
        strength: in mean residual norms, negative away; default as calibrated.
        layers: as in :func:`~emotrace.steered_texts.steer`.
        tokens: ``generated`` (from the last token of the prompt on), ``written`` (those after the prompt, so that the
            first is still the model's own), ``prompt`` (all but its last), ``all``, or a window ``(from, to)`` of
            tokens counted as in ``schedule``, ``to`` excluded and None for the end; default: as the vectors were
            calibrated, else ``generated``.
        schedule: token → factor on the strength, counted from the last token of the prompt, which is 0.
        ablate: project the emotions' directions out instead of adding them.

    Raises:
        EmotraceError: a remote model; an unknown emotion, layer or place; a batch whose rows do not go with the list; a
            factor that is no number; a generation with guidance, which reads two prompts at once; a row for each of a
            batch where emotrace itself sorts texts into batches.
    """
    edit, window = _checked(model, vectors, emotions, strength, layers, tokens, ablate)
    texts = _Texts(window, schedule, rows=max(map(len, edit.values())))
    module = model.nn._module
    with model.lock, contextlib.ExitStack() as hooks:
        hooks.enter_context(_prompts_known(module, texts))
        hooks.callback(module.register_forward_pre_hook(texts.begin, with_kwargs=True).remove)
        hooks.callback(module.register_forward_hook(texts.finish).remove)
        for layer, values in edit.items():
            block = model.layers[layer - 1]._module
            hooks.callback(block.register_forward_hook(_hook(values, texts, ablate)).remove)
        yield


def _checked(
    model: Model,
    vectors: EmotionVectors,
    emotions: Emotion | Sequence[Emotion],
    strength: float | None,
    layers: int | Sequence[int] | str | None,
    tokens: str | tuple[int, int | None] | None,
    ablate: bool,
) -> tuple[dict[int, torch.Tensor], Window]:
    """Layer → each row's edit ``[row, d_model]``, and the window of tokens."""
    vectors.check(model)
    if model.remote:
        raise EmotraceError("hooks reach no server: write with emotrace.steer, or edit within a trace of your own")
    several = isinstance(emotions, Sequence) and not isinstance(emotions, str)
    rows = arguments.emotions(emotions) if several else arguments.emotions([emotions])
    if not rows:
        raise EmotraceError("no emotion is asked for")
    place = steered_positions(vectors, DEFAULT_WRITING) if tokens is None else tokens
    if isinstance(place, str) and place not in PLACES:
        raise unknown("place", place, PLACES)
    window = PLACES[place] if isinstance(place, str) else _window(place)
    size = 1.0
    if not ablate:
        strengths = strengths_of(vectors, strength)
        if len(strengths) != 1:
            raise EmotraceError(f"one strength is taken, not {len(strengths)}: nest contexts, or write with steer")
        size = strengths[0]
    norms = np.ones(model.n_layers + 1) if ablate else residual_norms(model)
    edited_layers = steered_layers(model, vectors, layers)
    return directions(vectors, [(emotion, size) for emotion in rows], edited_layers, norms), window


def _window(given: Sequence[int | None]) -> Window:
    ends = list(given) if isinstance(given, Sequence) else []
    if len(ends) != 2 or not all(end is None or type(end) is int for end in ends):
        raise EmotraceError(f"a window of tokens is (from, to), whole numbers or None, not {shown(given)}")
    if None not in ends and ends[0] >= ends[1]:  # type: ignore[operator]
        raise EmotraceError(f"the window {given!r} holds no token")
    return ends[0], ends[1]


@contextlib.contextmanager
def _prompts_known(module: Any, texts: _Texts) -> Iterator[None]:
    """``module.generate`` says how long the prompts are that it goes on with, and how many."""
    own, generate = "generate" in vars(module), module.generate

    @functools.wraps(generate)
    def within(*args: Any, **settings: Any) -> Any:
        if _guided(module, *args, **settings):
            raise EmotraceError("a generation with guidance reads two prompts at once: it is not steered")
        named = (settings.get(name) for name in ("inputs", "input_ids", "inputs_embeds"))
        prompt = next((given for given in (*args[:1], *named) if given is not None), None)
        before = texts.prompt
        texts.prompt = None if prompt is None else (prompt.shape[0], torch.tensor([prompt.shape[1] - 1]))
        try:
            return generate(*args, **settings)
        finally:
            texts.prompt = before

    module.generate = within
    try:
        yield
    finally:
        if own:
            module.generate = generate
        else:
            del module.generate


def _guided(
    module: Any,
    inputs: Any = None,
    generation_config: Any = None,
    logits_processor: Sequence[Any] | None = None,
    *_: Any,
    guidance_scale: float | None = None,
    **others: Any,
) -> bool:
    """Whether a ``generate`` of these arguments has guidance. Like transformers it takes what is unset from the model's
    own settings, of which :class:`~emotrace.in_trace.RawGeneration` takes nothing."""
    own = None if isinstance(generation_config, RawGeneration) else module.generation_config
    scales = [guidance_scale, *(getattr(config, "guidance_scale", None) for config in (generation_config, own))]
    scale = next((scale for scale in scales if scale is not None), 1)
    return scale != 1 or any(isinstance(processor, Guidance) for processor in logits_processor or ())


def _hook(values: torch.Tensor, texts: _Texts, ablate: bool) -> Callable[..., Any]:
    def change(_: torch.nn.Module, args: object, output: Any) -> Any:
        if not texts.heard:
            return output
        hidden = output[0] if isinstance(output, (tuple, list)) else output
        factors = texts.factors(*hidden.shape[:2])
        if not factors.any():
            return output
        rows = texts.prompt[0] if texts.prompt else len(hidden)
        if len(values) not in (1, rows):
            raise EmotraceError(f"{len(values)} rows are to be steered, and the batch has {rows}")
        direction = values.repeat_interleave(len(hidden) // len(values), dim=0)
        hidden = edited(hidden, direction, factors.to(hidden.device), ablate=ablate)
        return type(output)((hidden, *output[1:])) if isinstance(output, (tuple, list)) else hidden

    return change


@dataclass(eq=False)
class _Texts(OpenEdit):
    """Which tokens of their texts the forward passes read, counted from the last token of the prompt.

    Attributes:
        window: the tokens that are edited.
        schedule: as :func:`steered` takes it.
        first: of each row the first token of this pass, ``[row]`` (one for all, or one each).
        made: this pass's factors by rows and width, so that a schedule is asked once a token, not once a layer.
        real: which tokens of this pass are known to be no padding, ``[row, token]`` (one entry for all, or one each).
        end: of each row where in its text the prompt ends, ``[row]`` (one for all, or one each).
        ends: the same of each cache that is still in use.
        held: the same of caches that cannot be referred to weakly, by id; they are kept with it.
    """

    window: Window
    schedule: Schedule | None
    first: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    made: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    real: torch.Tensor = field(default_factory=lambda: torch.ones(1, 1, dtype=torch.bool))
    end: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    ends: weakref.WeakKeyDictionary[Any, torch.Tensor] = field(default_factory=weakref.WeakKeyDictionary)
    held: dict[int, tuple[Any, torch.Tensor]] = field(default_factory=dict)

    def begin(self, _: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Called before each pass of the whole model."""
        if not self.heard:
            return
        given = [inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None]
        width, cache = (given or list(args))[0].shape[1], inputs.get("past_key_values")
        start = int(cache.get_seq_length()) if cache is not None and hasattr(cache, "get_seq_length") else 0
        self.real = _real(None if self.prompt else inputs.get("attention_mask"), width)
        if self.prompt:
            self.end = self.prompt[1]
        elif start and (known := self._known(cache)) is not None:
            self.end = known
        else:
            self.end = start + (self.real * torch.arange(1, width + 1)).amax(dim=1) - 1
        self._remember(cache)
        self.first = start - self.end
        self.made.clear()

    def finish(self, _: torch.nn.Module, args: object, output: Any) -> None:
        """Called after each pass of the whole model, which may have made a cache."""
        if self.heard:
            for part in output if isinstance(output, tuple) else [getattr(output, "past_key_values", None)]:
                self._remember(part)

    def _remember(self, cache: Any) -> None:
        if not hasattr(cache, "get_seq_length"):
            return
        try:
            self.ends[cache] = self.end
        except TypeError:  # a class of another's that has no hash, or no weak references
            self.held[id(cache)] = cache, self.end

    def _known(self, cache: Any) -> torch.Tensor | None:
        try:
            return self.ends.get(cache)
        except TypeError:
            return self.held.get(id(cache), (None, None))[1]

    def factors(self, rows: int, width: int) -> torch.Tensor:
        """What the strength is multiplied with at each token of the pass: float32 ``[row, token]``."""
        if (rows, width) not in self.made:
            self.made[rows, width] = self._factors(rows, width)
        return self.made[rows, width]

    def _factors(self, rows: int, width: int) -> torch.Tensor:
        tokens = (self.first[:, None] + torch.arange(width)).expand(rows, -1)
        (low, high), inside = self.window, self.real.expand(rows, width).clone()
        if low is not None:
            inside &= tokens >= low
        if high is not None:
            inside &= tokens < high
        if self.schedule is None:
            return inside.float()
        factor = {int(token): self._factor(int(token)) for token in tokens[inside].unique()}
        return torch.tensor([[factor.get(int(token), 0.0) for token in row] for row in tokens]) * inside

    def _factor(self, token: int) -> float:
        assert self.schedule is not None
        factor = arguments.number(self.schedule(token), f"the factor of token {token}")
        if not math.isfinite(factor):
            raise EmotraceError(f"the factor of token {token} is {factor}")
        return factor


def _real(mask: torch.Tensor | None, width: int) -> torch.Tensor:
    """Which tokens of a pass are no padding, bool ``[row, token]``; without a mask one entry, for all."""
    if mask is None or mask.dim() != 2 or mask.shape[1] < width or not mask.any():
        return torch.ones(1, 1, dtype=torch.bool)
    return mask[:, -width:].cpu().bool()
