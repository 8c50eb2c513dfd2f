"""HTTP over connections that are joined in one is HTTP: nothing is lost, mixed up or kept from ending."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from hack.joined import JoinedConnector, joint_to, serve_joined

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
URL = "http://any.example.org/"


@asynccontextmanager
async def _sessions(folder: Path, answer: Answer, count: int = 1) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """As many as asked for, on one joint."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    server = await serve_joined(folder / "joined", runner.server)
    joint = await joint_to(folder / "joined")
    sessions = [aiohttp.ClientSession(connector=JoinedConnector(joint)) for _ in range(count)]
    try:
        yield sessions
    finally:
        for session in sessions:
            await session.close()
        joint.close()
        server.close()
        await runner.cleanup()


async def test_what_many_send_and_read_at_once_stays_apart_and_whole(tmp_path: Path) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def sent(session: aiohttp.ClientSession, number: int) -> bool:
        body = hashlib.shake_256(str(number).encode()).digest(1 + number * 4999)
        async with session.post(URL, data=body) as answer:
            return await answer.read() == body

    async with _sessions(tmp_path, echo, 20) as sessions:
        assert all(await asyncio.gather(*(sent(sessions[number % 20], number) for number in range(200))))


async def test_who_reads_slowly_loses_nothing(tmp_path: Path) -> None:
    body = hashlib.shake_256(b"").digest(3_000_000)

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, len(body), 50_000):
            await response.write(body[at : at + 50_000])
        return response

    async with _sessions(tmp_path, large) as (session,), asyncio.timeout(10.0), session.get(URL) as answer:
        read = b""
        async for piece in answer.content.iter_chunked(10_000):
            read += piece
            await asyncio.sleep(0)
        assert read == body


async def test_a_connection_that_is_cut_is_a_fault_of_that_one_alone(tmp_path: Path) -> None:
    async def answers(request: web.Request) -> web.Response:
        if request.path == "/cut":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text="whole")

    async with _sessions(tmp_path, answers, 2) as (one, other):
        with pytest.raises(aiohttp.ClientError):
            await one.get(f"{URL}cut")
        for session in (one, other):
            async with session.get(URL) as answer:
                assert await answer.text() == "whole"


async def test_who_goes_away_ends_what_was_streamed_to_it(tmp_path: Path) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"line\n")
                began.set()
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with _sessions(tmp_path, stream) as (session,), asyncio.timeout(5.0):
        answer = await session.get(URL)
        await began.wait()
        answer.close()
        await ended.wait()
