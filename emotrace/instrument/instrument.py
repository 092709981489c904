"""One instrument: emotions, the texts that carry them, and what else an experiment may ask of it.

``data/`` is the default one. Only emotions and texts are required of anyone else's; what an instrument has not is not
made up: experiments that need it are left out. Stimuli without a feeling (150 factual texts, openings of sentences)
are the same for any emotion, and come from the default where an instrument brings none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from emotrace.errors import EmotraceError, unknown
from emotrace.instrument import corpus
from emotrace.instrument.corpus import NEUTRAL
from emotrace.instrument.folds import text_folds
from emotrace.instrument.kin import inflections
from emotrace.instrument.labelled import LeftOut
from emotrace.instrument.words import any_words, kin_in

NORMS = ["valence", "arousal"]


@dataclass(frozen=True, eq=False)
class Instrument:
    """Emotions, and texts labelled with them.

    Attributes:
        name: of the column ``instrument`` in tables.
        emotions: in their order, without *neutral*.
        passages: one row a text: ``emotion``, ``topic``, ``text``, and whatever else came with it; empty where only
            names were given.
        has_topics: the topics are the instrument's own; otherwise they are folds of texts
            (:func:`~emotrace.instrument.folds.text_folds`).
        topics: topic → how it is described in a request for a story.
        baseline_texts: unrelated texts, for the anisotropy baseline; stand in for *neutral* where no text has that
            class.
        openings: ``use, prompt``: openings without a tone, for ``calibration`` and ``dose``.
        kin: emotion → the words that would name it.
        norms: valence and arousal by emotion, NaN where none is known.
        labels: emotion → the labels of GoEmotions that come closest; empty where none does.
        scenarios: ``id, target, tone, form, prompt``, for verification, the last two empty where not said; None: none.
        pairs: the texts are pairs; the second of each, which lack the concept, are the class *neutral*.
        default: it is the one of ``data/``, for which alone there are messages, a Chinese lexicon and stored stories.
        read: rows that were read: those of ``passages`` and those left out.
        left_out: the rows that are not used, each with its place, its column and why.
        notes: how it was understood, a phrase each.
    """

    name: str
    emotions: tuple[str, ...]
    passages: pd.DataFrame
    has_topics: bool
    topics: Mapping[str, str]
    baseline_texts: pd.DataFrame
    openings: pd.DataFrame
    kin: Mapping[str, tuple[str, ...]]
    norms: pd.DataFrame
    labels: Mapping[str, tuple[str, ...]]
    scenarios: pd.DataFrame | None = None
    pairs: bool = False
    default: bool = False
    read: int = 0
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The emotions, and *neutral* where there are texts of it (or stories to be asked for)."""
        neutral = self.passages.empty or NEUTRAL in set(self.passages["emotion"])
        return (*self.emotions, NEUTRAL) if neutral else self.emotions

    @property
    def has_neutral(self) -> bool:
        """There are texts of the class *neutral*."""
        return NEUTRAL in set(self.passages["emotion"])

    def words(self, text: str) -> list[str]:
        """The words of a text in lower case: of English ones in ``data/``, of any alphabet in anyone else's."""
        return corpus.words(text) if self.default else any_words(text)

    @property
    def unfelt(self) -> list[str]:
        """Texts without a feeling: those of *neutral*, else the unrelated ones."""
        own = self.passages[self.passages["emotion"] == NEUTRAL]["text"]
        return list(own) or list(self.baseline_texts["text"])

    def check_emotions(self, names: Sequence[str]) -> list[str]:
        """``names`` unchanged, or an :class:`EmotraceError` that lists the instrument's emotions."""
        for name in names:
            if name not in self.emotions:
                raise unknown("emotion", name, self.emotions)
        return list(names)

    def prompts(self, use: str) -> list[str]:
        """Openings without a tone, for ``calibration`` or for ``dose`` response."""
        return list(self.openings[self.openings["use"] == use]["prompt"])

    def leaks(self, text: str, names: Sequence[str] | None = None) -> list[str]:
        """The kin words of the emotions ``names`` (default: of every class) that stand in a text."""
        kin = {word for name in (names or self.kin) for word in self.kin.get(name, ())}
        return kin_in(text, any_words(text), kin)

    @property
    def summary(self) -> str:
        """What was understood, in one line."""
        if self.passages.empty:
            texts = f"{len(self.emotions)} emotions by name, no texts"
        else:
            texts = f"{len(self.passages):,} texts of {len(self.emotions)} emotions"
            texts += " and neutral" if self.has_neutral else ""
            texts += f" on {len(self.topics)} topics" if self.has_topics else ", no topics: folds by text"
        left = f", {len(self.left_out)} of {self.read:,} rows left out" if self.left_out else ""
        return f"{self.name}: {texts}{left}" + "".join(f"; {note}" for note in self.notes)

    def __repr__(self) -> str:
        return f"<Instrument {self.summary}>"

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from any other, for a run's settings."""
        parts: dict[str, Any] = {
            "texts": corpus.fingerprint(self.passages),
            "baseline_texts": corpus.fingerprint(self.baseline_texts),
            "openings": corpus.fingerprint(self.openings),
            "norms": corpus.fingerprint(self.norms.reset_index()),
            **{
                part: corpus.fingerprint(pd.DataFrame({part: [f"{name} {words}" for name, words in of.items()]}))
                for part, of in (("kin", self.kin), ("labels", self.labels))
            },
        }
        if self.scenarios is not None:
            parts["scenarios"] = corpus.fingerprint(self.scenarios)
        if not self.default:  # whose topics are always those of ``data/``
            described = pd.DataFrame(self.topics.items(), columns=["topic", "description"])
            parts |= {"topics": corpus.fingerprint(described), "has_topics": self.has_topics, "pairs": self.pairs}
        return {"emotions": list(self.emotions), **parts}


