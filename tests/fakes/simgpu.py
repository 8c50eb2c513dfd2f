"""A simulated node for tests: its state file, the program that steers it, and what it tells."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.simgpu import Paths, build, environment, load_into_this_process

H100 = "H100-80GB-SXM"


@dataclass(frozen=True, slots=True)
class SimulatedGpus:
    """One node. JSON answers have the shapes that ``simgpu --help`` and its commands print."""

    paths: Paths
    state: Path

    @classmethod
    def create(cls, directory: Path, *boards: str, mig: bool = False, driver: int = 580) -> "SimulatedGpus":
        """A fresh node in ``directory`` with ``boards`` such as ``H100-80GB-SXM:2``; ``driver`` is a branch of the driver."""
        node = cls(build(), directory / "simgpu.state")
        wishes = [word for board in boards or (H100,) for word in ("--gpu", board)]
        node.run("init", *wishes, "--driver", str(driver), *(["--mig"] if mig else []))
        return node

    def run(self, *words: str) -> str:
        """Standard output of a ``simgpu`` command; CalledProcessError when it is refused."""
        command = [str(self.paths.simgpu), "--state", str(self.state), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def nvidia_smi(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.paths.nvidia_smi), *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=self.env())

    def show(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.run("show", "--json"))
        return shown

    def log(self) -> list[dict[str, Any]]:
        """Mutations, oldest first: seq, begun_ns, monotonic_ns, ended_ns, wall_ns, pid, function, gpu, profile, mode, start,
        size, gi, ci, result."""
        entries: list[dict[str, Any]] = json.loads(self.run("log", "--json"))
        return entries

    def counters(self) -> dict[str, int]:
        counted: dict[str, int] = json.loads(self.run("counters"))
        return counted

    def gpu_uuids(self) -> list[str]:
        return [gpu["uuid"] for gpu in self.show()["gpus"]]

    def mig_uuids(self) -> list[str]:
        """Of all compute instances, by GPU and then by placement."""
        instances = [instance for gpu in self.show()["gpus"] for instance in gpu["instances"]]
        return [compute["mig_uuid"] for instance in instances for compute in instance["cis"]]

    def attach(self, device: str, pid: int | None = None, memory_mib: int = 0) -> None:
        """A process (by default this one) holds a GPU or MIG device until it ends or is detached."""
        holder = str(os.getpid() if pid is None else pid)
        self.run("proc", "attach", "--device", device, "--pid", holder, "--memory-mib", str(memory_mib))

    def detach(self, pid: int | None = None) -> None:
        self.run("proc", "detach", "--pid", str(os.getpid() if pid is None else pid))

    @contextmanager
    def other_client(self) -> Iterator[None]:
        """Another process with an NVML session on the node."""
        code = "import pynvml; pynvml.nvmlInit(); print(flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code], env=self.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdout is not None
            client.stdout.readline()
            try:
                yield
            finally:
                client.communicate(b"\n")

    def fault(self, function: str, *words: str) -> None:
        self.run("fault", "add", "--function", function, *words)

    def faults(self) -> list[dict[str, Any]]:
        """Those added: function, after, count, seen, code, delay_ms, hang, die."""
        listed: list[dict[str, Any]] = json.loads(self.run("fault", "list"))
        return listed

    def clear_faults(self) -> None:
        self.run("fault", "clear")

    def env(self) -> dict[str, str]:
        """For a subprocess that is to see this node."""
        return environment(self.paths, self.state)

    def load_into_this_process(self) -> None:
        """From the next ``nvmlInit`` on, this process sees this node (until SIMGPU_STATE is set to another)."""
        load_into_this_process(self.paths)
        os.environ["SIMGPU_STATE"] = str(self.state)
