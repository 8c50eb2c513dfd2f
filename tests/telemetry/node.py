"""A simulated node in this process: the real pynvml on the simulated library, steered by its control program."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.adapters.nvml import Hardware
from agent.model.mig import Gpu, Placement, Shape
from agent.model.telemetry import SliceSample, TelemetrySnapshot
from agent.observe.telemetry import Sampler
from hack.simgpu.build import Paths

PERIOD_SECONDS = 0.2
"""Short, so that tests need not wait; two samples are half of it apart."""


class Node:
    """``hardware`` is the agent's door, ``simgpu`` the hand from outside, ``seen`` what the sampler published."""

    def __init__(self, built: Paths, state: Path) -> None:
        self._built = built
        self._state = state
        self.hardware = Hardware(read_seconds=1.0)
        self.seen: list[TelemetrySnapshot] = []
        self.sampler = Sampler(self.hardware, PERIOD_SECONDS, self.seen.append)

    def simgpu(self, *words: str) -> str:
        command = [str(self._built.simgpu), "--state", str(self._state), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout

    async def gpu(self, index: int = 0) -> Gpu:
        return (await self.hardware.read())[index]

    async def cut(self, gpu: Gpu, profile: str, start: int, size: int) -> None:
        await self.hardware.create(gpu.uuid, Placement(start, size), Shape(profile))

    async def remove(self, gpu: Gpu, profile: str, start: int, size: int) -> None:
        await self.hardware.destroy(gpu.uuid, Placement(start, size), profile)

    async def only_slice(self) -> SliceSample:
        (one,) = (await self.sampler.look()).slices
        return one


@contextmanager
def simulated_node(built: Paths, state: Path, *init: str) -> Iterator[Node]:
    """A node of these GPUs, all in MIG mode, until the block ends."""
    # pynvml asks the loader for libnvidia-ml.so.1, and the loader gives what is loaded under that name.
    ctypes.CDLL(str(built.library), mode=ctypes.RTLD_GLOBAL)
    node = Node(built, state)
    node.simgpu("init", "--mig", *init)
    before = os.environ.get("SIMGPU_STATE")
    os.environ["SIMGPU_STATE"] = str(state)
    try:
        yield node
    finally:
        if before is None:
            del os.environ["SIMGPU_STATE"]
        else:
            os.environ["SIMGPU_STATE"] = before
