"""This host as it is now, for a command that runs on it: NVML, PodResources, and the API server where there is a way to it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

from agent.adapters import clock
from agent.adapters.cgroups import Processes
from agent.adapters.dra import DraOnce
from agent.adapters.kube import Kube, node_path
from agent.adapters.kubelet import KubeletIfAny
from agent.adapters.nvml import Hardware
from agent.model.errors import BadInputError, GoneError, RetryError
from agent.model.mig import Gpu
from agent.model.node import DeviceOwner, Node
from agent.model.snapshot import Snapshot
from agent.observe.claims import Claims
from agent.observe.cluster import budget_of, node_of, pod_of
from agent.observe.processes import with_origins
from agent.observe.world import owners_of
from agent.reconcile.paper import node_on_paper
from agent.settings import Settings


class Here:
    """The doors of this host."""

    WITHOUT_CLUSTER: ClassVar[str] = (
        "No API server was asked (no kubeconfig): a pod that the kubelet lists counts as in the way, budgets are not known"
    )

    def __init__(self, settings: Settings, kube: Kube | None) -> None:
        self._kube = kube
        self._name = settings.node_name or os.environ.get("NODE_NAME") or socket.gethostname().lower()
        self._hardware = Hardware()
        self._kubelet = KubeletIfAny(settings.pod_resources_socket)
        self._claims = Claims(DraOnce(kube, self._name))
        self._processes = Processes(settings.proc_directory)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Here]:
        """With the API server only where something says how to reach it; what was named and cannot be used is a mistake."""
        kube = None
        named = settings.kubeconfig or os.environ.get("KUBECONFIG") or os.environ.get("KUBERNETES_SERVICE_HOST")
        if named:
            kube = await Kube.connect(settings.kubeconfig)
        here = cls(settings, kube)
        try:
            yield here
        finally:
            # A driver that does not answer has been told of already.
            with suppress(RetryError):
                await here.hardware_released()
            if kube is not None:
                await kube.close()

    @property
    def asks_cluster(self) -> bool:
        """Whether pods and budgets are known."""
        return self._kube is not None

    async def look(self) -> Snapshot:
        """All of it, now."""
        gpus = await self._hardware.read()
        if self._kube is None:
            owners, error = await owners_of(self._kubelet, self._claims, (), None)
            gpus = with_origins(gpus, (), self._processes.origin)
            return Snapshot(clock.now(), node_on_paper({}, self._name), gpus, (), owners, error)
        node = await self._node(self._kube)
        pods = await self._kube.get("/api/v1/pods", fieldSelector=f"spec.nodeName={self._name}")
        budgets = tuple(budget_of(item) for item in await self._kube.budgets())
        found = tuple(map(pod_of, pods.get("items", [])))
        gpus = with_origins(gpus, found, self._processes.origin)
        offers = await self._claims.offers(found)
        owners, error = await owners_of(self._kubelet, self._claims, found, offers)
        return Snapshot(clock.now(), node, gpus, found, owners, error, budgets, offers=offers)

    async def gpus(self) -> tuple[tuple[Gpu, ...], tuple[DeviceOwner, ...]]:
        """GPUs and who holds what. RetryError where the kubelet is there and does not say."""
        return await self._hardware.read(), await self._kubelet.owners()

    async def hardware_released(self) -> None:
        """Close NVML: the command ends."""
        await self._hardware.release()

    async def _node(self, kube: Kube) -> Node:
        try:
            return node_of(await kube.get(node_path(self._name)))
        except GoneError as error:
            raise BadInputError(f"there is no node {self._name!r}: name this machine's node (--node-name)") from error
