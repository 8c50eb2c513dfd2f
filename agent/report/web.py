"""The status page over HTTP: ``/``, ``/api/v1/status``, its schema, and the stream that keeps a page as it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web

from agent.report.looking import Looking
from agent.report.page.document import POLICY

MOST_STREAMS = 32
SILENCE_SECONDS = 15.0
"""A stream that says nothing for longer may be closed by whoever stands in between."""
_TICK_SECONDS = 1.0
_GATHER_SECONDS = 0.2
_WRITE_SECONDS = 10.0
"""A viewer that takes nothing for so long is gone, or may come again."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SCHEMA = files("agent") / "data" / "status.schema.json"


def add_page(app: web.Application, looking: Looking) -> None:
    """The routes, and the headers of every answer of this application."""
    pages = _Pages(looking)
    app.add_routes(
        [
            web.get("/", pages.page),
            web.get("/api/v1/status", pages.status),
            web.get("/api/v1/schema", pages.schema),
            web.get("/api/v1/events", pages.stream),
        ]
    )
    app.on_response_prepare.append(_safe)
    app.on_shutdown.append(pages.close)


async def _safe(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


@dataclass(slots=True, eq=False)
class _Stream:
    """``writing``: it waits for its viewer."""

    request: web.Request
    response: web.StreamResponse
    sent: int = 0
    writing: bool = False

    @property
    def gone(self) -> bool:
        transport = self.request.transport
        return transport is None or transport.is_closing()

    async def write(self, data: bytes) -> None:
        """TimeoutError for a viewer that takes nothing; what it has not taken is never more than one message."""
        self.writing = True
        async with asyncio.timeout(_WRITE_SECONDS):
            await self.response.write(data)
        self.writing = False

    def abort(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class _Pages:
    def __init__(self, looking: Looking) -> None:
        self._looking = looking
        self._streams: set[_Stream] = set()
        self._closed = False

    async def page(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": POLICY}
        answer = web.Response(text=await self._looking.page(), content_type="text/html", headers=headers)
        answer.enable_compression()
        return answer

    async def status(self, _: web.Request) -> web.Response:
        answer = web.Response(body=await self._looking.status(), content_type="application/json")
        answer.enable_compression()
        return answer

    async def schema(self, _: web.Request) -> web.Response:
        return web.Response(body=_SCHEMA.read_bytes(), content_type="application/schema+json")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events. See Note [Whoever looks, pulls] in looking.py."""
        if self._closed or len(self._streams) >= MOST_STREAMS:
            words = f"{MOST_STREAMS} viewers look on already; reload instead, or come later\n"
            return web.Response(status=503, text=words, headers={"Retry-After": "5"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        if request.method == "HEAD":
            return response
        stream = _Stream(request, response)
        self._streams.add(stream)
        try:
            await response.prepare(request)
            await self._keep(stream)
        except (ConnectionError, TimeoutError):
            stream.abort()
        finally:
            self._streams.discard(stream)
        return response

    async def _keep(self, stream: _Stream) -> None:
        clock = asyncio.get_running_loop().time
        silent_since = clock()
        while not (self._closed or stream.gone):
            stream.sent, news = await self._looking.since(stream.sent)
            if news is not None:
                await stream.write(b"event: parts\ndata: " + news + b"\n\n")
                silent_since = clock()
            elif clock() - silent_since >= SILENCE_SECONDS:
                await stream.write(b": still here\n\n")
                silent_since = clock()
            if not self._closed:
                await self._looking.wait_for_news(_TICK_SECONDS)
            if not self._closed:
                # Several things are said in a row: they are one change to look at.
                await asyncio.sleep(_GATHER_SECONDS)

    async def close(self, _: web.Application) -> None:
        """Every stream ends now: who reads comes to its end, who does not is cut off."""
        self._closed = True
        self._looking.poke()
        for stream in self._streams:
            if stream.writing:
                stream.abort()