def default(name: str = corpus.MAIN_INSTRUMENT) -> Instrument:
    """The instrument of ``data/``, with the passages of one of its two authors.

    Raises:
        EmotraceError: an unknown set of passages.
    """
    table, passages = corpus.emotions(), corpus.passages(instrument=name)
    return Instrument(
        name=name,
        emotions=tuple(corpus.emotion_names()),
        passages=passages,
        has_topics=True,
        topics=dict(corpus.topics()["description"]),
        baseline_texts=corpus.baseline_texts(),
        openings=corpus.openings(),
        kin=dict(table["kin"]),
        norms=table[NORMS],
        labels=dict(table["goemotions"]),
        scenarios=corpus.scenarios(),
        default=True,
        read=len(passages),
    )


def of_passages(path: str | Path | None = None) -> dict[str, Instrument]:
    """What a run reads where no instrument is named: the two of ``data/``, or passages of one's own of its emotions.

    Raises:
        EmotraceError: what :func:`corpus.instruments` refuses.
    """
    return {
        name: replace(default(), name=name, passages=table, read=len(table))
        for name, table in corpus.instruments(path).items()
    }


def norms_of(provenance: Mapping[str, str], emotions: Sequence[str]) -> pd.DataFrame:
    """Valence and arousal of vectors' emotions, NaN where unknown: their instrument's, else those of ``data/``."""
    if (own := provenance.get("norms")) is None:
        return corpus.emotions()[NORMS].reindex(list(emotions))
    known = json.loads(own)
    rows = [[known.get(name, {}).get(axis) for axis in NORMS] for name in emotions]
    return pd.DataFrame(rows, index=list(emotions), columns=NORMS, dtype=float)


