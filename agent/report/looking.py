"""Makes the overview while somebody looks, once for all who do, and nothing while nobody does.

# Note [Whoever looks, pulls]
# There is no task that renders. A reader asks for the view; one that is younger than half a second is shared, and readers that
# come while it is made wait for that one. A stream is a reader that asks again after each change, at most a second later, and is
# sent what differs from what it was sent last: it has no queue, so that a slow one misses views in between and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from agent.model.overview import Away, Overview, Share
from agent.report.latest import Latest
from agent.report.overview import Home, Known, overview_of, share_of
from agent.report.page.document import EDITION, PARTS, page, part

Ask = Callable[[], Awaitable[Share | Away | None]]
"""The other container; None where there is none to ask."""

_SHARED_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Drawn:
    """A part of the page: what it is made of, its markup, and when it last became another (a number that grows)."""

    made_of: object
    html: str
    version: int


@dataclass(slots=True)
class View:
    """The overview at a moment, and what was made of it. Two of the same ``edition`` differ in nothing but the time."""

    overview: Overview
    edition: int
    page: str | None = None


class Looking:
    """``monotonic`` gives seconds of a clock that never jumps."""

    def __init__(self, latest: Latest, home: Home, ask: Ask, monotonic: Callable[[], float]) -> None:
        self._latest = latest
        self._home = home
        self._ask = ask
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._view: View | None = None
        self._made_at = 0.0
        self._made_of: tuple[Known, Share | Away | None] | None = None
        self._parts: dict[str, Drawn] = {}
        self._parts_edition = 0

    async def wait_for_news(self, seconds: float) -> None:
        """Until there may be another view, at most so long."""
        await self._latest.wait_for_news(seconds)

    def poke(self) -> None:
        """Nobody waits any longer."""
        self._latest.poke()

    async def page(self) -> str:
        """The document."""
        async with self._lock:
            view = await self._look()
            if view.page is None:
                view.page = await asyncio.to_thread(page, view.overview)
            return view.page

    async def status(self) -> bytes:
        """The overview as JSON."""
        async with self._lock:
            return to_json((await self._look()).overview)

    async def since(self, sent: int) -> tuple[int, bytes | None]:
        """Parts that became others since that version, as JSON, and the version now; None where none did."""
        async with self._lock:
            view = await self._look()
            if view.edition != self._parts_edition:
                self._parts = await asyncio.to_thread(_drawn, view.overview, self._parts)
                self._parts_edition = view.edition
            parts = self._parts
        news = {name: one.html for name, one in parts.items() if one.version > sent}
        if not news:
            return sent, None
        message = {"edition": EDITION, "at": view.overview.at, "parts": news}
        return max(one.version for one in parts.values()), to_json(message)

    def share(self) -> bytes:
        """What the other container is told."""
        return to_json(share_of(self._latest.known(), self._home))

    async def _look(self) -> View:
        """See Note [Whoever looks, pulls]."""
        if self._view is not None and self._monotonic() - self._made_at < _SHARED_SECONDS:
            return self._view
        other = await self._ask()
        known = self._latest.known()
        if self._view is not None and (known, other) == self._made_of:
            self._view = View(replace(self._view.overview, at=known.at), self._view.edition)
        else:
            overview = await asyncio.to_thread(overview_of, known, self._home, other)
            self._view = View(overview, self._view.edition + 1 if self._view is not None else 1)
        self._made_of, self._made_at = (known, other), self._monotonic()
        return self._view


def _drawn(overview: Overview, before: Mapping[str, Drawn]) -> dict[str, Drawn]:
    newest = max((one.version for one in before.values()), default=0) + 1
    return {name: _one(name, overview, before.get(name), newest) for name in PARTS}


def _one(name: str, overview: Overview, before: Drawn | None, version: int) -> Drawn:
    now = PARTS[name].made_of(overview)
    return before if before is not None and before.made_of == now else Drawn(now, str(part(name, overview)), version)


def to_json(value: object) -> bytes:
    """UTF-8; what no encoding can write is a question mark."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_printable(msgspec.to_builtins(value)))


def _printable(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list() | tuple():
            return [_printable(one) for one in value]
        case dict():
            return {key: _printable(one) for key, one in value.items()}
        case _:
            return value
