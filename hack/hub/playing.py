"""Plays a scenario against any client of a running hub: plans the faults, strikes midway, sets things right, runs again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, assert_never

import aiohttp

from hack.hub.scenarios import MODEL_BYTES, REPOSITORY, TOKEN, Midway, Scenario

_LOOK_SECONDS = 0.02
_BALLAST = "ballast"


class NoSmallDiskError(Exception):
    """A disk of its own cannot be made here; the message says why."""


class Client(Protocol):
    """Fetches the model into one cache, as often as it is run."""

    async def run(self) -> bool:
        """Until it ends, whatever ends it: whether it brought the model."""
        ...

    def kill(self, number: int) -> None:
        """Send the signal to the process that fetches."""
        ...

    def has_something(self) -> bool:
        """Whether it says that a part of the model is safe; True where it never says such a thing."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """``sent_bytes``: what the hub sent while it ran. ``struck``: whether all that the scenario has in store for it happened."""

    ready: bool
    sent_bytes: int
    struck: bool


class Stage:
    """A hub with a model of ``model_bytes``, by what can be asked of it at /_dev."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model_bytes: int) -> None:
        self._session = session
        self._url = url
        self.model_bytes = model_bytes
        self._returns = 0

    async def prepare(self, scenario: Scenario) -> None:
        for fault in scenario.faults:
            await self._ask("POST", "faults", fault)
        if scenario.settings:
            await self._ask("POST", "settings", scenario.settings)

    async def heal(self, scenario: Scenario) -> None:
        """No faults, no limits, and whoever had a token has it again."""
        await self._ask("DELETE", "faults")
        await self._ask("POST", "settings", {"address_bytes_per_second": None, "signed_url_seconds": 3600})
        if scenario.private:
            await self._ask("POST", "tokens", {"token": TOKEN, "repositories": [REPOSITORY]})

    async def revoke(self) -> None:
        await self._ask("DELETE", f"tokens/{TOKEN}")

    async def all_struck(self) -> bool:
        return all(await self._ask("GET", "faults"))

    async def leave(self, seconds: float) -> None:
        await self._ask("POST", "absence", {"seconds": seconds})
        self._returns += 1

    async def sent_bytes(self) -> int:
        return int((await self._ask("GET", "counters"))["body_bytes"])

    async def wait_until_back(self) -> None:
        """From every absence; one that was asked for may be yet to begin."""
        while True:
            try:
                if (await self._ask("GET", "counters"))["returns"] == self._returns:
                    return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ask(self, method: str, what: str, document: Any = None) -> Any:
        async with self._session.request(method, f"{self._url}/_dev/{what}", json=document) as answer:
            answer.raise_for_status()
            return await answer.json()


@asynccontextmanager
async def stage_of(hub_url: str, model_bytes: int = MODEL_BYTES) -> AsyncIterator[Stage]:
    # A connection kept open would be cut when the hub goes away.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield Stage(session, hub_url, model_bytes)


async def play(scenario: Scenario, stage: Stage, client: Client, cache: Path, away_seconds: float) -> list[Run]:
    """One run, and where it did not bring the model a second one, after what went wrong was set right."""
    await stage.prepare(scenario)
    runs = [await _run(scenario, stage, client, cache, away_seconds)]
    if not runs[0].ready:
        await stage.heal(scenario)
        (cache / _BALLAST).unlink(missing_ok=True)
        before = await stage.sent_bytes()
        ready = await client.run()
        runs.append(Run(ready, await stage.sent_bytes() - before, True))
    return runs


async def _run(scenario: Scenario, stage: Stage, client: Client, cache: Path, away_seconds: float) -> Run:
    before = await stage.sent_bytes()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(client.run())
        struck = scenario.midway is None or await _midway(scenario, stage, client, running, before)
        if scenario.midway is not None and struck:
            await _strike(scenario.midway, stage, client, cache, away_seconds)
    await stage.wait_until_back()
    return Run(running.result(), await stage.sent_bytes() - before, struck and await stage.all_struck())


async def _midway(scenario: Scenario, stage: Stage, client: Client, running: asyncio.Task[bool], before: int) -> bool:
    """Wait for it. False where the client ended before."""
    enough = scenario.midway_share * stage.model_bytes
    while not running.done():
        if client.has_something() and await stage.sent_bytes() - before >= enough:
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False


async def _strike(midway: Midway, stage: Stage, client: Client, cache: Path, away_seconds: float) -> None:
    match midway:
        case Midway.KILL:
            client.kill(signal.SIGKILL)
        case Midway.TERMINATE:
            client.kill(signal.SIGTERM)
        case Midway.FILL_DISK:
            await asyncio.to_thread(_fill, cache / _BALLAST)
        case Midway.REVOKE_TOKEN:
            await stage.revoke()
        case Midway.HUB_AWAY:
            await stage.leave(away_seconds)
        case _:
            assert_never(midway)


def _fill(ballast: Path) -> None:
    """Take every block that is free."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own at ``folder``, in memory. Raises NoSmallDiskError where we may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        raise NoSmallDiskError("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise NoSmallDiskError(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
