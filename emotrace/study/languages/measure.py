"""Across languages (C11): does an emotion, steered in English text, bring up Chinese, and Chinese that fits the emotion?

The experiment. What is read is in :mod:`emotrace.study.languages.readout`, the Chinese words in :mod:`emotrace.study.languages.lexicon`, scripts in
:mod:`emotrace.study.languages.writing_systems`, the arithmetic of a row in ``crosslingual_rows.py``. Beside every number stand random
directions of equal norm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.study.languages.lexicon import Tokens, lexicon, lexicon_tokens
from emotrace.study.languages.readout import (
    DIRECT_STRENGTH,
    Sizes,
    direct_readout,
    ranks,
    standardised,
    steered_readout,
    with_controls,
    write_texts,
)
from emotrace.study.languages.rows import Rows
from emotrace.study.languages.writing_systems import HAN, Vocabulary, vocabulary

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.study.folder import RunFolder
    from emotrace.vectors import EmotionVectors

__all__ = ["Sizes", "crosslingual", "readout_table"]


def crosslingual(
    model: Model,
    vectors: EmotionVectors,
    layer: int,
    strengths: Sequence[float],
    *,
    prompts: Sequence[str],
    sizes: Sizes | None = None,
    cache: RunFolder | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> pd.DataFrame:
    """What steering in English does to Chinese and other scripts (C11): the rows of ``crosslingual.csv``.

    Args:
        model: the model.
        vectors: its emotion vectors.
        layer: where the edit is added, 1 … L.
        strengths: multiples of the layer's mean residual norm; 0 is always measured and need not be given.
        prompts: English prompts; the first ``sizes.written_prompts`` are also continued.
        sizes: seed, number of random directions, resamples.
        cache: keeps finished units of work.
        progress: called with what is being done, how much of it was just done, and how much of it there is.

    Returns:
        One row a quantity: model, method, pooling, layer, depth, emotion, strength, metric, value, low, high, n, null,
        null_low, null_high, p, m, and where they apply ``readout`` (direct, steered), ``language`` (zh, en), ``where``
        (next_token, written), ``step`` and ``word``. ``emotion`` is an emotion, ``all`` of them, ``random`` directions
        or ``unsteered``; ``strength`` is empty for the mean over the positive strengths. Metrics:

        - ``han_tokens``: whole Han tokens of the vocabulary. Below ``writing_systems.MIN_HAN_TOKENS`` nothing with ``zh`` is measured.
        - ``alignment``: read-out of the emotion's own lexicon minus the others', in standard deviations over the
          script's tokens, each lexicon measured from its mean over the emotions' vectors; interval by bootstrap over
          words (n); for ``all`` p by permuting which lexicon belongs to which vector, for one emotion against the same
          lexicon under the other vectors and the random directions (column ``null``: their mean).
        - ``rank_all``, ``rank_han``: of the paper's examples (1 = raised most); ``null`` is the other directions' median.
        - ``han_share_of_top_100``: of the tokens raised most along the skip path.
        - ``han_mass``, ``other_script_mass``, ``part_mass``: probability at the next token, or mean over the steps of
          texts written; ``…_logit_change``: change of the mass's log-odds against unsteered, mean over prompts, in nats;
          ``…_mass_at_step``. Intervals by bootstrap over prompts (n), for ``all`` and ``random`` over directions too;
          ``null`` is the random directions' mean, p their rank, for ``all`` exchanging emotions and random directions.
        - ``han_letters``, ``other_script_letters``: share of the letters written; ``texts_with_han`` (Wilson).
        - ``english_own``, ``chinese_own``: share of texts that name their emotion in that language; ``missed_own``: in
          Chinese while no emotion is named in English, so that a filter that reads English words misses it;
          ``missed_any``: the same for any emotion. p of the ``own`` ones by permuting the emotions. Wilson intervals.

    Raises:
        EmotraceError: vectors of another model, no positive strength, a layer that cannot be steered, fewer than two
            prompts.
    """
    sizes = sizes or Sizes()
    _check(model, vectors, layer, strengths, prompts)
    doses = sorted({float(strength) for strength in strengths} - {0.0})
    both, vocab = with_controls(vectors, sizes), vocabulary(model)
    tokens, groups = lexicon_tokens(model, vocab, vectors.emotions), vocab.groups()
    written, key = list(prompts)[: sizes.written_prompts], _key(model, vectors, layer, prompts, sizes)
    total = 2 * len(doses) + 2

    def unit(what: str, strength: float, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        rows = compute() if cache is None else cache.rows({"what": what, "strength": strength, **key}, compute)
        progress("across languages", 1, total)
        return rows

    def next_token(strength: float) -> list[dict[str, Any]]:
        readout, masses = steered_readout(model, both, layer, prompts, strength, sizes.positions, groups)
        reduced = [*_reduced(readout, tokens, vocab), {}]  # the last row is of the unedited model
        return [{**row, "masses": mass.tolist()} for row, mass in zip(reduced, masses, strict=True)]

    direct = unit("direct", 0.0, lambda: _reduced(direct_readout(model, both, layer, prompts), tokens, vocab))
    steered = {dose: unit("next token", dose, lambda dose=dose: next_token(dose)) for dose in doses}
    texts = {
        dose: unit("texts", dose, lambda dose=dose: write_texts(model, both, layer, dose, written, sizes, groups))
        for dose in (0.0, *doses)
    }

    def row(**values: Any) -> dict[str, Any]:
        return _row(model, vectors, layer, **values)

    rows = [row(emotion="unsteered", strength=0.0, metric="han_tokens", value=len(vocab.ids(HAN)), n=len(vocab.texts))]
    report = Rows(row, list(vectors.emotions), sizes)
    rows += report.readout("direct", DIRECT_STRENGTH, [direct], tokens)
    positive = [dose for dose in doses if dose > 0]
    for dose, together in [*((dose, [dose]) for dose in doses), (np.nan, positive)]:
        rows += report.readout("steered", dose, [steered[each] for each in together], tokens)
        rows += report.next_token(dose, [steered[each] for each in together])
    for dose in doses:
        rows += report.texts(dose, texts[dose], texts[0.0])
    return pd.DataFrame(rows).reindex(columns=_COLUMNS).drop_duplicates(ignore_index=True)  # unsteered ones repeat


_COLUMNS = [
    "model", "method", "pooling", "layer", "depth", "emotion", "strength", "metric", "readout", "language", "where",
    "step", "word", "value", "low", "high", "n", "null", "null_low", "null_high", "p", "m",
]  # fmt: skip


def _check(
    model: Model, vectors: EmotionVectors, layer: int, strengths: Sequence[float], prompts: Sequence[str]
) -> None:
    vectors.check(model)
    vectors.place(layer)
    if not 1 <= layer <= model.n_layers:
        raise EmotraceError(f"layer {layer} cannot be steered: layers are 1 to {model.n_layers}")
    if not all(np.isfinite(strengths)) or not any(strength > 0 for strength in strengths):
        raise EmotraceError(f"strengths are finite numbers, one of them positive, not {list(strengths)}")
    if len(prompts) < 2:
        raise EmotraceError(f"intervals over prompts need at least two prompts, not {len(prompts)}")
    corpus.check_emotions(list(vectors.emotions))


def _key(model: Model, vectors: EmotionVectors, layer: int, prompts: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    digest = hashlib.sha256(vectors.at(layer).tobytes() + repr(vectors.emotions).encode())
    return {
        "experiment": "crosslingual", "model": model.identity, "dtype": model.provenance["dtype"],
        "vectors": digest.hexdigest(), "layer": layer, "prompts": list(prompts), "sizes": asdict(sizes),
        "lexicon": corpus.fingerprint(lexicon()),
    }  # fmt: skip


def _reduced(readout: np.ndarray, tokens: dict[str, Tokens], vocab: Vocabulary) -> list[dict[str, Any]]:
    """All that the tables need of a read-out, a row a direction: z of the lexicons' tokens, ranks, Han in the top 100."""
    top = np.argpartition(-readout, min(100, readout.shape[1] - 1), axis=1)[:, :100]
    found: list[dict[str, Any]] = [{"han_top": int((vocab.scripts[row] == HAN).sum()), "ranks": {}} for row in top]
    for language, chosen in tokens.items():
        for row, z in zip(found, standardised(readout, chosen), strict=True):
            row[language] = z.tolist()
    for word, token in tokens["zh"].anecdotes.items() if "zh" in tokens else ():
        both = (ranks(readout, token), ranks(readout, token, tokens["zh"].pool))
        for row, everywhere, han in zip(found, *both, strict=True):
            row["ranks"][word] = [int(everywhere), int(han)]
    return found


