"""One pod's life on its node: admission, start, running, grace period, end.

Annotations of a pod that make it behave:

* ``sim.warmslice.dev/stop-seconds``: how long it takes to end once told to, or ``grace`` where it ignores SIGTERM and is
  killed when its grace period is over.
* ``sim.warmslice.dev/run-seconds``: its containers end by themselves, with success, after so long. What becomes of them
  then is the restart policy's: made again, the first time at once and then after 10 s, 20 s ... 5 min.
* ``sim.warmslice.dev/exit-code``: with which code they end by themselves.
* ``sim.warmslice.dev/pull-seconds``: how long its image takes to come, the first time on this node.
* ``sim.warmslice.dev/gpu-memory-mib``: what it takes of each of its slices.
* ``sim.warmslice.dev/load``: a command of this machine that stands for what its server does before it is ready, run with
  the first container's plain environment once that has started. Ready when it ended with 0; else it is run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import aiohttp

from hack.devcluster.client import Client
from hack.devcluster.dra.claims import entries_of
from hack.devcluster.errors import ApiError
from hack.devcluster.kubelet import pod_events, pod_status
from hack.devcluster.kubelet.claims import ClaimManager, PrepareError
from hack.devcluster.kubelet.config_manager import EntryError, MountError
from hack.devcluster.kubelet.devices import AdmissionError, DeviceManager
from hack.devcluster.kubelet.pod_identity import project_identity, remove_identity
from hack.devcluster.kubelet.processes import PodProcesses, StartError
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import (
    Object,
    annotations_of,
    containers_of,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
    now,
    phase_of,
    uid_of,
)

log = logging.getLogger(__name__)

STOP_SECONDS = "sim.warmslice.dev/stop-seconds"
RUN_SECONDS = "sim.warmslice.dev/run-seconds"
EXIT_CODE = "sim.warmslice.dev/exit-code"
PULL_SECONDS = "sim.warmslice.dev/pull-seconds"
GPU_MEMORY_MIB = "sim.warmslice.dev/gpu-memory-mib"
LOAD = "sim.warmslice.dev/load"

HOST_IP = "127.0.0.1"
_DEFAULT_GPU_MEMORY_MIB = 1024
_KILLED = 128 + 9
_START_RETRY_S = 0.5
_WRITE_RETRY_S = 0.3

Hook = Callable[[Object], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What all pods of a node share. ``initialize`` runs a pod's init containers, and raises MountError and EntryError;
    ``on_running`` and ``on_ended`` are told of every pod; ``rebooted``: the pods that ran when the machine went down."""

    settings: KubeletSettings
    client: Client
    devices: DeviceManager
    claims: ClaimManager
    processes: PodProcesses
    initialize: Hook
    on_running: Hook
    on_ended: Hook
    images: set[str] = field(default_factory=set)
    rebooted: set[str] = field(default_factory=set)