def from_names(names: Sequence[str], name: str = "names") -> Instrument:
    """An instrument without texts: emotions by name, to have a model write stories of.

    Args:
        names: one or more, in their order; *neutral* is asked for in any case.

    Raises:
        EmotraceError: no name, one twice, or *neutral* alone.
    """
    emotions = [part.strip() for part in names if part.strip() != NEUTRAL]
    if not emotions or not all(emotions):
        raise EmotraceError("a list of emotions needs one name at least besides neutral")
    twice = [part for part in emotions if emotions.count(part) > 1]
    if twice:
        raise EmotraceError(f"the emotion {twice[0]!r} is named twice")
    return assemble(name, pd.DataFrame({"emotion": [], "topic": [], "text": []}, dtype=object), emotions)


def assemble(
    name: str,
    texts: pd.DataFrame,
    emotions: Sequence[str],
    *,
    notes: Sequence[str] = (),
    left_out: Sequence[LeftOut] = (),
    topics: Mapping[str, str] | None = None,
    norms: pd.DataFrame | None = None,
    kin: Mapping[str, tuple[str, ...]] | None = None,
    labels: Mapping[str, tuple[str, ...]] | None = None,
    baseline_texts: pd.DataFrame | None = None,
    openings: pd.DataFrame | None = None,
    scenarios: pd.DataFrame | None = None,
    pairs: bool = False,
) -> Instrument:
    """An instrument of checked texts; what is the same for any emotion is the default's where it is not given.

    Words of an emotion that ``data/emotions.csv`` has too (its kin, norms and the judge's labels are the word's, not an
    instrument's) are taken from there; the kin of any other are inflections by rule; it has no norms and no label.
    """
    said, known = list(notes), corpus.emotions()
    names = [*emotions, NEUTRAL]
    own_kin = dict(kin or {})
    by_rule = [part for part in emotions if part not in own_kin and part not in known.index]
    words = {
        part: own_kin.get(part) or (known["kin"][part] if part in known.index else inflections(part)) for part in names
    }
    said += [f"kin words of {len(by_rule)} by rule (inflections)"] if by_rule else []
    valences = known[NORMS].reindex(names)
    if norms is not None:
        valences = norms[NORMS].reindex(names).combine_first(valences).reindex(names)
    without = int(valences["valence"].loc[list(emotions)].isna().sum())
    said += [f"no norms of {without}: no valence of theirs"] if without else []
    texts, has_topics = _with_topics(texts, said)
    if len(texts) and NEUTRAL not in set(texts["emotion"]):
        said.append(
            "no neutral texts: " + ("baseline texts" if baseline_texts is not None else "ours") + " in their place"
        )
    described = dict(topics or {})
    if not len(texts):
        described = described or dict(corpus.topics()["description"])
    elif has_topics:
        described = {topic: described.get(topic, topic) for topic in texts["topic"].unique()}
    return Instrument(
        name=name,
        emotions=tuple(emotions),
        passages=texts,
        has_topics=has_topics,
        topics=described,
        baseline_texts=corpus.baseline_texts() if baseline_texts is None else baseline_texts,
        openings=corpus.openings() if openings is None else openings,
        kin=words,
        norms=valences,
        labels={**{part: known["goemotions"].get(part, ()) for part in names}, **(labels or {})},
        scenarios=scenarios,
        pairs=pairs,
        read=len(texts) + len(left_out),
        left_out=tuple(left_out),
        notes=tuple(said),
    )


def _with_topics(texts: pd.DataFrame, said: list[str]) -> tuple[pd.DataFrame, bool]:
    """The texts with topics: their own, if a topic can tell texts apart, or else folds."""
    if not len(texts):
        return texts, False
    front = ["emotion", "topic", "text"]
    rest = [name for name in texts.columns if name not in front]
    if "topic" in texts:
        count = texts["topic"].nunique()
        if 1 < count < len(texts):
            return texts[[*front, *rest]], True
        said.append("one topic only" if count == 1 else "a topic of its own for every text")
    folds = text_folds([any_words(text) for text in texts["text"]], list(texts["emotion"]))
    return texts.assign(topic=folds)[[*front, *rest]], False
