"""NVIDIA's DRA driver as kubelet and scheduler see it: publishes what it found at its start, and prepares claims on it.

Names and attributes as in the public source of its ``gpu-kubelet-plugin`` at the end of 2025, for MIG devices that are
made by others: ``gpu-<minor>`` and ``gpu-<minor>-mig-<profile id>-<start>-<size>``. A later one can make MIG devices itself,
and names them ``gpu-<minor>-mig-<profile>-<profile id>-<start>`` then, without a uuid; this is not simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import aiohttp

from hack.devcluster.client import Client
from hack.devcluster.dra.publishing import publication
from hack.devcluster.errors import ApiError
from hack.devcluster.kubelet.claims import ClaimManager, PreparedDevice, PrepareError
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import Object, dig, name_of, uid_of

log = logging.getLogger(__name__)

DRIVER = "gpu.nvidia.com"
DRIVER_POD_LABEL = ("nvidia-dra-driver-gpu-component", "kubelet-plugin")
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_CDI_DEVICE = f"k8s.{DRIVER}/device"
_RESTART_S = 1.0


class DraSource(Protocol):
    async def read(self) -> list[Object]:
        """The devices as a ResourceSlice lists them. Raises OSError or ValueError when they cannot be read."""
        ...


class DraFile:
    """Devices from a JSON file, for tests without GPUs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> list[Object]:
        devices: list[Object] = json.loads(await asyncio.to_thread(self._path.read_text))
        return devices


class DraNvml:
    """Devices of the simulated GPUs by real NVML calls; the NVML session is closed again, as the real one's is."""

    def __init__(self, simgpu_dir: Path, state: Path) -> None:
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{simgpu_dir}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "SIMGPU_STATE": str(state),
        }

    async def read(self) -> list[Object]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hack.devcluster.kubelet.describe_gpus", env=self._environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise OSError("the GPUs could not be read; see the driver's standard error")
        devices: list[Object] = json.loads(output)
        return devices


class DraDriver:
    """Runs between ``start`` and ``stop``. Its slices stay when it stops: the kubelet removes them after a while."""

    def __init__(self, source: DraSource, manager: ClaimManager, client: Client, settings: KubeletSettings) -> None:
        self._source = source
        self._manager = manager
        self._client = client
        self._settings = settings
        self._devices: dict[str, Object] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dra-driver")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        self._manager.unregister(DRIVER)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def prepare(self, claim: Object) -> Sequence[PreparedDevice]:
        return [
            self._prepared(result)
            for result in dig(claim, "status.allocation.devices.results") or []
            if result["driver"] == DRIVER
        ]

    async def unprepare(self, claim_uid: str) -> None:
        """Nothing to take back: devices are handed out as they are, without sharing."""

    def _prepared(self, result: Object) -> PreparedDevice:
        name = result["device"]
        if name not in self._devices:
            raise PrepareError(f"prepare devices failed: requested device is not allocatable: {name}")
        uuid = str(dig(self._devices[name], "attributes.uuid.string"))
        return PreparedDevice(result["request"], DRIVER, result["pool"], name, (f"{_CDI_DEVICE}={name}",), uuid)

    async def _run(self) -> None:
        """Reads the devices once, then keeps their slices as they should be, whoever deletes or changes them."""
        self._devices = {device["name"]: device for device in await self._read()}
        if self._settings.plugin_start_s:
            await asyncio.sleep(self._settings.plugin_start_s)
        self._manager.register(DRIVER, self)
        query = {"fieldSelector": f"spec.nodeName={self._settings.node},spec.driver={DRIVER}"}
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_published(query, changed), name="slices")
            async for _ in self._client.list_and_watch(SLICES, query):
                changed.set()

    async def _read(self) -> list[Object]:
        """Tries again while the devices cannot be read, as its pod would."""
        while True:
            try:
                return await self._source.read()
            except (OSError, ValueError) as error:
                log.warning("dra.failed", extra={"error": str(error)})
                await asyncio.sleep(_RESTART_S)

    async def _keep_published(self, query: dict[str, str], changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            try:
                await self._publish(query)
            except (ApiError, aiohttp.ClientError) as error:
                log.warning("dra.unpublished", extra={"error": str(error)})
                changed.set()
            await asyncio.sleep(self._settings.dra_resync_s)

    async def _publish(self, query: dict[str, str]) -> None:
        existing = (await self._client.get(SLICES, query))["items"]
        node = await self._client.get(f"/api/v1/nodes/{self._settings.node}")
        todo = publication(existing, list(self._devices.values()), _frame(node), self._settings.dra_devices_per_slice)
        for slice_ in todo.delete:
            with contextlib.suppress(ApiError):
                await self._client.delete(f"{SLICES}/{name_of(slice_)}")
        for slice_ in todo.update:
            await self._client.put(f"{SLICES}/{name_of(slice_)}", slice_)
        for slice_ in todo.create:
            await self._client.post(SLICES, slice_)


def _frame(node: Object) -> Object:
    owner = {"apiVersion": "v1", "kind": "Node", "name": name_of(node), "uid": uid_of(node), "controller": True}
    return {
        "metadata": {"generateName": f"{name_of(node)}-{DRIVER}-", "ownerReferences": [owner]},
        "spec": {"driver": DRIVER, "nodeName": name_of(node), "pool": {"name": name_of(node)}},
    }
