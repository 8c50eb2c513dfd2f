"""What this process last said of each thing, for those who look on; and the Events it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agent.model import labels
from agent.model.cache import CacheReport
from agent.model.gate import Gate
from agent.model.node import Node
from agent.model.overview import Role, ShownEvent
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.report.overview import MOST_EVENTS, Known


class Latest:
    """``node`` and ``lacking`` are asked when somebody looks, ``now`` gives seconds since the epoch. Of one event loop."""

    def __init__(
        self, node: Callable[[], Node | None], lacking: Callable[[], tuple[str, ...]], now: Callable[[], float]
    ) -> None:
        self._node = node
        self._lacking = lacking
        self._now = now
        self._partition: PartitionReport | None = None
        self._telemetry: TelemetrySnapshot | None = None
        self._cache: CacheReport | None = None
        self._events: dict[tuple[str, ...], ShownEvent] = {}
        self._news = asyncio.Event()

    def partition(self, report: PartitionReport) -> None:
        """What the last pass of the partition loop came to."""
        self._partition = report
        self.poke()

    def telemetry(self, snapshot: TelemetrySnapshot) -> None:
        """The last look at the slices."""
        self._telemetry = snapshot
        self.poke()

    def cache(self, report: CacheReport) -> None:
        """What the last pass of the cache loop came to."""
        self._cache = report
        self.poke()

    def wrote(self, event: dict[str, Any]) -> None:
        """An Event that the API server has taken. One that is said again is the newest again."""
        shown = _shown(event, self._now())
        same = (shown.role, shown.about, shown.reason, shown.message)
        before = self._events.pop(same, None)
        count = 1 if before is None else before.count + 1
        self._events[same] = ShownEvent(
            shown.at, shown.role, shown.warning, shown.reason, shown.message, shown.about, count
        )
        while len(self._events) > MOST_EVENTS:
            del self._events[next(iter(self._events))]
        self.poke()

    def poke(self) -> None:
        """Those who wait for something new look now."""
        self._news.set()
        self._news.clear()

    async def wait_for_news(self, seconds: float) -> None:
        """Until something is said, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    def known(self) -> Known:
        """All of it."""
        node = self._node()
        gate = Gate.from_json(node.annotations.get(labels.GATE, "null")) if node is not None and node.gated else None
        return Known(
            at=self._now(),
            partition=self._partition,
            telemetry=self._telemetry,
            cache=self._cache,
            gate=gate,
            cordoned=node.unschedulable if node is not None else None,
            lacks=self._lacking(),
            events=tuple(reversed(self._events.values())),
        )


def _shown(event: dict[str, Any], now: float) -> ShownEvent:
    subject = event["involvedObject"]
    about = "" if subject["kind"] == "Node" else f"{subject['kind']} {subject.get('namespace', '')}/{subject['name']}"
    role: Role = "partition" if event["action"] == "Partition" else "cache"
    return ShownEvent(now, role, event["type"] == "Warning", event["reason"], event["message"], about)
