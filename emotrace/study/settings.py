"""The sizes of a run: how many texts, resamples, prompts and strengths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from emotrace import arguments
from emotrace.instrument.instrument import Instrument

FEWEST_TOPICS = 4
"""Two halves of two: one chooses a layer, the other reports."""


@dataclass(frozen=True)
class Settings:
    """The sizes of a run. ``quick`` runs the same experiments with fewer texts and resamples."""

    seed: int = 0
    topics: int = 12
    baseline_texts: int = 150
    bootstrap: int = 1000
    permutations: int = 999
    decoder_permutations: int = 499
    # Generation: topics that the model writes a story of every class on.
    story_topics: int = 8
    # Steering: texts at each strength of the calibration; doses in multiples of the calibrated strength; new tokens of
    # a text; scenarios, with so many seeds each.
    calibration_texts: int = 40
    doses: tuple[float, ...] = (-1, -0.5, 0.5, 1, 2, 4)
    dose_prompts: int = 8
    # Texts a prompt and dose within the window under an emotion's own vector; one under controls and beyond the window.
    dose_seeds: int = 3
    # Control directions: labels permuted within topics, and Gaussian noise.
    dose_permuted: int = 12
    dose_random: int = 4
    tokens: int = 24
    scenarios: int = 40
    scenario_seeds: int = 2
    # The author's published setting, every layer at once: strengths, control directions, scenarios (one seed each).
    published_doses: tuple[float, ...] = (-0.02, -0.005, 0.005, 0.02, 0.08)
    published_permuted: int = 8
    published_scenarios: int = 40

    @classmethod
    def quick(cls, seed: int = 0) -> Settings:
        return cls(
            seed,
            topics=6,
            baseline_texts=75,
            bootstrap=200,
            permutations=199,
            decoder_permutations=99,
            story_topics=4,
            calibration_texts=20,
            doses=(-1, -0.5, 0.5, 1, 3),
            dose_prompts=4,
            dose_seeds=1,
            dose_permuted=6,
            dose_random=2,
            tokens=20,
            scenarios=20,
            scenario_seeds=1,
            published_doses=(-0.02, 0.005, 0.02),
            published_permuted=4,
            published_scenarios=10,
        )


def sized(settings: Settings, topics: int | str | None, sources: Iterable[Instrument]) -> Settings:
    """The settings with as many topics as are asked for: a number, or ``all``; None: as they are.

    Raises:
        EmotraceError: neither, or fewer than four, which do not make two halves of two.
    """
    if topics is None:
        return settings
    if topics == "all":
        return replace(settings, topics=max(source.passages["topic"].nunique() for source in sources))
    return replace(settings, topics=arguments.integer(topics, "the number of topics (or all)", at_least=FEWEST_TOPICS))
