"""When the watches of a fleet ask their API server, in virtual time: what happens to all of them in one moment does not make them
ask in one moment, then or later."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from agent.adapters.kube import Kube
from agent.adapters.watch import RESYNC_SECONDS, Watch
from agent.model.errors import RetryError

pytestmark = pytest.mark.looptime
WATCHES = 500


@dataclass
class Server:
    """Lists are answered; a watch lasts as long as it asked for, and none can be opened any more from ``ends_at`` on."""

    jitter_seconds: float
    ends_at: float = float("inf")
    lists: list[float] = field(default_factory=list)
    tries: list[float] = field(default_factory=list)
    news: tuple[bytes, ...] = ()

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        self.lists.append(_clock())
        return {"metadata": {"resourceVersion": "1"}, "items": []}

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str], accept: str) -> AsyncIterator[AsyncIterator[bytes]]:
        self.tries.append(_clock())
        if _clock() >= self.ends_at:
            raise RetryError("connection refused")
        yield self._lines(min(float(query["timeoutSeconds"]), self.ends_at - _clock()))
        if _clock() >= self.ends_at:
            raise RetryError("connection reset")

    async def _lines(self, seconds: float) -> AsyncIterator[bytes]:
        await asyncio.sleep(seconds)
        for line in self.news:
            yield line


def _clock() -> float:
    return asyncio.get_running_loop().time()


async def _watched(server: Server, seconds: float) -> None:
    kube = cast("Kube", server)
    watches = [Watch(kube, "/api/v1/nodes", f"metadata.name=gpu-{n}", lambda: None) for n in range(WATCHES)]
    running = [asyncio.create_task(watch.run()) for watch in watches]
    await asyncio.sleep(seconds)
    for task in running:
        task.cancel()
    await asyncio.wait(running)


@pytest.mark.parametrize("jitter", [10.0, 100.0, 600.0])
async def test_watches_that_break_off_together_are_tried_again_within_the_whole_time_that_is_set(jitter: float) -> None:
    server = Server(jitter, ends_at=100.0)
    await _watched(server, 100.0 + jitter)
    again = sorted(at - 100.0 for at in server.tries if at >= 100.0)[:WATCHES]
    tenths = Counter(int(at / (jitter / 10)) for at in again)
    assert max(tenths[n] for n in range(3)) < 2 * WATCHES / 10


async def test_watches_that_began_together_list_again_at_all_times() -> None:
    server = Server(10.0)
    await _watched(server, 6 * RESYNC_SECONDS)
    minutes = Counter(int(at / 60) for at in server.lists if at > 60)
    assert max(minutes.values()) < 2.5 * WATCHES / (RESYNC_SECONDS / 60)
    mean = sum(minutes.values()) / (6 * RESYNC_SECONDS - 60) * RESYNC_SECONDS / WATCHES
    assert mean == pytest.approx(1.0, abs=0.1), "each once in ten minutes, on the average"
