"""The fetching process as the agent meets it: killed, orphaned, followed. A real process each time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from agent.execute.fetch import lines_of
from agent.execute.fetch_messages import Instructions, Message, Progress, read_message
from agent.model.cache import FetchOrder
from agent.observe.cache import observe_model
from hack.hub.server import Hub
from tests.fakes.hub import QUICK, REPOSITORY, TINY, fetch, order_for, published_files, tiny_model

MIB = 1024 * 1024


@asynccontextmanager
async def fetching(order: FetchOrder) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.execute.fetcher", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(Instructions(order)))
        process.stdin.write_eof()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def words(process: asyncio.subprocess.Process) -> AsyncIterator[Message]:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        message = read_message(line)
        assert message is not None, line
        yield message


async def test_killed_at_half_of_a_file_little_more_than_the_rest_is_fetched(tmp_path: Path, cache: Path) -> None:
    """Half is what it says to be safe: what comes again is what was on its way. `python -m hack.bench.hub_faults --resume` does
    it with a file of 1 GB, by what the hub sent."""
    size = 64 * MIB
    large = tiny_model(tmp_path / "large", weights_bytes=size)
    async with Hub({REPOSITORY: large}) as hub:
        order = order_for(hub, cache, limits=replace(QUICK, connections=2))
        hub.throttle.address_bytes_per_second = 64 * MIB
        safe = await _kill_with(order, size // 2)
        hub.throttle.address_bytes_per_second = None
        assert hub.counters.body_bytes < size
        assert not observe_model(cache, TINY).complete
        assert published_files(cache) == {}
        hub.counters.reset()
        await fetch(order)
        assert hub.counters.body_bytes <= min(0.55 * size, size + 2000 - safe)
        assert observe_model(cache, TINY).complete


async def _kill_with(order: FetchOrder, enough_bytes: int) -> int:
    """SIGKILL once so much was said to be safe on disk; what was said."""
    async with fetching(order) as process, asyncio.timeout(20):
        async for message in words(process):
            if isinstance(message, Progress) and message.fetched_bytes >= enough_bytes:
                process.kill()
                return message.fetched_bytes
    raise AssertionError("it ended before it was killed")


async def test_a_fetch_dies_with_the_agent(hub: Hub, cache: Path) -> None:
    hub.faults.add("GET cdn/", "stall", after_bytes=1000)
    order = order_for(hub, cache, limits=replace(QUICK, stall_seconds=60.0))
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _AGENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(msgspec.json.encode(order) + b"\n")
    child = int(await agent.stdout.readline())
    try:
        async with asyncio.timeout(20):
            await agent.stdout.readline()  # what the fetch says once it knows the commit: it runs
        assert _alive(child)
        agent.kill()
        async with asyncio.timeout(5):
            while _alive(child):  # it is no child of ours: nothing tells us when it ends
                await asyncio.sleep(0.01)
    finally:
        if agent.returncode is None:
            agent.kill()
        if _alive(child):
            os.kill(child, signal.SIGKILL)
        await agent.communicate()


# An agent that only starts a fetch and waits for it.
_AGENT = """
import os, subprocess, sys
import msgspec
from agent.execute.fetch import lines_of
from agent.execute.fetch_messages import Instructions
from agent.model.cache import FetchOrder
order = msgspec.json.decode(sys.stdin.buffer.readline(), type=FetchOrder)
order = msgspec.convert({**msgspec.to_builtins(order), "parent_pid": os.getpid()}, FetchOrder)
child = subprocess.Popen([sys.executable, "-m", "agent.execute.fetcher"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.stdin.write(msgspec.json.encode(Instructions(order)))
child.stdin.close()
child.wait()
"""


def _alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not yet collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_a_fetch_whose_agent_is_gone_already_does_nothing(hub: Hub, cache: Path) -> None:
    async with fetching(replace(order_for(hub, cache), parent_pid=os.getppid())) as process:
        assert [message async for message in words(process)] == []
        assert await process.wait() == 1
    assert hub.counters.requests == {}


async def test_a_line_without_end_is_left_out_and_the_next_one_is_heard() -> None:
    stream = asyncio.StreamReader(limit=100)
    stream.feed_data(b"x" * 1000 + b"\n")
    stream.feed_data(b"word\n")
    stream.feed_data(b"y" * 1000)
    stream.feed_eof()
    async with asyncio.timeout(5):
        assert [line async for line in lines_of(stream) if len(line) < 100] == [b"word\n"]


async def test_two_fetches_of_one_model_do_not_meet(hub: Hub, cache: Path) -> None:
    """The second leaves at once, and the first goes on."""
    hub.faults.add("GET cdn/", "stall", after_bytes=1000)
    patient = order_for(hub, cache, limits=replace(QUICK, stall_seconds=60.0))
    async with fetching(patient) as first, asyncio.timeout(20):
        await anext(words(first))
        async with fetching(patient) as second:
            assert [getattr(message, "reason", "") async for message in words(second)] == ["busy"]
        assert first.returncode is None
