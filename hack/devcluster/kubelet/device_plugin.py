"""NVIDIA's device plugin as the kubelet sees it: registers what it finds at its start, and looks again when it is signalled.

Its configuration is in ``plugin_config.py``, who chooses it in ``config_manager.py``. Of MPS there is what it does to the
plugin: what is refused, the replicas, and the time that passes until the control daemon is there (``mps_start_s``): the
daemon is a pod that is scheduled when GPU feature discovery has labelled the node, and the plugin looks for it every 30 s.
Of the daemon there is what its server is to the GPUs (``mps_server.py``), but no pod; and their compute mode stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hack.devcluster.kubelet.devices import DeviceManager
from hack.devcluster.kubelet.mps_server import MpsServer
from hack.devcluster.kubelet.plugin_config import Devices, PluginConfig, read_config
from hack.devcluster.kubelet.plugin_fault import CRASH, SILENT, STUCK, PluginFault
from hack.devcluster.kubelet.settings import KubeletSettings

log = logging.getLogger(__name__)

PLUGIN_LABEL = ("app", "nvidia-device-plugin-daemonset")
_RESTART_S = 1.0


class DeviceSource(Protocol):
    async def open(self, strategy: str) -> Devices:
        """Read the devices, for the plugin's MIG strategy. Raises OSError or ValueError when they cannot be read."""
        ...

    async def close(self) -> None: ...


class FileSource:
    """Devices from a JSON file, for tests without GPUs; the file knows the strategy."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self, _: str) -> Devices:
        devices: Devices = json.loads(await asyncio.to_thread(self._path.read_text))
        return devices

    async def close(self) -> None:
        return


class NvmlSource:
    """Devices from the simulated GPUs by real NVML calls, in a process that keeps its NVML session until closed."""

    def __init__(self, simgpu_dir: Path, state: Path) -> None:
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{simgpu_dir}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "SIMGPU_STATE": str(state),
        }
        self._process: asyncio.subprocess.Process | None = None

    async def open(self, strategy: str) -> Devices:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hack.devcluster.kubelet.enumerate_gpus", strategy, env=self._environment,
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


class DevicePlugin:
    """Runs between ``start`` and ``stop``; tries again while it cannot be, as its pod would. ``config`` gives its file."""

    def __init__(
        self,
        source: DeviceSource,
        config: Callable[[], str],
        manager: DeviceManager,
        mps: MpsServer,
        settings: KubeletSettings,
    ) -> None:
        self._source = source
        self._config = config
        self._settings = settings
        self._manager = manager
        self._mps = mps
        self._fault = PluginFault(settings.run_dir / "plugin-fault")
        self._task: asyncio.Task[None] | None = None
        self._signalled = asyncio.Event()

    def signal(self) -> None:
        """SIGHUP: it registers anew with what it finds then."""
        self._signalled.set()

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
                self._signalled.clear()
                try:
                    config, devices = await self._find()
                except (OSError, ValueError) as error:
                    log.warning("plugin.failed", extra={"error": str(error)})
                    await self._source.close()
                    await asyncio.sleep(_RESTART_S)
                    continue
                starts_s = self._settings.plugin_start_s + self._settings.mps_start_s * (config.means == "mps")
                if starts_s:
                    await asyncio.sleep(starts_s)
                await self._fault.wait_for_end(SILENT)
                await self._mps.configure(config.by_mps(devices))
                self._manager.register(devices, single_requests=config.single_requests)
                await self._wait_for_end()
                self._manager.unregister()
                await self._source.close()
        finally:
            await self._source.close()

    async def _find(self) -> tuple[PluginConfig, Devices]:
        """Its flag for the MIG strategy, where it is given one, wins over the file's."""
        config = read_config(self._config())
        if config.means != "mps":
            await self._mps.configure(())
        devices = await self._source.open(self._settings.mig_strategy or config.strategy or "none")
        return config, config.shared(devices)

    async def _wait_for_end(self) -> None:
        """Of this registration: the process ends, or is told to begin anew."""
        waits = [
            asyncio.create_task(self._fault.wait_for_begin(CRASH)),
            asyncio.create_task(self._signalled.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
