"""A server that ends while somebody is coming in leaves no connection behind, at whatever moment that is."""

from __future__ import annotations

import asyncio
import gc
import warnings
from contextlib import suppress

import aiohttp
import pytest

from hack.devcluster.access.certificates import client_context
from hack.devcluster.control_plane import ControlPlane
from hack.hub.server import Hub


async def _ends_after(turns: int, server: ControlPlane | Hub, path: str) -> None:
    """The server ends when the loop has turned so often since four clients began to connect; they end after it."""
    async with server as serving:
        trust = client_context(serving.authority.pem) if isinstance(serving, ControlPlane) else True
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))
        asking = [asyncio.create_task(_ask(session, serving.url + path)) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    await session.close()


async def _ask(session: aiohttp.ClientSession, url: str) -> None:
    with suppress(aiohttp.ClientError):
        async with session.get(url) as answer:
            await answer.read()


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("kind", ["API server", "hub"])
def test_no_connection_is_left(kind: str, turns: int) -> None:
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always", ResourceWarning)
        if kind == "hub":
            asyncio.run(_ends_after(turns, Hub({}), "/api/models/org/none"))
        else:
            asyncio.run(_ends_after(turns, ControlPlane(has_controllers=False), "/api/v1/pods?watch=1"))
        gc.collect()
    assert [str(warning.message) for warning in met] == []
