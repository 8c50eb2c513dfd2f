"""What this process has to say of the node, kept for whoever looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.model.cache import CacheReport
from agent.model.overview import EventView, Part
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.report.overview import cache_view, partition_view


class NodeView:
    """Takes the reports of the loops that run here, each whole; ``events`` are those that this process has said, ``gate`` is what
    the start-up taint waits for."""

    def __init__(self, events: Callable[[], Sequence[EventView]], gate: Callable[[], Sequence[str]]) -> None:
        self._events = events
        self._gate = gate
        self._partition: PartitionReport | None = None
        self._telemetry: TelemetrySnapshot | None = None
        self._cache: CacheReport | None = None

    def partition(self, report: PartitionReport) -> None:
        """The last of the partition loop."""
        self._partition = report

    def telemetry(self, snapshot: TelemetrySnapshot) -> None:
        """The last look of the sampler."""
        self._telemetry = snapshot

    def cache(self, report: CacheReport) -> None:
        """The last of the cache loop."""
        self._cache = report

    def part(self) -> Part:
        """As things stand now."""
        return Part(
            partition=partition_view(self._partition, self._telemetry) if self._partition is not None else None,
            cache=cache_view(self._cache, self._gate()) if self._cache is not None else None,
            events=tuple(self._events()),
        )
