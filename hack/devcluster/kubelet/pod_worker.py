"""One pod's life on its node: admission, start, running, grace period, end.

Annotations of a pod that make it behave:

* ``sim.warmslice.dev/stop-seconds``: how long it takes to end once told to, or ``grace`` for its whole grace period.
* ``sim.warmslice.dev/run-seconds``: it ends by itself, with success, after so long.
* ``sim.warmslice.dev/gpu-memory-mib``: what it takes of each of its slices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from hack.devcluster.client import Client
from hack.devcluster.errors import ApiError
from hack.devcluster.kubelet import pod_status
from hack.devcluster.kubelet.devices import AdmissionError, DeviceManager
from hack.devcluster.kubelet.processes import PodProcesses, StartError
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import (
    Object,
    annotations_of,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
    phase_of,
    uid_of,
)

log = logging.getLogger(__name__)

STOP_SECONDS = "sim.warmslice.dev/stop-seconds"
RUN_SECONDS = "sim.warmslice.dev/run-seconds"
GPU_MEMORY_MIB = "sim.warmslice.dev/gpu-memory-mib"

HOST_IP = "127.0.0.1"
_DEFAULT_GPU_MEMORY_MIB = 1024
_START_RETRY_S = 0.5
_WRITE_RETRY_S = 0.3

Hook = Callable[[Object], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What all pods of a node share. ``on_running`` and ``on_ended`` are told of every pod."""

    settings: KubeletSettings
    client: Client
    devices: DeviceManager
    processes: PodProcesses
    on_running: Hook
    on_ended: Hook


class PodWorker:
    """Follows one pod (one UID). ``pod`` is its last known state; ``update`` brings a newer one."""

    def __init__(self, pod: Object, runtime: Runtime) -> None:
        self.pod = pod
        self._runtime = runtime
        self._told_to_end = asyncio.Event()
        self._is_running = False
        self._task = asyncio.create_task(self._live(), name=f"pod {name_of(pod)}")
        self.update(pod)

    def update(self, pod: Object) -> None:
        self.pod = pod
        if is_deleting(pod):
            self._told_to_end.set()

    @property
    def is_done(self) -> bool:
        return self._task.done()

    async def gone(self) -> None:
        """The object has left the API server: our own doing at the end, or a forced delete, which the processes
        outlive for a moment as they do on a real node."""
        await asyncio.wait({self._task}, timeout=self._runtime.settings.pod_stop_s)
        await self.detach()
        await self._free()
        if self._is_running:
            await self._runtime.on_ended(self.pod)

    async def detach(self) -> None:
        """Stop following; the pod's processes go on."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _live(self) -> None:
        if is_finished(self.pod):
            await self._free()
        elif await self._start():
            self._is_running = True
            await self._runtime.on_running(self.pod)
            await self._run_until_told()
            self._is_running = False
            await self._runtime.on_ended(self.pod)
        await self._told_to_end.wait()
        await self._end()

    async def _start(self) -> bool:
        """Whether it runs; not when it was refused or told to end before."""
        try:
            assignment = self._runtime.devices.allocate(self.pod)
        except AdmissionError as error:
            await self._write(pod_status.rejected(error.reason, error.message))
            return False
        if phase_of(self.pod) != "Running":
            await asyncio.sleep(self._runtime.settings.pod_start_s)
        devices = assignment.device_ids() if assignment is not None else []
        while devices and not await self._start_process(devices):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_START_RETRY_S):
                    await self._told_to_end.wait()
                return False
        if phase_of(self.pod) != "Running":
            await self._write(pod_status.running(self.pod, HOST_IP))
        return True

    async def _start_process(self, devices: list[str]) -> bool:
        memory_mib = int(annotations_of(self.pod).get(GPU_MEMORY_MIB, _DEFAULT_GPU_MEMORY_MIB))
        try:
            await self._runtime.processes.start(uid_of(self.pod), devices, memory_mib)
        except StartError as error:
            await self._write(pod_status.waiting(self.pod, "RunContainerError", str(error)))
            return False
        return True

    async def _run_until_told(self) -> None:
        lasts = annotations_of(self.pod).get(RUN_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(lasts) if lasts else None):
                await self._told_to_end.wait()
                await asyncio.sleep(self._stop_seconds())
        await self._runtime.processes.stop(uid_of(self.pod))
        await self._write(pod_status.ended(self.pod, exit_code=0))
        self._runtime.devices.release(uid_of(self.pod))

    def _stop_seconds(self) -> float:
        grace = float(dig(self.pod, "metadata.deletionGracePeriodSeconds", 30))
        asked = annotations_of(self.pod).get(STOP_SECONDS)
        if asked is None:
            return min(self._runtime.settings.pod_stop_s, grace)
        return grace if asked == "grace" else min(float(asked), grace)

    async def _end(self) -> None:
        await self._free()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid_of(self.pod)}}
        await self._insist(lambda: self._runtime.client.delete(self._path(), options))

    async def _free(self) -> None:
        await self._runtime.processes.stop(uid_of(self.pod))
        self._runtime.devices.release(uid_of(self.pod))

    async def _write(self, status: Object) -> None:
        body = {"metadata": {"uid": uid_of(self.pod)}, "status": status}
        await self._insist(lambda: self._runtime.client.patch(f"{self._path()}/status", body))

    async def _insist(self, call: Callable[[], Awaitable[Object]]) -> None:
        """Until the API server hears of it; an object that is gone or another by now needs nothing more."""
        while True:
            try:
                await call()
                return
            except ApiError as error:
                if error.code in (404, 409):
                    return
                log.warning("pod.write_refused", extra={"pod": name_of(self.pod), "error": error.message})
            except (aiohttp.ClientError, TimeoutError) as error:
                log.warning("pod.write_failed", extra={"pod": name_of(self.pod), "error": str(error)})
            await asyncio.sleep(_WRITE_RETRY_S)

    def _path(self) -> str:
        return f"/api/v1/namespaces/{namespace_of(self.pod)}/pods/{name_of(self.pod)}"
