"""Fetches by the real fetching process, as the agent starts them."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.execute.fetch import EndedFetch, FetchSupervisor
from agent.model.cache import FetchLimits, FetchProgress
from agent.model.catalog import CatalogModel
from tests.fakes.hub import published_files

_PATIENCE_SECONDS = 40


@dataclass(slots=True)
class Fetching:
    """One model into one cache, a process for each run. ``ended``, what readers found after it (``published``) and what came
    over the network have one entry for each."""

    cache: Path
    endpoint: str
    model: CatalogModel
    limits: FetchLimits
    token: str | None = None
    ended: list[EndedFetch] = field(default_factory=list)
    published: list[dict[str, str]] = field(default_factory=list)
    received_bytes: list[int] = field(default_factory=list)
    _supervisor: FetchSupervisor | None = None

    async def run(self) -> bool:
        """Whether it brought the model."""
        over = asyncio.Event()
        async with asyncio.timeout(_PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
            supervisor = FetchSupervisor(self.cache, tasks.create_task, over.set, lambda _: self.token, time.time)
            self._supervisor = supervisor
            supervisor.start(self.model, self.endpoint, self.limits)
            await over.wait()
        self.ended += supervisor.take_ended()
        self.published.append(published_files(self.cache, self.model.repository))
        self.received_bytes.append(supervisor.totals.received_bytes)
        return self.ended[-1].failure is None

    def progress(self) -> FetchProgress | None:
        """As the process last told; None while none runs."""
        return self._supervisor.running().get(self.model.name) if self._supervisor is not None else None

    def has_something(self) -> bool:
        progress = self.progress()
        return progress is not None and progress.fetched_bytes > 0

    def kill(self, number: int) -> None:
        (process,) = _fetching_processes(os.getpid())
        os.kill(process, number)


def _fetching_processes(parent: int) -> list[int]:
    listed = (path.read_text("ascii").split() for path in Path(f"/proc/{parent}/task").glob("*/children"))
    children = [int(pid) for pids in listed for pid in pids]
    return [pid for pid in children if b"agent.execute.fetcher" in Path(f"/proc/{pid}/cmdline").read_bytes()]
