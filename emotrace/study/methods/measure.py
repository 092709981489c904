"""Generation against comprehension in a run: stories → the factorial and the paper's test, as tidy tables (C3, C5).

An instruct model writes its own stories. The other author's are those of another packaged model, kept in
``data/stories`` so that a run needs one model only. A base model writes none: its factorial has two authors and the
plain frame, and the paper's test does not exist for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from emotrace import stories
from emotrace.errors import EmotraceError
from emotrace.extraction import read_stories
from emotrace.instrument import corpus
from emotrace.study.methods import comparison as method_comparison
from emotrace.study.methods import factorial
from emotrace.study.study import Study

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

EXPERIMENTS = ("method_comparison", "factorial")


def run(
    study: Study, model: Model, passages: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], dict[str, EmotionVectors]]:
    """The tables, the texts, and the generation vectors by pooling (none for a base model).

    Tables: ``factorial``, ``factorial_effects``, ``factorial_decoding``, ``factorial_rdm``, ``method_by_layer``; for an instruct
    model also ``method_comparison`` and ``story_rates``.
    """
    own = _own_stories(study, model)
    topics = _topics(study)

    def compute() -> list[dict[str, Any]]:
        found = _tables(study, model, passages[passages["topic"].isin(topics)], own)
        return [{name: table.to_dict("records") for name, table in found.items()}]

    # The tables rest on every story; their fingerprint tells one set from another.
    written = corpus.fingerprint(own[["topic", "emotion", "text"]]) if own is not None else "none"
    kept = study.unit(f"methods, stories {written}", compute)[0]
    tables = {name: pd.DataFrame(rows) for name, rows in kept.items()}
    texts = {} if own is None else {"stories": own.assign(model=study.model)}
    return tables, texts, _vectors(study, model, own)


def _topics(study: Study) -> list[str]:
    """Topics spread over the list, so that fewer of them are no special part of it."""
    names = list(dict.fromkeys(study.reading.labels["topic"]))
    wanted = min(study.settings.story_topics, len(names))
    return [names[place * len(names) // wanted] for place in range(wanted)]


def _own_stories(study: Study, model: Model) -> pd.DataFrame | None:
    if not (model.instruct and model.tokenizer.chat_template):
        return None
    topics = _topics(study)
    total = len(topics) * len(corpus.emotions())
    return stories.write_stories(
        model, topics=topics, seed=study.settings.seed, cache=study.run,
        progress=lambda done: study.progress("writing stories", done, total),
    )  # fmt: skip


def _tables(study: Study, model: Model, passages: pd.DataFrame, own: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    kept = None if own is None else stories.kept(own)
    other = stories.stored(stories.other_author(study.model))
    authors, frames = (3, len(factorial.FRAMES)) if kept is not None else (2, 1)
    emotional = int((passages["emotion"] != corpus.NEUTRAL).sum())
    design = factorial.read_design(
        model, passages, kept, other, neutral=study.baseline, seed=study.settings.seed, bootstrap=study.settings.bootstrap,
        cache=study.run,
        progress=lambda done: study.progress("reading for the factorial", done, authors * frames * emotional),
    )  # fmt: skip
    tables = factorial.tables(design)
    if own is not None:
        tables["method_comparison"] = method_comparison.compare_methods(
            design, family=study.family, instruct=study.instruct, permutations=study.settings.permutations
        )
        tables["story_rates"] = stories.rates(own).assign(model=study.model)
    tables["method_by_layer"] = method_comparison.layer_curves(design)
    return tables


def _vectors(study: Study, model: Model, own: pd.DataFrame | None) -> dict[str, EmotionVectors]:
    """The generation vectors; none where some class has no story that passed."""
    if own is None:
        return {}
    kept = stories.kept(own)
    reading = read_stories(
        model, kept, cache=study.run,
        progress=lambda done: study.progress("reading the model's stories", done, len(kept)),
    )  # fmt: skip
    try:
        return {pooling: reading.vectors(pooling) for pooling in reading.pooled}
    except EmotraceError:
        return {}


def over_models(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """``method_comparison_models``, where some model wrote stories."""
    if "method_comparison" not in tables or tables["method_comparison"].empty:
        return {}
    return {"method_comparison_models": method_comparison.compare_over_models(tables["method_comparison"])}
