"""What people give as numbers, texts and names → plain Python, or one line that says what is wrong.

A single value stands for a list of one; arrays, tensors, Series, ranges and generators are lists of their elements. A
number may be numpy's or torch's, and 2.0 is a whole number; True is none, and neither is ``"2"``.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from emotrace.errors import EmotraceError, shown, unknown

P = ParamSpec("P")
T = TypeVar("T")
_WANTED = {
    "Model": "a model that emotrace.load returns",
    "EmotionVectors": "emotion vectors, of emotrace.extract or EmotionVectors.load",
    "Writing": "an emotrace.Writing",
    "Instrument": "emotions and texts, of emotrace.load_instrument",
    "Edit": "an edit (emotrace.steering.Edit)",
    "Thresholds": "an emotrace.judges.regimes.Thresholds",
    "DataFrame": "a table (a pandas DataFrame)",
    "bool": "True or False",
    "Path": "a path",
    "Callable": "a function",
    "Cache": "a cache (emotrace.files.Cache)",
    "Classifier": "a classifier",
}
# What is told by what it can do, not by its type.
_ALIKE: dict[str, Callable[[Any], bool]] = {
    "Path": lambda value: hasattr(value, "__fspath__"),
    "Callable": callable,
    "Cache": lambda value: hasattr(value, "arrays") or hasattr(value, "rows"),
    "Classifier": lambda value: hasattr(value, "scores") and hasattr(value, "labels"),
}
_KIND = {"Progress": "Callable", "Schedule": "Callable"}


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Has a function refuse a model, vectors, a path, a function, a flag … of another type than its annotation says.

    By the names of types, so that none needs to be imported; ``"no"`` for a flag would count as True.
    """
    parameters = inspect.signature(function).parameters
    kinds = {name: _kinds(str(parameter.annotation)) for name, parameter in parameters.items()}
    wanted = {name: kind for name, kind in kinds.items() if kind & _WANTED.keys() and kind <= {*_WANTED, "None", "str"}}

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        for name, value in {**dict(zip(parameters, args, strict=False)), **options}.items():
            if name not in wanted:
                continue
            own = {kind.__name__ for kind in type(value).__mro__} | ({"None"} if value is None else set())
            if not wanted[name] & own and not any(_ALIKE[kind](value) for kind in wanted[name] & _ALIKE.keys()):
                raise EmotraceError(
                    f"{name}: {' or '.join(_WANTED[kind] for kind in wanted[name] & _WANTED.keys())} is wanted, not "
                    f"{shown(value)}"
                )
        return function(*args, **options)

    return call


def _kinds(annotation: str) -> set[str]:
    """The names of an annotation's types: ``{"Callable", "None"}`` of ``Callable[[int], None] | None``."""
    names = {kind.partition("[")[0].rpartition(".")[2] for kind in annotation.split(" | ")}
    return {_KIND.get(name, name) for name in names}


def flag(value: Any, what: str) -> bool:
    """True or False."""
    if type(value).__name__ != "bool":
        raise EmotraceError(f"{what} is True or False, not {shown(value)}")
    return bool(value)


def integer(value: Any, what: str, *, at_least: int | None = None) -> int:
    """One whole number.

    Args:
        value: what was given.
        what: its name, for the message.
        at_least: the smallest that makes sense.

    Raises:
        EmotraceError: anything else.
    """
    plain = _plain(value)
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    if isinstance(plain, bool) or not isinstance(plain, Integral):
        raise EmotraceError(f"{what} is a whole number, not {shown(value)}")
    if at_least is not None and plain < at_least:
        raise EmotraceError(f"{what} is {at_least} or more, not {plain}")
    return int(plain)


def number(value: Any, what: str) -> float:
    """One finite number; what is Python's own stays as it is."""
    plain = _plain(value)
    try:
        if isinstance(plain, Real) and not isinstance(plain, bool) and math.isfinite(plain):
            return plain if isinstance(plain, (int, float)) else float(plain)
    except OverflowError:
        pass
    raise EmotraceError(f"{what} is a finite number, not {shown(value)}")


def integers(value: Any, what: str) -> list[int]:
    """One whole number or several. ``what`` is the name of one."""
    return [integer(item, what) for item in _items(value, what, Real)]


def numbers(value: Any, what: str) -> list[float]:
    """One finite number or several. ``what`` is the name of one."""
    return [number(item, what) for item in _items(value, what, Real)]


def seeds(value: Any) -> list[int]:
    """One seed or several, each of which torch takes."""
    for seed in (chosen := integers(value, "seed")):
        if not -(2**63) <= seed < 2**64:
            raise EmotraceError(f"a seed is a whole number of 64 bits, not {shown(seed)}")
    return chosen


def text(value: Any, what: str) -> str:
    """One text that can be encoded."""
    if not isinstance(value, str):
        raise EmotraceError(f"{what} is no text but {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise EmotraceError(
            f"{what} has half of a surrogate pair at character {error.start + 1}: {value[error.start]!a} is none"
        ) from None
    return str(value)


