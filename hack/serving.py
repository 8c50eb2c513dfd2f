"""Listening, and leaving nothing behind: for servers that live in a test's event loop, which closes right after them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from aiohttp import web

_HANDSHAKE_SECONDS = 5.0


class Listener(web.SockSite):
    """A site that does not close before those at its door are in. A connection that was accepted in this turn of the loop, or is
    still shaking hands, is known to asyncio alone: whoever closes those of the runner would leave it open, and Python 3.11
    loses the socket of one whose server closed meanwhile."""

    def __init__(self, runner: web.BaseRunner, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(runner, bound, ssl_context=tls)

    async def stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                while at_the_door := [task for task in asyncio.all_tasks() if _accepts(task)]:
                    await asyncio.wait(at_the_door)
        await super().stop()


def bound(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Also where connections that were cut still have the port. 0 is any that is free."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((host, port))
    return found


def _accepts(task: asyncio.Task[object]) -> bool:
    """asyncio makes one such task for each connection."""
    return "accept_connection" in getattr(task.get_coro(), "__qualname__", "")
