"""Text → token ids, spans and batches; how a text is written (chat templates: :mod:`emotrace.hosts.templates`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from transformers import LogitsProcessorList

from emotrace import arguments
from emotrace.errors import EmotraceError, first_line
from emotrace.hosts import templates
from emotrace.hosts.faults import TooLarge, too_large
from emotrace.in_trace import Greedy, RawGeneration, SeededSampling

if TYPE_CHECKING:
    from emotrace.models import Model

T = TypeVar("T")
Rows = TypeVar("Rows", bound=Sequence[Any])

POSITIONS = ("all", "generated")


class Tokens(NamedTuple):
    """A text as token ids, and the half-open span to be pooled: its first token that is not special to its last."""

    ids: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Writing:
    """How a text is written.

    Attributes:
        max_new_tokens: at most; a text that ends is never forced on.
        temperature: 0 is greedy; otherwise each row is sampled with a seed of its own, whatever its batch; default: as
            the vectors that steer were calibrated, else greedy.
        positions: where an edit acts: on ``all`` tokens, or ``generated``: from the last token of the prompt on, the
            first whose prediction is written; default: as the vectors were calibrated, else ``generated``.
        chat: put each prompt into the model's chat template as the user's words.
        seeds: one text for each.
    """

    max_new_tokens: int = 40
    temperature: float | None = None
    positions: str | None = None
    chat: bool = False
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name, value in (
            ("max_new_tokens", arguments.integer(self.max_new_tokens, "max_new_tokens", at_least=1)),
            ("seeds", tuple(arguments.seeds(self.seeds))),
        ):
            object.__setattr__(self, name, value)
        if self.temperature is not None:
            object.__setattr__(self, "temperature", temperature := arguments.number(self.temperature, "a temperature"))
            if temperature < 0:
                raise EmotraceError(f"a temperature is 0 (greedy) or a positive number, not {temperature}")
        if self.positions is not None:
            arguments.choice(self.positions, "positions", POSITIONS)
        arguments.flag(self.chat, "chat")
        if not self.seeds:
            raise EmotraceError("no seed is given: a text is written for each")

    def check_seeds(self, seeds: Sequence[int], rows: int) -> list[int]:
        """The seeds, one a row; none where nothing is drawn with them."""
        if self.temperature and len(chosen := arguments.seeds(seeds)) != rows:
            raise EmotraceError(f"each of {rows} sampled rows needs a seed of its own: {len(chosen)} are given")
        return chosen if self.temperature else []

    def settings(self, model: Model, seeds: Sequence[int], one_more: bool = False) -> dict[str, Any]:
        """What ``generate`` of nnsight takes to write greedily, or sampled with one seed a row; ``one_more`` token."""
        ends, longest = end_tokens(model, self.chat), self.max_new_tokens + one_more
        config = RawGeneration(max_new_tokens=longest, do_sample=False, eos_token_id=ends, pad_token_id=ends[0])  # type: ignore[no-untyped-call]
        choice = SeededSampling(seeds, self.temperature) if self.temperature else Greedy()
        return {"generation_config": config, "logits_processor": LogitsProcessorList([choice])}


# -- text to ids ------------------------------------------------------------------------------------------------------


def encode(model: Model, texts: Sequence[str | Tokens], *, prompts: bool = False) -> list[Tokens]:
    """Tokenises each text once, with the special tokens that the model's tokenizer adds before it.

    Those that it adds at the end are left out: no token of the text sees them, and what ends is not continued.

    Args:
        model: the model.
        texts: to be read: a special token that one spells (``<|im_end|>``, say) is its characters, as in any text.
        prompts: they are to be continued instead, and may hold the model's special tokens, as in transformers.

    Raises:
        EmotraceError: a text that is empty, has no token beside special ones or one that the model does not have, or
            is longer than the model's context, or spells a special token that its tokenizer cannot read as text.
    """
    what = "prompt" if prompts else "text"
    numbered = enumerate([texts] if isinstance(texts, Tokens) else arguments.ordered(texts, what), 1)
    return [
        _checked(model, what, number, text)
        if isinstance(text, Tokens)
        else _encode(model, f"{what} {number}", text, prompts)
        for number, text in numbered
    ]


def _checked(model: Model, what: str, number: int, text: Tokens) -> Tokens:
    (ids,) = token_rows(model, [text.ids], what, first=number)
    start, stop = (
        arguments.integer(end, f"{name} of {what} {number}")
        for name, end in zip(Tokens._fields[1:], text[1:], strict=True)
    )
    if not 0 <= start < stop <= len(ids):
        raise EmotraceError(f"{what} {number} has {len(ids)} tokens: {start} to {stop} is no span of them")
    return Tokens(tuple(ids), start, stop)


def token_rows(
    model: Model, rows: Any, what: str = "prompt", *, after: Sequence[int] | None = None, room: int = 0, first: int = 1
) -> list[list[int]]:
    """Rows of token ids, if the model has them all and reads so many.

    Args:
        model: the model.
        rows: token ids, row by row.
        what: the name of one row.
        after: how many tokens follow each row.
        room: how many are to be written after it.
        first: the number of the first row.

    Raises:
        EmotraceError: no list of ids, a token that the model does not have, or more of them than its context.
    """
    ids = arguments.token_rows(rows, what, model.vocabulary, first)
    for number, (row, follow) in enumerate(zip(ids, after or itertools.repeat(room), strict=False), first):
        if len(row) + follow > model.context:
            size = f"{len(row)} tokens" + (f" and {follow} {'new ones' if room else 'after them'}" if follow else "")
            raise _too_long(model, f"{what} {number}", size)
    return ids


def tokenised(model: Model, text: str, *, special: bool = False, **settings: bool) -> Any:
    """What the tokenizer makes of a text. One thread at a time: that special tokens are parsed is a setting of it."""
    with model.lock:
        return model.tokenizer(text, split_special_tokens=not special, **settings)


def _encode(model: Model, name: str, text: str, parsed: bool) -> Tokens:
    if not arguments.text(text, name).strip():
        raise EmotraceError(f"{name} is empty")
    # A token takes at most a few dozen characters: refuse a huge text before the tokenizer works on it for minutes.
    if len(text) > 40 * model.context:
        raise _too_long(model, name, f"{len(text)} characters")
    ids = tokenised(model, text, special=parsed)["input_ids"]
    bos, special = model.tokenizer.bos_token_id, set(model.tokenizer.all_special_ids)
    if len(ids) > 1 and bos is not None and ids[0] == ids[1] == bos:  # the text brought its own
        ids = ids[1:]
    if ids and ids[-1] in special:
        ids = ids[: len(ids) - _appended(model, text, parsed, ids)]
    # By id, so that a special token counts as one whether the tokenizer added it or a prompt spelt it out.
    ordinary = [index for index, token in enumerate(ids) if token not in special]
    if not ordinary:
        raise EmotraceError(f"{name} has no token beside special ones: {text[:40]!r}")
    left = special.intersection(ids[ordinary[0] : ordinary[-1]]) - {model.tokenizer.unk_token_id}
    if left and not parsed:
        spelt = model.tokenizer.convert_ids_to_tokens(min(left))
        raise EmotraceError(f"{name} spells {spelt!r}, which the tokenizer of {model.name} cannot read as text")
    if len(ids) > model.context:
        raise _too_long(model, name, f"{len(ids)} tokens")
    if max(ids) >= (known := model.vocabulary):
        raise EmotraceError(
            f"{name} has token {max(ids)} ({model.tokenizer.convert_ids_to_tokens(max(ids))!r}): {model.name} "
            f"knows {known} tokens, its tokenizer more"
        )
    return Tokens(tuple(ids), ordinary[0], ordinary[-1] + 1)


def _appended(model: Model, text: str, parsed: bool, ids: list[int]) -> int:
    """How many of the last ``ids`` the tokenizer adds to a text, and the text does not spell out."""
    bare = tokenised(model, text, special=parsed, add_special_tokens=False)["input_ids"]
    starts = (start for start in range(len(ids) - len(bare) + 1) if ids[start : start + len(bare)] == bare)
    start = next(starts, None)
    return 0 if start is None else len(ids) - start - len(bare)


def _too_long(model: Model, name: str, size: str) -> EmotraceError:
    return EmotraceError(f"{name} is too long ({size}): {model.name} takes up to {model.context} tokens")


def chat_ids(model: Model, message: str) -> tuple[int, ...]:
    """The ids of a user's message in the model's chat template, up to where the answer begins.

    Templates that write today's date get a fixed one, those that open a scratchpad to think in are told not to. A
    special token that the message spells is its characters: it ends no turn.

    Raises:
        EmotraceError: the model has no chat template, or one that cannot be applied; an empty message.
    """
    if not arguments.text(message, "the message").strip():
        raise EmotraceError("the message is empty")
    if model.tokenizer.chat_template is None:
        raise EmotraceError(f"{model.name} has no chat template: leave chat off, or take an instruct model")
    with model.lock:
        try:
            return templates.prompt(model.tokenizer, message)
        except Exception as error:  # whatever jinja, a template that refuses, or transformers raises
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise EmotraceError(f"the chat template of {model.name} cannot be applied ({cause})") from None


def prompt_ids(model: Model, prompts: Sequence[str], chat: bool, room: int) -> dict[str, tuple[int, ...]]:
    """Each different prompt's token ids, tokenised once, in a chat or as they are.

    Args:
        model: the model.
        prompts: what to continue.
        chat: in the chat template, as the user's words.
        room: tokens that are to be written after it.

    Raises:
        EmotraceError: a prompt that is empty or leaves no room; a chat asked of a model without a template.
    """
    ids = {}
    for number, prompt in enumerate(dict.fromkeys(prompts), 1):
        arguments.text(prompt, f"prompt {number}")
        if chat and not prompt.strip():
            raise EmotraceError(f"prompt {number} is empty")
        ids[prompt] = chat_ids(model, prompt) if chat else _encode(model, f"prompt {number}", prompt, True).ids
        token_rows(model, [ids[prompt]], room=room, first=number)
    return ids


# -- where a text ends ------------------------------------------------------------------------------------------------


def end_tokens(model: Model, chat: bool = False) -> list[int]:
    """The ids that end a text: of the model's generation settings, else its configuration, and of its tokenizer.

    In a chat also the token by which the template ends the assistant's turn: some checkpoints do not list it.
    """
    module = model.nn._module
    configured = module.generation_config.eos_token_id
    if configured is None:
        configured = getattr(module.config.get_text_config(), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    ends = {model.tokenizer.eos_token_id}
    ends |= {model.tokenizer.convert_tokens_to_ids(end) if isinstance(end, str) else end for end in listed}
    if chat and model.tokenizer.chat_template is not None:
        with model.lock:
            ends.add(templates.turn_end(model.tokenizer))
    if not ends - {None}:
        raise EmotraceError(f"{model.name} has no end-of-text token")
    return sorted(ends - {None})


def until_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first that ends a text."""
    return list(itertools.takewhile(lambda token: token not in ends, tokens))


