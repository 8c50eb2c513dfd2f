"""From the last reports of this process, and what the other container says, to the overview. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from agent.model.cache import CacheReport
from agent.model.gate import Gate
from agent.model.overview import (
    Away,
    Overview,
    Role,
    Share,
    ShownCache,
    ShownContainer,
    ShownEvent,
    ShownGate,
    ShownModel,
)
from agent.model.page_cache import ModelInMemory
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.report.overview_partition import shown_partition

MOST_EVENTS = 20

Kept = Literal["partition", "cache", "all"]


@dataclass(frozen=True, slots=True)
class Home:
    """What stays the same while the process runs: the node's name, the roles that run here, how long the gate stays shut."""

    node: str
    version: str
    role: Kept
    gate_seconds: float

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that run in this process."""
        return ("partition", "cache") if self.role == "all" else (self.role,)


@dataclass(frozen=True, slots=True)
class Known:
    """What this process knows at a moment. Two are equal when nothing but the time is another. ``lacks`` is what it says to
    ``/readyz``; ``cordoned`` None: the node is not known."""

    at: float = field(compare=False)
    partition: PartitionReport | None = None
    telemetry: TelemetrySnapshot | None = None
    cache: CacheReport | None = None
    gate: Gate | None = None
    cordoned: bool | None = None
    lacks: tuple[str, ...] = ()
    events: tuple[ShownEvent, ...] = ()


def share_of(known: Known, home: Home) -> Share:
    """What this process tells the other container."""
    return Share(home.version, known.lacks, _cache(known.cache), known.events)


def overview_of(known: Known, home: Home, other: Share | Away | None) -> Overview:
    """``other`` is the cache container's answer, None where nobody asks it."""
    told = other if isinstance(other, Share) else None
    return Overview(
        node=home.node,
        at=known.at,
        cordoned=known.cordoned,
        containers=tuple(_container(role, known, home, other) for role in ("partition", "cache")),
        partition=shown_partition(known.partition, known.telemetry) if "partition" in home.roles else None,
        cache=_cache(known.cache) if "cache" in home.roles else told.cache if told is not None else None,
        gate=_gate(known.gate, home),
        events=_newest((*known.events, *(told.events if told is not None else ()))),
    )


def _container(role: Role, known: Known, home: Home, other: Share | Away | None) -> ShownContainer:
    if role in home.roles:
        return ShownContainer(role, "here", home.version, known.lacks)
    match other:
        case Share(version, lacks):
            return ShownContainer(role, "answers", version, lacks)
        case Away(why, since):
            return ShownContainer(role, "away", since=since, why=why)
        case None:
            return ShownContainer(role, "elsewhere")


def _newest(events: Iterable[ShownEvent]) -> tuple[ShownEvent, ...]:
    return tuple(sorted(events, key=lambda event: event.at, reverse=True)[:MOST_EVENTS])


def _gate(gate: Gate | None, home: Home) -> ShownGate | None:
    return None if gate is None else ShownGate(gate.since, gate.waits_for, gate.message, gate.since + home.gate_seconds)


def _cache(report: CacheReport | None) -> ShownCache | None:
    if report is None:
        return None
    memory = {one.model: one for one in report.page_cache.models}
    return ShownCache(
        looked=report.at_seconds,
        refusal=report.refusal or "",
        models=_models(report, memory),
        used_bytes=report.disk.used_bytes,
        free_bytes=report.disk.free_bytes,
        total_bytes=report.disk.total_bytes,
        budget_bytes=report.budget_bytes,
        received_bytes=report.totals.received_bytes,
        over=report.over or "",
    )


def _models(report: CacheReport, memory: Mapping[str, ModelInMemory]) -> tuple[ShownModel, ...]:
    return tuple(
        ShownModel(
            name=model.name,
            repository=model.repository,
            revision=model.revision,
            commit=model.commit,
            state=model.state.value,
            reason=model.reason,
            message=model.message,
            size_bytes=model.size_bytes,
            fetched_bytes=model.fetched_bytes,
            since=model.since_seconds,
            next_try=model.next_try_seconds,
            because=model.because,
            gate=model.gate,
            in_memory_bytes=memory[model.name].resident_bytes if model.name in memory else None,
            why_not_in_memory=(memory[model.name].why_not or "") if model.name in memory else "",
        )
        for model in report.models
    )
