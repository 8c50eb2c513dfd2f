"""Many nodes in memory, an agent on each with its loops, and the Leases that they share, in the virtual time of the event loop.

Requests for Leases take a moment. The leader sees nodes as they were up to two seconds ago. ``kill`` ends an agent at once; what
it has asked for by then may have happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.execute.fleet import FleetHands, LeaderHands
from agent.model import labels
from agent.model.errors import ConflictError, GoneError, RefusedError, RetryError
from agent.model.fleet import LEADER, Limit, Window, slot_name
from agent.plan.fleet import LEASE_SECONDS
from agent.reconcile.fleet import Board, OwnSlot
from agent.reconcile.leading import FleetPass, FleetRules
from agent.reconcile.loop import keep_passing
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Effects, NodeWorld, Steps, _merge, agent_on

EPOCH = 1_000_000.0
Object = dict[str, Any]


class MemoryLeases:
    """The Leases of one namespace, with the API server's rules for versions and preconditions. ``away``: it does not answer,
    with ``away_after_patch`` from the next patch on. ``requests`` are verb and name of each."""

    def __init__(self, now: Callable[[], float], seconds: float = 0.01) -> None:
        self.items: dict[str, Object] = {}
        self.requests: list[tuple[str, str]] = []
        self.away = False
        self.away_after_patch = False
        self.watching: dict[object, Callable[[str], None]] = {}
        self._now = now
        self.seconds = seconds
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    async def get(self, name: str) -> Object:
        await self._asked("get", name)
        if name not in self.items:
            raise GoneError(name)
        return copy.deepcopy(self.items[name])

    async def create(self, name: str, lease: Object) -> Object:
        await self._asked("create", name)
        if name in self.items:
            raise ConflictError(name)
        made = datetime.fromtimestamp(int(self._now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {"name": name, "uid": f"uid-{next(self._uids)}", "creationTimestamp": made}
        return self._store(name, {**lease, "metadata": metadata})

    async def patch(self, name: str, patch: Object) -> Object:
        await self._asked("patch", name)
        self.away |= self.away_after_patch
        self.away_after_patch = False
        if name not in self.items:
            raise GoneError(name)
        if patch["metadata"]["resourceVersion"] != self.items[name]["metadata"]["resourceVersion"]:
            raise ConflictError(name)
        return self._store(name, _merge(self.items[name], patch))

    async def delete(self, name: str, preconditions: Object) -> None:
        await self._asked("delete", name)
        if name not in self.items:
            return
        metadata = self.items[name]["metadata"]
        if any(metadata[key] != value for key, value in preconditions.items()):
            raise ConflictError(name)
        del self.items[name]
        self._changed(name)

    def slots(self) -> list[str]:
        """Nodes that have one."""
        return [name.removeprefix("warmslice-slot-") for name in self.items if name != LEADER]

    async def _asked(self, verb: str, name: str) -> None:
        self.requests.append((verb, name))
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.away:
            raise RetryError("connection refused")

    def _store(self, name: str, lease: Object) -> Object:
        lease["metadata"]["resourceVersion"] = str(next(self._versions))
        self.items[name] = lease
        self._changed(name)
        return copy.deepcopy(lease)

    def _changed(self, name: str) -> None:
        for changed in list(self.watching.values()):
            changed(name)


class LeasesOf:
    """The same Leases, where each write is an effect of one node."""

    def __init__(self, leases: MemoryLeases, effects: Effects) -> None:
        self._leases = leases
        self._effects = effects

    async def get(self, name: str) -> Object:
        return await self._leases.get(name)

    async def create(self, name: str, lease: Object) -> Object:
        made: Object = await self._effect("lease.create", lambda: self._leases.create(name, lease))
        return made

    async def patch(self, name: str, patch: Object) -> Object:
        lease: Object = await self._effect("lease.patch", lambda: self._leases.patch(name, patch))
        return lease

    async def delete(self, name: str, preconditions: Object) -> None:
        await self._effect("lease.delete", lambda: self._leases.delete(name, preconditions))

    async def _effect(self, name: str, act: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self._effects.happen(name, lambda: _at_once(act()))


def _at_once(act: Coroutine[Any, Any, Any]) -> Any:
    """Memory that takes no time never waits, so that the effect happens in one go."""
    try:
        act.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Line:
    """The same Leases, asked by one node: one that is ``cut_off`` gets no answer, and learns so late. Of those ``lost`` the
    answer to the next patch does not arrive."""

    def __init__(self, fleet: Fleet, name: str, leases: MemoryLeases | LeasesOf) -> None:
        self._fleet = fleet
        self._name = name
        self._leases = leases

    async def get(self, name: str) -> Object:
        await self._through()
        return await self._leases.get(name)

    async def create(self, name: str, lease: Object) -> Object:
        await self._through()
        return await self._leases.create(name, lease)

    async def patch(self, name: str, patch: Object) -> Object:
        await self._through()
        if name in self._fleet.refused:
            raise RefusedError(f"a policy is against {name}")
        patched = await self._leases.patch(name, patch)
        if name in self._fleet.lost:
            self._fleet.lost.remove(name)
            raise RetryError("the answer is lost")
        return patched

    async def delete(self, name: str, preconditions: Object) -> None:
        await self._through()
        await self._leases.delete(name, preconditions)

    async def _through(self) -> None:
        if self._name in self._fleet.cut_off:
            await asyncio.sleep(30.0)
            raise RetryError("no answer")


class OwnLease:
    """The watch of one Lease."""

    def __init__(self, leases: MemoryLeases, node: str, changed: Callable[[], None]) -> None:
        self._leases = leases
        self._name = slot_name(node)
        self._changed = changed

    @property
    def objects(self) -> tuple[Object, ...]:
        if self not in self._leases.watching or self._name not in self._leases.items:
            return ()
        return (copy.deepcopy(self._leases.items[self._name]),)

    def put(self, item: Object) -> None:
        return

    def start(self) -> None:
        self._leases.watching[self] = lambda name: self._changed() if name == self._name else None

    def stop(self) -> None:
        self._leases.watching.pop(self, None)


@dataclass
class Agent:
    """One process. ``holder`` is what it calls itself in the leader's Lease."""

    holder: str
    partition: PartitionPass
    hands: Steps
    fleet: FleetPass
    own: OwnLease
    view: View
    wake: asyncio.Event
    wake_fleet: asyncio.Event
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Fleet:
    """``nodes`` by name. ``most`` is the largest number of nodes that were cordoned at once. ``counted``: writes of Leases count
    among the effects of their node, and take no time. The agents' clocks are wrong by up to ``skew`` seconds.
    ``view_is_there``: a leader can list slots and nodes. Patches of Leases that are ``refused`` are not made."""

    def __init__(
        self,
        limit: str,
        *worlds: NodeWorld,
        window: Window | None = None,
        counted: bool = False,
        skew: float = 0.0,
    ) -> None:
        self.limit = Limit.parse(limit)
        self.window = window
        self.nodes = {world.node["metadata"]["name"]: world for world in worlds}
        self.counted = counted
        self.skew = skew
        self.cut_off: set[str] = set()
        self.lost: list[str] = []
        self.refused: set[str] = set()
        self.view_is_there = True
        self.leases = MemoryLeases(self.now, 0.0 if counted else 0.01)
        self.agents: dict[str, Agent] = {}
        self.most = 0
        self.began: list[str] = []
        self.shown: dict[str, Object] = {}
        self._serial = itertools.count(1)
        self._seconds = 0
        for name, world in self.nodes.items():
            world.node["metadata"]["uid"] = f"uid-of-{name}"
            world.effects.then["patch"] = self._count

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    @property
    def cordoned(self) -> list[str]:
        return [name for name, world in self.nodes.items() if world.node["spec"].get("unschedulable")]

    def _count(self) -> None:
        self.began += [name for name in self.cordoned if name not in self.began]
        self.most = max(self.most, len(self.cordoned))

    def build(self, name: str) -> Agent:
        """Another process of the agent on that node, before its loops start."""
        world, wake, wake_fleet = self.nodes[name], asyncio.Event(), asyncio.Event()
        world.gpus.restarted()
        holder = f"{name}_{next(self._serial)}"
        leases = Line(self, name, LeasesOf(self.leases, world.effects) if self.counted else self.leases)
        behind = self.skew * random.uniform(-1, 1)

        def now() -> float:
            return self.now() + behind

        hands = FleetHands(leases, now)
        ballot = LeaderHands(leases, LEADER, LEASE_SECONDS, now)
        board = Board(wake.set, wake_fleet.set)
        own = OwnLease(self.leases, name, wake.set)
        view = View(self, wake_fleet.set)
        rules = FleetRules(self.limit, self.window, labels.CONFIG)
        fleet = FleetPass(holder, ballot, hands, view, board, rules, now, asyncio.get_running_loop().time)
        partition, steps = agent_on(world, slots=OwnSlot(name, hands, own, board, now))
        self.agents[name] = Agent(holder, partition, steps, fleet, own, view, wake, wake_fleet)
        return self.agents[name]

    def start(self, name: str) -> Agent:
        """The same, with its loops."""
        agent = self.build(name)
        agent.tasks = [
            asyncio.create_task(keep_passing("partition", agent.partition, agent.wake, asyncio.Event())),
            asyncio.create_task(keep_passing("fleet", agent.fleet, agent.wake_fleet, asyncio.Event())),
        ]
        return agent

    async def kill(self, name: str) -> None:
        """The process is gone; nothing is cleaned up."""
        agent = self.agents.pop(name)
        for task in agent.tasks:
            task.cancel()
        if agent.tasks:
            await asyncio.wait(agent.tasks)
        agent.own.stop()
        agent.view.close()

    async def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Time passes; nodes and their pods follow every second."""
        for _ in range(round(seconds)):
            if until():
                return
            await self.second()

    async def second(self) -> None:
        """One second passes."""
        await asyncio.sleep(1.0)
        for name, world in self.nodes.items():
            world.tick(1.0)
            if name in self.agents and labels.OPERATION in world.node["metadata"]["annotations"]:
                self.agents[name].wake.set()
        self._seconds += 1
        if self._seconds % 2:
            self.shown = {name: copy.deepcopy(world.node) for name, world in self.nodes.items()}

    def label(self, layout: str | None) -> None:
        """All nodes at once."""
        for name, world in self.nodes.items():
            world.label(value=layout)
            if name in self.agents:
                self.agents[name].wake.set()

    @property
    def leader(self) -> str:
        """The node whose agent leads."""
        holder: str = self.leases.items.get(LEADER, {}).get("spec", {}).get("holderIdentity") or ""
        return next((name for name, agent in self.agents.items() if agent.holder == holder), "")

    def done(self) -> list[str]:
        """Nodes that have what they want, and are as they were."""
        return [
            name
            for name, world in self.nodes.items()
            if world.node["metadata"]["labels"].get(labels.STATE) == "success"
            and labels.OPERATION not in world.node["metadata"]["annotations"]
            and not world.node["spec"].get("unschedulable")
        ]

    async def end(self) -> None:
        """Every agent."""
        for name in list(self.agents):
            with contextlib.suppress(KeyError):
                await self.kill(name)


class View:
    """What the leader sees."""

    def __init__(self, fleet: Fleet, changed: Callable[[], None]) -> None:
        self._fleet = fleet
        self._changed = changed
        self._open = False

    @property
    def slots(self) -> tuple[Object, ...]:
        assert self._open
        return tuple(copy.deepcopy(item) for item in self._fleet.leases.items.values())

    @property
    def nodes(self) -> tuple[Mapping[str, Any], ...]:
        assert self._open
        return tuple(node for node in self._fleet.shown.values() if labels.STATE in node["metadata"]["labels"])

    @property
    def synced(self) -> bool:
        return self._open and self._fleet.view_is_there

    def put(self, slot: Object) -> None:
        return

    def open(self) -> None:
        self._open = True
        self._fleet.leases.watching[self] = lambda _: self._changed()

    def close(self) -> None:
        self._open = False
        self._fleet.leases.watching.pop(self, None)

    async def node(self, name: str) -> Mapping[str, Any]:
        if name not in self._fleet.nodes:
            raise GoneError(name)
        return self._fleet.nodes[name].node