def text_after(model: Model, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text that ``ids`` add to a prompt's, special tokens left out.

    Decoded alone, what sentencepiece wrote after a space loses that space.
    """

    def decode(part: Sequence[int]) -> str:
        text: str = model.tokenizer.decode(list(part), skip_special_tokens=True)
        return text

    alone, last = decode(ids), list(prompt[-1:])
    spaced = bool(decode(last)) and decode([*last, *ids]) == f"{decode(last)} {alone}"
    return f" {alone}" if spaced and alone else alone


# -- batches ----------------------------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers, longest first, in groups whose count × longest stays within ``batch_tokens`` (one row at least)."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= batch_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def in_batches(rows: list[T], size: int) -> list[list[T]]:
    """The rows in order, ``size`` to a batch."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def pad_right(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Ids ``[row, token]`` to be read: in a causal model no token attends to padding on its right."""
    ids = torch.zeros(len(rows), _longest(rows), dtype=torch.long, device="cpu")
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens, device="cpu")
    return ids


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``[row, token]`` to be continued, since text is written to the right; a mask that is 0 on padding."""
    longest = _longest(rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device="cpu")
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device="cpu")
    for row, tokens in enumerate(rows):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens, device="cpu")
        mask[row, longest - len(tokens) :] = 1
    return ids, mask


def _longest(rows: Sequence[Sequence[int]]) -> int:
    if not min(map(len, rows), default=0):
        raise EmotraceError("there is nothing to read: each row needs a token at least, and a batch a row")
    return max(map(len, rows))


def in_parts(model: Model, rows: Rows, compute: Callable[[Rows], T]) -> list[T]:
    """``compute`` over the rows in as few parts as the server, or the memory here, takes.

    A part that is refused for its size is halved, and all later batches of the model are split alike.
    """
    results: list[T] = []
    start = 0
    while start < len(rows):
        parts = model.parts  # another thread may have learnt as much meanwhile
        part = rows[start : start + max(1, -(-len(rows) // parts))]
        try:
            results.append(compute(part))  # type: ignore[arg-type]  # a slice of rows is rows
        except (TooLarge, MemoryError, RuntimeError) as error:
            if not too_large(error):
                raise
            if len(part) == 1:
                raise EmotraceError(f"one row alone is too large: {first_line(error)}") from error
            model.parts = max(model.parts, 2 * parts)
            continue
        start += len(part)
    return results
