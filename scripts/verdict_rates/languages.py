"""C11: read-outs of twenty emotions' vectors and their controls that do, or do not, bring up Chinese."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.languages import claims, writing_systems
from emotrace.study.languages.lexicon import EXAMPLES, LexiconTokens
from emotrace.study.languages.readout import Sizes
from emotrace.study.languages.rows import RowBuilder

from . import Draw, Simulation

_NAMES = corpus.emotion_names()
_SIZES = Sizes(bootstrap=100, permutations=199)
_N = len(_NAMES) + _SIZES.permuted + _SIZES.random
_PROMPTS, _WORDS = 8, 12


def _verdict(rows: list[dict[str, Any]], claim: str) -> str:
    count = {"metric": "han_tokens", "value": 10 * writing_systems.MIN_HAN_TOKENS, "n": 1}
    columns = ["metric", "emotion", "readout", "language", "word", "strength", "where", "step", "value", "low", "high"]
    table = pd.DataFrame([count, *rows]).reindex(columns=[*columns, "n", "p", "m"])
    found = {made.id: made for made in claims.crosslingual_claims({"crosslingual": table}, "qwen")}
    return found[claim].verdict()


def _builder(seed: int) -> RowBuilder:
    sizes = Sizes(seed=seed, bootstrap=_SIZES.bootstrap, permutations=_SIZES.permutations)
    return RowBuilder(lambda **values: values, list(_NAMES), sizes)


def _more_chinese(rise: float) -> Draw:
    """Log-odds of Chinese change by 0.2 nats (SD) over directions and prompts alike; the emotions' by ``rise`` more."""

    def draw(rng: np.random.Generator) -> str:
        change = 0.2 * (rng.normal(size=(_N, 1)) + rng.normal(size=(1, _PROMPTS)) + rng.normal(size=(_N, _PROMPTS)))
        change[: len(_NAMES)] += rise
        odds = np.concatenate([change, np.zeros((1, _PROMPTS))]) - 5
        chinese = 1 / (1 + np.exp(-odds))
        readout = [{"masses": [[float(mass), 0.1, 0.1] for mass in row]} for row in chinese]
        return _verdict(_builder(int(rng.integers(2**31))).next_token(np.nan, [readout]), "C11.more_chinese")

    return draw


def _readouts(own: float, example: float) -> Draw:
    """Words' read-outs vary by 1 SD over words and directions; the own words of an emotion have ``own`` more."""

    def draw(rng: np.random.Generator) -> str:
        owner = np.repeat(np.arange(len(_NAMES)), _WORDS)
        z = rng.normal(size=(_N, len(owner))) + rng.normal(size=len(owner))
        z[owner, np.arange(len(owner))] += own
        rises = rng.normal(size=(_N, 2))
        rises[_NAMES.index("desperate")] += example
        words = [word for many in EXAMPLES.values() for word in many]
        readout = [
            {
                "zh": z[row],
                "han_top": 0,
                "ranks": {word: [1, 1] for word in words},
                "z": dict(zip(words, rises[row], strict=True)),
            }
            for row in range(_N)
        ]
        tokens = {"zh": LexiconTokens(np.arange(len(owner)), owner, np.arange(9), dict.fromkeys(words, 0))}
        rows = _builder(int(rng.integers(2**31))).readout("steered", np.nan, [readout], tokens)
        return _verdict(rows, "C11.aligned" if not example else f"C11.example.{words[0]}")

    return draw


def _example(rise: float) -> Draw:
    """The vector of *desperate* is one more of the control's, or raises its word by ``rise`` SD."""
    return _readouts(0.0, rise or 1e-9)


def _filter(emotions: float, controls: float) -> Draw:
    """Shares of texts that hold a Chinese emotion word and no English one, the emotions' and the controls'."""

    def draw(rng: np.random.Generator) -> str:
        n = len(_NAMES)
        flags = rng.random((_N, 4)) < np.where(np.arange(_N) < n, emotions, controls)[:, None]
        builder = _builder(int(rng.integers(2**31)))
        rows = []
        for metric in ("missed_any", "texts_with_han"):
            rows += builder.ratios(metric, flags.astype(float), np.ones(flags.shape), rate=True, strength=1.0)
        return _verdict(rows, "C11.filter")

    return draw


SIMULATIONS = (
    Simulation(
        name="more Chinese",
        claims=("C11.more_chinese",),
        rule=claims.MORE_CHINESE.words,
        smallest="0.1 nats: a tenth more of the odds",
        null="20 emotions' and 20 permuted-label vectors alike, 8 prompts; 0.2 nats (SD) over directions, over "
        "prompts, and over both, twice what Qwen's interval shows",
        draw_null=_more_chinese(0.0),
        effect="0.7 nats: twice the odds",
        draw_effect=_more_chinese(0.7),
    ),
    Simulation(
        name="aligned words",
        claims=("C11.aligned",),
        rule=claims.ALIGNED.words,
        smallest="0.2 SD over Han tokens: small by Cohen's convention",
        null="20 emotions of 12 words, read-outs with 1 SD over words and over directions",
        draw_null=_readouts(0.0, 0.0),
        effect="0.6 SD, as Qwen has",
        draw_effect=_readouts(0.6, 0.0),
    ),
    Simulation(
        name="an example",
        claims=("C11.example.*",),
        rule=claims.EXAMPLE.words,
        smallest="1 SD over Han tokens: past six of seven of them",
        null="the emotion's vector is one more of 20 permuted-label vectors",
        draw_null=_example(0.0),
        effect="4 SD: among the first of 20,000 tokens",
        draw_effect=_example(4.0),
    ),
    Simulation(
        name="filter",
        claims=("C11.filter",),
        rule=claims.FILTER.words,
        smallest="0.05: one text in twenty",
        null="one text in ten under emotions' vectors and permuted labels alike, 80 texts of either",
        draw_null=_filter(0.1, 0.1),
        effect="three in ten against one in twenty",
        draw_effect=_filter(0.3, 0.05),
    ),
)
