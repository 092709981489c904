"""Checkpoints: what names their content, how they are read whole or not at all, and why one cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotrace import arguments
from emotrace.errors import EmotraceError, shown, unknown
from emotrace.hosts import quantised
from emotrace.hosts.tokenizer_files import read_tokenizer
from emotrace.redaction import redacted

# What decides a model's activations and texts: weights, configurations, tokenizer, chat template, adapter, code.
_CONTENT = (
    *("*.safetensors", "*.bin", "*.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("*.tiktoken", "tekken.json", "chat_template*", "additional_chat_templates/*", "processor_config.json", "*.py"),
)
_WEIGHTS = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?(\.\w+)?\.(safetensors|bin)")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "spiece.model")
_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")
_BLOCK = 1 << 22
BLOCK, SUMMED = 1 << 16, 1 << 31
"""Of a model in memory: numbers to a checksum, and how many numbers are read before blocks are left out."""
_NAMED = 3
"""How many tensors a message names."""


# -- identity ---------------------------------------------------------------------------------------------------------


def identity(provenance: Mapping[str, str]) -> str:
    """What tells a model from any other: ``source@weights_id``, or the digest alone of what is on no hub.

    A folder may be renamed or copied, a model in memory called anything: a name says nothing of what lies in it.
    """
    source, weights = provenance.get("source", "?"), provenance.get("weights_id", "?")
    alone = weights.startswith("memory:") or (weights.startswith("sha256:") and "/" not in source)
    return weights if alone else f"{source}@{weights}"


def content(provenance: Mapping[str, str]) -> str:
    """What tells a model's content from any other's: its sha256, or its hub id and revision."""
    weights = provenance.get("weights_id", "?")
    return weights if weights.startswith("sha256:") else identity(provenance)


def sha256(*paths: Path) -> str:
    """The sha256, in hex digits, of a file, or of several as if they were joined."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """One sha256 over the names and contents of a local model's files (about a second for each gigabyte)."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in _content_files(folder)):
        digest.update(f"{name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _content_files(folder: Path) -> set[Path]:
    """The files that decide what a local model computes."""
    paths = {path for pattern in _CONTENT for path in folder.glob(pattern) if path.is_file()}
    # Beside weights by transformers' names, others are not read: emotion vectors, the state of an optimizer.
    tensors = {path for path in paths if path.suffix in (".safetensors", ".bin")}
    weights = {path for path in tensors if _WEIGHTS.fullmatch(path.name)}
    return paths - tensors | (weights or tensors)


def is_content(path: Path) -> bool:
    """Whether a file is part of a local model."""
    return (path.parent / "config.json").is_file() and path in _content_files(path.parent)


# -- reading ----------------------------------------------------------------------------------------------------------


def check_device(device: str) -> None:
    """Refuses a device that torch does not know or that this machine lacks.

    Raises:
        EmotraceError: the device is named.
    """
    import torch

    if device in _PLACEMENTS:
        return
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        raise unknown("device", device, (*_PLACEMENTS, "cpu", "cuda", "cuda:0", "mps")) from None
    here: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if kind in here and not here[kind]():
        raise EmotraceError(f"device {device!r} is not on this machine: torch finds no {kind}; cpu or auto work")


@dataclass(frozen=True)
class Way:
    """How a checkpoint is read; see :func:`way_to_read`."""

    dtype: str
    device: str
    placement: Any
    gpu: bool
    revision: str | None
    quantization: Any
    trust_remote_code: bool

    @property
    def changes(self) -> str:
        """What makes the model another than its files say; empty for none."""
        return "" if self.quantization is None else quantised.digest(self.quantization)


def way_to_read(
    *,
    dtype: str,
    device: str,
    revision: str | None = None,
    quantization: Any = None,
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Way:
    """How a checkpoint is to be read, from what :func:`emotrace.load` was given.

    Raises:
        EmotraceError: two places for one model, or what is no map, no revision, no flag.
    """
    import torch

    if device_map is not None and device != "auto":
        raise EmotraceError("a model is placed by device or by device_map, not by both")
    if device_map is not None and not (isinstance(device_map, (str, Mapping)) and device_map):
        raise EmotraceError(f"a device_map is auto or a map of module to device, not {shown(device_map)}")
    if revision is not None:
        revision = arguments.text(revision, "a revision")
    placement: Any
    if isinstance(device_map, Mapping):
        gpu, placement = not {str(place) for place in device_map.values()} <= {"cpu", "disk"}, dict(device_map)
    else:
        asked = device if device_map is None else device_map
        gpu = torch.cuda.is_available() if asked in _PLACEMENTS else not asked.startswith("cpu")
        placement = "cpu" if asked == "auto" and not gpu else asked
        device = asked
    dtype = "float32" if dtype == "auto" and not gpu else dtype
    return Way(dtype, device, placement, gpu, revision, quantization, trust_remote_code)


def commit(source: str, way: Way) -> str | None:
    """The commit of a hub model that a load takes: of the revision, else the newest if the hub answers, else the one in
    the cache. None for a folder.

    Raises:
        EmotraceError: a revision of a folder.
    """
    from transformers.utils import cached_file

    if Path(source).is_dir():
        if way.revision is not None:
            raise EmotraceError(f"revision {way.revision!r} is asked for: a model of this machine has none")
        return None
    config = cached_file(source, "config.json", revision=way.revision)
    name = Path(config).parent.name if config else ""
    return name if re.fullmatch("[0-9a-f]{40}", name) else None


def read(source: str, commit: str | None, way: Way) -> tuple[Any, Any]:
    """The module and the tokenizer of a folder or hub model, in transformers' own classes.

    Raises:
        EmotraceError: tensors that are missing, left over or of another shape.
        Exception: whatever transformers, the hub's client and safetensors raise.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    # False, and not left out: transformers would ask on the terminal.
    where = {"revision": commit, "trust_remote_code": way.trust_remote_code}
    packed = getattr(AutoConfig.from_pretrained(source, **where), "quantization_config", None)
    if packed and way.quantization is not None:
        raise EmotraceError("its weights are quantised already: leave quantization out")
    if packed:
        quantised.check_checkpoint(packed)
    tokenizer = read_tokenizer(source, **where)
    more = {} if way.quantization is None else {"quantization_config": way.quantization}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        **where,
        **more,
        dtype=way.dtype,
        device_map=way.placement,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they can be named here
    )
    module, info = loaded
    check_whole(info)
    check_finite(module)
    return module, tokenizer


def check_whole(info: Mapping[str, Any], whose: str = "") -> None:
    """Refuses what transformers would fill with random numbers or leave out; ``info`` is its ``loading_info``.

    Raises:
        EmotraceError: the first few tensors are named.
    """
    left_over = sorted(info["unexpected_keys"])
    faults = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("missing", sorted(info["missing_keys"])),
            ("of another shape than config.json says", [_shapes(*key) for key in sorted(info["mismatched_keys"])]),
            ("that the model has no place for", left_over),
        )
        if names
    ]
    if faults:
        adapter = any("lora_" in name or "base_model." in name for name in left_over)
        hint = ": a PEFT adapter is merged first, by merge_and_unload and save_pretrained" if adapter else ""
        raise EmotraceError(f"{whose}its weights are not whole, tensors: {'; '.join(faults)}{hint}")


def check_finite(module: Any) -> None:
    """Refuses weights that are NaN or infinite, as those are that a narrower dtype cannot hold.

    Raises:
        EmotraceError: the first few tensors are named, and their dtype.
    """
    named = quantised.plain_tensors(module.named_parameters())
    tensors = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and not tensor.is_meta]
    if wrong := [(name, tensor) for name, tensor in tensors if not _finite(tensor)]:
        dtype = str(wrong[0][1].dtype).removeprefix("torch.")
        raise EmotraceError(f"its weights in {dtype} are NaN or infinite: {_first([name for name, _ in wrong])}")


def _finite(tensor: Any) -> bool:
    tensor = tensor.float() if tensor.element_size() == 1 else tensor  # torch sums none of 8 bits
    # A sum is many times faster than a look at each number; only if it is not finite, each is looked at.
    return math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())


def memory_digest(module: Any, tokenizer: Any) -> str:
    """Identity of a model in memory: the sha256 of its configuration, ends of text, tokenizer and weights.

    A tensor stands in it by checksums of its bits, block by block, which any change of a number changes. Of models of
    more than ``SUMMED`` numbers every k-th block of ``BLOCK`` numbers is taken: a change of a part may be missed there,
    one of a whole tensor not.
    """
    config = re.sub(r'\n *"(_name_or_path|transformers_version)": .*', "", module.config.to_json_string(use_diff=False))
    ends = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    digest = hashlib.sha256(f"{config} {sorted(map(str, ends if isinstance(ends, list) else [ends]))}".encode())
    core = getattr(tokenizer, "backend_tokenizer", None)
    own = core is None and [tokenizer.get_vocab(), tokenizer("a")["input_ids"]]  # what it adds is in no vocabulary
    words = json.dumps(own, sort_keys=True) if core is None else core.to_str()
    words = words.split('"added_tokens":', 1)[-1]  # before it: truncation and padding of the last call
    special = dict(tokenizer.special_tokens_map)
    pad = special.pop("pad_token", None)  # of a tokenizer without one nnsight makes it the end of text
    digest.update(f"{words} {special} {None if pad in special.values() else pad} {tokenizer.chat_template}".encode())
    tensors = sorted(quantised.plain_tensors(quantised.tensors_of(module).items()))
    step = 1 + sum(tensor.numel() for _, tensor in tensors) // SUMMED
    for name, tensor in tensors:
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode() + _checksums(tensor, step).tobytes())
    return digest.hexdigest()


def _checksums(tensor: Any, step: int) -> Any:
    """Of every ``step``-th block of a tensor's numbers a checksum of their bits: int64 ``[block]``.

    Sums of integers, so that neither device nor number of threads can change them.
    """
    import torch

    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.reshape(-1).contiguous().view(whole[tensor.element_size()])
    # Odd factors: none but the same number gives the same product, modulo 2⁶⁴.
    factors = torch.arange(BLOCK, device=bits.device) * 0x2545F4914F6CDD1D | 1
    blocks = range(0, bits.numel(), BLOCK * step)
    sums = [(bits[at : at + BLOCK].long() * factors[: bits[at : at + BLOCK].numel()]).sum() for at in blocks]
    return torch.stack(sums).cpu().numpy() if sums else torch.zeros(0, dtype=torch.long).numpy()


def _shapes(name: str, stored: Iterable[int], expected: Iterable[int]) -> str:
    return f"{name} {list(stored)} for {list(expected)}"


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


# -- why a model cannot be read ---------------------------------------------------------------------------------------


def cause(source: str, error: BaseException) -> str:
    """Why a folder or hub model cannot be read, in one line: the cause that the library gave, and what to do."""
    folder = Path(source)
    if "trust_remote_code" in str(error):
        return "it runs by code that lies beside its weights: read that, then load it with trust_remote_code=True"
    if folder.is_dir():
        if "tokenizer" in str(error) and not any((folder / name).exists() for name in _TOKENIZER):
            return f"there is no tokenizer in it ({', '.join(_TOKENIZER)})"
        return one_line(error)
    page = f"https://huggingface.co/{source}"
    names = {type(link).__name__ for link in _chain(error)}
    status = next((code for link in _chain(error) if (code := _status(link))), None)
    if "GatedRepoError" in names:
        return f"access to it is gated: ask for it at {page}, then log in (hf auth login, or HF_TOKEN); {_last(error)}"
    if status == 429:
        return f"the hub limits the rate of requests (429): wait a while, or log in; {_last(error)}"
    if "RepositoryNotFoundError" in names:
        return (
            f"the hub has no model {source} for this user: check the name at {page}, and log in if it is private "
            f"(hf auth login, or HF_TOKEN); {_last(error)}"
        )
    if status in (401, 403):
        return f"the hub refuses this user ({status}): log in anew (hf auth login, or HF_TOKEN); {_last(error)}"
    return f"the hub answered {status}; {_last(error)}" if status else one_line(error)


def one_line(error: BaseException, longest: int = 400) -> str:
    """All that an exception says, in one line, or its type's name."""
    text = " ".join(redacted(str(error)).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}…"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status if status and status >= 400 else None


def _last(error: BaseException) -> str:
    """What the hub's own client said, at the end of the chain of errors that wrap it."""
    said = [link for link in _chain(error) if _status(link)]
    return one_line(said[0] if said else error, 160)
