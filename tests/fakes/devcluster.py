"""The development cluster inside a test: the real API server and kubelet code, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from hack.devcluster import gpu_operator, kinds
from hack.devcluster.access.certificates import client_context
from hack.devcluster.api import Api, DeleteOptions
from hack.devcluster.control_plane import ControlPlane
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.faults import Fault
from hack.devcluster.kinds import Kind
from hack.devcluster.kubeconfig import write_kubeconfig
from hack.devcluster.kubelet.kubelet import Kubelet
from hack.devcluster.kubelet.processes import PodProcesses
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.lifeline import Lifeline
from hack.devcluster.objects import Object, dig
from hack.devcluster.request_log import LoggedRequest

DEADLINE_S = 30.0

# Resource name to device ids for the device plugin, entries of a ResourceSlice for the DRA driver.
Devices = Mapping[str, Sequence[str]] | Sequence[Object]


@dataclass(slots=True)
class SimulatedKubelet:
    """A kubelet as a task. ``devices`` is read by its device plugin whenever that starts."""

    settings: KubeletSettings
    devices_file: Path
    _kubelet: Kubelet | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        """Where PodResources is served."""
        return self.settings.socket

    @property
    def proc(self) -> Path:
        """A /proc of its pods' processes."""
        return self.settings.run_dir / "proc"

    def set_devices(self, devices: Devices) -> None:
        """What the hardware has now; the plugin does not notice before it starts again."""
        self.devices_file.write_text(json.dumps(devices))

    def start(self) -> None:
        self._kubelet = Kubelet(self.settings)
        self._task = asyncio.create_task(self._kubelet.run(), name=f"kubelet {self.settings.node}")

    async def wait_for_devices(self) -> None:
        """Until the device plugin has registered; a pod that is admitted before fails, as on a real node."""
        assert self._kubelet is not None
        async with asyncio.timeout(DEADLINE_S):
            while not any(self._kubelet.devices.allocatable().values()):
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """As a stop of the service: pods and what they hold stay. Raises what made the kubelet fail, if it did."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def restart(self, **changes: Any) -> None:
        """``changes`` are fields of KubeletSettings."""
        await self.stop()
        self.settings = replace(self.settings, **changes)
        self.start()


@dataclass(slots=True)
class DevCluster:
    """``api`` does at once, without HTTP and without a line in the log, what a client would ask for."""

    control_plane: ControlPlane
    folder: Path
    lifeline: Lifeline
    kubelets: list[SimulatedKubelet] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.control_plane.url

    @property
    def api(self) -> Api:
        return self.control_plane.api

    def kubeconfig(self) -> Path:
        """The administrator's."""
        path = self.folder / "kubeconfig"
        write_kubeconfig(path, self.control_plane.access(self.control_plane.admin_token))
        return path

    def session(self, user_agent: str = "test") -> aiohttp.ClientSession:
        """Trusts the server, and is nobody in particular."""
        trust = client_context(self.control_plane.authority.pem)
        return aiohttp.ClientSession(headers={"User-Agent": user_agent}, connector=aiohttp.TCPConnector(ssl=trust))

    def create(self, kind: Kind, obj: Object, namespace: str = "") -> Object:
        return self.api.create(kind, _home(kind, namespace or str(dig(obj, "metadata.namespace", ""))), obj)

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        return self.api.get(kind, _home(kind, namespace), name)

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        return self.api.find(kind, _home(kind, namespace), name)

    def merge(self, kind: Kind, name: str, patch: Object, namespace: str = "", subresource: str = "") -> Object:
        """A merge patch by somebody."""
        home = _home(kind, namespace)
        return self.api.patch(kind, home, name, "application/merge-patch+json", patch, subresource=subresource)

    def delete(self, kind: Kind, name: str, namespace: str = "", grace_seconds: int | None = None) -> None:
        self.api.delete(kind, _home(kind, namespace), name, DeleteOptions(grace_seconds))

    def label_node(self, name: str, labels: Mapping[str, str | None]) -> Object:
        """None removes a label."""
        return self.merge(kinds.NODES, name, {"metadata": {"labels": dict(labels)}})

    def requests(self, verb: str = "", user_agent: str = "", since: int = 0) -> list[LoggedRequest]:
        """``user_agent`` is how it begins."""
        return [
            entry
            for entry in self.control_plane.server.log.since(since)
            if (not verb or entry.verb == verb) and entry.user_agent.startswith(user_agent)
        ]

    def inject(self, fault: Fault) -> None:
        self.control_plane.server.faults.add(fault)

    def forget_history(self) -> None:
        """Watches from before now get 410."""
        self.api.store.compact()

    def install_device_plugin(self, config: str = "", default: str = "") -> None:
        """The DaemonSet whose pods make kubelets advertise their devices; with the ConfigMap of its configurations."""
        gpu_operator.install(self.api, config, default)

    def add_kubelet(self, node: str, devices: Devices, **settings: Any) -> SimulatedKubelet:
        """A node with these devices. ``settings`` are fields of KubeletSettings; by default
        the devices are advertised without the plugin's DaemonSet, and everything goes fast."""
        run_dir = self.folder / node
        run_dir.mkdir()
        chosen: dict[str, Any] = {
            "plugin_needs_pod": False,
            "status_interval_s": 0.05,
            "pod_start_s": 0.01,
            "pod_stop_s": 0.02,
            "devices_file": run_dir / "devices.json",
            "lifeline": self.lifeline.path,
        } | settings
        kubeconfig = run_dir / "kubeconfig"
        write_kubeconfig(kubeconfig, self.control_plane.kubelet_access(node))
        kubelet = SimulatedKubelet(
            KubeletSettings(kubeconfig=kubeconfig, node=node, run_dir=run_dir, **chosen), run_dir / "devices.json"
        )
        kubelet.set_devices(devices)
        kubelet.start()
        self.kubelets.append(kubelet)
        return kubelet

    async def wait_for(self, kind: Kind, name: str, holds: Callable[[Object], bool], namespace: str = "") -> Object:
        """The object once it is there and the condition holds. Raises AssertionError after a few seconds."""
        found: Object = await self._wait(kind, lambda obj: obj is not None and holds(obj), name, namespace)
        return found

    async def wait_for_any(self, kind: Kind, holds: Callable[[Object], bool]) -> Object:
        """The first object of which the condition holds."""
        async with asyncio.timeout(DEADLINE_S), self._changes(kind) as changed:
            while (found := next(filter(holds, self.api.all(kind)), None)) is None:
                await changed()
        return found

    async def wait_until_gone(self, kind: Kind, name: str, namespace: str = "") -> None:
        await self._wait(kind, lambda obj: obj is None, name, namespace)

    async def _wait(self, kind: Kind, holds: Callable[[Object | None], bool], name: str, namespace: str) -> Any:
        seen: Object | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S), self._changes(kind) as changed:
                while not holds(seen := self.find(kind, name, namespace)):
                    await changed()
                return seen
        raise AssertionError(f"{kind.name} {name} did not come to be as wanted; last seen: {seen}")

    @asynccontextmanager
    async def _changes(self, kind: Kind) -> AsyncIterator[Callable[[], Awaitable[object]]]:
        subscription = self.api.store.subscribe(kind)
        try:
            yield subscription.next_batch
        finally:
            self.api.store.unsubscribe(subscription)


