"""Packaged models: GGUF weights inside Python packages, checked, converted once, loaded from the cache in seconds.

A packaged model is one or more data files of installed packages, joined in order. Nothing of those packages is
imported; no byte is parsed before the sha256 of the whole agrees with the registry's. transformers dequantises
the weights to float32; the result is kept as safetensors in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from emotrace.errors import EmotraceError

_STAMP = "emotrace.json"
_BLOCK = 1 << 22


def cache_dir() -> Path:
    """Where converted weights lie: ``$EMOTRACE_CACHE``, or the platform's folder for caches."""
    import platformdirs

    return Path(os.environ.get("EMOTRACE_CACHE") or platformdirs.user_cache_dir("emotrace"))


def package_files(files: Iterable[str]) -> list[Path] | None:
    """The installed files of ``package/path`` entries, or None where one of the packages is not installed."""
    found = []
    for entry in files:
        package, _, inside = entry.partition("/")
        spec = importlib.util.find_spec(package)  # looks the package up without importing it
        if spec is None or not spec.submodule_search_locations:
            return None
        found.append(Path(next(iter(spec.submodule_search_locations))) / inside)
    return found if found and all(path.is_file() for path in found) else None


def sha256(path: Path, into: object | None = None) -> str:
    """The sha256 of a file in hex digits; ``into`` continues a digest over several files."""
    digest = into or hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def converted(parts: list[Path], expected: str | None, name: str, say: Callable[[str], None]) -> Path:
    """The folder of the converted model, converting it first if the cache lacks it.

    Args:
        parts: the GGUF file, or the pieces that give it when joined in order.
        expected: its sha256 by the registry, or None for a file of the user's own.
        name: the model's name, for messages and the folder's name.
        say: called with one line before each long step.

    Raises:
        EmotraceError: the weights are not those expected, cannot be read as GGUF, or the cache cannot be written
            or is damaged.
    """
    if expected:  # the cache may be trusted by the name: it was filled only after the weights agreed
        folder = _folder(name, expected)
        if folder.exists():
            return checked(folder)
    say(f"checking the weights of {name}")
    digest = hashlib.sha256()
    for part in parts:
        sha256(part, digest)
    actual = digest.hexdigest()
    if expected and actual != expected:
        raise EmotraceError(
            f"the weights of {name} are damaged or not the pinned ones (sha256 {actual[:12]}…, expected {expected[:12]}…): "
            "install the package again"
        )
    folder = _folder(name, actual)
    if folder.exists():
        return checked(folder)
    say(f"converting {name} from GGUF, once (about a minute)")
    _convert(parts, folder, actual, name)
    return folder


def _folder(name: str, digest: str) -> Path:
    return cache_dir() / f"{name}-{digest[:12]}"


def checked(folder: Path) -> Path:
    """``folder`` unchanged if its files are those that were written.

    Size and time of change are compared, and the sha256 as well where the time differs, so that the usual check
    costs nothing.

    Raises:
        EmotraceError: a file is missing, cut short or changed; the message says which folder to remove.
    """
    try:
        stamp = json.loads((folder / _STAMP).read_text())
        for name, known in stamp["files"].items():
            status = (folder / name).stat()
            same = status.st_size == known["size"] and (
                status.st_mtime_ns == known["mtime_ns"] or sha256(folder / name) == known["sha256"]
            )
            if not same:
                raise ValueError(f"{name} has changed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise EmotraceError(
            f"the cached model in {folder} is damaged ({reason}): remove that folder and run again"
        ) from None
    return folder


def _convert(parts: list[Path], folder: Path, digest: str, name: str) -> None:
    """Writes the converted model beside its final place and renames it there, so that no half of one is ever read."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise EmotraceError(
            f"the cache {folder.parent} cannot be written ({error.strerror}): set EMOTRACE_CACHE"
        ) from None
    try:
        source = parts[0]
        if len(parts) > 1:
            source = scratch / "joined.gguf"
            with source.open("wb") as joined:
                for part in parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, joined, _BLOCK)
        _dequantise(source, scratch / "model", name)
        _stamp(scratch / "model", digest)
        try:
            os.rename(scratch / "model", folder)
        except OSError:
            if not folder.exists():  # else another process was first, with the same bytes
                raise
    except EmotraceError:
        raise
    except Exception as error:  # a full disk is an OSError here and a SafetensorError inside save_pretrained
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise EmotraceError(f"{name} cannot be converted into {folder.parent}: {reason}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _dequantise(source: Path, target: Path, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        module = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except Exception as error:  # the GGUF reader raises whatever a damaged header leads it to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EmotraceError(f"{source.name} cannot be read as a GGUF model ({reason})") from None
    # The weights are plain float32 now; with these two left, save_pretrained refuses them as quantised.
    module.hf_quantizer = None
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    module.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _stamp(folder: Path, digest: str) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        status = path.stat()
        files[path.name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}
    (folder / _STAMP).write_text(json.dumps({"source_sha256": digest, "files": files}, indent=1))
