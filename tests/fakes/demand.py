"""Agents that publish what workloads want, over one set of workloads and one ConfigMap in memory, in the loop's virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from agent.adapters.demand import DemandMap
from agent.execute.fleet import LeaderHands
from agent.model.demand import Allowed, Demand, Published
from agent.model.demand_map import KEY, NAME, read
from agent.model.errors import ConflictError, GoneError, RetryError
from agent.plan.fleet import LEASE_SECONDS
from agent.reconcile.loop import keep_passing
from agent.reconcile.publishing import PublishingPass
from tests.fakes.fleet import EPOCH, MemoryLeases

SHOWN_AFTER_SECONDS = 0.05
"""How far a watch is behind."""


@dataclass
class Board:
    """What the API server has. ``writes``: when each took effect, with its text. ``away``: nobody is answered.
    ``counts``: who asks how many agents there are is told."""

    leases: MemoryLeases = field(default_factory=lambda: MemoryLeases(lambda: EPOCH))
    data: dict[str, str] | None = None
    version: int = 0
    workloads: dict[str, tuple[Demand, ...]] = field(default_factory=dict)
    writes: list[tuple[float, str]] = field(default_factory=list)
    away: bool = False
    listing_seconds: float = 0.2
    nodes: int = 3
    counts: bool = True
    agents: dict[str, Agent] = field(default_factory=dict)
    _serial: Any = field(default_factory=lambda: itertools.count(1))

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    def start(self, name: str, allowed: Allowed | None = None) -> Agent:
        """An agent's process on that node."""
        agent = self.agents[name] = Agent(self, f"{name}_{next(self._serial)}", allowed)
        return agent

    def want(self, name: str, *demands: Demand) -> None:
        """A workload is as it is from now on; without demands it is gone."""
        self.workloads[name] = demands
        self.changed()

    def delete_map(self) -> None:
        """Somebody removes the ConfigMap."""
        self.data = None
        self.version += 1
        self.changed()

    def changed(self) -> None:
        for agent in self.agents.values():
            asyncio.get_running_loop().call_later(SHOWN_AFTER_SECONDS, agent.see)

    @property
    def published(self) -> tuple[Demand, ...]:
        return read((self.data or {}).get(KEY, ""))

    @property
    def publisher(self) -> str:
        """The node of who leads."""
        lease = self.leases.items.get(NAME, {})
        return str(lease.get("spec", {}).get("holderIdentity") or "").rpartition("_")[0]

    @property
    def watching(self) -> list[str]:
        """Who looks at workloads."""
        return [name for name, agent in self.agents.items() if agent.view.is_open]


class Agent:
    """One process: its election, what it sees, and its loop."""

    def __init__(self, board: Board, holder: str, allowed: Allowed | None) -> None:
        self._board = board
        self.wake = asyncio.Event()
        self.stopping = asyncio.Event()
        self.view = View(board, self.wake.set)
        self.map = Map(board)
        self.reports: list[Published | None] = []
        ballot = LeaderHands(board.leases, NAME, LEASE_SECONDS, lambda: EPOCH + board.clock())
        target = cast("DemandMap", self.map)
        self.publishing = PublishingPass(
            holder, ballot, self.view, target, allowed, self.reports.append, board.clock, tuple
        )
        self.task = asyncio.create_task(keep_passing("demand", self.publishing, self.wake, self.stopping))

    def see(self) -> None:
        self.map.look()
        self.wake.set()

    async def kill(self) -> None:
        """The process is gone; nothing is cleaned up."""
        self._board.agents = {name: one for name, one in self._board.agents.items() if one is not self}
        self.task.cancel()
        await asyncio.wait([self.task])

    async def stop(self) -> None:
        """As after SIGTERM."""
        self.stopping.set()
        self.wake.set()
        await asyncio.wait([self.task])
        await self.publishing.resign()
        self._board.agents = {name: one for name, one in self._board.agents.items() if one is not self}


class View:
    """The workloads, once they have been listed."""

    def __init__(self, board: Board, changed: Callable[[], None]) -> None:
        self._board = board
        self._changed = changed
        self._listed_at = float("inf")
        self.is_open = False

    @property
    def objects(self) -> tuple[dict[str, Any], ...]:
        assert self.is_open
        return tuple({"demands": demands} for demands in self._board.workloads.values())

    @property
    def synced(self) -> bool:
        return self._board.clock() >= self._listed_at

    def open(self) -> None:
        self.is_open = True
        self._listed_at = self._board.clock() + self._board.listing_seconds

    def close(self) -> None:
        self.is_open = False

    async def agents(self) -> int:
        if self._board.away or not self._board.counts:
            raise RetryError("connection refused")
        return self._board.nodes


class Map:
    """The ConfigMap as one agent sees it: what it was a moment ago, unless it wrote itself."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.synced = True
        self.data: dict[str, str] = {}
        self._version: int | None = None
        self.look()

    def look(self) -> None:
        if not self._board.away:
            self.data = dict(self._board.data or {})
            self._version = self._board.version if self._board.data is not None else None

    async def write(self, data: dict[str, str]) -> None:
        await asyncio.sleep(0.01)
        if self._board.away:
            raise RetryError("connection refused")
        if self._version is None and self._board.data is not None:
            raise ConflictError("already exists")
        if self._version is not None and self._board.data is None:
            self.data, self._version = {}, None
            raise GoneError(NAME)
        if self._version is not None and self._version != self._board.version:
            raise ConflictError("stale")
        self._board.data = dict(data)
        self._board.version += 1
        self._board.writes.append((self._board.clock(), data[KEY]))
        self.look()
        self._board.changed()
