"""A run folder: every finished unit of work is kept by its content, so that a killed run loses none and redoes none.

Layout: ``manifest.json``, ``vectors/``, ``texts/``, ``tables/``, ``figures/``, ``report.html``, and ``.cache/`` with
the finished units. Every file is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError, first_line, writing
from emotrace.files import write_file

# Six significant digits: more than any of the numbers can claim, without the noise of the last bits.
FLOAT_FORMAT = "%.6g"


class RunFolder:
    """One run's results and its finished units of work; a :class:`~emotrace.files.Cache`.

    Args:
        path: the folder; made if it does not exist.
        settings: what identifies the run (models, experiments, sizes, seed). A folder holds one run only.
        resume: go on with a run that is there already; experiments may be added to it, nothing else may change.

    Raises:
        EmotraceError: the folder holds another run, or a run and ``resume`` is off; another process is at work in it.
        WriteError: it cannot be written.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], *, resume: bool = False) -> None:
        self.path = Path(path)
        self._manifest = self.path / "manifest.json"
        with writing(self.path):
            (self.path / ".cache").mkdir(parents=True, exist_ok=True)
            for folder in ("tables", "figures", "vectors", "texts"):
                (self.path / folder).mkdir(exist_ok=True)
            self._lock = self._acquire_lock()
        if self._manifest.exists():
            self.manifest = self._resumed(settings, resume)
        else:
            self.manifest = {"settings": settings, "complete": False, "models": {}, "seconds": {}}
        self.save_manifest()

    def _acquire_lock(self) -> filelock.BaseFileLock:
        lock = filelock.FileLock(self.path / ".cache" / "lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise EmotraceError(f"another emotrace is at work in {self.path}") from None
        return lock

    def _resumed(self, settings: dict[str, Any], resume: bool) -> dict[str, Any]:
        manifest = read_manifest(self.path)
        if not resume:
            raise EmotraceError(f"{self.path} holds a run already: go on with it by --resume, or name another --out")
        old = manifest["settings"]
        asked, had = settings.get("experiments", []), old.get("experiments", [])
        if asked != had and set(asked) >= set(had):
            manifest |= {"settings": {**old, "experiments": asked}, "complete": False}
            old = manifest["settings"]
        changed = [key for key in sorted({*old, *settings}) if old.get(key) != settings.get(key)]
        if changed:
            was = ", ".join(f"{key} was {old.get(key)!r} and is {settings.get(key)!r}" for key in changed)
            raise EmotraceError(f"{self.path} holds a run with other settings ({was}): name another --out")
        return manifest

    def close(self) -> None:
        """Lets another process use the folder."""
        self._lock.release()

    # -- finished units -----------------------------------------------------------------------------------------

    def arrays(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array kept under ``key``; computed and kept first if there is none."""
        path = self.path / ".cache" / f"{key}.npy"
        if path.exists():
            with contextlib.suppress(ValueError, EOFError):  # damaged: computed again
                return np.load(path, allow_pickle=False)
        array = compute()
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_file(path, buffer.getvalue())
        return array

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The table rows kept under the content of ``key``; computed and kept first if there are none."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = self.path / ".cache" / f"{digest}.json"
        if path.exists():
            with contextlib.suppress(ValueError):  # damaged: computed again
                return json.loads(path.read_text())
        # Through JSON in any case, so that a resumed run has the very same numbers as an uninterrupted one.
        text = json.dumps(compute(), default=float)
        write_file(path, text.encode())
        return json.loads(text)

    # -- results ------------------------------------------------------------------------------------------------

    def write_table(self, name: str, table: pd.DataFrame, folder: str = "tables") -> None:
        """Writes ``tables/NAME.csv`` (or in ``texts``); an empty cell is a value that does not exist."""
        text = table.to_csv(index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
        write_file(self.path / folder / f"{name}.csv", text.encode())

    def save_manifest(self) -> None:
        """Writes ``manifest`` to ``manifest.json``."""
        write_file(self._manifest, (json.dumps(self.manifest, indent=1, sort_keys=True) + "\n").encode())

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the wall-clock seconds of a stage to the manifest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.manifest["seconds"]
            seconds[stage] = round(seconds.get(stage, 0) + time.perf_counter() - start, 1)
            with contextlib.suppress(EmotraceError):  # an error under way must not be hidden by a full disk
                self.save_manifest()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        EmotraceError: there is none, or it cannot be read.
    """
    try:
        manifest = json.loads((Path(path) / "manifest.json").read_text())
    except (OSError, ValueError):
        raise EmotraceError(f"{path} holds no run: no readable manifest.json in it") from None
    parts = ("settings", "models", "seconds")
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(part), dict) for part in parts):
        raise EmotraceError(f"{path} holds no run: its manifest.json is not one of emotrace")
    return manifest


def read_tables(path: str | Path) -> dict[str, pd.DataFrame]:
    """Every table of a run folder, by name.

    Raises:
        EmotraceError: one cannot be read.
    """
    tables = {}
    for file in sorted((Path(path) / "tables").glob("*.csv")):
        try:
            tables[file.stem] = pd.read_csv(file)
        except (OSError, ValueError) as error:
            raise EmotraceError(
                f"{file} cannot be read ({first_line(error)}): go on with the run by --resume"
            ) from None
    return tables


def file_name(model: str) -> str:
    """A model's name as part of a file's name: a hub id has a slash in it."""
    return model.replace("/", "--")


def select(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows of a tidy table whose columns have these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table
