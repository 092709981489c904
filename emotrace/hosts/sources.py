"""Where a model comes from: the registry's short names, packages, folders, GGUF files, the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from emotrace.errors import EmotraceError
from emotrace.hosts import checkpoints, gguf
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
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise EmotraceError(f"no file {path}")
        folder = gguf.converted([path], None, path.stem, say)
        return str(folder), _gguf_details(path.name, path.stem, gguf.weights_digest(folder))
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            raise EmotraceError(
                f"{path} holds a PEFT adapter, which is merged into its base model first "
                "(merge_and_unload, save_pretrained)"
            )
        if not (path / "config.json").is_file():
            raise EmotraceError(f"{path} holds no model: there is no config.json in it")
        return str(path), {"source": path.resolve().name}
    if "://" in name:
        raise EmotraceError(f"{name!r} is an address: a hub model is named by its id alone (org/name)")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name, {"source": name}
    raise EmotraceError(
        f"unknown model {name!r}: neither a folder, nor a hub id (org/name), nor one of {', '.join(registry.index)}"
    )


def base_by_registry(name: str, hub_id: str) -> bool:
    """Whether the registry knows a model as a base model: some carry a chat template all the same."""
    registry = corpus.model_registry()
    known = registry[(registry.index == name) | (registry["hub_id"] == hub_id)]
    return not known.empty and str(known["kind"].iloc[0]) == "base"


def run_names(models: Sequence[str]) -> list[str]:
    """The names that the models of one run go by, no two alike: of paths as many last parts as it takes.

    Raises:
        EmotraceError: the same model is given twice.
    """
    registry = corpus.model_registry()
    taken = {*registry.index, *registry["hub_id"]}
    targets = [_target(name) for name in models]
    for name, target in zip(models, targets, strict=True):
        if targets.count(target) > 1:
            raise EmotraceError(f"the model {name} is given twice: each model of a run is given once")
    paths = [target for target in targets if isinstance(target, Path)]
    taken |= {name for name, target in zip(models, targets, strict=True) if not isinstance(target, Path)}
    names = []
    for name, target in zip(models, targets, strict=True):
        if isinstance(target, Path):
            others = taken | {
                _tail(path, parts) for path in paths if path != target for parts in range(1, len(path.parts))
            }
            tails = (_tail(target, parts) for parts in range(1, len(target.parts) + 1))
            name = next((tail for tail in tails if tail not in others), str(target))
        names.append(name)
    return names


def _target(name: str) -> Path | str:
    """What a name leads to: a path, or a hub id, or a packaged model's own name."""
    registry, path = corpus.model_registry(), Path(name).expanduser()
    if name in registry.index:
        row = registry.loc[name]
        return name if row["source"] == "packaged" else str(row["hub_id"])
    return path.resolve() if path.exists() else name


def _tail(path: Path, parts: int) -> str:
    return "/".join(path.parts[-parts:])


def _gguf_details(source: str, weights: str, digest: str) -> dict[str, str]:
    return {
        "source": source,
        "weights_id": f"sha256:{digest}",
        "quantisation": f"GGUF {weights}, dequantised to float32",
    }


def load_failure(name: str, source: str, error: Exception) -> str:
    """Why a model cannot be loaded, in one line."""
    from huggingface_hub import constants

    reason = checkpoints.cause(source, error)
    if Path(source).is_dir():
        return f"{name} cannot be loaded as a language model: {reason}"
    registry = corpus.model_registry()
    packaged = registry[(registry["source"] == "packaged") & (registry["hub_id"] == source)].index
    offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    if name in packaged:
        return (
            f"{name} is not installed and cannot be loaded from the hub{offline}: {install_command(name)} installs it; "
            f"{reason}"
        )
    hint = f" ({packaged[0]} is the packaged copy of it)" if len(packaged) else ""
    return f"{source} cannot be loaded from the hub{offline}{hint}: {reason}"


def install_command(name: str) -> str:
    """The one command that installs a packaged model: of the checkout, or of the installed package."""
    if corpus.checkout():
        return "make setup" if name == DEFAULT_MODEL else "make models"
    return "emotrace setup" if name == DEFAULT_MODEL else "emotrace setup --models"


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


def quiet() -> None:
    """Keeps transformers and the hub's client from reporting on each load."""
    import transformers

    for noisy in ("transformers", "accelerate", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
