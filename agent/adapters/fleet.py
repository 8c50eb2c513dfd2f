"""What an agent watches of its fleet, and only while it has to: its own slot, and as the leader everybody's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agent.adapters.kube import Kube, node_path
from agent.adapters.watch import Metadata, Watch

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that ends with the agent."""


class FollowedLease:
    """One Lease, watched while it is needed."""

    def __init__(self, kube: Kube, path: str, name: str, start: Start, changed: Callable[[], None]) -> None:
        self._kube = kube
        self._path = path
        self._name = name
        self._start = start
        self._changed = changed
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def objects(self) -> tuple[dict[str, Any], ...]:
        """None while nothing is watched."""
        return self._watch.objects if self._watch is not None else ()

    def put(self, item: dict[str, Any]) -> None:
        """What the API server answered."""
        if self._watch is not None:
            self._watch.put(item)

    def start(self) -> None:
        """Watch anew."""
        self._watch = Watch(self._kube, self._path, f"metadata.name={self._name}", self._changed, consistent=True)
        self._task = self._start(self._watch.run())

    def stop(self) -> None:
        """Know nothing of it."""
        if self._task is not None:
            self._task.cancel()
        self._watch = self._task = None


class FleetView:
    """What the leader watches, and nobody else: all slots, and of the nodes those that ``members`` selects and keeps."""

    def __init__(self, kube: Kube, path: str, members: Metadata, start: Start, changed: Callable[[], None]) -> None:
        self._kube = kube
        self._path = path
        self._start = start
        self._changed = changed
        self._members = members
        self._watches: tuple[Watch, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def slots(self) -> tuple[dict[str, Any], ...]:
        """Leases of the agents' namespace."""
        return self._watches[0].objects if self._watches else ()

    @property
    def nodes(self) -> tuple[dict[str, Any], ...]:
        """Of each what is kept."""
        return self._watches[1].objects if self._watches else ()

    @property
    def synced(self) -> bool:
        """Whether both have been listed."""
        return bool(self._watches) and all(watch.synced for watch in self._watches)

    def put(self, slot: dict[str, Any]) -> None:
        """What the API server answered."""
        if self._watches:
            self._watches[0].put(slot)

    def open(self) -> None:
        """Begin to watch."""
        slots = Watch(self._kube, self._path, "", self._changed, consistent=True)
        nodes = Watch(self._kube, "/api/v1/nodes", "", self._changed, metadata=self._members)
        self._watches = (slots, nodes)
        self._tasks = [self._start(watch.run()) for watch in self._watches]

    def close(self) -> None:
        """Watch nothing more."""
        for task in self._tasks:
            task.cancel()
        self._watches, self._tasks = (), []

    async def node(self, name: str) -> dict[str, Any]:
        """From the API server, not from what is watched."""
        return await self._kube.metadata(node_path(name))
