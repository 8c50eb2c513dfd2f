"""A fetch beside a pod that serves: the pod's files stay in memory. `hack/bench/beside_fetch` measures the same with GBs."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hack.hub.content import read_model
from hack.hub.server import Hub
from hack.page_cache import MemoryGroup, NoGroupError, memory_group, resident_bytes
from tests.fakes.hub import REPOSITORY, write_files
from tests.fakes.page_cache import can_drop

MIB = 1024 * 1024
SERVED_BYTES = 64 * MIB
SHARD_BYTES = 200_000_321
ROOM_BYTES = 192 * MIB  # for the programs, which take about 100; two shards do not fit in as well

_READER = """
import sys, time
block = bytearray(2**20)
while True:
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.readinto(block):
            pass
    print("read", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def group() -> Iterator[MemoryGroup | None]:
    """Little memory for all who are in it; where no such thing can be made, the file is in less danger."""
    try:
        with memory_group(SERVED_BYTES + ROOM_BYTES) as made:
            yield made
    except NoGroupError:
        yield None


@asynccontextmanager
async def running(group: MemoryGroup | None, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
    try:
        if group is not None:
            group.take(process.pid)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_file_that_is_being_read_stays_in_memory_while_a_model_is_fetched(
    tmp_path: Path, cache: Path, group: MemoryGroup | None
) -> None:
    if not can_drop(tmp_path):
        pytest.skip("files in this folder are in memory")
    served, catalog = tmp_path / "served", tmp_path / "catalog.yaml"
    _write_to_disk(served)
    catalog.write_text(f"models: [{{repository: {REPOSITORY}}}]\n", "utf-8")
    write_files(tmp_path / "large", {"a.safetensors": SHARD_BYTES, "b.safetensors": SHARD_BYTES, "config.json": 500})
    async with (
        Hub({REPOSITORY: read_model(REPOSITORY, tmp_path / "large")}) as hub,
        running(group, "-c", _READER, str(served)) as reader,
    ):
        assert reader.stdout is not None
        await reader.stdout.readline()
        flags = (f"--catalog-file={catalog}", f"--cache-directory={cache}", f"--hub-endpoint={hub.url}")
        pull = ("-m", "agent", "cache", "pull", *flags, "--cache-reserve-ratio=0", "--fetch-connections=4")
        async with running(group, *pull) as fetch, asyncio.timeout(60):
            ended = asyncio.create_task(fetch.wait())
            lowest = resident_bytes(served)
            while not ended.done():
                lowest = min(lowest, resident_bytes(served))
                await asyncio.wait([ended], timeout=0.02)
            assert ended.result() == 0
    blobs = list((cache / "models--acme--tiny" / "blobs").iterdir())
    assert sum(blob.stat().st_size for blob in blobs) > 2 * SHARD_BYTES
    assert sum(resident_bytes(blob) for blob in blobs) == 0
    assert lowest > 0.95 * SERVED_BYTES  # programs that start may press a little; a copy of these bytes leaves 0 to 3 %


def _write_to_disk(path: Path) -> None:
    """And out of memory: whoever reads it first is charged for it."""
    with path.open("wb") as file:
        file.write(os.urandom(SERVED_BYTES))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
