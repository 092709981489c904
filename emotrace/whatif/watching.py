"""What a model feels while it writes: each token with its projections, as soon as the model has read it.

The text is written by the model's own ``generate`` of transformers, as :func:`emotrace.steer` writes it. Two things
listen: a streamer, which is given each token when it is chosen, and a forward hook on the layer that is watched, which
sees the residual stream of that token one pass later, when the model reads it to choose the next. So a token is shown
once the one after it is chosen, and one token more than asked for is made and left out. The hook takes a copy and no
more: what is computed of it is computed between two passes, so that on a GPU no pass is waited for in its middle.

What is watched is the stream as the layer gives it, before any edit at that very layer is added: a projection says what
the text so far does to the model, not what is just being added. It is what :func:`~emotrace.whatif.token_reading
.read_emotions` finds in the finished text, edits at lower layers included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers.generation.streamers import BaseStreamer

from emotrace import arguments
from emotrace.errors import EmotraceError
from emotrace.hosts.finite import finite
from emotrace.hosts.turns import loop_to_the_end
from emotrace.steered_texts import as_calibrated
from emotrace.steering_hooks import steered
from emotrace.tokens import Writing, prompt_ids, text_after
from emotrace.vectors import Emotion, mixture_name
from emotrace.whatif.compare import UNCALIBRATED, WRITING
from emotrace.whatif.live import Live
from emotrace.whatif.text_reading import Progress, cached_vectors
from emotrace.whatif.token_reading import Scale, chosen_layers, scale_of

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors


LONGEST, KEPT = 32, 8
"""Tokens that are decoded anew for each new one at most, and how many of the last are kept then."""


class WatchedToken(NamedTuple):
    """A token that the model has read, of the prompt or of what it writes.

    Attributes:
        id: the token.
        text: what it adds to the text; empty where a later token finishes the character.
        written: by the model, not of the prompt.
        projection: on each emotion's vector, in class gaps, float64 ``[emotion]``; NaN for special tokens and the first
            one that is none.
        score: in standard deviations of the tokens of neutral passages, NaN also where the activation is massive
            (:class:`~emotrace.whatif.results.TokenReading` says more of both).
    """

    id: int
    text: str
    written: bool
    projection: np.ndarray
    score: np.ndarray


@arguments.checked
def watch(
    model: Model,
    prompt: str,
    emotions: Emotion | Sequence[Emotion] | None = None,
    *,
    vectors: EmotionVectors | None = None,
    layer: int | None = None,
    steer: Emotion | None = None,
    strength: float | None = None,
    steer_layers: int | Sequence[int] | str | None = None,
    writing: Writing = WRITING,
    show: bool | Callable[[WatchedToken], None] = True,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Continues a prompt and shows, token by token, how far the residual stream lies along each emotion's vector.

    The text is the one that :func:`~emotrace.steered_texts.steer` writes. Within ``with emotrace.steered(…)`` that edit
    is felt, whatever its windows and schedule, and neutral tokens and default vectors are read without it; ``steer``
    does the plain case.

    Args:
        model: a model of this machine.
        prompt: what to continue.
        emotions: which to watch: one name or mixture, or several; default: all of the vectors.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        layer: where the stream is read, before an edit at this very layer is added; default: what the vectors are
            calibrated at, else half depth.
        steer: the emotion or mixture to steer by; default: none.
        strength: in mean residual norms, negative away; default: calibrated, else 0.2.
        steer_layers: where the edit is added; default as in :func:`~emotrace.steered_texts.steer`.
        writing: length, temperature, chat, the first seed; default: 60 tokens, sampled as the vectors are calibrated,
            else greedy.
        show: True shows the text and a row of bars, growing, in a terminal or a notebook; a function is called with
            each token of the prompt and of the text in its place; False shows nothing.
        progress: called while vectors are extracted the first time.

    Returns:
        One row a token and emotion: ``token`` (0 …), ``id``, ``text``, ``written`` (or of the prompt), ``layer``,
        ``emotion``, ``projection``, ``score``; in ``attrs`` the ``prompt`` and the ``text`` that was written.

    Raises:
        EmotraceError: a model on a server; whatever ``steer`` and ``read_emotions`` refuse.
    """
    if model.remote:
        raise EmotraceError("a server sends nothing before the text ends: steer there, and read_emotions of the text")
    if steer is None and (strength is not None or steer_layers is not None):
        raise EmotraceError("a strength and steer_layers are of an emotion to steer by: name it as steer")
    if vectors is None:
        edited = [steer_layers] if isinstance(steer_layers, int | str | None) else steer_layers
        vectors = cached_vectors(model, progress=progress, needed=[layer, *edited])
    vectors.check(model)
    chosen = list(vectors.emotions) if emotions is None else arguments.emotions(emotions)
    if not chosen:
        raise EmotraceError("no emotion is to be watched")
    (read,) = chosen_layers(model, vectors, None if layer is None else arguments.integer(layer, "a layer"))
    writing, prompt = as_calibrated(vectors, writing), arguments.text(prompt, "the prompt")
    writing = replace(writing, seeds=writing.seeds[:1])
    ids = prompt_ids(model, [prompt], writing.chat, writing.max_new_tokens)[prompt]
    scale = scale_of(model, vectors, chosen, [read], progress=progress)
    names, seen = tuple(map(mixture_name, chosen)), list[WatchedToken]()
    with contextlib.ExitStack() as around:
        if steer is not None:
            around.enter_context(_steered(model, vectors, steer, strength, steer_layers, writing))
        tell = show if callable(show) else None
        if show is True:
            marked = [] if steer is None else [steer] if isinstance(steer, str) else [*steer, mixture_name(steer)]
            tell = around.enter_context(Live(names, float(scale.ceiling[0]), marked))

        def on_token(token: WatchedToken) -> None:
            seen.append(token)
            if tell:
                tell(token)

        _stream(model, ids, scale, writing, on_token)
    table = _table(seen, names, read)
    written = [token.id for token in seen if token.written]
    table.attrs = {"prompt": prompt, "text": text_after(model, ids, written)}
    return table


