"""The calibrated window of a model: the strengths at which steered texts stay coherent, and the default strength.

A strength in units of the residual norm over-steers one model and does nothing to another. So each model's own scale is
measured: the largest strength, on either side of zero, at which at least 90% of texts are surgical (``regimes``). The
texts of the calibration come from prompts of their own; no other experiment uses them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from emotrace import arguments, steered_texts
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges import layer_choice, regimes
from emotrace.judges.damage import harm
from emotrace.measures import statistics
from emotrace.steered_texts import Row
from emotrace.tokens import Writing

if TYPE_CHECKING:
    from emotrace.files import Cache
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

TARGET = 0.9
# Strengths are sought in this range, up to this factor; a window wider than the range ends at its limit.
LOWEST, HIGHEST, PRECISION = 0.005, 5.0, 1.2
WRITING = Writing(max_new_tokens=32, temperature=0.7, positions="generated", seeds=(0, 1))
FIRST = {"one": 0.3, "many": 0.03}
PLAIN_COPIES = 4
BY_EFFECT = "effect"


@dataclass(frozen=True)
class Calibration:
    """What the vectors of a model are calibrated to.

    Attributes:
        layers: where they are added.
        window: the most negative and the most positive strength at which at least ``target`` of the texts are surgical;
            None where not even the smallest strength tried is.
        target: that share.
        n: texts at each strength tried.
        positions: see :class:`~emotrace.tokens.Writing`.
        temperature: of the sampling.
    """

    layers: list[int]
    window: tuple[float | None, float | None]
    target: float
    n: int
    positions: str
    temperature: float

    @property
    def strength(self) -> float | None:
        """The default strength: the window's positive end."""
        return self.window[1]

    def onto(self, vectors: EmotionVectors) -> EmotionVectors:
        """The vectors with this calibration in their provenance, where ``steer`` finds its defaults."""
        stored = json.dumps({**asdict(self), "strength": self.strength}, sort_keys=True)
        return replace(vectors, provenance={**vectors.provenance, "calibration": stored})


def shipped(model: Model) -> Calibration | None:
    """The calibration of a packaged model's mean-pooled comprehension vectors, as measured by a full run; else None."""
    table = corpus.calibrations()
    weights = model.provenance["weights_id"]
    if weights not in table.index:
        return None
    row = dict(table.loc[weights])
    window = (float(row["window_low"]), float(row["window_high"]))
    return Calibration([int(row["layer"])], window, TARGET, int(row["n"]), "generated", WRITING.temperature or 0.0)


def bracket(first: float, lowest: float, highest: float, precision: float) -> Generator[float, bool, float | None]:
    """Seeks the largest strength that holds, if all below one do and all above do not.

    Yields a strength to try and is sent whether it held; returns the largest that held, to within ``precision`` (a
    factor), or None. Doubles or halves until one holds and the next does not, then bisects in the logarithm.
    """
    good, bad, strength = None, None, first
    while good is None or bad is None:
        if (yield strength):
            good = strength
            if strength >= highest:
                return good
            strength = min(2 * strength, highest)
        else:
            bad = strength
            if strength <= lowest:
                return None
            strength = max(strength / 2, lowest)
    while bad / good > precision:
        middle = (good * bad) ** 0.5
        if (yield middle):
            good = middle
        else:
            bad = middle
    return good


