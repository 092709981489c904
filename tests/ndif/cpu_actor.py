"""What of NDIF is replaced to serve a model on a CPU; imported by the server, so it cannot use emotrace.

- ``Actor``: the model actor. NDIF's own loads onto GPUs; this one loads onto the CPU and inherits all the rest: reading
  the request, running the traced block, errors, compression, the way back to the client.
- ``SandboxedActor``: the same, for requests that are not trusted: the traced block runs in a process of its own.
- ``Controller``: NDIF 0.1.2 hands nnsight 0.8.1 an argument that it has since dropped, and counts a model's parameters
  by asking the hub; this one drops the argument and counts them in the local files.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import ndif.services.ray.sandbox.host as sandbox_host
import ray
import torch
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from ndif.services.ray.sandbox.model import SandboxHost
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import CheckpointInfo, Remotable, bytes_per_element

THREADS = "EMOTRACE_NDIF_THREADS"  # threads of a matrix product; one on both sides makes results bit-equal
ONEDNN = "EMOTRACE_NDIF_ONEDNN"  # set: float32 products by oneDNN, as emotrace itself chooses on some processors


class _OnCPU(BaseModelDeployment):
    CACHEABLE = False  # NDIF parks a model by moving it off its GPU; here that would free nothing

    def load_from_disk(self) -> HuggingFaceModel:
        torch.cuda.synchronize = lambda *_, **__: None  # called after every request; raises without a GPU
        _compute_as_asked()
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device_map="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        return model


def _compute_as_asked() -> None:
    torch.set_num_threads(int(os.environ[THREADS]))
    if os.environ.get(ONEDNN):
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"


class _OnCPUSandboxed(SandboxHost, _OnCPU):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A runner builds a weightless model of its own: without this it would ask the hub first.
        sandbox_host.RUNNER_ENV = (*sandbox_host.RUNNER_ENV, "HF_HUB_OFFLINE")
        super().__init__(*args, **kwargs)
        self.open_pool(1)

    def interrupt(self) -> None:
        if self.execution_sandbox is not None:
            self.execution_sandbox.stop()
        super().interrupt()

    def execute(self, request: Any) -> Any:
        return self.run_in_runner(request, None)

    def execution_scope(self, request: Any) -> Any:
        return contextlib.nullcontext()  # the runner sends what is printed in it


@ray.remote(num_cpus=1, max_restarts=-1)
class Actor(_OnCPU):
    pass


@ray.remote(num_cpus=1, max_restarts=-1)
class SandboxedActor(_OnCPUSandboxed):
    pass


@ray.remote(num_cpus=1, num_gpus=0, max_restarts=-1, resources={"head": 1})
class Controller(_ControllerActor):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        Remotable.describe_checkpoint = staticmethod(_described)
        Remotable.max_tp_size = staticmethod(lambda *_, **__: None)
        super().__init__(*args, **kwargs)


def _described(model_key: str, dtype: str, trust_remote_code: bool = False) -> CheckpointInfo:
    suffix = model_key.split(":", 1)[1]
    config = HuggingFaceModel._config(suffix)
    repo = json.loads(suffix)["repo_id"]
    parameters = _parameters(_snapshot(repo))
    return CheckpointInfo(int(parameters * bytes_per_element(dtype)), parameters, config, None)


def _snapshot(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, local_files_only=True))


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict: it cannot be iterated
                total += torch.Size(tensors.get_slice(name).get_shape()).numel()
    return total