def _steered(
    model: Model,
    vectors: EmotionVectors,
    emotion: Emotion,
    strength: float | None,
    layers: int | Sequence[int] | str | None,
    writing: Writing,
) -> contextlib.AbstractContextManager[None]:
    if strength is None:
        strength = float(vectors.calibration.get("strength") or UNCALIBRATED)
    return steered(model, vectors, arguments.emotion(emotion), strength, layers=layers, tokens=writing.positions)


def _table(seen: Sequence[WatchedToken], names: Sequence[str], layer: int) -> pd.DataFrame:
    """One row a token and emotion."""
    rows = pd.DataFrame([token[:3] for token in seen], columns=["id", "text", "written"])
    table = rows.rename_axis("token").reset_index()
    table = table.loc[table.index.repeat(len(names))].reset_index(drop=True)
    table = table.assign(layer=layer, emotion=list(names) * len(seen))
    for column in ("projection", "score"):
        table[column] = np.concatenate([getattr(token, column) for token in seen])
    return table


# -- listening --------------------------------------------------------------------------------------------------------


def _stream(
    model: Model, ids: Sequence[int], scale: Scale, writing: Writing, on_token: Callable[[WatchedToken], None]
) -> None:
    """Writes a text after ``ids`` and calls ``on_token`` for each token of both, as soon as it is read."""
    module, listener = model.nn._module, _Listener(model, scale, on_token)
    prompt = torch.tensor([list(ids)], device=model.device)
    settings = writing.settings(model, writing.seeds, one_more=True)
    with model.lock, torch.no_grad(), loop_to_the_end(model), _heard(model, scale.layers[0], listener):
        module.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), streamer=listener, **settings)


@contextlib.contextmanager
def _heard(model: Model, layer: int, listener: _Listener) -> Iterator[None]:
    """The listener hears the residual stream at a layer: of layer 0 what enters the first decoder layer, of others what
    leaves theirs, before any other hook changes it."""

    def entering(_: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        listener.read(args[0] if args else next(iter(named.values())))

    def leaving(_: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        listener.read(output[0] if isinstance(output, (tuple, list)) else output)

    block = model.layers[max(layer, 1) - 1]._module
    if layer:
        handle = block.register_forward_hook(leaving, prepend=True)
    else:
        handle = block.register_forward_pre_hook(entering, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


class _Listener(BaseStreamer):
    """Is given each token when it is chosen (``put``) and its stream when it is read (``read``), and tells of both."""

    def __init__(self, model: Model, scale: Scale, on_token: Callable[[WatchedToken], None]) -> None:
        self.model, self.scale, self.on_token = model, scale, on_token
        self.special = set(model.tokenizer.all_special_ids)
        self.chosen: list[int] = []
        self.heard: torch.Tensor | None = None  # of the chosen tokens, once they are read
        self.written = False  # the prompt has been told of
        self.begun = False  # the text's first token that is not special has been told of
        self.recent: list[int] = []  # the last tokens, and how many of their characters were told of
        self.told = 0

    def put(self, value: torch.Tensor) -> None:
        """The prompt's tokens at first, then one at a time. The last is never read, be it one too many or an end."""
        self._tell()
        self.chosen = value.flatten().tolist()

    def end(self) -> None:
        """Nothing follows, and nothing is left to tell: what was read was told of when the next token came."""

    def read(self, stream: torch.Tensor) -> None:
        """The stream of what was chosen last, ``[1, token, d_model]``; a copy, since a later hook may edit in place."""
        self.heard = stream[0, -len(self.chosen) :].clone()

    def _tell(self) -> None:
        """Tells of the chosen tokens, if they were read."""
        if self.heard is None:
            return
        new, self.heard = self.heard[:, None].float().cpu().numpy(), None
        projection, score = self.scale.measure(finite(self.model, new, self.scale.layers))
        for token, *values in zip(self.chosen, projection[:, 0], score[:, 0], strict=True):
            counted = token not in self.special and self.begun
            self.begun |= token not in self.special
            if not counted:
                values = [np.full_like(value, np.nan) for value in values]
            self.on_token(WatchedToken(token, self._text(token), self.written, *values))
        self.written = True

    def _text(self, token: int) -> str:
        """What a token adds to the text, unless it ends within a character. Decoded with the few tokens before it: the
        whole text anew for each would take longer the longer the text."""
        self.recent.append(token)
        text = self._decoded()
        if text.endswith("\ufffd"):
            return ""
        new, self.told = text[self.told :], len(text)
        if len(self.recent) >= LONGEST:
            self.recent = self.recent[-KEPT:]
            self.told = len(self._decoded())
        return new

    def _decoded(self) -> str:
        text: str = self.model.tokenizer.decode(self.recent, skip_special_tokens=True)
        return text
