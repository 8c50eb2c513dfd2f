"""The socket between the two containers, over the real thing: who answers, who is away, and who comes back."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.adapters.status_socket import CacheContainer, telling
from agent.model.overview import Away, Share
from agent.report.looking import to_json

SHARE = Share("1.2.3", ("catalog: not looked at yet",), None, ())


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def container(path: Path, clock: Clock | None = None) -> tuple[CacheContainer, Clock]:
    chosen = clock or Clock()
    return CacheContainer(path, chosen, chosen), chosen


@asynccontextmanager
async def answering(path: Path, answer: bytes | None) -> AsyncIterator[None]:
    """Something else listens there; None: and says nothing."""
    done = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await done.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        done.set()
        server.close()


async def test_what_one_tells_the_other_hears(tmp_path: Path) -> None:
    path = tmp_path / "made-if-need-be" / "cache.sock"
    async with telling(path, lambda: to_json(SHARE)):
        assert await container(path)[0].ask() == SHARE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_socket_that_a_killed_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cache.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with telling(path, lambda: to_json(SHARE)):
        assert await container(path)[0].ask() == SHARE


async def test_who_is_away_is_away_since_it_first_did_not_answer_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "cache.sock"
    other, clock = container(path)
    assert await other.ask() == Away(f"nobody listens on {path}", 1000.0)
    clock.seconds += 60
    assert await other.ask() == Away(f"nobody listens on {path}", 1000.0)
    async with telling(path, lambda: to_json(SHARE)):
        assert isinstance(await other.ask(), Away)  # asked a moment ago
        clock.seconds += 2
        assert await other.ask() == SHARE
    assert await other.ask() == Away(f"nobody listens on {path}", 1062.0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{}",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"no such protocol\r\n\r\n",
        b"",
    ],
)
async def test_what_answers_wrongly_is_away(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "cache.sock"
    async with answering(path, answer):
        assert isinstance(await container(path)[0].ask(), Away)


async def test_one_that_says_nothing_is_waited_for_a_second_and_then_left_alone_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "cache.sock"
    loop = asyncio.get_running_loop()
    async with answering(path, None):
        other, _ = container(path)
        began = loop.time()
        assert await other.ask() == Away(f"no answer on {path} within 1 s", 1000.0)
        assert loop.time() - began < 10
        began = loop.time()
        await other.ask()
        assert loop.time() - began < 0.9


@pytest.mark.parametrize("path", ["/proc/no-place/cache.sock", f"/tmp/{'long' * 40}.sock"])
async def test_a_place_where_no_socket_can_be_is_no_reason_not_to_run(path: str) -> None:
    ran = False
    async with telling(Path(path), lambda: b""):
        ran = True
    assert ran