@arguments.checked
def calibrate(
    model: Model,
    vectors: EmotionVectors,
    *,
    layers: Sequence[int] | str | None = None,
    target: float = TARGET,
    texts: int = 40,
    writing: Writing = WRITING,
    thresholds: regimes.Thresholds = regimes.DEFAULT,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Calibration, pd.DataFrame]:
    """Finds the window of strengths at which at least ``target`` of the texts are surgical, on both sides of zero.

    Args:
        model: the model.
        vectors: its emotion vectors; all their emotions take part, crossed with the calibration prompts of
            ``data/prompts.csv`` (:func:`design`).
        layers: where to add; default as in :func:`~emotrace.steered_texts.steer`. ``effect``: at the one layer where
            steering does most for the harm it does (:mod:`~emotrace.judges.layer_choice`): the window is found at the
            default layer first, and the harm done at its positive end is the one at which all layers are compared.
        target: the share of surgical texts that is asked for.
        texts: texts at each strength tried, over emotions and prompts.
        writing: length, temperature and positions of the texts. Steered texts are sampled with its seeds in turn,
            unsteered ones with the first and the three after it: near strength 0 a steered text is therefore compared
            with itself among others, which at strength 0 it is not (:func:`~emotrace.judges.regimes.references`).
        thresholds: where the regimes part.
        cache: keeps finished batches.
        progress: called with 1 after each strength tried.

    Returns:
        The calibration, and one row a strength tried: ``strength, value`` (share of surgical texts), its Wilson
        interval ``low, high``, ``n``; at strength 0 the share among unsteered texts, each compared with the others.

    Raises:
        EmotraceError: vectors of another model, a layer out of range, a target that is no share.
    """
    texts = arguments.integer(texts, "texts", at_least=1)
    if not 0 < (target := arguments.number(target, "a target")) < 1:
        raise EmotraceError(f"a target is a share between 0 and 1, not {target}")
    vectors.check(model)
    if isinstance(layers, str) and layers == BY_EFFECT:
        layer_choice.with_kin_words(model, vectors.emotions)  # before the first search, which takes minutes
        plain_search = partial(calibrate, texts=texts, writing=writing, thresholds=thresholds, cache=cache)
        layers = [_layer_by_effect(model, vectors, plain_search(model, vectors, target=target, progress=progress)[0])]
    edited = steered_texts.steered_layers(model, vectors, layers)
    writing = steered_texts.as_calibrated(vectors, writing)
    prompts, emotions, seed = corpus.prompts("calibration"), vectors.emotions, writing.seeds[0]

    def write(rows: list[Row]) -> pd.DataFrame:
        columns = pd.DataFrame({"prompt": [row.prompt for row in rows], "strength": [row.strength for row in rows]})
        return pd.concat([columns, steered_texts.write(model, rows, edited, writing, cache=cache)], axis=1)

    copies = itertools.product(prompts, range(PLAIN_COPIES))
    plain = write([Row(prompt, vectors, emotions[0], 0.0, seed + copy) for prompt, copy in copies])
    unsteered = regimes.references(model, plain, writing.chat)
    tried = [_share(0.0, regimes.measure_plain(plain, unsteered, thresholds))]
    cases = [
        (prompts[prompt], emotions[emotion], writing.seeds[sample])
        for emotion, prompt, sample in design(texts, len(emotions), len(prompts), len(writing.seeds))
    ]

    def attempt(strengths: list[float]) -> list[bool]:
        rows = [Row(prompt, vectors, emotion, at, sample) for at in strengths for prompt, emotion, sample in cases]
        measured = regimes.measure(model, write(rows), unsteered, chat=writing.chat, thresholds=thresholds)
        shares = [_share(strength, measured[measured["strength"] == strength]) for strength in strengths]
        tried.extend(shares)
        if progress:
            progress(1)
        return [share["value"] >= target for share in shares]

    window = _both_sides(FIRST["one" if len(edited) == 1 else "many"], attempt)
    positions, temperature = writing.positions or "generated", writing.temperature or 0.0
    calibration = Calibration(edited, window, target, texts, positions, temperature)
    return calibration, pd.DataFrame(tried).sort_values("strength", ignore_index=True)


def _layer_by_effect(model: Model, vectors: EmotionVectors, at_default: Calibration) -> int:
    """The layer of the largest effect at the harm that the calibrated strength does at the default layer."""
    strength = at_default.strength
    if strength is None:
        raise EmotraceError("no strength leaves texts coherent at the default layer: there is no harm to compare at")
    texts = layer_choice.neutral_texts(layer_choice.HARM_TEXTS)
    names = layer_choice.few(layer_choice.readable(model, vectors.emotions))
    budget = harm(model, vectors, at_default.layers, strength, texts, names or None)
    known = [layer for layer in layer_choice.candidates(model.n_layers, *at_default.layers) if layer in vectors.layers]
    found = layer_choice.places(
        model, vectors, known, budget, strength, prompts=corpus.prompts("calibration"), texts=texts
    )
    return layer_choice.best(found).layer


def design(texts: int, emotions: int, prompts: int, seeds: int) -> list[tuple[int, int, int]]:
    """Which emotion, prompt and seed each text has: a cyclic Latin square, so that none stands for another.

    Round by round every emotion has one text, and from round to round another prompt: after as many rounds as there are
    prompts every emotion was written once on each. The seeds alternate within the texts of a prompt and from round to
    round. A last round that is cut short spreads over the emotions.

    Returns:
        (index of the emotion, of the prompt, of the seed) of each text.
    """
    cases = []
    for number in range(-(-texts // emotions)):
        count = min(emotions, texts - number * emotions)
        for place in range(count):
            sample = (place // prompts + number) % seeds
            cases.append((place * emotions // count, (place + number) % prompts, sample))
    return cases


def _both_sides(first: float, attempt: Callable[[list[float]], list[bool]]) -> tuple[float | None, float | None]:
    """The two ends of the window, both sought at once so that their texts share batches."""
    searches = {sign: bracket(first, LOWEST, HIGHEST, PRECISION) for sign in (-1, 1)}
    trials = {sign: next(search) for sign, search in searches.items()}
    ends: dict[int, float | None] = {}
    while trials:
        signs = list(trials)
        for sign, held in zip(signs, attempt([sign * trials[sign] for sign in signs]), strict=True):
            try:
                trials[sign] = searches[sign].send(held)
            except StopIteration as end:
                ends[sign] = None if end.value is None else sign * end.value
                del trials[sign]
    return ends[-1], ends[1]


def _share(strength: float, measured: pd.DataFrame) -> dict[str, float]:
    """The share of surgical texts with its interval."""
    surgical = int((measured["regime"] == regimes.SURGICAL).sum())
    return {"strength": strength, **statistics.wilson(surgical, len(measured))._asdict(), "n": len(measured)}
