"""A what-if with a slider for the strength and a menu for the emotion, in a notebook (needs ipywidgets)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from emotrace.errors import EmotraceError, unknown
from emotrace.steering import calibrated
from emotrace.whatif.compare import WhatIf, what_if
from emotrace.whatif.text_reading import cached_vectors

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

STEPS = 6
"""Strengths on either side of zero."""
_UNCALIBRATED = (-0.4, 0.4)


@dataclass
class Settings:
    """What the slider chooses among, without any front end; each setting's what-if is made once.

    Attributes:
        emotions: of the menu.
        strengths: of the slider, ascending, 0 among them.
        make: emotion and strength → what-if.
        made: what has been asked for so far.
    """

    emotions: tuple[str, ...]
    strengths: tuple[float, ...]
    make: Callable[[str, float], WhatIf]
    made: dict[tuple[str, float], WhatIf] = field(default_factory=dict)

    def at(self, emotion: str, strength: float) -> WhatIf:
        """The what-if of a setting."""
        if (emotion, strength) not in self.made:
            self.made[emotion, strength] = self.make(emotion, strength)
        return self.made[emotion, strength]


def window(vectors: EmotionVectors, steps: int = STEPS) -> tuple[float, ...]:
    """Strengths from one end of the calibrated window to the other, with zero in the middle: ``2 × steps + 1`` of them.

    Where nothing, or one side only, is calibrated, the missing end is 0.4 away from zero.
    """
    known = calibrated(vectors).get("window") or (None, None)
    low, high = (default if end is None else end for end, default in zip(known, _UNCALIBRATED, strict=True))
    sides = [*np.linspace(low, 0, steps + 1), *np.linspace(0, high, steps + 1)[1:]]
    return tuple(round(float(strength), 4) + 0.0 for strength in sides)


def settings(model: Model, prompt: str, vectors: EmotionVectors, **options: Any) -> Settings:
    """The slider's settings for a prompt; ``options`` go to :func:`~emotrace.whatif.compare.what_if`."""
    make = partial(what_if, model, prompt, vectors=vectors, **options)
    return Settings(vectors.emotions, window(vectors), make)


def what_if_slider(
    model: Model, prompt: str, emotion: str = "happy", *, vectors: EmotionVectors | None = None, **options: Any
) -> Any:
    """A slider over the calibrated strengths, from away to towards, and a menu of the emotions; below, the what-if.

    Texts are greedy, so a setting always shows the same; each is written once, when it is first chosen.

    Args:
        model: the model.
        prompt: what to continue.
        emotion: the first of the menu's choices to show.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        options: further arguments of :func:`~emotrace.whatif.compare.what_if`.

    Returns:
        A widget; the last line of a notebook's cell shows it.

    Raises:
        EmotraceError: ipywidgets is not installed, an unknown emotion, or what :func:`~emotrace.whatif.compare.what_if` refuses.
    """
    try:
        import ipywidgets
    except ImportError:
        raise EmotraceError("the slider needs ipywidgets: pip install ipywidgets (what_if itself does not)") from None
    vectors = cached_vectors(model) if vectors is None else vectors
    if emotion not in vectors.emotions:
        raise unknown("emotion", emotion, vectors.emotions)
    found = settings(model, prompt, vectors, **options)
    menu = ipywidgets.Dropdown(options=found.emotions, value=emotion, description="emotion")
    marks = [(f"{strength:+.3g}" if strength else "0", strength) for strength in found.strengths]
    slider = ipywidgets.SelectionSlider(
        options=marks, value=found.strengths[-1], description="strength", continuous_update=False,
        layout=ipywidgets.Layout(width="min(100%, 32rem)"),
    )  # fmt: skip
    shown = ipywidgets.HTML()

    def show(_: Any = None) -> None:
        shown.value = found.at(menu.value, slider.value)._repr_html_()

    menu.observe(show, "value")
    slider.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([menu, slider], layout=ipywidgets.Layout(flex_flow="row wrap")), shown])
