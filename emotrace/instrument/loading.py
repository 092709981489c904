"""``emotrace.load_instrument``: a file, a folder or tables in memory → an :class:`~emotrace.instrument.Instrument`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError, named, shown
from emotrace.instrument import corpus
from emotrace.instrument.corpus import NEUTRAL
from emotrace.instrument.formats import FORMATS, Rows, of_table, read_rows, rows_of
from emotrace.instrument.instrument import NORMS, Instrument, assemble, default
from emotrace.instrument.labelled import TEXT_AND_EMOTION, Part, check_mapping, labelled, roles
from emotrace.instrument.words import plain

TEXTS = ("passages", "texts", "stories", "pairs")
"""Names of the file, or table, with the texts of an instrument in several files."""
BESIDE = ("emotions", "topics", "baseline_texts", "prompts", "scenarios", "norms")
"""Names of what may stand beside it, with the columns of the files in ``data/``."""
_WANTED = {
    "emotions": ("emotion",),
    "topics": ("topic", "description"),
    "baseline_texts": ("text",),
    "prompts": ("use", "prompt"),
    "scenarios": ("target", "prompt"),
}
_NORM_COLUMNS = {
    "emotion": ("emotion", "word"),
    "valence": ("valence", "v.mean.sum", "v.mean"),
    "arousal": ("arousal", "a.mean.sum", "a.mean"),
}

Source: TypeAlias = Instrument | pd.DataFrame | Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path


def load_instrument(
    source: Source,
    *,
    columns: Mapping[str, str] | None = None,
    norms: str | Path | pd.DataFrame | None = None,
    name: str | None = None,
) -> Instrument:
    """Anyone's emotions and texts.

    Read are CSV and TSV with any separator, JSON, JSON Lines, Parquet where pandas reads it, and plain text; a file, or
    a folder of one file an emotion, or a folder with the texts in ``passages`` (or ``texts``, ``stories``) and
    ``emotions``, ``topics``, ``baseline_texts``, ``prompts``, ``scenarios``, ``norms`` beside them, as in ``data/``.
    Columns go by their usual names (``ROLES``). With columns ``positive`` and ``negative`` and none of emotions, each
    row is a contrast pair, and the file's name is the concept.

    Args:
        source: a path; ``scenes`` or ``accounts``, the two sets of ``data/``; a table; tables by name, as files in a
            folder; ``{emotion: [text, …]}`` or a list of records; an instrument, which is returned as it is.
        columns: role → column where it has another name: ``{"text": "story"}``; an empty one says that there is none.
        norms: a table or file of published norms: ``emotion`` (or ``Word``), ``valence`` (``V.Mean.Sum``), ``arousal``.
        name: of the instrument; default: of the file or folder.

    Raises:
        EmotraceError: what cannot be read or meant, with the row and the column; texts of one class alone.
    """
    mapping = check_mapping(columns)
    if isinstance(source, Instrument):
        return source
    if isinstance(source, str) and source in corpus.INSTRUMENTS and not Path(source).exists():
        return default(source)
    if isinstance(source, str | Path):
        path = _path(source)
        parts, beside, notes = _of_folder(path) if path.is_dir() else ([_file(path)], {}, [])
        name = name or path.resolve().stem or "texts"
    else:
        parts, beside, notes = _of_memory(source)
        name = name or "texts"
    if norms is not None:
        if not isinstance(norms, pd.DataFrame | str | Path):
            raise EmotraceError(f"norms are a table or a file, not {shown(norms)}")
        tabular = isinstance(norms, pd.DataFrame)
        beside["norms"] = of_table(norms) if tabular else _read_beside(_path(norms), "norms")
    return _made(name, parts, beside, notes, mapping)


def _path(source: str | Path) -> Path:
    """A file or folder that is there."""
    try:
        path = Path(source).expanduser()
        path.stat()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: ~ of nobody; ValueError: a zero character
        raise EmotraceError(f"no file or folder {named(Path(source))}") from None
    return path


def _file(path: Path, emotion: str | None = None) -> Part:
    return Part(str(path), read_rows(path, TEXT_AND_EMOTION), emotion)


def _of_folder(folder: Path) -> tuple[list[Part], dict[str, Rows], list[str]]:
    """The texts of a folder, what stands beside them, and what was left unread."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    data = [file for file in files if file.suffix.lower() in FORMATS]
    unread = [file.name for file in files if file not in data]
    main = next((file for name in TEXTS for file in data if file.stem == name), None)
    beside = {file.stem: _read_beside(file, file.stem) for file in data if file.stem in BESIDE}
    if main is not None:
        unread += [file.name for file in data if file != main and file.stem not in BESIDE]
        parts = [_file(main)]
    else:
        texts = [file for file in data if file.stem not in BESIDE]
        plain = [file for file in texts if file.suffix.lower() == ".txt"]
        if len(plain) < len(texts):  # a README.txt beside tables
            unread += [file.name for file in plain]
            texts = [file for file in texts if file not in plain]
        parts = [_file(file, file.stem) for file in texts]
    if not parts:
        raise EmotraceError(f"{folder} holds no file of texts ({', '.join(FORMATS)})")
    notes = [f"{len(parts)} files"] if len(parts) > 1 else []
    return parts, beside, [*notes, *([f"unread: {', '.join(sorted(unread))}"] if unread else [])]


