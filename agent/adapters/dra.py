"""The door to Dynamic Resource Allocation in the API server: ResourceSlices of NVIDIA's driver for one node, and claims."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from agent.adapters.kube import Kube, Object
from agent.adapters.watch import Watch
from agent.model.errors import GoneError, RetryError
from agent.model.node import DRA_DRIVER

_GROUP = "/apis/resource.k8s.io"


class Dra:
    """``watched``: its slices are kept up to date by a watch from the first question on, and until they are not needed."""

    def __init__(
        self,
        kube: Kube,
        node: str,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        changed: Callable[[], None],
    ) -> None:
        self._kube = kube
        self._node = node
        self._start = start
        self._changed = changed
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None

    async def slices(self) -> tuple[Object, ...] | None:
        """Those of this node; None while they are not known."""
        if self._watch is None:
            self._watch = _Slices(self._kube, self._node, self._changed)
            self._task = self._start(self._watch.run())
        return self._watch.objects if self._watch.synced else None

    def rest(self) -> None:
        """Watch nothing."""
        if self._task is not None:
            self._task.cancel()
        self._watch = self._task = None

    async def claim(self, namespace: str, name: str) -> Object:
        """One ResourceClaim. GoneError."""
        return await claim(self._kube, namespace, name)


class DraOnce:
    """For one look. Without an API server nothing is known."""

    def __init__(self, kube: Kube | None, node: str) -> None:
        self._kube = kube
        self._node = node

    async def slices(self) -> tuple[Object, ...] | None:
        """Those of this node; None where nobody can be asked."""
        if self._kube is None:
            return None
        listed = await self._kube.get(f"{await _version(self._kube)}/resourceslices", fieldSelector=_of(self._node))
        return tuple(listed.get("items") or [])

    def rest(self) -> None:
        """Nothing is watched."""

    async def claim(self, namespace: str, name: str) -> Object:
        """One ResourceClaim. GoneError."""
        if self._kube is None:
            raise RetryError("there is no API server to ask")
        return await claim(self._kube, namespace, name)


async def claim(kube: Kube, namespace: str, name: str) -> Object:
    """One ResourceClaim. GoneError."""
    path = f"{await _version(kube)}/namespaces/{quote(namespace, safe='')}/resourceclaims/{quote(name, safe='')}"
    return await kube.get(path)


class _Slices(Watch):
    def __init__(self, kube: Kube, node: str, changed: Callable[[], None]) -> None:
        super().__init__(kube, "", _of(node), changed, consistent=True)

    async def _list(self) -> None:
        # Each list asks anew: an upgrade of the cluster may take a version away.
        self._path = f"{await _version(self._kube)}/resourceslices"
        await super()._list()


def _of(node: str) -> str:
    return f"spec.nodeName={node},spec.driver={DRA_DRIVER}"


async def _version(kube: Kube) -> str:
    """The path of the version that the API server prefers."""
    try:
        found = (await kube.get(_GROUP))["preferredVersion"]["version"]
    except (GoneError, KeyError) as error:
        raise RetryError("the API server does not serve resource.k8s.io") from error
    return f"{_GROUP}/{found}"