def texts(value: Any, what: str = "text") -> list[str]:
    """One text or several, in their order. ``what`` is the name of one."""
    return [text(item, f"{what} {number}") for number, item in enumerate(ordered(value, what), 1)]


def names(value: Any, what: str) -> list[str]:
    """One name or several. ``what`` is what it names."""
    for item in (items := _items(value, what, str)):
        if not isinstance(item, str):
            raise EmotraceError(f"the name of {_one(what)} is text, not {shown(item)}")
    return [str(item) for item in items]


def token_rows(value: Any, what: str, vocabulary: int, first: int = 1) -> list[list[int]]:
    """Rows of token ids, as plain numbers below the size of the ``vocabulary``; ``what`` names one, numbered from
    ``first`` on."""
    rows = []
    for number, row in enumerate(ordered(value, what), first):
        none = isinstance(row, (str, bytes, bytearray, Mapping, set, frozenset)) or getattr(row, "shape", None) == ()
        if none or not isinstance(row, Iterable):
            raise EmotraceError(f"{what} {number} is a list of token ids, not {shown(row)}")
        name = f"a token of {what} {number}"
        ids = [token if type(token) is int else integer(token, name) for token in row]
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
            wrong = next(token for token in ids if not 0 <= token < vocabulary)
            raise EmotraceError(f"{name} is {shown(wrong)}: those of the model are 0 to {vocabulary - 1}")
        rows.append(ids)
    return rows


def array(value: Any, what: str, *shape: int | None, finite: bool = True) -> Any:
    """Numbers of a shape (None: any size along that axis) as an array in float32 at least; tensors are as good.

    They are ``finite``, or may be any.

    Raises:
        EmotraceError: anything else.
    """
    import numpy as np

    try:
        tensor = hasattr(value, "detach")
        numbers = np.asarray(value.detach().cpu().double() if tensor else value)
        plain = numbers.astype(np.result_type(numbers, np.float32)) if numbers.dtype.kind in "fiu" else np.zeros(())
    except Exception:  # whatever is no array: ragged lists, tensors without values
        plain = np.zeros(())
    fits = plain.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, plain.shape, strict=False)
    )
    if not fits or (finite and not np.isfinite(plain).all()):
        wanted_shape = ", ".join("any" if size is None else str(size) for size in shape)
        raise EmotraceError(f"{what}: finite numbers of the shape [{wanted_shape}] are wanted, not {shown(value)}")
    return plain


def split(text: str) -> list[str]:
    """The parts of a list with commas between; blanks around them and empty parts are left out."""
    return [part for name in text.split(",") if (part := name.strip())]


def spelt(value: Any, kind: str) -> str:
    """The name of a ``dtype`` or ``device``; torch's own objects are as good as their names."""
    return text(str(value) if type(value).__name__ == kind else value, f"a {kind}").removeprefix("torch.")


def choice(value: Any, kind: str, known: Collection[str]) -> str:
    """One of the names that are known."""
    if not isinstance(value, str) or value not in known:
        raise unknown(kind, value, known)
    return str(value)


def emotion(value: Any) -> Any:
    """An emotion's name, or a mixture."""
    return str(value) if isinstance(value, str) else mixture(value)


def mixture(value: Any) -> dict[str, float]:
    """Emotion → finite weight, with one emotion at least."""
    if not isinstance(value, Mapping) or not value:
        raise EmotraceError(f"an emotion is a name or a mixture {{name: weight}}, not {shown(value)}")
    return {name: number(weight, f"the weight of {shown(name)}") for name, weight in value.items()}


def emotions(value: Any) -> list[Any]:
    """One emotion or mixture, or several."""
    return [emotion(item) for item in ([value] if isinstance(value, Mapping) else _items(value, "emotion", str))]


def _plain(value: Any) -> Any:
    """A number of numpy, torch or pandas, or an array of one, as Python's; anything else as it is."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or math.prod(shape) != 1 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except Exception:  # a tensor without values
        return value


def _items(value: Any, what: str, single: type) -> list[Any]:
    """The elements of an iterable; of a ``single`` value a list of one."""
    if isinstance(plain := _plain(value), single) and not isinstance(plain, bool):
        return [plain]
    if not isinstance(value, (str, bytes, bytearray, Mapping)) and not hasattr(value, "columns"):
        try:
            return list(value)
        except TypeError:
            pass
    raise EmotraceError(f"{_one(what)} or a list of them is wanted, not {shown(value)}")


def ordered(value: Any, what: str) -> Iterable[Any]:
    """The elements of what has an order; of a text a list of one."""
    if isinstance(value, (set, frozenset)):
        raise EmotraceError(f"{_one(what)} or a list of them is wanted, not {shown(value)}, which has no order")
    return _items(value, what, str)


def _one(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