def _home(kind: Kind, namespace: str) -> str:
    return (namespace or "default") if kind.namespaced else ""


@asynccontextmanager
async def dev_cluster(
    folder: Path,
    *,
    bookmark_interval_s: float = 60.0,
    timings: Timings = Timings(),  # noqa: B008  frozen
) -> AsyncIterator[DevCluster]:
    """A cluster without nodes; ``folder`` takes the kubeconfig and the kubelets' files."""
    lifeline = Lifeline(folder / "lifeline")
    try:
        async with ControlPlane(bookmark_interval_s=bookmark_interval_s, timings=timings) as control_plane:
            cluster = DevCluster(control_plane, folder, lifeline)
            try:
                yield cluster
            finally:
                for kubelet in cluster.kubelets:
                    await kubelet.stop()
    finally:
        lifeline.close()
        await PodProcesses.ended()


def bare_node(
    name: str, *, labels: Mapping[str, str] | None = None, allocatable: Mapping[str, str] | None = None
) -> Object:
    """A node that no kubelet looks after."""
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", **(allocatable or {})}
    return {
        "metadata": {"name": name, "labels": dict(labels or {})},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def simple_pod(
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    resources: Mapping[str, int] | None = None,
    node: str = "",
    grace_seconds: int = 30,
) -> Object:
    """One container ``main``; ``node`` binds it without the scheduler."""
    limits = {resource: str(amount) for resource, amount in (resources or {}).items()}
    spec: Object = {
        "containers": [{"name": "main", "image": "example.org/main:1", "resources": {"limits": limits}}],
        "terminationGracePeriodSeconds": grace_seconds,
    }
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})},
        "spec": spec,
    }


def is_running(pod: Object) -> bool:
    return bool(dig(pod, "status.phase") == "Running")
