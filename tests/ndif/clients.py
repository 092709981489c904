"""What the tests of the server ask of it, as any user of nnsight would: no part of emotrace is in this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nnsight
import server as servers
import torch
import transformers
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.modeling.transformers import TransformersModel

PROMPT = "I feel so happy today, because"


def loaded(folder: Path) -> TransformersModel:
    return TransformersModel(str(folder), task="text-generation", device_map="cpu", dtype=torch.float32, dispatch=True)


def weightless(folder: Path) -> TransformersModel:
    """A client's model: its parts and its tokenizer, no weights."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    return TransformersModel(str(folder), task="text-generation", tokenizer=words)


def backend(url: str, model: TransformersModel, repo_id: str) -> RemoteBackend:
    """Named by hand: nnsight would ask the hub how the model's name is spelt."""
    return RemoteBackend(servers.model_key(repo_id), host=url, env=model._remoteable_get_env())


def read(model: TransformersModel, remote: RemoteBackend | None, prompt: Any = PROMPT) -> tuple[Any, torch.Tensor]:
    with torch.no_grad(), model.trace(prompt, backend=remote):
        states = nnsight.save([])
        for layer in (0, 14, 29):
            states.append(model.model.layers[layer].output)
        logits = nnsight.save(model.lm_head.output[:, -1].clone())  # a slice would bring all that it is cut from
    return states, logits


def written(model: TransformersModel, remote: RemoteBackend | None, strength: float) -> torch.Tensor:
    push = strength * torch.linspace(-1, 1, 576)
    with torch.no_grad(), model.generate(max_new_tokens=8, do_sample=False, backend=remote) as tracer:
        with tracer.invoke(PROMPT):
            for _ in tracer.iter[:]:
                model.model.layers[14].output[:] += push
        with tracer.invoke():
            ids = nnsight.save(tracer.result)
    return ids


def sums(model: TransformersModel, remote: RemoteBackend | None, prompt: str) -> torch.Tensor:
    with torch.no_grad(), model.trace(prompt, backend=remote):
        total = nnsight.save(model.model.layers[2].output.sum((0, 1)))
    return total
