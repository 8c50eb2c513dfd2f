"""The page for people, and the same for programs: ``/``, ``/api/v1/status``, and ``/api/v1/events`` that keeps a page up to date.

# Note [Looking on costs nothing]
# Nothing is looked at or rendered while nobody looks. All streams share one look a second and one rendering; each only knows how
# far it has told. So a viewer who reads slowly, or not at all, holds nobody up and takes no memory: it gets the newest of each
# section when it reads again, and is let go when it does not within ``_SLOW_SECONDS``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from agent.model.overview import Overview
from agent.report.page import HEADERS, document, sections

_MOST_VIEWERS = 32
_LOOK_SECONDS = 1.0
_ALIVE_SECONDS = 15.0
_SLOW_SECONDS = 20.0


class Live:
    """``look`` tells how the node stands now."""

    def __init__(self, look: Callable[[], Awaitable[Overview]]) -> None:
        self._look = look
        self._viewers = 0
        self._looking: asyncio.Task[None] | None = None
        self._closing = False
        self._changed = asyncio.Event()
        self._version = 0
        self._sections: dict[str, tuple[int, str]] = {}
        self._at = 0.0

    def add_to(self, app: web.Application) -> None:
        """Its routes; open streams end when the server does."""
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/events", self._stream, allow_head=False),
            ]
        )
        app.on_shutdown.append(self._close)

    async def _page(self, _: web.Request) -> web.Response:
        text = await asyncio.to_thread(document, await self._look())
        answer = web.Response(text=text, content_type="text/html", headers=HEADERS)
        answer.enable_compression()
        return answer

    async def _status(self, _: web.Request) -> web.Response:
        body = msgspec.json.encode(await self._look())
        answer = web.Response(body=body, content_type="application/json", headers=HEADERS)
        answer.enable_compression()
        return answer

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= _MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_VIEWERS} others are looking at this node; try again later\n")
        self._viewers += 1
        try:
            stream = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
            await stream.prepare(request)
            self._start_looking()
            await self._follow(stream)
        except (TimeoutError, ConnectionError):
            pass  # gone, or reads nothing
        finally:
            self._viewers -= 1
        return stream

    async def _follow(self, stream: web.StreamResponse) -> None:
        told = 0
        while not self._closing:
            changed = self._changed
            fresh = {name: markup for name, (version, markup) in self._sections.items() if version > told}
            told = self._version
            if fresh:
                data = json.dumps({"at": self._at, "sections": fresh})
                await _write(stream, f"event: sections\ndata: {data}\n\n")
                continue
            try:
                async with asyncio.timeout(_ALIVE_SECONDS):
                    await changed.wait()
            except TimeoutError:
                await _write(stream, ": still here\n\n")

    def _start_looking(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on())

    async def _look_on(self) -> None:
        """See Note [Looking on costs nothing]."""
        while self._viewers and not self._closing:
            overview = await self._look()
            found = await asyncio.to_thread(sections, overview)
            news = {name: markup for name, markup in found.items() if self._sections.get(name, (0, ""))[1] != markup}
            if news:
                self._version += 1
                self._at = overview.at
                self._sections |= {name: (self._version, markup) for name, markup in news.items()}
                self._wake()
            await asyncio.sleep(_LOOK_SECONDS)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _close(self, _: web.Application) -> None:
        self._closing = True
        self._wake()
        if self._looking is not None:
            self._looking.cancel()


async def _write(stream: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_SLOW_SECONDS):
        await stream.write(text.encode())
