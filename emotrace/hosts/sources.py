"""Where a model comes from: the registry's short names, packages, folders, GGUF files, the hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from emotrace.errors import EmotraceError
from emotrace.hosts import gguf
from emotrace.instrument import corpus

DEFAULT_MODEL = "smollm2-135m-instruct"


def resolve(name: str, say: Callable[[str], None]) -> tuple[str, dict[str, str]]:
    """Where to load ``name`` from (a local folder or a hub id), and what of its provenance is known already."""
    registry = corpus.model_registry()
    if name in registry.index:
        row = registry.loc[name]
        files = gguf.package_files(row["files"]) if row["source"] == "packaged" else None
        if files:
            folder = gguf.converted(files, row["sha256"], name, say)
            return str(folder), _gguf_details(row["hub_id"], row["weights"], row["sha256"])
        return row["hub_id"], {"source": row["hub_id"]}
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise EmotraceError(f"no file {path}")
        folder = gguf.converted([path], None, path.stem, say)
        digest = gguf.sha256(path)
        return str(folder), _gguf_details(path.name, path.stem, digest)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise EmotraceError(f"{path} holds no model: there is no config.json in it")
        return str(path), {"source": path.resolve().name}
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name, {"source": name}
    raise EmotraceError(
        f"unknown model {name!r}: neither a folder, nor a hub id (org/name), nor one of {', '.join(registry.index)}"
    )


def _gguf_details(source: str, weights: str, digest: str) -> dict[str, str]:
    return {
        "source": source,
        "weights_id": f"sha256:{digest}",
        "quantisation": f"GGUF {weights}, dequantised to float32",
    }


def folder_digest(folder: Path) -> str:
    """One sha256 over the weight files of a local model (about a second for each gigabyte)."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]
    return gguf.sha256(*sorted(files))


def load_failure(name: str, source: str, error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if Path(source).is_dir():
        return f"{name} cannot be loaded as a language model: {reason}"
    registry = corpus.model_registry()
    if name in registry.index and registry.loc[name, "source"] == "packaged":
        return f"{name} is not installed and the hub is out of reach: {install_command(name)} installs it"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return f"{source} cannot be loaded from the hub{offline}: {reason}"


def install_command(name: str) -> str:
    """The one command that installs a packaged model."""
    return "make setup" if name == DEFAULT_MODEL else "make models"


def availability(name: str) -> str:
    """Whether a registry model can be loaded here and now, in a few words."""
    row = corpus.model_registry().loc[name]
    if row["source"] == "packaged" and gguf.package_files(row["files"]):
        folder = gguf.converted_folder(name, row["sha256"])
        return "ready" if folder.exists() else "ready (converted at first use)"
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(row["hub_id"], "config.json"), str):
        return "ready (in the hub's cache)"
    return f"install: {install_command(name)}" if row["source"] == "packaged" else "fetched from the hub at first use"
