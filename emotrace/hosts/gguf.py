"""Packaged models: GGUF weights inside Python packages, checked, converted once, loaded from the cache in seconds.

A packaged model is one or more data files of installed packages, joined in order. Nothing of those packages is
imported; no byte is parsed before the sha256 of the whole agrees with the registry's. transformers dequantises
the weights to float32; the result is kept as safetensors in the user's cache.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from emotrace.errors import EmotraceError, first_line, require
from emotrace.files import write_file
from emotrace.hosts import gguf_settings
from emotrace.hosts.checkpoints import check_whole, sha256
from emotrace.hosts.gguf_reading import parsed_once

_STAMP = "emotrace.json"
_BLOCK = 1 << 22
_CONVERSION = 3  # what is kept of a user's own GGUF file: older conversions lost its settings, or took others
_TEMPORARY: dict[Path, Path] = {}
"""Where converted models lie that the cache had no room for, by where they would lie in it."""


def cache_dir() -> Path:
    """Where converted weights lie: ``$EMOTRACE_CACHE``, or the platform's folder for caches."""
    import platformdirs

    return Path(os.environ.get("EMOTRACE_CACHE") or platformdirs.user_cache_dir("emotrace"))


def package_files(entries: Iterable[str]) -> list[Path] | None:
    """The installed files of ``package/path`` entries, or None where one of them is not installed."""
    paths = []
    for entry in entries:
        package, _, inside = entry.partition("/")
        spec = importlib.util.find_spec(package)  # looks the package up without importing it
        if spec is None or not spec.submodule_search_locations:
            return None
        paths.append(Path(next(iter(spec.submodule_search_locations))) / inside)
    return paths if paths and all(path.is_file() for path in paths) else None


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
    if expected and (folder := converted_folder(name, expected)).exists():
        return checked(folder)  # trusted by its name: it was filled only after the weights agreed
    say(f"checking the weights of {name}")
    actual = sha256(*parts)
    if expected and actual != expected:
        raise EmotraceError(
            f"the weights of {name} are damaged or not the pinned ones (sha256 {actual[:12]}…, "
            f"expected {expected[:12]}…): install the package again"
        )
    folder = converted_folder(name if expected else f"{name}-{_CONVERSION}", actual)
    if (folder := _TEMPORARY.get(folder, folder)).exists():
        return checked(folder)
    require("embedded")
    say(f"converting {name} from GGUF, once (under a minute)")
    _convert(parts, folder := _writable(folder, say), actual, name)
    return folder


def weights_digest(folder: Path) -> str:
    """The sha256 that a converted model goes by: of its GGUF file, and of the settings restored beside it."""
    stamp = json.loads((folder / _STAMP).read_text())
    source: str = stamp["source_sha256"]
    if not stamp.get("restored"):
        return source
    return hashlib.sha256(f"{source} {json.dumps(stamp['restored'], sort_keys=True)}".encode()).hexdigest()


def _writable(folder: Path, say: Callable[[str], None]) -> Path:
    """``folder``, or one of the same name that lasts as long as this process where the cache cannot be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder.parent).close()
    except OSError as error:
        say(
            f"the cache {folder.parent} cannot be written ({error.strerror}): the converted model is kept for this "
            "process only; set EMOTRACE_CACHE to keep it"
        )
        parent = Path(tempfile.mkdtemp(prefix="emotrace-"))
        atexit.register(shutil.rmtree, parent, ignore_errors=True)
        _TEMPORARY[folder] = parent / folder.name
        return _TEMPORARY[folder]
    return folder


def converted_folder(name: str, digest: str) -> Path:
    """Where the converted model lies, or will, by its weights' sha256."""
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
            path = folder / name
            status = path.stat()
            same_time = status.st_mtime_ns == known["mtime_ns"]
            if status.st_size != known["size"] or not (same_time or sha256(path) == known["sha256"]):
                raise ValueError(f"{name} has changed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmotraceError(
            f"the cached model in {folder} is damaged ({first_line(error)}): remove that folder and run again"
        ) from None
    return folder


def _convert(parts: list[Path], folder: Path, digest: str, name: str) -> None:
    """Writes the converted model beside its final place and renames it there, so that no half of one is ever read."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with parsed_once():
            restored = _dequantise(_alone(parts, scratch), scratch / "model")
        _stamp(scratch / "model", digest, restored)
        try:
            os.rename(scratch / "model", folder)
        except OSError:
            if not folder.exists():  # else another process was first, with the same bytes
                raise
    except EmotraceError:
        raise
    except Exception as error:  # a full disk is an OSError here and a SafetensorError inside save_pretrained
        reason = getattr(error, "strerror", None) or first_line(error)
        raise EmotraceError(f"{name} cannot be converted into {folder.parent}: {reason}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _alone(parts: list[Path], folder: Path) -> Path:
    """One file of all parts in a ``folder`` of its own: of files beside it transformers takes the tokenizer's."""
    if len(parts) == 1:
        path = folder / parts[0].name
        try:
            path.symlink_to(parts[0].absolute())
        except OSError:  # a system without links
            shutil.copyfile(parts[0], path)
        return path
    path = folder / "joined.gguf"
    with path.open("wb") as joined:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, joined, _BLOCK)
    return path


def _dequantise(source: Path, target: Path) -> dict[str, Any]:
    """Reads a GGUF file and writes model and tokenizer, in float32, as ``save_pretrained`` does.

    Returns:
        The settings that transformers' reader dropped and that were put back.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder, file = str(source.parent), source.name
    try:
        settings = gguf_settings.read_settings(source)
        gguf_settings.check_model(settings)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        restored = gguf_settings.restore_tokens(tokenizer, settings)
        config = AutoConfig.from_pretrained(folder, gguf_file=file)
        before = config.to_dict()
        gguf_settings.restore(config, settings)
        restored |= {key: value for key, value in config.to_dict().items() if before.get(key) != value}
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=file,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        module, info = loaded
        check_whole(info, f"{source.name}: ")
        gguf_settings.check_tensors(module, settings)
    except EmotraceError:
        raise
    except Exception as error:  # the GGUF reader raises whatever a damaged header leads it to
        raise EmotraceError(f"{source.name} cannot be read as a GGUF model ({first_line(error)})") from None
    if len(ids := gguf_settings.ends(settings)) > 1:
        module.generation_config.eos_token_id = restored["ends"] = ids
    # The weights are plain float32 now; with these two left, save_pretrained refuses them as quantised.
    module.hf_quantizer = None
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    module.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return restored


def _stamp(folder: Path, digest: str, restored: Mapping[str, Any] | None = None) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        status = path.stat()
        files[path.name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}
    stamp = {"source_sha256": digest, "files": files, **({"restored": dict(restored)} if restored else {})}
    write_file(folder / _STAMP, json.dumps(stamp, indent=1).encode())
