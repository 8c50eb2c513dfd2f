"""Saying things as Events. A lost Event changes nothing, so nothing waits for one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from agent.model.cache import CacheReport
from agent.model.errors import AgentError
from agent.model.node import Node
from agent.report.events import node_event
from agent.report.model_words import Word, words_of

log = logging.getLogger("warmslice.telling")


class EventSink(Protocol):
    """Where Events go."""

    async def create_event(self, namespace: str, event: dict[str, Any]) -> None: ...


async def tell(events: EventSink, event: dict[str, Any]) -> None:
    """Write one Event, or log that it is lost."""
    try:
        await events.create_event("default", event)
    except AgentError as error:
        log.warning("event.lost", extra={"error": str(error)})


class CacheNews:
    """Says of the models what has changed since the last report: once for each change, in log and Event alike."""

    def __init__(self, events: EventSink, node: Callable[[], Node | None], now: Callable[[], float]) -> None:
        self._events = events
        self._node = node
        self._now = now
        self._said: dict[str, Word] = {}

    async def tell(self, report: CacheReport) -> None:
        """Compare with what was said last, and say the rest."""
        words = words_of(report)
        node = self._node()
        for about, word in words.items():
            before = self._said.get(about)
            if before == word:
                continue
            level = logging.WARNING if word.warning else logging.INFO
            log.log(level, "model", extra={"model": about, "reason": word.reason, "detail": word.message})
            # What an agent finds well when it starts is no news.
            if node is not None and (word.warning or before is not None):
                event = node_event(node, word.reason, word.message, "Cache", self._now(), word.warning)
                await tell(self._events, event)
        self._said = words
