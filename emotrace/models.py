"""``load(name)``: a registry name, hub id, folder or GGUF file → one handle."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotrace import arguments
from emotrace.errors import EmotraceError, unknown
from emotrace.hosts import checkpoints, quantised, threads
from emotrace.hosts import remote as servers
from emotrace.hosts.open_edits import unedited
from emotrace.hosts.sources import DEFAULT_MODEL as DEFAULT_MODEL
from emotrace.hosts.sources import base_by_registry, load_failure, quiet, resolve, run_names
from emotrace.hosts.tokenizer_files import read_tokenizer
from emotrace.redaction import without_secret

if TYPE_CHECKING:
    import numpy as np
    from nnsight.modeling.transformers import TransformersModel

    from emotrace.architecture import Architecture
    from emotrace.hosts.remote import Remote

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
UNLIMITED = 1 << 30
"""The context of a model whose configuration and tokenizer name none."""


@dataclass(eq=False)
class Model:
    """A language model that emotrace can read and edit.

    ``with model.trace("…"): hidden = model.layers[11].output.save()`` works in this process and on a server alike:
    within a trace that travels, the handle stands for nnsight's envoys alone.

    Attributes:
        name: the name it was loaded by.
        nn: nnsight's wrapper around the transformers model.
        architecture: where the model keeps its parts.
        layers: the decoder layers as nnsight envoys, first to last: layer index i of this project is ``layers[i - 1]``.
        n_layers: number of decoder layers L; a depth is a layer index divided by L.
        d_model: width of the residual stream.
        context: longest input, in tokens.
        instruct: whether the model is instruction-tuned.
        provenance: model, source, weights id (revision or sha256), dtype, quantisation, versions.
        norms: mean residual norm of each layer, once ``activations.residual_norms`` has measured it.
        remote: where its traces run, if not in this process (see :mod:`emotrace.hosts.remote`).
        parts: into how many parts a batch is split, once the server or the GPU has refused a whole one.
        lock: held by the thread that is in the model (:mod:`emotrace.hosts.turns`); the others wait.
    """

    name: str
    nn: TransformersModel
    architecture: Architecture
    layers: list[Any]
    n_layers: int
    d_model: int
    context: int
    instruct: bool
    provenance: dict[str, str] = field(default_factory=dict)
    norms: np.ndarray | None = None
    remote: Remote | None = None
    parts: int = 1
    lock: threads.Turn = field(default_factory=threads.Turn, repr=False)

    # nnsight reads the source of the frame that calls it: no function of ours may stand between. Hence properties.

    @property
    def trace(self) -> Callable[..., Any]:
        """``with model.trace(input, …) as tracer``: nnsight's context around one forward pass, where the model runs."""
        return partial(self.nn.trace, backend=self.backend())

    @property
    def generate(self) -> Callable[..., Any]:
        """``with model.generate(input, max_new_tokens=…) as tracer``: nnsight's context around a generation."""
        return partial(self.nn.generate, backend=self.backend())

    @property
    def session(self) -> Callable[..., Any]:
        """``with model.session()``: several traces that share what they made, in one request."""
        return partial(self.nn.session, backend=self.backend())

    def backend(self) -> Any:
        """What every context of this model is given: where to run, and in this process one thread at a time."""
        from emotrace.hosts.turns import InTurn

        return self.remote.backend(self.nn, self.lock) if self.remote else InTurn(self.lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """What travels with a remote trace that names the handle: its envoys."""
        from emotrace.in_trace import RemoteHandle

        envoys = {"nn": self.nn, "layers": self.layers, "n_layers": self.n_layers, "d_model": self.d_model}
        envoys |= {"embedding": self.embedding, "final_norm": self.final_norm, "unembedding": self.unembedding}
        return RemoteHandle, (), envoys

    def __copy__(self) -> Model:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        raise EmotraceError(f"a second {self.name} in memory is loaded, not copied")

    @property
    def embedding(self) -> Any:
        """The envoy of the token embedding."""
        return _follow(self.nn, self.architecture.embedding)

    @property
    def final_norm(self) -> Any:
        """The envoy of the norm after the last decoder layer."""
        return _follow(self.nn, self.architecture.final_norm)

    @property
    def unembedding(self) -> Any:
        """The envoy of the unembedding."""
        return _follow(self.nn, self.architecture.unembedding)

    @property
    def device(self) -> Any:
        """Where inputs of a trace are best made: the first weights' device, the CPU for a model elsewhere."""
        weights = next(self.nn._module.parameters())
        return "cpu" if self.remote or weights.is_meta else weights.device

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows; a tokenizer may have more, or fewer."""
        size: int = self.nn._module.config.get_text_config().vocab_size
        return size

    def last_logits(self, count: int) -> dict[str, int]:
        """What a forward pass is given so that it makes the logits of the last tokens alone, if it can."""
        return {"logits_to_keep": count} if self.architecture.keeps_logits else {}

    @property
    def tokenizer(self) -> Any:
        return self.nn.tokenizer

    @property
    def family(self) -> str:
        return self.architecture.family

    @property
    def identity(self) -> str:
        """What tells this model from any other: source and revision; a folder's or memory's digest alone."""
        return checkpoints.identity(self.provenance)

    def check_layers(self, layers: int | Sequence[int] | str | None) -> list[int]:
        """Layer indices 0 … L in ascending order; ``None`` and ``"all"`` mean every one.

        Raises:
            EmotraceError: an index out of range, or none at all.
        """
        known = f"{self.name} has layers 0 (embeddings) to {self.n_layers}"
        if layers is None or (isinstance(layers, str) and layers == "all"):
            return list(range(self.n_layers + 1))
        if not (indices := arguments.integers(layers, "layer")):
            raise EmotraceError(f"no layer is asked for: {known}")
        for layer in indices:
            if not 0 <= layer <= self.n_layers:
                raise EmotraceError(f"layer {layer} is out of range: {known}")
        return sorted(set(indices))


@arguments.checked
@threads.one_at_a_time
def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    dtype: str = "auto",
    device: str = "auto",
    remote: bool | str = False,
    instruct: bool | None = None,
    revision: str | None = None,
    quantization: Any = None,
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
) -> Model:
    """Loads a model, or the handle of one that a server holds.

    Args:
        name: a name of ``data/models.csv``, a hub id (``org/name``), a folder that ``save_pretrained`` wrote, or a
            GGUF file.
        dtype: ``auto`` (float32 on a CPU, the checkpoint's own on a GPU) or one of ``DTYPES``.
        device: ``auto`` (GPUs if there are any) or one of torch's.
        remote: run every trace on NDIF (True), on the server at this address, or in nnsight's simulation of one
            (``local``). On a server no weights are loaded here, and it alone says which dtype they have.
        instruct: whether the model is instruction-tuned; default: as the registry says, else if it has a chat template.
        revision: branch, tag or commit of a hub model; default: the newest.
        quantization: ``bitsandbytes-8bit``, ``bitsandbytes-4bit``, ``torchao-int8``, or a configuration of transformers
            (``GPTQConfig``, say): weights in fewer bits. A checkpoint that is quantised already needs none.
        device_map: in place of ``device``: how transformers spreads the model over devices, ``auto`` or module →
            device. What is read comes back to the CPU whatever device its layer is on.
        trust_remote_code: run the model code that lies beside the weights. It may do anything: leave it off unless you
            have read it.
        say: told in one line about each long step; default: standard error.

    Raises:
        EmotraceError: unknown name, device, dtype, quantization or revision; a library that is missing; package not
            installed and hub out of reach, weights that are damaged or not whole, unknown architecture.
    """
    name = str(name) if isinstance(name, Path) else arguments.text(name, "a model's name")
    way = checkpoints.way_to_read(
        dtype=arguments.spelt(dtype, "dtype"),
        device=arguments.spelt(device, "device"),
        revision=revision,
        quantization=quantised.configuration(quantization),
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )
    source, details = resolve(name, say or (lambda line: print(f"{line} …", file=sys.stderr)))
    if remote and (where := servers.address(remote)) != "local":
        if way != checkpoints.way_to_read(dtype=way.dtype, device=way.device):
            raise EmotraceError(
                "a server alone says how its model is loaded: no revision, quantization or code of yours"
            )
        return _on_server(name, source, details["source"], where, instruct)
    nn, commit = _load_nnsight(name, source, way)
    # A path is of one machine only: what it was loaded from goes by the folder's or the file's own name.
    provenance = {**details, **describe(nn, source, commit, details)}
    if way.changes:
        provenance["weights_id"] += f"+{way.changes}"
        provenance["quantisation"] = quantised.method_of(nn._module)
    model = handle_of(run_names([name])[0], nn, nn._module.config, provenance, instruct)
    if remote:
        model.remote = servers.Remote("local")
    return model


def _on_server(name: str, source: str, hub_id: str, where: str, instruct: bool | None) -> Model:
    """The handle of a model that a server holds: its shape and tokenizer, on the meta device, without weights."""
    import transformers
    from nnsight.modeling.transformers import TransformersModel

    if "/" not in hub_id:
        raise EmotraceError(f"{name} is a model of this machine: a server knows models by their hub id (org/name)")
    deployed = servers.deployment(where, hub_id)
    quiet()
    try:
        tokenizer = read_tokenizer(source)
        nn = TransformersModel(source, task="text-generation", tokenizer=tokenizer)
    except Exception as error:  # transformers and the hub client raise a dozen types here
        raise EmotraceError(load_failure(name, source, error)) from without_secret(error)
    with contextlib.suppress(OSError):  # not every model has such a file: then the configuration says how a text ends
        nn._module.generation_config = transformers.GenerationConfig.from_pretrained(source)
    provenance = {"source": hub_id, "weights_id": f"revision:{deployed.revision}", "quantisation": "none"}
    provenance |= {"dtype": deployed.dtype, "class": type(nn._module).__name__, "server": where}
    provenance["versions"] = _versions()
    model = handle_of(name, nn, nn._module.config, provenance, instruct)
    model.remote = servers.Remote(where, deployed.key)
    return model


def _load_nnsight(name: str, source: str, way: checkpoints.Way) -> tuple[TransformersModel, str | None]:
    """nnsight's wrapper, and the commit of a hub model."""
    from nnsight.modeling.transformers import TransformersModel

    from emotrace.hosts import cpu_attention, cpu_matmul

    quiet()
    if not way.gpu:
        cpu_matmul.choose()
        threads.fit_to_quota()
    if way.dtype not in DTYPES:
        raise unknown("dtype", way.dtype, DTYPES)
    checkpoints.check_device(way.device)
    try:
        commit = checkpoints.commit(source, way)
        module, tokenizer = checkpoints.read(source, commit, way)
        nn = TransformersModel(module, task="text-generation", tokenizer=tokenizer)
    except EmotraceError as error:
        raise EmotraceError(f"{name}: {error}") from None
    except Exception as error:  # transformers, the hub client and safetensors raise a dozen types here
        raise EmotraceError(load_failure(name, source, error)) from without_secret(error)
    nn._module.requires_grad_(False)
    nn._module.eval()
    if not way.gpu:
        cpu_attention.choose(nn._module)
    return nn, commit


def _follow(root: Any, path: str) -> Any:
    for step in path.split("."):
        root = getattr(root, step)
    return root


def handle_of(
    name: str, nn: TransformersModel, config: Any, provenance: dict[str, str], instruct: bool | None = None
) -> Model:
    from emotrace.architecture import examine

    try:
        with unedited(nn._module):
            architecture = examine(nn._module)
    except Exception as error:  # what it lacks, or whatever a class of another's code raises
        kind = f"{config.model_type!r} ({type(nn._module).__name__})"
        cause = checkpoints.one_line(error)
        raise EmotraceError(f"{name} is a {kind} that emotrace cannot read: {cause}") from without_secret(error)
    text = config.get_text_config()
    templated = nn.tokenizer.chat_template is not None
    if instruct and not templated:
        raise EmotraceError(f"{name} cannot be taken as an instruct model: its tokenizer has no chat template")
    tuned = templated and not base_by_registry(name, provenance["source"])
    if instruct not in (None, tuned):
        provenance["kind"] = "instruct" if instruct else "base"  # not as it comes, so kept work must tell it apart
    return Model(
        name=name,
        nn=nn,
        architecture=architecture,
        layers=list(_follow(nn, architecture.layers)),
        n_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        context=min(_context(text, nn.tokenizer), architecture.window or UNLIMITED),
        instruct=tuned if instruct is None else instruct,
        provenance=provenance,
    )


def _context(text: Any, tokenizer: Any) -> int:
    """The longest input: as the configuration says, else the tokenizer, where both know one."""
    limits = [getattr(text, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return int(next((limit for limit in limits if limit), UNLIMITED))


def describe(nn: TransformersModel, source: str, revision: str | None, known: dict[str, str]) -> dict[str, str]:
    described = {
        "dtype": str(next(nn._module.parameters()).dtype).removeprefix("torch."),
        "class": type(nn._module).__name__,
        "versions": _versions(),
    }
    if "weights_id" not in known:
        folder = Path(source)
        if folder.is_dir():
            described["weights_id"] = f"sha256:{checkpoints.folder_digest(folder)}"
        else:
            described["weights_id"] = f"revision:{revision or 'unknown'}"
        described["quantisation"] = quantised.method_of(nn._module)
    return described


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "nnsight"))
