"""Across languages (C11): does an emotion, steered in English text, bring up Chinese, and does that fit the emotion?

The experiment. What is read is in :mod:`emotrace.study.languages.readout`, the Chinese words in
:mod:`emotrace.study.languages.lexicon`, scripts in :mod:`emotrace.study.languages.writing_systems`, the arithmetic of a
row in :mod:`emotrace.study.languages.rows`. Beside every number stand the vectors of labels permuted within topics, of
equal norm, and Gaussian directions as a second control.

The metrics of ``crosslingual.csv``:

- ``han_tokens``: whole Han tokens of the vocabulary. Below ``writing_systems.MIN_HAN_TOKENS`` nothing with ``zh`` is
  measured.
- ``alignment``: read-out of the emotion's own lexicon minus the others', in standard deviations over the script's
  tokens, each lexicon measured from its mean over the emotions' vectors. Interval by bootstrap over words (n). For
  ``all`` p by permuting which lexicon belongs to which vector, for one emotion against the same lexicon under the
  permuted-label vectors (column ``null``: their mean).
- ``rank_all``, ``rank_han``: of the paper's examples (1 = raised most); ``null`` is the permuted-label vectors' median.
- ``example_rise``: the read-out of the paper's examples in standard deviations over Han tokens, minus the mean of the
  permuted-label vectors; interval and one-sided p are those of one more of them (Student's t; n: their number).
- ``han_share_of_top_100``: of the tokens raised most along the skip path.
- ``han_mass``, ``other_script_mass``, ``part_mass``: probability at the next token, or mean over the steps of texts
  written; ``…_logit_change``: change of the mass's log-odds against unsteered, mean over prompts, in nats;
  ``…_mass_at_step``. Intervals by bootstrap over prompts (n), for ``all``, ``permuted``, ``random`` and ``excess``
  (``all`` minus ``permuted``) over directions too; ``null`` is the permuted-label vectors' mean, p their rank, for
  ``all`` and ``excess`` exchanging emotions and permuted-label vectors.
- ``han_letters``, ``other_script_letters``: share of the letters written; ``texts_with_han`` (Wilson).
- ``english_own``, ``chinese_own``: share of texts that name their emotion in that language; ``missed_own``: in Chinese
  while no emotion is named in English, so that a filter that reads English words misses it; ``missed_any``: the same
  for any emotion. p of the ``own`` ones by permuting the emotions. Wilson intervals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.logit_lens import DIRECT_STRENGTH, Directions, direct_readout, last_states
from emotrace.study.experiment import Results, Tables
from emotrace.study.languages.lexicon import LexiconTokens, lexicon, lexicon_tokens
from emotrace.study.languages.readout import Sizes, ranks, standardised, steered_readout, with_controls, write_texts
from emotrace.study.languages.rows import Measured, RowBuilder
from emotrace.study.languages.writing_systems import HAN, Vocabulary, vocabulary
from emotrace.study.steered import FULL_PROMPTS, POOLING, Steering, permuted_vectors, prepare
from emotrace.study.study import Study

if TYPE_CHECKING:
    from emotrace.vectors import EmotionVectors

_COLUMNS = [
    *(
        "model",
        "instrument",
        "method",
        "pooling",
        "layer",
        "depth",
        "emotion",
        "strength",
        "metric",
        "readout",
        "language",
        "where",
    ),
    *("step", "word", "value", "low", "high", "n", "null", "null_low", "null_high", "p", "m"),
]


def run(study: Study, tables: Tables) -> Results:
    """``crosslingual`` and ``crosslingual_tokens``: what an edit does to Chinese and other scripts."""
    steering, prompts = study.once(prepare), corpus.prompts("dose")[: study.settings.dose_prompts]
    full = study.settings.dose_prompts >= FULL_PROMPTS
    sizes = (Sizes if full else Sizes.quick)(seed=study.settings.seed)

    permuted = permuted_vectors(study, POOLING, sizes.permuted)

    def compute() -> list[dict[str, Any]]:
        table = crosslingual(steering, permuted, [0.5 * steering.strength, steering.strength], prompts, sizes)
        tokens = readout_table(steering, permuted, prompts, sizes)
        return [{"crosslingual": table.to_dict("records"), "crosslingual_tokens": tokens.to_dict("records")}]

    unit = steering.unit("crosslingual", compute)[0]
    return Results({name: pd.DataFrame(rows) for name, rows in unit.items()})


def crosslingual(
    steering: Steering, permuted: EmotionVectors, strengths: Sequence[float], prompts: Sequence[str], sizes: Sizes
) -> pd.DataFrame:
    """What steering in English does to Chinese and other scripts (C11): the rows of ``crosslingual.csv``.

    Args:
        steering: model, vectors and layer.
        permuted: the control, vectors of permuted labels at the same layers, ``sizes.permuted`` or more.
        strengths: multiples of the layer's mean residual norm, one of them positive; 0 is always measured beside them.
        prompts: two English prompts or more; the first ``sizes.written_prompts`` are also continued.
        sizes: seed, numbers of control directions, resamples.

    Returns:
        One row a quantity: model, method, pooling, layer, depth, emotion, strength, metric (see above), value, low,
        high, n, null, null_low, null_high, p, m, and where they apply ``readout`` (direct, steered), ``language`` (zh,
        en), ``where`` (next_token, written), ``step`` and ``word``. ``emotion`` is an emotion, ``all`` of them,
        ``permuted`` labels, ``random`` directions, ``excess`` (all minus permuted) or ``unsteered``; ``strength`` is
        empty for the mean over the positive strengths.
    """
    doses = sorted({float(strength) for strength in strengths} - {0.0})
    vocab, names = vocabulary(steering.model), steering.vectors.emotions
    tokens = lexicon_tokens(steering.model, vocab, names)
    both = with_controls(steering.vectors, permuted, sizes)
    units = _measure(steering, both, doses, prompts, sizes, vocab, tokens)
    builder = RowBuilder(steering.row, list(names), sizes)
    han = {"metric": "han_tokens", "value": len(vocab.ids(HAN)), "n": len(vocab.texts)}
    rows = [steering.row(emotion="unsteered", strength=0.0, **han)]
    rows += builder.readout("direct", DIRECT_STRENGTH, [units.direct], tokens)
    positive = [dose for dose in doses if dose > 0]
    for strength, averaged in [*((dose, [dose]) for dose in doses), (np.nan, positive)]:
        readouts = [units.steered[dose] for dose in averaged]
        rows += builder.readout("steered", strength, readouts, tokens)
        rows += builder.next_token(strength, readouts)
    for dose in doses:
        rows += builder.texts(dose, units.texts[dose], units.texts[0.0])
    return pd.DataFrame(rows).reindex(columns=_COLUMNS).drop_duplicates(ignore_index=True)  # unsteered ones repeat


class _Units(NamedTuple):
    """What was measured: of read-outs a row a direction, by strength; the texts, 0 for the unsteered ones."""

    direct: Measured
    steered: dict[float, Measured]
    texts: dict[float, Measured]


def _measure(
    steering: Steering,
    both: EmotionVectors,
    doses: Sequence[float],
    prompts: Sequence[str],
    sizes: Sizes,
    vocab: Vocabulary,
    tokens: dict[str, LexiconTokens],
) -> _Units:
    """Reads and writes at every strength, each a unit of work that is kept."""
    study, key = steering.study, _key(steering, both, prompts, sizes)
    directions = Directions(steering.model, both, steering.layer)
    groups, written = vocab.groups(), prompts[: sizes.written_prompts]

    def unit(what: str, strength: float, compute: Callable[[float], Measured]) -> Measured:
        rows = study.run.rows({"what": what, "strength": strength, **key}, lambda: compute(strength))
        study.progress("across languages", 1, 2 * len(doses) + 2)
        return rows

    def direct(_: float) -> Measured:
        return _reduced(direct_readout(directions, last_states(steering.model, prompts)), tokens, vocab)

    def steered(strength: float) -> Measured:
        readout, masses = steered_readout(directions, prompts, strength, sizes.positions, groups)
        reduced = [*_reduced(readout, tokens, vocab), {}]  # the last row is of the unedited model
        return [{**row, "masses": mass.tolist()} for row, mass in zip(reduced, masses, strict=True)]

    def texts(strength: float) -> Measured:
        return write_texts(directions, strength, written, sizes, groups)

    return _Units(
        unit("direct", 0.0, direct),
        {dose: unit("next token", dose, steered) for dose in doses},
        {dose: unit("texts", dose, texts) for dose in (0.0, *doses)},
    )


def _key(steering: Steering, vectors: EmotionVectors, prompts: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """The content that a unit of work rests on."""
    model = steering.model
    digest = hashlib.sha256(vectors.at(steering.layer).tobytes() + repr(vectors.emotions).encode())
    return {
        "experiment": "crosslingual",
        "model": model.identity,
        "dtype": model.provenance["dtype"],
        "unembedded in": "float32",
        "vectors": digest.hexdigest(),
        "layer": steering.layer,
        "prompts": list(prompts),
        "sizes": asdict(sizes),
        "lexicon": corpus.fingerprint(lexicon()),
    }


def _reduced(readout: np.ndarray, tokens: dict[str, LexiconTokens], vocab: Vocabulary) -> Measured:
    """All that the tables need of a read-out, a row a direction: z of the lexicons' tokens, ranks, Han in the top
    100."""
    top = np.argpartition(-readout, min(100, readout.shape[1] - 1), axis=1)[:, :100]
    rows: Measured = [{"han_top": int((vocab.scripts[ids] == HAN).sum()), "ranks": {}, "z": {}} for ids in top]
    for language, words in tokens.items():
        for row, z in zip(rows, standardised(readout, words), strict=True):
            row[language] = z.tolist()
    for word, token in tokens["zh"].examples.items() if "zh" in tokens else ():
        han = readout[:, tokens["zh"].pool]
        among_all, among_han = ranks(readout, token), ranks(readout, token, tokens["zh"].pool)
        rises = (readout[:, token] - han.mean(axis=1)) / han.std(axis=1)
        for row, rank, han_rank, rise in zip(rows, among_all, among_han, rises, strict=True):
            row["ranks"][word] = [int(rank), int(han_rank)]
            row["z"][word] = float(rise)
    return rows


def readout_table(
    steering: Steering, permuted: EmotionVectors, prompts: Sequence[str], sizes: Sizes, top: int = 10
) -> pd.DataFrame:
    """The tokens that each direction raises most along the skip path: ``crosslingual_tokens.csv``.

    Columns: model, method, pooling, layer, depth, emotion (or ``permuted-1`` …, ``random-1`` …), strength, ``among``
    (``all`` tokens or ``Han`` ones), rank, token_id, token, script, ``logit_change`` and ``z`` (in standard deviations
    over ``among``).
    """
    vocab, both = vocabulary(steering.model), with_controls(steering.vectors, permuted, sizes)
    states, rows = last_states(steering.model, prompts), []
    readout = direct_readout(Directions(steering.model, both, steering.layer), states)
    for among, pool in (("all", np.arange(readout.shape[1])), (HAN, vocab.ids(HAN))):
        for name, change in zip(both.emotions, readout, strict=True):
            inside = change[pool]
            for rank, index in enumerate(np.argsort(-inside, kind="stable")[:top], 1):
                token = int(pool[index])
                direction = {"emotion": name, "strength": DIRECT_STRENGTH, "among": among, "rank": rank}
                raised = {"token_id": token, "token": vocab.texts[token], "script": vocab.scripts[token]}
                z = (change[token] - inside.mean()) / inside.std()
                rows.append(steering.row(**direction, **raised, logit_change=change[token], z=z))
    return pd.DataFrame(rows)
