"""A hub cache as huggingface_hub lays it out: ``models--org--name/snapshots/<commit>/…`` and ``refs/main``."""

import shutil
from pathlib import Path

COMMITS = ("1" * 40, "2" * 40)


def add(cache: Path, hub_id: str, folder: Path, commit: str = COMMITS[0]) -> Path:
    """The model of a folder as a snapshot, to which ``refs/main`` points from now on."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = Path(shutil.copytree(folder, repository / "snapshots" / commit))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return snapshot
