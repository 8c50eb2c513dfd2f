"""The loop that elects who publishes what workloads want, and publishes it while it is elected.

# Note [One agent watches workloads]
# Watching every workload of a cluster from every node would cost the API server as many copies as there are nodes. So one agent
# does, elected by a Lease of its own (`warmslice-demand`; see Note [Who leads] in plan/fleet.py), and writes what it finds into
# one small ConfigMap of the same name, which all watch. It is written when demand has changed, at most every 30 s, and not before
# everything has been listed: a half would look as if nobody wanted the rest. Who comes to lead where there is a ConfigMap waits
# as long before its first write. Nothing is written before anybody has wanted anything: the first that does need not wait. While
# nobody leads the last demand stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from agent.adapters.demand import DemandMap
from agent.desired.demand import demands_of
from agent.desired.recognise import recognise
from agent.model.demand import Allowed, Asked, Demand, Published, Rank
from agent.model.demand_map import KEY, MOST_BYTES, written
from agent.model.errors import AgentError, ConflictError, GoneError, RetryError
from agent.model.fleet import Leader
from agent.model.workload import WorkloadKind
from agent.observe.workloads import owner_words, pod_specs
from agent.plan.demand import publishable
from agent.reconcile.election import Ballot, Election

log = logging.getLogger("warmslice.demand")

WRITE_SECONDS = 30.0
_BETWEEN_LOOKS_SECONDS = 0.5
_COUNT_SECONDS = 30.0
_AFTER_CONFLICT_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 5.0
_MOST_REFUSED = 100
"""Whoever makes workloads could have any number said."""

Object = Mapping[str, Any]


class View(Protocol):
    """What only the leader sees; kept up to date from ``open`` to ``close``."""

    @property
    def objects(self) -> tuple[dict[str, Any], ...]: ...

    @property
    def synced(self) -> bool: ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    async def agents(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Word:
    """What the leader says to the others: how many nodes have an agent, so that they look for it seldom enough."""

    nodes: int

    def to_json(self) -> str:
        """As it stands in the Lease."""
        return msgspec.json.encode(self).decode()


def kept(kind: WorkloadKind | None, item: dict[str, Any]) -> dict[str, Any]:
    """Of a workload, or (None) of a pod that no node has yet: who it is, and what it wants."""
    metadata = item["metadata"]
    space = metadata.get("namespace", "")
    if kind is None:
        specs: tuple[Object, ...] = () if metadata.get("deletionTimestamp") else (item.get("spec") or {},)
        rank, by = Rank.PENDING, f"Pod {space}/{metadata.get('name', '')}"
    else:
        specs, rank, by = pod_specs(kind, item), Rank.WORKLOAD, owner_words(kind, item)
    found = tuple(demand for spec in specs for demand in demands_of(spec, recognise(spec), space, rank, by))
    return {"metadata": _identity(metadata), "demands": found}


def kept_whatever_it_is(kind: WorkloadKind | None, item: dict[str, Any]) -> dict[str, Any]:
    """The like; whoever may make a workload wrote it, and one that cannot be read must not stop the watch for all others."""
    try:
        return kept(kind, item)
    except Exception:
        metadata = item.get("metadata") or {}
        log.exception(
            "workload.not-read", extra={"namespace": metadata.get("namespace"), "object": metadata.get("name")}
        )
        return {"metadata": _identity(metadata), "demands": ()}


def _identity(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metadata.get(name, "") for name in ("uid", "resourceVersion", "namespace", "name")}


class PublishingPass:
    """Call it as often as you like. ``allowed`` and ``declared`` as of ``plan.demand.publishable``. ``published`` is told what
    stands in the ConfigMap while we lead, and None when we do no more; ``clock`` is monotonic."""

    def __init__(
        self,
        holder: str,
        ballot: Ballot,
        view: View,
        target: DemandMap,
        allowed: Allowed | None,
        published: Callable[[Published | None], None],
        clock: Callable[[], float],
        declared: Callable[[], Collection[tuple[str, str]]],
    ) -> None:
        self._declared = declared
        self._election = Election("demand", holder, ballot, clock, self._begin, self._end)
        self._view = view
        self._target = target
        self._allowed = allowed
        self._published = published
        self._clock = clock
        self._may_write = 0.0
        self._counts_agents = 0.0
        self._looked = float("-inf")
        self._told: frozenset[str] = frozenset()

    async def __call__(self) -> float:
        """One pass; after how many seconds to look again at the latest."""
        if not self._target.synced:
            return _BETWEEN_LOOKS_SECONDS
        if not self._election.leads:
            if not self._election.wait_seconds:
                await self._election.look(_agents)
            return 0.0 if self._election.leads else self._election.wait_seconds
        return await self._election.lead(self._act)

    async def resign(self) -> None:
        """Lead no more, so that the next need not wait until this one is known to be gone."""
        await self._election.resign()

    def _begin(self) -> None:
        self._may_write = self._clock() + WRITE_SECONDS if self._target.data else 0.0
        self._counts_agents = 0.0
        self._view.open()

    def _end(self) -> None:
        self._view.close()
        self._published(None)

    async def _act(self) -> float:
        await asyncio.sleep(max(0.0, self._looked + _BETWEEN_LOOKS_SECONDS - self._clock()))
        self._looked = self._clock()
        if self._election.due:
            return await self._election.renew()
        if self._clock() >= self._counts_agents:
            self._counts_agents = self._clock() + _COUNT_SECONDS
            await self._count()
        if not self._view.synced:
            return _BETWEEN_LOOKS_SECONDS
        return min(self._election.rest_seconds, await self._publish())

    async def _count(self) -> None:
        try:
            self._election.said = Word(await self._view.agents())
        except AgentError as error:
            # Who cannot count can publish.
            log.warning("demand.not-counted", extra={"error": str(error)})

    async def _publish(self) -> float:
        wanted, refused = publishable(_all(self._view.objects), self._allowed, self._declared())
        text, dropped = await asyncio.to_thread(written, wanted, MOST_BYTES)
        size = len(text.encode())
        self._published(Published(size, len(wanted), dropped, Asked.of(refused, 0)))
        self._tell(refused)
        there = self._target.data.get(KEY)
        if there == text or (there is None and not wanted):
            return self._election.rest_seconds
        if self._clock() < self._may_write:
            return self._may_write - self._clock()
        try:
            await self._target.write({KEY: text})
        except (ConflictError, GoneError):
            self._may_write = self._clock() + _AFTER_CONFLICT_SECONDS
            return _AFTER_CONFLICT_SECONDS  # the watch will show what is there
        except AgentError as error:
            asked = error.after_seconds if isinstance(error, RetryError) else None
            self._may_write = self._clock() + max(_AFTER_FAILURE_SECONDS, asked or 0.0)
            raise
        self._may_write = self._clock() + WRITE_SECONDS
        log.info("demand.published", extra={"demands": len(wanted), "bytes": size, "dropped": dropped})
        return self._election.rest_seconds

    def _tell(self, refused: list[Demand]) -> None:
        """Once for each model of a namespace."""
        words = {f"{one.namespace}: {one.named.repository}": one for one in refused}
        for key, demand in list(words.items())[:_MOST_REFUSED]:
            if key not in self._told:
                detail = (
                    f"{demand.by} names {demand.named.repository}, which prewarm_allow does not allow its namespace"
                )
                log.warning("demand.refused", extra={"namespace": demand.namespace, "detail": detail})
        self._told = frozenset(words)


def _all(objects: tuple[dict[str, Any], ...]) -> Iterator[Demand]:
    for item in objects:
        yield from item["demands"]


def _agents(leader: Leader | None) -> int | None:
    """As the leader last said it; None where it has not."""
    try:
        return msgspec.json.decode(leader.said, type=Word).nodes if leader is not None and leader.said else None
    except (msgspec.ValidationError, msgspec.DecodeError):
        return None
