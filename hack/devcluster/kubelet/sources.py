"""Where a node's devices are read: the simulated GPUs, a file, or nowhere."""

from __future__ import annotations

from hack.devcluster.kubelet.device_plugin import DeviceSource, FileSource, NvmlSource
from hack.devcluster.kubelet.dra_driver import DraFile, DraNvml, DraSource
from hack.devcluster.kubelet.processes import Simgpu
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import Object


def simgpu_of(settings: KubeletSettings) -> Simgpu | None:
    if settings.simgpu_dir is None or settings.simgpu_state is None:
        return None
    return Simgpu(settings.simgpu_dir / "simgpu", settings.simgpu_state)


def device_source(settings: KubeletSettings) -> DeviceSource:
    if settings.devices_file is not None:
        return FileSource(settings.devices_file)
    if settings.simgpu_dir is not None and settings.simgpu_state is not None:
        return NvmlSource(settings.simgpu_dir, settings.simgpu_state)
    return NoDevices()


def dra_source(settings: KubeletSettings) -> DraSource:
    if settings.devices_file is not None:
        return DraFile(settings.devices_file)
    if settings.simgpu_dir is not None and settings.simgpu_state is not None:
        return DraNvml(settings.simgpu_dir, settings.simgpu_state)
    return NoDevices()


class NoDevices:
    """A node without GPUs."""

    async def read(self) -> list[Object]:
        return []

    async def open(self, _: str) -> dict[str, list[str]]:
        return {}

    async def close(self) -> None:
        return
