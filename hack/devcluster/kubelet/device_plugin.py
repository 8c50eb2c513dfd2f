"""NVIDIA's device plugin as the kubelet sees it: registers what it finds at its start and never looks again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hack.devcluster.kubelet.devices import DeviceManager
from hack.devcluster.kubelet.plugin_fault import CRASH, SILENT, STUCK, PluginFault
from hack.devcluster.kubelet.settings import KubeletSettings

log = logging.getLogger(__name__)

PLUGIN_LABEL = ("app", "nvidia-device-plugin-daemonset")
_RESTART_S = 1.0

Devices = Mapping[str, Sequence[str]]


class DeviceSource(Protocol):
    async def open(self) -> Devices:
        """Read the devices. Raises OSError or ValueError when they cannot be read."""
        ...

    async def close(self) -> None: ...


class FileSource:
    """Devices from a JSON file, for tests without GPUs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> Devices:
        devices: Devices = json.loads(await asyncio.to_thread(self._path.read_text))
        return devices

    async def close(self) -> None:
        return


class NvmlSource:
    """Devices from the simulated GPUs by real NVML calls, in a process that keeps its NVML session until closed."""

    def __init__(self, simgpu_dir: Path, state: Path, mig_strategy: str) -> None:
        self._strategy = mig_strategy
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{simgpu_dir}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "SIMGPU_STATE": str(state),
        }
        self._process: asyncio.subprocess.Process | None = None

    async def open(self) -> Devices:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hack.devcluster.kubelet.enumerate_gpus", self._strategy, env=self._environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._process = process
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            await self.close()
            raise OSError("the GPUs could not be read; see the plugin's standard error")
        devices: Devices = json.loads(line)
        return devices

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def shared(devices: Devices, replicas: int, rename: bool) -> Devices:
    """Time-slicing: each device under so many ids. One replica shares nothing and changes nothing."""
    if replicas <= 1:
        return devices
    return {
        resource + ".shared" * rename: [f"{device}::{number}" for device in ids for number in range(replicas)]
        for resource, ids in devices.items()
    }


class DevicePlugin:
    """Runs between ``start`` and ``stop``; tries again while the devices cannot be read, as its pod would."""

    def __init__(self, source: DeviceSource, manager: DeviceManager, settings: KubeletSettings) -> None:
        self._source = source
        self._settings = settings
        self._manager = manager
        self._fault = PluginFault(settings.run_dir / "plugin-fault")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="device-plugin")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._manager.unregister()

    async def wait_for_allocate(self) -> None:
        """Until it answers a call of Allocate, or its end breaks the call off."""
        await self._fault.wait_for_end(STUCK)
        if self._fault.is_now(CRASH):
            self._manager.unregister()

    async def _run(self) -> None:
        try:
            while True:
                await self._fault.wait_for_end(CRASH)
                try:
                    devices = await self._source.open()
                except (OSError, ValueError) as error:
                    log.warning("plugin.failed", extra={"error": str(error)})
                    await asyncio.sleep(_RESTART_S)
                    continue
                if self._settings.plugin_start_s:
                    await asyncio.sleep(self._settings.plugin_start_s)
                await self._fault.wait_for_end(SILENT)
                self._manager.register(shared(devices, self._settings.replicas, self._settings.rename_shared))
                await self._fault.wait_for_begin(CRASH)
                self._manager.unregister()
                await self._source.close()
        finally:
            await self._source.close()