class PodWorker:
    """Follows one pod (one UID). ``pod`` is its last known state; ``update`` brings a newer one."""

    def __init__(self, pod: Object, runtime: Runtime) -> None:
        self.pod = pod
        self._runtime = runtime
        self._told_to_end = asyncio.Event()
        self._hurried = asyncio.Event()
        self._is_running = False
        self._past = pod_status.Past.of(pod)
        self._task = asyncio.create_task(self._live(), name=f"pod {name_of(pod)}")
        self.update(pod)

    def update(self, pod: Object) -> None:
        self.pod = pod
        if is_deleting(pod):
            self._told_to_end.set()
            self._hurried.set()

    @property
    def is_done(self) -> bool:
        return self._task.done()

    async def gone(self) -> None:
        """The object has left the API server: our own doing at the end, or a forced delete, which the processes
        outlive for a moment as they do on a real node."""
        await asyncio.wait({self._task}, timeout=self._runtime.settings.pod_stop_s)
        await self.detach()
        await self._stop_processes()
        with contextlib.suppress(PrepareError):
            await self._runtime.claims.unprepare(uid_of(self.pod))
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
        if uid_of(self.pod) in self._runtime.rebooted and not await self._outlive_reboot():
            return False
        try:
            assignment = self._runtime.devices.allocate(self.pod)
        except AdmissionError as error:
            await self._write(pod_status.rejected(error.reason, error.message))
            return False
        if phase_of(self.pod) != "Running":
            if not await self._prepare_claims() or not await self._pull_images():
                return False
            if not await self._initialize():
                return False
            await asyncio.sleep(self._runtime.settings.pod_start_s)
        devices = assignment.device_ids() if assignment is not None else []
        devices += self._runtime.claims.device_uuids(self.pod)
        if not await self._start_processes(devices):
            return False
        if not pod_status.says_running(self.pod):
            await self._give_identity()
            return await self._become_ready()
        return True

    async def _become_ready(self) -> bool:
        """Not when it is told to end before."""
        since, load = now(), annotations_of(self.pod).get(LOAD)
        self._past = replace(self._past, started=since)
        if load is not None:
            await self._write(pod_status.running(self.pod, HOST_IP, self._past, ready=False, since=since))
            if not await self._loaded(load):
                return False
        await self._write(pod_status.running(self.pod, HOST_IP, self._past, since=since))
        return True

    async def _loaded(self, command: str) -> bool:
        environment = {**os.environ, **_plain_environment(self.pod)}
        told = asyncio.create_task(self._told_to_end.wait())
        try:
            while not told.done():
                process = await asyncio.create_subprocess_shell(
                    command, env=environment, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
                )
                ended = asyncio.create_task(process.wait())
                await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done() and ended.result() == 0:
                    return True
                if not ended.done():
                    os.killpg(process.pid, signal.SIGKILL)
                    await ended
                await self._is_told_within(_START_RETRY_S)
            return False
        finally:
            told.cancel()

    async def _give_identity(self) -> None:
        if dig(self.pod, "spec.automountServiceAccountToken") is not False:
            client, settings = self._runtime.client, self._runtime.settings
            await self._insist(lambda: project_identity(client, settings, self.pod))

    async def _start_processes(self, devices: list[str]) -> bool:
        """Whether they run; tried again until then, or until the pod is told to end."""
        while devices and not await self._start_process(devices):
            if await self._is_told_within(_START_RETRY_S):
                return False
        return True

    async def _is_told_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told_to_end.wait()
            return True
        return False

    async def _outlive_reboot(self) -> bool:
        """The containers ended with the machine. Those that may be started again are, without their devices: these
        count as unhealthy until the plugin registers, which is after the pods are admitted, so that such pods fail."""
        self._runtime.rebooted.discard(uid_of(self.pod))
        held = self._runtime.devices.assignment(uid_of(self.pod))
        if dig(self.pod, "spec.restartPolicy") == "Never":
            await self._give_up_claims()
            await self._write(pod_status.ended(self.pod, _KILLED, self._past))
        elif held is not None:
            resource = next(iter(next(iter(held.containers.values()))))
            why = f"no healthy devices present; cannot allocate unhealthy devices {resource}"
            message = f"Pod was rejected: Allocate failed due to {why}, which is unexpected"
            await self._write(pod_status.rejected("UnexpectedAdmissionError", message))
        else:
            self._past = self._past.with_end(_KILLED).started_again()
            self.pod = {**self.pod, "status": pod_status.restarting(self.pod, self._past)}
            await self._write(self.pod["status"])
            return True
        self._runtime.devices.release(uid_of(self.pod))
        return False

    async def _prepare_claims(self) -> bool:
        """Whether all are prepared; not when the pod is told to end before. Before its image comes, as on a real node."""
        said = ""
        while entries_of(self.pod):
            try:
                await self._runtime.claims.prepare(self.pod)
                break
            except (PrepareError, aiohttp.ClientError, TimeoutError) as error:
                if str(error) != said:
                    said = str(error)
                    await self._say_unprepared(said)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_START_RETRY_S):
                    await self._told_to_end.wait()
                return False
        return True

    async def _say_unprepared(self, why: str) -> None:
        """Once per reason; the real kubelet counts the event up at each try."""
        await self._write(pod_status.waiting(self.pod, "ContainerCreating", "", self._past))
        message = f"Failed to prepare dynamic resources: {why}"
        client, node = self._runtime.client, self._runtime.settings.node
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
            await pod_events.warn(client, node, self.pod, "FailedPrepareDynamicResources", message)

    async def _pull_images(self) -> bool:
        """Whether all are there; not when the pod is told to end before. The devices are held meanwhile."""
        missing = {c.get("image", "") for c in containers_of(self.pod)} - self._runtime.images
        began = asyncio.get_running_loop().time()
        lasts = float(annotations_of(self.pod).get(PULL_SECONDS, self._runtime.settings.image_pull_s))
        if missing and lasts:
            await self._write(pod_status.waiting(self.pod, "ContainerCreating", "", self._past))
            if await self._is_told_within(lasts):
                return False
        self._runtime.images.update(missing)
        await self._say_pulled(missing, asyncio.get_running_loop().time() - began)
        return True

    async def _say_pulled(self, missing: set[str], seconds: float) -> None:
        """Of each container, also where its image was there."""
        client, node = self._runtime.client, self._runtime.settings.node
        for container in dig(self.pod, "spec.containers") or []:
            image = container.get("image", "")
            took = f"Successfully pulled image in {seconds:.3f}s" if image in missing else "already present on machine"
            message = f'Container image "{image}" {took}'
            field = f"spec.containers{{{container['name']}}}"
            with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
                await pod_events.say(client, node, self.pod, "Pulled", message, field)

    async def _initialize(self) -> bool:
        """Whether its init containers are through; not when the pod is told to end before."""
        failures = 0
        while True:
            try:
                await self._runtime.initialize(self.pod)
                return True
            except EntryError as error:
                waits_s = self._runtime.settings.crash_wait_s(failures)
                failures += 1
                await self._write(pod_status.init_crash_loop(self.pod, str(error), failures, self._past))
            except (MountError, ApiError, aiohttp.ClientError, TimeoutError) as error:
                waits_s = _START_RETRY_S
                await self._write(pod_status.waiting(self.pod, "ContainerCreating", str(error), self._past))
            if await self._is_told_within(waits_s):
                return False

    async def _start_process(self, devices: list[str]) -> bool:
        memory_mib = int(annotations_of(self.pod).get(GPU_MEMORY_MIB, _DEFAULT_GPU_MEMORY_MIB))
        try:
            await self._runtime.processes.start(uid_of(self.pod), devices, memory_mib)
        except StartError as error:
            await self._write(pod_status.waiting(self.pod, "RunContainerError", str(error), self._past))
            return False
        return True

    async def _run_until_told(self) -> None:
        """Told to end, or ended by itself for good."""
        exit_code = await self._container_ends()
        while self._is_started_again(exit_code):
            if not await self._start_again(exit_code):
                break
            exit_code = await self._container_ends()
        await self._runtime.processes.stop(uid_of(self.pod))
        await self._give_up_claims()
        await self._write(pod_status.ended(self.pod, exit_code, self._past))
        self._runtime.devices.release(uid_of(self.pod))

    async def _container_ends(self) -> int:
        """With which code: its own, or that of the stop it was told."""
        lasts = annotations_of(self.pod).get(RUN_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(lasts) if lasts else None):
                await self._told_to_end.wait()
                await self._stop()
                return _KILLED if self._ignores_sigterm() else 0
        return int(annotations_of(self.pod).get(EXIT_CODE, 0))

    def _is_started_again(self, exit_code: int) -> bool:
        policy = dig(self.pod, "spec.restartPolicy", "Always")
        wanted = policy == "Always" or (policy == "OnFailure" and exit_code != 0)
        return wanted and not self._told_to_end.is_set()

    async def _start_again(self, exit_code: int) -> bool:
        """With the devices it had; not when told to end before."""
        await self._runtime.processes.stop(uid_of(self.pod))
        await self._runtime.on_ended(self.pod)
        self._past = self._past.with_end(exit_code)
        waits_s = self._runtime.settings.crash_wait_s(self._past.restarts)
        if waits_s:
            await self._write(pod_status.crash_loop(self.pod, waits_s, self._past))
            if await self._is_told_within(waits_s):
                return False
        self._past = self._past.started_again()
        held = self._runtime.devices.assignment(uid_of(self.pod))
        devices = held.device_ids() if held is not None else []
        if not await self._start_processes(devices + self._runtime.claims.device_uuids(self.pod)):
            return False
        await self._say_pulled(set(), 0.0)
        if not await self._become_ready():
            return False
        await self._runtime.on_running(self.pod)
        return True

    def _ignores_sigterm(self) -> bool:
        return annotations_of(self.pod).get(STOP_SECONDS) == "grace"

    async def _stop(self) -> None:
        """For as long as it takes; a second delete can only shorten the grace period."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        while (left := begun + self._stop_seconds() - clock()) > 0:
            self._hurried.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hurried.wait()

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
        remove_identity(self._runtime.settings, uid_of(self.pod))
        await self._stop_processes()
        await self._give_up_claims()

    async def _stop_processes(self) -> None:
        await self._runtime.processes.stop(uid_of(self.pod))
        self._runtime.devices.release(uid_of(self.pod))

    async def _give_up_claims(self) -> None:
        """A pod cannot end while a driver that prepared something for it is away."""
        while True:
            try:
                await self._runtime.claims.unprepare(uid_of(self.pod))
                return
            except PrepareError as error:
                log.warning("pod.not_unprepared", extra={"pod": name_of(self.pod), "error": str(error)})
            await asyncio.sleep(_START_RETRY_S)

    async def _write(self, status: Object) -> None:
        body = {"metadata": {"uid": uid_of(self.pod)}, "status": status}
        await self._insist(lambda: self._runtime.client.patch(f"{self._path()}/status", body))

    async def _insist(self, call: Callable[[], Awaitable[object]]) -> None:
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


def _plain_environment(pod: Object) -> dict[str, str]:
    """Of the first container: what is written out in it."""
    listed = dig(pod, "spec.containers") or [{}]
    return {one["name"]: str(one["value"]) for one in listed[0].get("env") or [] if "value" in one}
