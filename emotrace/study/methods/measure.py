"""Generation against comprehension in a run: stories → the factorial and the paper's test, as tidy tables (C3, C5).

An instruct model writes its own stories. The other author's are those of another packaged model, kept in
``data/stories`` so that a run needs one model only; there are none on anyone else's topics, and then the model and the
instrument are the authors. A base model writes none: its factorial has two authors and the plain frame, and the paper's
test does not exist for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from emotrace import stories
from emotrace.errors import EmotraceError
from emotrace.extraction import read_stories
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.instrument.stories import other_author, stored
from emotrace.study.experiment import Results, Tables
from emotrace.study.methods.comparison import compare_methods, compare_over_models, layer_curves
from emotrace.study.methods.design import FRAMES, read_design, too_few
from emotrace.study.methods.factorial import factorial_tables
from emotrace.study.methods.story_rates import story_rates
from emotrace.study.study import Study
from emotrace.vectors import EmotionVectors


def measure_methods(study: Study) -> Results:
    """Both experiments, which rest on the same stories and the same readings.

    Returns:
        Tables ``factorial``, ``factorial_effects``, ``factorial_decoding``, ``factorial_rdm``, ``method_by_layer``; for
        an instruct model also ``method_comparison`` and ``story_rates``, its stories and the generation vectors. None
        of a base model on an instrument of one's own; of stories too few of which passed, ``story_rates`` alone.
    """
    own = _own_stories(study)
    if own is None and not study.source.default:
        return _left_out(study, "needs an instruct model, which writes the stories")

    def compute() -> list[dict[str, Any]]:
        return [{name: table.to_dict("records") for name, table in _tables(study, own).items()}]

    # The tables rest on every story; their fingerprint tells one set from another.
    written = corpus.fingerprint(own[["topic", "emotion", "text"]]) if own is not None else "none"
    unit = study.unit(f"methods, stories {written}", compute)[0]
    tables = {name: pd.DataFrame(rows) for name, rows in unit.items()}
    if own is None:
        return Results(tables)
    texts = {"stories": own.assign(model=study.model_name)}
    if "factorial" not in tables:
        return replace(_left_out(study, too_few(_authors(study, own), study.source)), tables=tables, texts=texts)
    return Results(tables, texts, _vectors(study, own))


def _left_out(study: Study, reason: str) -> Results:
    """The factorial needs the comparison, and is left out with it."""
    return Results(left_out={"method_comparison": {study.instrument: reason}})


def _authors(study: Study, own: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """What each author wrote on the topics of the stories; on anyone else's topics no other model's are kept."""
    ours = study.passages[study.passages["topic"].isin(_topics(study))]
    texts = {"ours": ours} if own is None else {"ours": ours, "self": stories.kept(own)}
    return texts | ({"other": stored(other_author(study.model_name))} if study.source.default else {})


def _topics(study: Study) -> list[str]:
    """Topics spread over the list, so that fewer of them are no special part of it."""
    names = list(dict.fromkeys(study.reading.labels["topic"]))
    count = min(study.settings.story_topics, len(names))
    return [names[idx * len(names) // count] for idx in range(count)]


def _instrument(study: Study) -> Instrument | None:
    """The instrument, if it is not ``data/``."""
    return None if study.source.default else study.source


def _own_stories(study: Study) -> pd.DataFrame | None:
    """What the model wrote, every attempt; None for a base model."""
    if not (study.instruct and study.model.tokenizer.chat_template):
        return None
    topics = _topics(study)
    total = len(topics) * (len(study.source.emotions) + 1)
    return stories.write_stories(
        study.model,
        topics=topics,
        seed=study.settings.seed,
        instrument=_instrument(study),
        cache=study.run,
        progress=lambda done: study.progress("writing stories", done, total),
    )


def _tables(study: Study, own: pd.DataFrame | None) -> Tables:
    """All tables, from the model's own stories, our passages on their topics and another model's stories."""
    authors, settings = _authors(study, own), study.settings
    rates = {} if own is None else {"story_rates": story_rates(own).assign(model=study.model_name)}
    if not study.source.default and too_few(authors, study.source):
        return rates
    emotional = int((authors["ours"]["emotion"] != corpus.NEUTRAL).sum())
    total = emotional * len(authors) * (1 if own is None else len(FRAMES))
    design = read_design(
        study.model,
        authors["ours"],
        authors.get("self"),
        authors.get("other"),
        neutral=study.baseline,
        instrument=_instrument(study),
        seed=settings.seed,
        bootstrap=settings.bootstrap,
        cache=study.run,
        progress=lambda done: study.progress("reading for the factorial", done, total),
    )
    tables = factorial_tables(design)
    if own is not None:
        tables["method_comparison"] = compare_methods(design, family=study.family, instruct=study.instruct)
    tables["method_by_layer"] = layer_curves(design)
    for table in tables.values():  # our passages are one of the authors
        table.insert(1, "instrument", study.instrument)
    return tables | rates


def _vectors(study: Study, own: pd.DataFrame) -> dict[tuple[str, str], EmotionVectors]:
    """The generation vectors; none where some class has no story that passed."""
    kept = stories.kept(own)
    reading = read_stories(
        study.model,
        kept,
        instrument=_instrument(study),
        cache=study.run,
        progress=lambda done: study.progress("reading the model's stories", done, len(kept)),
    )
    try:
        return {("generation", pooling): reading.vectors(pooling) for pooling in reading.pooled}
    except EmotraceError:
        return {}


def over_models(tables: Tables) -> Tables:
    """``method_comparison_models``, where some model wrote stories."""
    if "method_comparison" not in tables or tables["method_comparison"].empty:
        return {}
    return {"method_comparison_models": compare_over_models(tables["method_comparison"])}
