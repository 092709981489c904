"""How often each rule of ``claims.csv`` errs: one module a question folder, each with a tuple ``SIMULATIONS``.

``scripts/verdicts.py`` runs them all and writes ``docs/verdicts.md``. A simulation makes data of which it is known
whether the claim is true, has the *shipped* code measure and judge them, and returns the verdict. Nothing here may
repeat a rule of its own: it calls the function of ``emotrace/study/<folder>/claims.py``, or of ``measure.py``, that a
run calls.

::

    def null(rng: np.random.Generator) -> str:
        values = rng.normal(0, 0.1, size=20)  # 20 emotions without an effect
        estimate = Estimate(*mean_interval(values), n=20)
        return claims.TOWARDS.verdict(estimate)  # REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE

    SIMULATIONS = (
        Simulation(
            name="towards",
            claims=("C8.towards.classifier",),
            rule=claims.TOWARDS.words,
            smallest="0.02: a tenth of what our own passages of the emotion score",
            null="20 emotions without an effect, standard deviation 0.1 as on SmolLM2",
            draw_null=null,
            effect="rise 0.1, as the paper's …",
            draw_effect=effect,
        ),
    )
    NOTES = "A limit that the reader of the table must know, in Markdown; may be left out."

``python scripts/verdicts.py effects --quick --out trial.md`` tries one module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[np.random.Generator], str]
"""One simulated data set, measured and judged: its verdict. All randomness comes from the generator."""

FOLDERS = ("separation", "methods", "effects", "languages", "reading", "estimators", "across")
"""The modules of this package, in the order of ``docs/verdicts.md``."""


@dataclass(frozen=True)
class Simulation:
    """One rule under one null and one effect; a rule with several nulls (shapes of a curve) has as many simulations.

    Attributes:
        name: unique in its module; it seeds the draws.
        claims: ids of the claims that the rule decides, as ``claims.csv`` has them; ``C6.u.*`` for all poolings.
        rule: the rule in words: ``Rule.words``, where the claim has one.
        smallest: the smallest effect of interest, and why that one.
        null: the data without the effect, in words, with the noise and where its size is from. Of a rule that asks
            whether a value is reached (``at_least``, ``equals``) it is a value at the margin's outer end: there, at
            most 5% may be *reproduced*.
        draw_null: its verdict for one simulated data set; None where another simulation of the rule has the null.
        effect: data with the effect that the paper claims, in words; empty where another simulation has it.
        draw_effect: its verdict for one simulated data set.
        draws: data sets of either kind; fewer only where one takes longer than 0.1 s. With 400, a rule whose rate is 5%
            shows more than 7.5% in about one case of a hundred.
    """

    name: str
    claims: tuple[str, ...]
    rule: str
    smallest: str
    null: str = ""
    draw_null: Draw | None = None
    effect: str = ""
    draw_effect: Draw | None = None
    draws: int = 400
