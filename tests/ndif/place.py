"""Starts NDIF's controller on a running Ray and has it place the models; run by the server's Python.

    python -m place RAY_ADDRESS SPECIFICATION.json

The specification: ``{"actor": import path, "timeout": seconds or null, "models": {model key: bytes}}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray
from ndif.common.schema.controller import DeploymentConfig
from ndif.services.ray.deployments.controller import controller


def main(address: str, path: str) -> None:
    wanted = json.loads(Path(path).read_text())
    ray.init(address=address, namespace="NDIF", logging_level="error")
    controller.app()
    handle = ray.get_actor("Controller", namespace="NDIF")
    configs = {
        key: DeploymentConfig(
            pinned=True,
            dtype="float32",
            actor_class=wanted["actor"],
            size_bytes=size,
            execution_timeout_seconds=wanted["timeout"],
        )
        for key, size in wanted["models"].items()
    }
    placed = ray.get(handle.deploy.remote(configs)).results
    for key, result in placed.items():
        if result.error or not result.replicas:
            raise SystemExit(f"{key} was not placed: {result.error}")
        _wait(f"{result.replicas[0]}:ModelActor:{key}")


def _wait(name: str) -> None:
    ray.get(ray.get_actor(name, namespace="NDIF").__ray_ready__.remote())


if __name__ == "__main__":
    main(*sys.argv[1:])
