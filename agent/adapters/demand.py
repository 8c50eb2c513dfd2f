"""What the agent that publishes demand watches, only while it does; and the ConfigMap in which all agents read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from agent.adapters.kube import METADATA_LIST, Kube, Object
from agent.adapters.watch import Metadata, Watch
from agent.model.demand_map import NAME
from agent.model.errors import GoneError
from agent.model.workload import WORKLOADS, WorkloadKind

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that ends with the agent."""

Keep = Callable[[WorkloadKind | None, Object], Object]
"""What is kept of a workload, or (None) of a pod."""

_PODS = "/api/v1/pods"
_UNBOUND = "status.phase=Pending,spec.nodeName="


class WorkloadView:
    """Every workload that can serve, and the pods that no node has yet. Of each only what ``keep`` keeps."""

    def __init__(self, kube: Kube, namespace: str, keep: Keep, start: Start, changed: Callable[[], None]) -> None:
        self._kube = kube
        self._agents = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
        self._keep = keep
        self._start = start
        self._changed = changed
        self._watches: tuple[Watch, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def objects(self) -> tuple[Object, ...]:
        """What was kept."""
        return tuple(item for watch in self._watches for item in watch.objects)

    @property
    def synced(self) -> bool:
        """Whether all have been listed."""
        return bool(self._watches) and all(watch.synced for watch in self._watches)

    def open(self) -> None:
        """Begin to watch."""
        kinds = tuple(self._watch(kind.path, "", kind) for kind in WORKLOADS)
        self._watches = (*kinds, self._watch(_PODS, _UNBOUND, None))
        self._tasks = [self._start(watch.run()) for watch in self._watches]

    def close(self) -> None:
        """Watch nothing more."""
        for task in self._tasks:
            task.cancel()
        self._watches, self._tasks = (), []

    async def agents(self) -> int:
        """How many there are, without listing them: the pods of their namespace, since a count is given only without a selector.
        Where there are none, as for agents that run in no pod, the nodes."""
        return await self._count(self._agents) or await self._count("/api/v1/nodes")

    async def _count(self, path: str) -> int:
        page = await self._kube.metadata(path, METADATA_LIST, limit="1")
        return len(page.get("items") or ()) + int(page["metadata"].get("remainingItemCount") or 0)

    def _watch(self, path: str, selector: str, kind: WorkloadKind | None) -> Watch:
        kept = Metadata("", lambda item: self._keep(kind, item), whole=True)
        optional = kind is not None and kind.optional
        return Watch(self._kube, path, selector, self._changed, metadata=kept, optional=optional)


class DemandMap:
    """The ConfigMap, kept up to date by a watch; every agent has one."""

    def __init__(self, kube: Kube, namespace: str, changed: Callable[[], None]) -> None:
        self._kube = kube
        self._path = f"/api/v1/namespaces/{quote(namespace, safe='')}/configmaps"
        self._watch = Watch(kube, self._path, f"metadata.name={NAME}", changed)

    async def run(self) -> None:
        """Follow it until cancelled."""
        await self._watch.run()

    @property
    def synced(self) -> bool:
        """Whether it is known whether there is one."""
        return self._watch.synced

    @property
    def data(self) -> dict[str, str]:
        """What is in it; nothing while there is none."""
        return dict(self._watch.objects[0].get("data") or {}) if self._watch.objects else {}

    async def write(self, data: dict[str, str]) -> None:
        """Put this into it; it is made where there is none. ConflictError where somebody else changed it meanwhile."""
        if not self._watch.objects:
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data}
            self._watch.put(await self._kube.create(self._path, body))
            return
        version = self._watch.objects[0]["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "data": data}
        try:
            self._watch.put(await self._kube.patch(f"{self._path}/{NAME}", patch))
        except GoneError:
            self._watch.forget()
            raise
