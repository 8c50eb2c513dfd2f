"""The other container of the pod, over a Unix socket in a directory that both have."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web

from agent.model.overview import Part

_PATH = "/part"
_SECONDS = 1.0
_MOST_BYTES = 4 << 20
_MODE = 0o600


class Peer:
    """``part`` never fails: what it cannot have is said in what it gives. ``now`` gives seconds since the epoch."""

    def __init__(self, path: str, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._missing_since: float | None = None

    async def part(self) -> Part:
        """What the other one says of itself now."""
        if not self._path:
            return Part(missing="the setting status_socket is not set, so it cannot be asked")
        try:
            async with asyncio.timeout(_SECONDS):
                found = await self._ask()
        except TimeoutError:
            return self._without(f"it did not answer within {_SECONDS:.0f} s")
        except (aiohttp.ClientError, OSError, msgspec.DecodeError, ValueError) as error:
            return self._without(f"it does not answer on its socket ({type(error).__name__})")
        self._missing_since = None
        return found

    async def _ask(self) -> Part:
        connector = aiohttp.UnixConnector(self._path)
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://peer{_PATH}") as answer:
            body = await answer.content.read(_MOST_BYTES)
            while not answer.content.at_eof() and len(body) < _MOST_BYTES:
                body += await answer.content.read(_MOST_BYTES)
            return msgspec.json.decode(body, type=Part)

    def _without(self, why: str) -> Part:
        self._missing_since = self._missing_since or self._now()
        return Part(missing=why, missing_since=self._missing_since)


@asynccontextmanager
async def told_to_peer(path: str, part: Callable[[], Part]) -> AsyncIterator[None]:
    """Answer the other container until the block ends; root alone may ask. OSError where the socket cannot be made; one that a
    killed process has left is replaced."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(part()), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get(_PATH, answer)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        os.chmod(path, _MODE)
        yield
    finally:
        await runner.cleanup()
