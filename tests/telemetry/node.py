"""A simulated node in this process: the real pynvml on the simulated library, steered by its control program."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent.adapters.nvml import Hardware
from agent.model.mig import Gpu, Placement, Shape
from agent.model.telemetry import SliceSample, TelemetrySnapshot
from agent.observe.telemetry import Telemetry
from tests.fakes.simgpu import SimulatedGpus

PERIOD_SECONDS = 0.2
"""Short, so that tests need not wait; two samples are half of it apart."""


class Node:
    """``hardware`` is the agent's door, ``gpus`` the hand from outside, ``seen`` what telemetry published."""

    def __init__(self, gpus: SimulatedGpus) -> None:
        self.gpus = gpus
        self.hardware = Hardware(read_seconds=1.0)
        self.seen: list[TelemetrySnapshot] = []
        self.telemetry = Telemetry(self.hardware, PERIOD_SECONDS, time.time, self.seen.append)

    async def gpu(self, index: int = 0) -> Gpu:
        return (await self.hardware.read())[index]

    async def cut(self, gpu: Gpu, profile: str, start: int, size: int) -> None:
        await self.hardware.create(gpu.uuid, Placement(start, size), Shape(profile))

    async def remove(self, gpu: Gpu, profile: str, start: int, size: int) -> None:
        await self.hardware.destroy(gpu.uuid, Placement(start, size), profile)

    async def only_slice(self) -> SliceSample:
        (one,) = (await self.telemetry.look()).slices
        return one


@asynccontextmanager
async def simulated_node(
    directory: Path, *boards: str, fresh_uuids: bool = False, mig: bool = True
) -> AsyncIterator[Node]:
    """A node of these GPUs, all in MIG mode or none, until the block ends."""
    gpus = SimulatedGpus.create(directory, *boards, mig=mig)
    if fresh_uuids:
        gpus.run("init", "--mig", "--fresh-mig-uuids", *(word for board in boards for word in ("--gpu", board)))
    before = os.environ.get("SIMGPU_STATE")
    gpus.load_into_this_process()
    node = Node(gpus)
    try:
        yield node
    finally:
        gpus.clear_faults()
        await node.telemetry.pause()
        await node.hardware.release()
        if before is None:
            del os.environ["SIMGPU_STATE"]
        else:
            os.environ["SIMGPU_STATE"] = before
