"""The kubelet put together: its node, its lease, its pods, its device plugin or driver, and its socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import aiohttp
from grpclib.server import Server

from hack.devcluster.client import Client
from hack.devcluster.errors import ApiError
from hack.devcluster.kubeconfig import read_kubeconfig
from hack.devcluster.kubelet import node_status
from hack.devcluster.kubelet.claims import ClaimManager, PrepareError
from hack.devcluster.kubelet.config_manager import ConfigManager
from hack.devcluster.kubelet.device_plugin import PLUGIN_LABEL, DevicePlugin
from hack.devcluster.kubelet.devices import DeviceManager
from hack.devcluster.kubelet.dra_driver import DRIVER, DRIVER_POD_LABEL, DraDriver
from hack.devcluster.kubelet.mps_server import SERVER, MpsServer
from hack.devcluster.kubelet.pod_resources import PodResourcesLister, serve_pod_resources
from hack.devcluster.kubelet.pod_worker import PodWorker, Runtime
from hack.devcluster.kubelet.processes import PodProcesses
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.kubelet.slice_wiper import SliceWiper
from hack.devcluster.kubelet.sources import device_source, dra_source, simgpu_of
from hack.devcluster.lifeline import Lifeline
from hack.devcluster.objects import Object, conditions_of, labels_of, now_micro, phase_of, uid_of

log = logging.getLogger(__name__)

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_LEASE_SECONDS = 40


class Kubelet:
    """``run`` serves until cancelled. Pods and their processes go on then, and are taken up again by the next run."""

    def __init__(self, settings: KubeletSettings) -> None:
        settings.socket.parent.mkdir(parents=True, exist_ok=True)
        settings.socket.unlink(missing_ok=True)
        self.settings = settings
        self.devices = DeviceManager(settings.run_dir / "kubelet_internal_checkpoint")
        self._own_lifeline = Lifeline(settings.run_dir / "lifeline") if settings.lifeline is None else None
        self._processes = self._processes_of(settings.run_dir / "processes.json", "serve")
        self._client = Client(read_kubeconfig(settings.kubeconfig), f"kubelet/v1.34.0 ({settings.node})")
        self.claims = ClaimManager(settings.run_dir / "dra_manager_state", self._client)
        self._configs = ConfigManager(self._client, settings, lambda: self._plugin.signal())
        self._mps = MpsServer(self._processes_of(settings.run_dir / "mps-server.json", SERVER))
        self._plugin = DevicePlugin(device_source(settings), self._configs.file, self.devices, self._mps, settings)
        self._driver = DraDriver(dra_source(settings), self.claims, self._client, settings)
        self._wiper = SliceWiper(self._client, settings.node, settings.dra_wipe_s)
        self._workers: dict[str, PodWorker] = {}
        self._boot_id = ""
        self._has_rebooted = False
        self._runtime = Runtime(
            settings, self._client, self.devices, self.claims, self._processes,
            self._initialize, self._pod_runs, self._pod_ended,
        )  # fmt: skip

    async def run(self) -> None:
        self.devices.restore()
        self.claims.restore()
        self._processes.restore()
        self._mps.restore()
        self._boot_id = await _boot_id(self.settings)
        self._note_reboot()
        # Workers may be in the middle of a request when told to stop: the client outlives them.
        async with self._client:
            server: Server | None = None
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._register()
                    await self._wiper.wipe()
                    server = await serve_pod_resources(
                        PodResourcesLister(self.devices, self.claims, self.pods, self.settings), self.settings.socket
                    )
                    if not self.settings.plugin_needs_pod:
                        await self._start_advertising()
                    tasks.create_task(self._follow_pods(), name="pods")
                    tasks.create_task(self._report_node(), name="node status")
                    tasks.create_task(self._renew_lease(), name="lease")
            finally:
                await self._shut_down(server)

    def _note_reboot(self) -> None:
        """Another boot id than at our last start: whatever ran here then has ended."""
        record = self.settings.run_dir / "boot_id"
        last = record.read_text() if record.exists() else self._boot_id
        self._has_rebooted = last != self._boot_id
        record.write_text(self._boot_id)

    def pods(self) -> list[Object]:
        return [worker.pod for worker in self._workers.values() if not worker.is_done]

    async def _shut_down(self, server: Server | None) -> None:
        for worker in self._workers.values():
            await worker.detach()
        await self._configs.stop()
        await self._plugin.stop()
        await self._driver.stop()
        await self._wiper.driver_came()
        if server is not None:
            server.close()
            await server.wait_closed()
        if self._own_lifeline is not None:
            for uid in self._processes.running():
                await self._processes.stop(uid)
            await self._mps.configure(())
            self._own_lifeline.close()

    async def _register(self) -> None:
        """A node that is there already keeps its labels and taints, as after a restart of the real kubelet."""
        body = node_status.registration(self.settings, self._boot_id, self.devices)
        while True:
            try:
                await self._client.post("/api/v1/nodes", body)
                return
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    await self._write_status()
                    return
                log.warning("node.refused", extra={"error": error.message})
            except aiohttp.ClientError as error:
                log.warning("node.unreachable", extra={"error": str(error)})
            await asyncio.sleep(0.3)

    async def _report_node(self) -> None:
        clock = asyncio.get_running_loop().time
        said, said_at = node_status.without_heartbeats(self._status()), clock()
        while True:
            await asyncio.sleep(self.settings.status_interval_s)
            current = node_status.without_heartbeats(self._status())
            try:
                if (
                    current == said
                    and clock() - said_at < self.settings.unchanged_status_interval_s
                    and not await self._was_declared_silent()
                ):
                    continue
                await self._write_status()
                said, said_at = current, clock()
            except (ApiError, aiohttp.ClientError) as error:
                log.warning("node.status_failed", extra={"error": str(error)})

    async def _was_declared_silent(self) -> bool:
        """As the real kubelet, which reads its node before each report, we notice what others wrote over ours."""
        node = await self._client.get(f"/api/v1/nodes/{self.settings.node}")
        return any(condition["status"] == "Unknown" for condition in conditions_of(node))

    def _status(self) -> Object:
        return node_status.status(self.settings, self._boot_id, self.devices)

    async def _write_status(self) -> None:
        await self._client.patch(f"/api/v1/nodes/{self.settings.node}/status", {"status": self._status()})

    async def _renew_lease(self) -> None:
        while True:
            try:
                await self._write_lease()
            except (ApiError, aiohttp.ClientError) as error:
                log.warning("lease.failed", extra={"error": str(error)})
            await asyncio.sleep(self.settings.lease_interval_s)

    async def _write_lease(self) -> None:
        name = self.settings.node
        spec = {"holderIdentity": name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now_micro()}
        try:
            lease = await self._client.get(f"{_LEASES}/{name}")
        except ApiError as error:
            if error.code != 404:
                raise
            await self._client.post(_LEASES, {"metadata": {"name": name}, "spec": spec})
            return
        await self._client.put(f"{_LEASES}/{name}", lease | {"spec": spec})

    async def _follow_pods(self) -> None:
        query = {"fieldSelector": f"spec.nodeName={self.settings.node}"}
        async for change, what in self._client.list_and_watch("/api/v1/pods", query):
            match change:
                case "LIST":
                    await self._take_stock(what)
                case "DELETED":
                    await self._forget(uid_of(what))
                case "ADDED" | "MODIFIED":
                    await self._see(what)
                case _:
                    pass

    async def _take_stock(self, pods: list[Object]) -> None:
        here = {uid_of(pod) for pod in pods}
        for uid in [uid for uid in self._workers if uid not in here]:
            await self._forget(uid)
        for uid in {*self._processes.running(), *self.devices.release_all_but(here)} - here:
            await self._processes.stop(uid)
        for uid in self.claims.pods_besides(here):
            with contextlib.suppress(PrepareError):
                await self.claims.unprepare(uid)
        if self._has_rebooted:
            self._has_rebooted = False
            await self._lose_what_ran(pods)
        for pod in pods:
            await self._see(pod)

    async def _lose_what_ran(self, pods: list[Object]) -> None:
        for uid in self._processes.running():
            await self._processes.stop(uid)
        self._runtime.rebooted.update(uid_of(pod) for pod in pods if phase_of(pod) == "Running")

    async def _see(self, pod: Object) -> None:
        """One pod after the other, as in the loop of the real kubelet: see ``plugin_fault.py``."""
        worker = self._workers.get(uid_of(pod))
        if worker is None:
            if self.devices.will_allocate(pod):
                await self._plugin.wait_for_allocate()
            self._workers[uid_of(pod)] = PodWorker(pod, self._runtime)
        else:
            worker.update(pod)

    async def _forget(self, uid: str) -> None:
        worker = self._workers.pop(uid, None)
        if worker is not None:
            await worker.gone()

    async def _initialize(self, pod: Object) -> None:
        if self._is_advertiser(pod) and not self.settings.uses_dra:
            await self._configs.initialize(pod)

    async def _pod_runs(self, pod: Object) -> None:
        if self._is_advertiser(pod):
            await self._start_advertising()
            await self._configs.start(pod)
        held = self.devices.assignment(uid_of(pod))
        if held is not None and any("::" in device for device in held.device_ids()):
            await self._mps.client_came()

    async def _pod_ended(self, pod: Object) -> None:
        if not self._is_advertiser(pod):
            return
        await self._configs.stop()
        await self._plugin.stop()
        await self._mps.configure(())
        if self._driver.is_running:
            await self._driver.stop()
            self._wiper.driver_left(DRIVER)

    async def _start_advertising(self) -> None:
        if not self.settings.uses_dra:
            self._plugin.start()
            return
        await self._wiper.driver_came()
        self._driver.start()

    def _is_advertiser(self, pod: Object) -> bool:
        label = DRIVER_POD_LABEL if self.settings.uses_dra else PLUGIN_LABEL
        return self.settings.plugin_needs_pod and label in labels_of(pod).items()

    def _processes_of(self, record: Path, name: str) -> PodProcesses:
        return PodProcesses(
            record, self._lifeline_path(), simgpu_of(self.settings), self.settings.run_dir / "proc", name
        )

    def _lifeline_path(self) -> Path:
        if self._own_lifeline is not None:
            return self._own_lifeline.path
        assert self.settings.lifeline is not None
        return self.settings.lifeline


async def _boot_id(settings: KubeletSettings) -> str:
    """That of the simulated machine where there is one, since its reboots are not this one's."""
    simgpu = simgpu_of(settings)
    if simgpu is not None:
        return await simgpu.boot_id()
    return await asyncio.to_thread(lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip())
