"""The pages for machines: ``/metrics``, ``/healthz``, ``/readyz``, over HTTP or HTTPS."""

from __future__ import annotations

import asyncio
import gzip
import re
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from aiohttp import web

from agent.model.errors import BadInputError

Render = Callable[[str], tuple[bytes, str]]
"""From the scraper's Accept header to (body, content type); runs on a thread."""

_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))")

Complaints = Callable[[], tuple[str, ...]]
"""A sentence for each thing that is wrong; empty when nothing is."""


def application(render: Render, overdue: Complaints, lacking: Complaints) -> web.Application:
    """The three routes. ``overdue`` and ``lacking`` run on the event loop and may not wait. See Note [Alive is not ready]."""
    pages = _Pages(render, overdue, lacking)
    app = web.Application()
    app.on_cleanup.append(pages.scrapes.close)
    app.add_routes(
        [
            web.get("/metrics", pages.metrics),
            web.get("/healthz", pages.healthz),
            web.get("/readyz", pages.readyz),
        ]
    )
    return app


@asynccontextmanager
async def serving(app: web.Application, listen: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve until the block ends, with ``tls`` over HTTPS; yields the address bound, ``host:port``. BadInputError for an address
    that is none, that this host does not have, or that is taken."""
    host, port = parse_listen(listen)
    # Who hangs up is not worked for any more.
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0, handler_cancellation=True)
    await runner.setup()
    try:
        await _listen(runner, host, port, tls)
        yield _address(runner)
    finally:
        await runner.cleanup()


def parse_listen(listen: str) -> tuple[str, int]:
    """``host:port``; an IPv6 host stands in brackets. Port 0 lets the system choose."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise BadInputError(f"listen address {listen!r} is not host:port, such as 0.0.0.0:9470 or [::]:9470")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _listen(runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as error:
        raise BadInputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


class Scrapes:
    """Scrapers that come while one is being answered get the same answer: however many there are, one rendering runs at a time,
    on a thread of its own, which nothing that hangs elsewhere can take; and no loop is held up."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._under_way: dict[tuple[str, bool], asyncio.Future[tuple[bytes, str]]] = {}

    async def answer(self, accept: str, compressed: bool) -> tuple[bytes, str]:
        """(body, content type)."""
        asked = accept, compressed
        rendering = self._under_way.get(asked)
        if rendering is None:
            rendering = asyncio.get_running_loop().run_in_executor(self._thread, self._body, *asked)
            self._under_way[asked] = rendering
            rendering.add_done_callback(lambda _: self._under_way.pop(asked))
        # A scraper that hangs up takes nobody else's answer with it.
        return await asyncio.shield(rendering)

    async def close(self, _: web.Application) -> None:
        """No scraper comes any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _body(self, accept: str, compressed: bool) -> tuple[bytes, str]:
        body, content_type = self._render(accept)
        return (gzip.compress(body, compresslevel=1) if compressed else body), content_type


class _Pages:
    def __init__(self, render: Render, overdue: Complaints, lacking: Complaints) -> None:
        self.scrapes = Scrapes(render)
        self._overdue = overdue
        self._lacking = lacking

    async def metrics(self, request: web.Request) -> web.Response:
        """OpenMetrics where the scraper prefers it, compressed where it can read that."""
        compressed = _GZIP.search(request.headers.get("Accept-Encoding", "")) is not None
        body, content_type = await self.scrapes.answer(request.headers.get("Accept", ""), compressed)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def healthz(self, _: web.Request) -> web.Response:
        return _verdict(self._overdue())

    async def readyz(self, _: web.Request) -> web.Response:
        return _verdict(self._lacking())


def _verdict(complaints: tuple[str, ...]) -> web.Response:
    """200 ``ok``, or 503 with one complaint a line."""
    if not complaints:
        return web.Response(text="ok\n")
    return web.Response(status=503, text="".join(f"{complaint}\n" for complaint in complaints))


def _address(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