def readout_table(
    model: Model,
    vectors: EmotionVectors,
    layer: int,
    *,
    prompts: Sequence[str],
    sizes: Sizes | None = None,
    top: int = 10,
) -> pd.DataFrame:
    """The tokens that each direction raises most along the skip path: ``crosslingual_tokens.csv``.

    Columns: model, method, pooling, layer, depth, emotion (or ``random-1`` …), strength, ``among`` (``all`` tokens or
    ``Han`` ones), rank, token_id, token, script, ``logit_change`` and ``z`` (in standard deviations over ``among``).
    """
    sizes, vocab = sizes or Sizes(), vocabulary(model)
    both = with_controls(vectors.check(model), sizes)
    readout, rows = direct_readout(model, both, layer, prompts), []
    for among, pool in (("all", np.arange(readout.shape[1])), (HAN, vocab.ids(HAN))):
        for name, change in zip(both.emotions, readout, strict=True):
            inside = change[pool]
            for rank, place in enumerate(np.argsort(-inside, kind="stable")[:top], 1):
                token = int(pool[place])
                rows.append(_row(
                    model, vectors, layer, emotion=name, strength=DIRECT_STRENGTH, among=among, rank=rank, token_id=token,
                    token=vocab.texts[token], script=vocab.scripts[token], logit_change=change[token],
                    z=(change[token] - inside.mean()) / inside.std(),
                ))  # fmt: skip
    return pd.DataFrame(rows)


def _row(model: Model, vectors: EmotionVectors, layer: int, **values: Any) -> dict[str, Any]:
    """A table row with the columns that every table has."""
    made = vectors.provenance
    return {
        "model": model.name, "method": made.get("method", "?"), "pooling": made.get("pooling", "?"), "layer": layer,
        "depth": layer / model.n_layers, **values,
    }  # fmt: skip
