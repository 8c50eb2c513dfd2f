"""Saying things as Events. A lost Event changes nothing, so nothing waits for one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from agent.model.cache import CacheReport
from agent.model.errors import AgentError, ConflictError, GoneError, RefusedError
from agent.model.node import Node
from agent.report.events import node_event
from agent.report.model_words import Word, farewells, words_of

_MOST_REMEMBERED = 200

log = logging.getLogger("warmslice.telling")


class EventSink(Protocol):
    """Where Events go."""

    async def create_event(self, namespace: str, event: dict[str, Any]) -> None: ...


class EventDoor(EventSink, Protocol):
    """The API server, which can also change an Event."""

    async def patch_event(self, namespace: str, name: str, patch: dict[str, Any]) -> None: ...


class CountedEvents:
    """What is said again is counted on the Event that said it first, as kubectl shows it ("x4 over 10m"). After a restart, and
    once the API server has dropped that Event (an hour after its last word), a new one begins; also where the role that is
    installed does not let us change Events yet. ``wrote`` is given what the API server has taken.
    """

    def __init__(self, door: EventDoor, wrote: Callable[[dict[str, Any]], None]) -> None:
        self._door = door
        self._wrote = wrote
        self._said: dict[tuple[str, ...], tuple[str, int]] = {}

    async def create_event(self, namespace: str, event: dict[str, Any]) -> None:
        """Say it; RetryError and RefusedError of the door."""
        same = (namespace, event["involvedObject"]["uid"], event["type"], event["reason"], event["message"])
        name, count = self._said.pop(same, ("", 0))
        if name:
            again = {"count": count + 1, "lastTimestamp": event["lastTimestamp"]}
            try:
                await self._door.patch_event(namespace, name, again)
            except (GoneError, RefusedError):
                name, count = "", 0
        if not name:
            await self._door.create_event(namespace, event)
            name = event["metadata"]["name"]
        self._said[same] = (name, count + 1)
        self._wrote(event)
        while len(self._said) > _MOST_REMEMBERED:
            del self._said[next(iter(self._said))]


async def tell(events: EventSink, event: dict[str, Any]) -> None:
    """Write one Event, or log that it is lost."""
    try:
        await events.create_event("default", event)
    except ConflictError:
        log.debug("event.known")  # said before, by the agent that a restart ended
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
        for word in farewells(report):
            log.info("model", extra={"model": "", "reason": word.reason, "detail": word.message})
            if node is not None:
                event = node_event(node, word.reason, word.message, "Cache", self._now(), word.warning)
                await tell(self._events, event)