def _read_beside(file: Path, kind: str) -> Rows:
    wanted = list(_NORM_COLUMNS.values()) if kind == "norms" else [(column,) for column in _WANTED[kind]]
    return read_rows(file, wanted)


def _of_memory(source: Any) -> tuple[list[Part], dict[str, Rows], list[str]]:
    if isinstance(source, pd.DataFrame):
        return [Part("the table", of_table(source))], {}, []
    if isinstance(source, Mapping) and any(isinstance(part, pd.DataFrame) for part in source.values()):
        for key, part in source.items():
            if key not in (*TEXTS, *BESIDE) or not isinstance(part, pd.DataFrame):
                raise EmotraceError(f"tables go by the names {', '.join((*TEXTS, *BESIDE))}, not {shown(key)}")
        texts = [Part(f"the table {key}", of_table(part)) for key, part in source.items() if key in TEXTS]
        if not texts:
            raise EmotraceError(f"a table of texts is needed: {', '.join(TEXTS)}")
        return texts, {key: of_table(part) for key, part in source.items() if key in BESIDE}, []
    if isinstance(source, Mapping | list | tuple):
        value = dict(source) if isinstance(source, Mapping) else list(source)
        return [Part("the texts", rows_of(value, "the texts", TEXT_AND_EMOTION))], {}, []
    raise EmotraceError(f"an instrument is a file, a folder, a table or {{emotion: [text, …]}}, not {shown(source)}")


def _made(
    name: str, parts: Sequence[Part], beside: Mapping[str, Rows], notes: Sequence[str], mapping: Mapping[str, str]
) -> Instrument:
    pairs = all(_is_pairs(part, mapping) for part in parts)
    read = labelled([_split_pairs(part, mapping, name) for part in parts] if pairs else parts, {} if pairs else mapping)
    left_out, texts = read.left_out, read.table
    own = _emotions(beside.get("emotions"))
    present = list(dict.fromkeys(texts["emotion"]))
    if own:
        if strays := [part for part in present if part not in own and part != NEUTRAL]:
            raise EmotraceError(
                f"{parts[0].source} has texts of {', '.join(strays)}, which its table of emotions lacks"
            )
        present = [part for part in own if part in present]
    emotions = [part for part in present if part != NEUTRAL]
    if len(set(texts["emotion"])) < 2 or not emotions:
        raise EmotraceError(
            f"{parts[0].source} has texts of {', '.join(set(texts['emotion']))} alone: a vector tells a class from "
            "others, so texts of two emotions, or of one and neutral, are needed"
        )
    others = {kind: _beside_table(rows, kind) for kind, rows in beside.items() if kind in _WANTED}
    topics = others.get("topics")
    return assemble(
        name,
        texts,
        emotions,
        notes=[*read.notes, *(["contrast pairs"] if pairs else []), *notes],
        left_out=left_out,
        topics=None if topics is None else _described(topics),
        norms=_norms(beside, texts),
        kin=_lists(beside.get("emotions"), "kin"),
        labels=_lists(beside.get("emotions"), "goemotions"),
        baseline_texts=others.get("baseline_texts"),
        openings=others.get("prompts"),
        scenarios=_scenarios(others.get("scenarios"), emotions),
        pairs=pairs,
    )


def _is_pairs(part: Part, mapping: Mapping[str, str]) -> bool:
    found = roles(list(part.rows.cells.columns), mapping, part.source)
    return "positive" in found and "negative" in found and "emotion" not in found


def _split_pairs(part: Part, mapping: Mapping[str, str], name: str) -> Part:
    """Each pair as two texts on a topic of its own: the one with the concept, and the one without, as *neutral*."""
    cells, found = part.rows.cells, roles(list(part.rows.cells.columns), mapping, part.source)
    concept = part.emotion or name
    records: list[dict[str, Any]] = []
    places: list[str] = []
    for number, place in enumerate(part.rows.places):
        for side, emotion in (("positive", concept), ("negative", NEUTRAL)):
            text = cells[found[side]].iloc[number]
            records.append({"emotion": emotion, "topic": f"pair {len(records) // 2 + 1}", "text": text})
            places.append(f"{place} ({side})")
    table = pd.DataFrame(records, columns=["emotion", "topic", "text"], dtype=object)
    return Part(part.source, Rows(table, places, part.rows.notes))


