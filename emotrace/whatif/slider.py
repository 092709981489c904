"""A what-if with a slider for the strength and a menu for the emotion, in a notebook (needs ipywidgets)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from emotrace import arguments
from emotrace.errors import EmotraceError
from emotrace.hosts.open_edits import open_edits
from emotrace.whatif.compare import what_if
from emotrace.whatif.text_reading import cached_vectors

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

STEPS = 6
"""Strengths on either side of zero."""
_UNCALIBRATED = (-0.4, 0.4)


def window(vectors: EmotionVectors, steps: int = STEPS) -> tuple[float, ...]:
    """Strengths from one end of the calibrated window to the other, with zero in the middle: ``2 × steps + 1`` of them.

    Where nothing, or one side only, is calibrated, the missing end is 0.4 away from zero.
    """
    ends = vectors.calibration.get("window") or (None, None)
    low, high = (default if end is None else end for end, default in zip(ends, _UNCALIBRATED, strict=True))
    strengths = [*np.linspace(low, 0, steps + 1), *np.linspace(0, high, steps + 1)[1:]]
    return tuple(round(float(strength), 4) + 0.0 for strength in strengths)


@arguments.checked
def what_if_slider(
    model: Model, prompt: str, emotion: str = "happy", *, vectors: EmotionVectors | None = None, **options: Any
) -> Any:
    """A slider over the calibrated strengths, from away to towards, and a menu of the emotions; below, the what-if.

    Texts are greedy or sampled with one seed, so a setting always shows the same; each is written once, when it is
    first chosen (once more within another ``steered`` block).

    Args:
        model: the model.
        prompt: what to continue.
        emotion: the first of the menu's choices to show.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        options: further arguments of :func:`~emotrace.whatif.compare.what_if`: ``layer``, ``writing``, ``judge``.

    Returns:
        A widget; the last line of a notebook's cell shows it.

    Raises:
        EmotraceError: ipywidgets is not installed, an unknown emotion, or what
            :func:`~emotrace.whatif.compare.what_if` refuses.
    """
    try:
        import ipywidgets
    except ImportError:
        raise EmotraceError("the slider needs ipywidgets: pip install ipywidgets (what_if itself does not)") from None
    vectors = vectors or cached_vectors(model, needed=options.get("layer"), instrument=options.get("instrument"))
    arguments.choice(emotion, "emotion", vectors.emotions)
    if "strength" in options:
        raise EmotraceError("the slider sets the strength: what_if takes one")

    @functools.cache
    def compare(emotion: str, strength: float, _open: tuple[Any, ...]) -> str:
        return what_if(model, prompt, emotion, strength, vectors=vectors, **options)._repr_html_()

    strengths = window(vectors)
    menu = ipywidgets.Dropdown(options=vectors.emotions, value=emotion, description="emotion")
    slider = ipywidgets.SelectionSlider(
        options=[(f"{strength:+.3g}" if strength else "0", strength) for strength in strengths],
        value=strengths[-1],
        description="strength",
        continuous_update=False,
        layout=ipywidgets.Layout(width="min(100%, 32rem)"),
    )
    page = ipywidgets.HTML()

    def show(_: Any = None) -> None:
        page.value = compare(menu.value, slider.value, tuple(open_edits(model)))

    menu.observe(show, "value")
    slider.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([menu, slider], layout=ipywidgets.Layout(flex_flow="row wrap")), page])
