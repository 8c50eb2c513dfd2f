"""The door between the agent's two containers: one tells its status on a Unix socket, the other asks for it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from agent.model.errors import RetryError
from agent.model.overview import Away, Share

log = logging.getLogger("warmslice.status-socket")

_PATH = "/share"
_ASK_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 2.0
_MOST_BYTES = 8 * 2**20
_MODE = 0o600


@asynccontextmanager
async def telling(path: Path, share: Callable[[], bytes]) -> AsyncIterator[None]:
    """Tell ``share`` to whoever asks on the socket, until the block ends. Where there can be no socket that is logged, and the
    block runs without: it is for more than a page."""
    try:
        listener = _bound(path)
    except OSError as error:
        log.warning("status-socket.none", extra={"path": str(path), "error": error.strerror or str(error)})
        yield
        return

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=share(), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get(_PATH, answer)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


def _bound(path: Path) -> socket.socket:
    """A socket at that path, for its owner only; one that a process left there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file gets the mode that the socket has before: nobody else can connect in between.
        os.fchmod(listener.fileno(), _MODE)
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    return listener


class CacheContainer:
    """Asks the container that has the models. ``now`` gives seconds since the epoch, ``monotonic`` those of a clock that never
    jumps."""

    def __init__(self, path: Path, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._path = path
        self._now = now
        self._monotonic = monotonic
        self._away: Away | None = None
        self._asked_at = 0.0

    async def ask(self) -> Share | Away:
        """What it tells. One that does not answer is not asked again for a moment, lest every look waits for it."""
        if self._away is not None and self._monotonic() - self._asked_at < _ASK_AGAIN_SECONDS:
            return self._away
        try:
            share = await self._share()
        except RetryError as error:
            since = self._away.since if self._away is not None else self._now()
            self._away, self._asked_at = Away(str(error), since), self._monotonic()
            return self._away
        self._away = None
        return share

    async def _share(self) -> Share:
        connector = aiohttp.UnixConnector(str(self._path))
        try:
            async with (
                asyncio.timeout(_ASK_SECONDS),
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"http://cache{_PATH}") as answer,
            ):
                share = Share.from_json(await _all_of(answer.content))
        except TimeoutError as error:
            raise RetryError(f"no answer on {self._path} within {_ASK_SECONDS:.0f} s") from error
        except aiohttp.ClientConnectorError as error:
            raise RetryError(f"nobody listens on {self._path}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise RetryError(f"the connection on {self._path} broke ({type(error).__name__})") from error
        if share is None:
            raise RetryError(f"what answers on {self._path} is no agent of this version")
        return share


async def _all_of(content: aiohttp.StreamReader) -> bytes:
    """At most so much; what is cut off cannot be read, and is nobody's."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > _MOST_BYTES:
            return b""
    return bytes(body)
