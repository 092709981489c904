"""What emotrace's own passes have to know of the edits of :func:`emotrace.steered` that are open around a model.

What is measured once and remembered is measured without them (:func:`unedited`). A batch that emotrace has put together
says where each of its texts ends (:func:`right_padded`, :func:`prompts_end`), so that a text is edited alike whatever
else is in its batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch

from emotrace.errors import EmotraceError


class Model(Protocol):
    """What is asked of a model (:class:`emotrace.models.Model`)."""

    nn: Any


class Text(Protocol):
    """A text as token ids (:class:`emotrace.tokens.Tokens`)."""

    @property
    def ids(self) -> Sequence[int]: ...


@dataclass(kw_only=True, eq=False)
class OpenEdit:
    """An edit whose method is a forward pre-hook of the whole model: there it is found, by whichever handle.

    Attributes:
        rows: how many rows the edit has; one alone is for all rows of a batch.
        prompt: how many prompts the passes under way go on with, and where each has its last token, ``[row]`` (one for
            all, or one each); None: each pass is a text of its own.
        thread: the one that opened it; passes of emotrace in others wait until it is closed.
        silent: the thread's passes are not edited.
    """

    rows: int
    prompt: tuple[int, torch.Tensor] | None = None
    thread: int = field(default_factory=threading.get_ident)
    silent: bool = False

    @property
    def heard(self) -> bool:
        """Whether a pass of this thread is edited."""
        return not (self.silent and self.thread == threading.get_ident())


def open_edits(model: Model | torch.nn.Module) -> list[OpenEdit]:
    """The edits that emotrace's own passes of this thread feel."""
    module: Any = model if isinstance(model, torch.nn.Module) else cast(Model, model).nn._module
    owners = [getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values()]
    own = [owner for owner in owners if isinstance(owner, OpenEdit) and owner.thread == threading.get_ident()]
    return [edit for edit in own if not edit.silent]


@contextlib.contextmanager
def unedited(model: Model | torch.nn.Module) -> Iterator[None]:
    """Around what is measured once and remembered: this thread's passes are those of the model as it is."""
    with contextlib.ExitStack() as after:
        for edit in open_edits(model):
            edit.silent = True
            after.callback(setattr, edit, "silent", False)
        yield


def check_one_for_all(model: Model) -> None:
    """Where texts are sorted into batches.

    Raises:
        EmotraceError: an open edit has a row for each of a batch.
    """
    if any(edit.rows > 1 for edit in open_edits(model)):
        raise EmotraceError(
            "texts are sorted into batches here, and the steered block has an edit for each row: give it one emotion"
        )


def right_padded(model: Model, ids: torch.Tensor, texts: Sequence[Text]) -> dict[str, torch.Tensor]:
    """What a model is given to read texts as ids ``[row, token]``, padded on the right. The mask is for open edits.

    Raises:
        EmotraceError: an open edit has a row for each of a batch.
    """
    if not open_edits(model):
        return {"input_ids": ids}
    check_one_for_all(model)
    lengths = torch.tensor([[len(text.ids)] for text in texts], device="cpu")
    mask = torch.arange(ids.shape[1], device="cpu") < lengths
    return {"input_ids": ids, "attention_mask": mask.long().to(ids.device)}


@contextlib.contextmanager
def prompts_end(model: Model, columns: Sequence[int]) -> Iterator[None]:
    """Within, texts are read again after prompts that have their last tokens in these columns, one each or one for all.

    Raises:
        EmotraceError: an open edit has a row for each of a batch.
    """
    check_one_for_all(model)
    with contextlib.ExitStack() as after:
        for edit in open_edits(model):
            after.callback(setattr, edit, "prompt", edit.prompt)
            edit.prompt = len(columns), torch.tensor(columns, device="cpu")
        yield
