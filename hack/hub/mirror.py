"""olah, a mirror of the hub that others wrote, run in front of the local hub."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hack.hub.third_parties import olah
from hack.ports import free_port

_STARTS_WITHIN_SECONDS = 60


@asynccontextmanager
async def running_olah(program: Path, hub_url: str, folder: Path) -> AsyncIterator[str]:
    """The address of a mirror of ``hub_url`` that keeps what it has seen in ``folder``."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program, *_options(hub_url, port), cwd=folder, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        await _wait_for_port(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def front(hub_url: str, folder: Path, mirror: bool) -> AsyncIterator[str]:
    """What clients are to ask: the hub itself, or with ``mirror`` olah in front of it. NotToBeHadError without it."""
    if not mirror:
        yield hub_url
        return
    async with running_olah(await asyncio.to_thread(olah), hub_url, folder / "olah") as url:
        yield url


def _options(hub_url: str, port: int) -> list[str]:
    behind, front = hub_url.removeprefix("http://"), f"127.0.0.1:{port}"
    options = {"host": "127.0.0.1", "port": str(port), "hf-scheme": "http", "metadata-cache-ttl": "0"}
    options |= {"hf-netloc": behind, "hf-lfs-netloc": behind, "mirror-netloc": front, "mirror-lfs-netloc": front}
    return [f"--{name}={value}" for name, value in options.items()]


async def _wait_for_port(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(_STARTS_WITHIN_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"olah ended with {process.returncode}; ./logs of its folder say why")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            return