def _emotions(rows: Rows | None) -> list[str]:
    """The emotions of a table of them, in its order."""
    return [] if rows is None else _once(map(_name, _beside_table(rows, "emotions")["emotion"]), "emotions")


def _described(topics: pd.DataFrame) -> dict[str, str]:
    return dict(zip(_once(map(_name, topics["topic"]), "topics"), topics["description"], strict=True))


def _once(names: Iterable[str], kind: str) -> list[str]:
    found = list(names)
    if twice := [name for name in found if found.count(name) > 1]:
        raise EmotraceError(f"the table {kind} has {twice[0]} twice")
    return found


def _name(cell: str) -> str:
    """A name as :func:`labelled` writes it, whatever the table that it stands in."""
    return unicodedata.normalize("NFC", cell.strip())


def _beside_table(rows: Rows, kind: str) -> pd.DataFrame:
    wanted = _WANTED[kind]
    table = corpus.check_columns(rows.cells, f"the table {kind}", wanted)
    for column in wanted:
        for value, place in zip(table[column], rows.places, strict=True):
            if not isinstance(value, str) or not value.strip():
                raise EmotraceError(f"the table {kind}, {place}, column {column}: a text is needed, not {shown(value)}")
    return table.reset_index(drop=True)


def _scenarios(table: pd.DataFrame | None, emotions: Sequence[str]) -> pd.DataFrame | None:
    """Scenarios of these emotions, each with an ``id`` of its own, ``tone`` and ``form``; empty where none is said."""
    if table is None:
        return None
    table = table.assign(target=table["target"].map(_name))
    if strays := sorted(set(table["target"]) - set(emotions)):
        raise EmotraceError(f"the table scenarios has the target {', '.join(strays)}, of which there are no texts")
    said = {"id": [f"s{number + 1:02d}" for number in range(len(table))], "tone": "", "form": ""}
    table = table.assign(**{name: value for name, value in said.items() if name not in table})
    if (twice := table["id"].duplicated()).any():
        raise EmotraceError(f"the table scenarios has the id {table['id'][twice].iloc[0]} twice")
    return table[["id", "target", "tone", "form", "prompt"]]


def _lists(rows: Rows | None, column: str) -> dict[str, tuple[str, ...]]:
    """A column of words between bars, by emotion."""
    if rows is None or column not in rows.cells.columns:
        return {}
    cells = zip(rows.cells["emotion"], rows.cells[column], strict=True)
    return {
        _name(emotion): tuple(plain(word.strip()) for word in cell.split("|") if word.strip())
        for emotion, cell in cells
        if isinstance(cell, str) and cell.strip()
    }


def _norms(beside: Mapping[str, Rows], texts: pd.DataFrame) -> pd.DataFrame | None:
    """Valence and arousal by emotion, of a table of norms or of the table of emotions."""
    rows = beside.get("norms") or beside.get("emotions")
    if rows is None:
        return None
    lower = [str(column).strip().lower() for column in rows.cells.columns]
    own = dict(zip(lower, rows.cells.columns, strict=True))
    found = {role: next((own[one] for one in usual if one in own), None) for role, usual in _NORM_COLUMNS.items()}
    for column in found.values():
        if lower.count(str(column).strip().lower()) > 1:
            raise EmotraceError(f"the table of norms has the column {column} twice, but for capitals or blanks")
    if found["emotion"] is None or found["valence"] is None:
        if "norms" in beside:
            raise EmotraceError(
                f"the table of norms needs the columns {', '.join(_NORM_COLUMNS)} (or Word, V.Mean.Sum)"
            )
        return None
    words = [_name(str(cell)).lower() for cell in rows.cells[found["emotion"]]]
    wanted = {name.lower(): name for name in [*texts["emotion"].unique(), NEUTRAL]}
    table = pd.DataFrame(np.nan, index=list(wanted.values()), columns=NORMS)
    for number, word in enumerate(words):
        if word not in wanted:  # published norms have thousands of words
            continue
        if word in words[:number]:
            raise EmotraceError(f"the norms, {rows.places[number]}: {word!r} stands there twice")
        for role in NORMS:
            cell = rows.cells[found[role]].iloc[number] if found[role] is not None else ""
            if isinstance(cell, str) and not cell.strip():
                continue
            try:
                table.loc[wanted[word], role] = value = float(cell)
                if np.isinf(value):
                    raise ValueError
            except (TypeError, ValueError, OverflowError):
                raise EmotraceError(
                    f"the norms, {rows.places[number]}, column {found[role]}: a number is needed, not {shown(cell)}"
                ) from None
    return table
