"""An event loop whose time can be moved on: a deadline passes at once where a call is known to hang."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

from tests.fakes.simgpu import SimulatedGpus

T = TypeVar("T")

_LONGER_THAN_ANY_DEADLINE_SECONDS = 150.0
_LOOK_SECONDS = 0.03
_STUCK_LOOKS = 50
"""After so many looks a pass waits for what waits for a call that hangs: a lock in the agent."""


class SkippingLoop(asyncio.SelectorEventLoop):
    """``skip`` moves its time on."""

    skipped_seconds = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_seconds

    def skip(self, seconds: float) -> None:
        self.skipped_seconds += seconds


async def patiently(coroutine: Coroutine[Any, Any, T], simulated: SimulatedGpus, struck: list[int]) -> T:
    """Run it; whenever another call has begun to hang, the deadline of who waits for it passes, and of who waits behind it.
    ``struck`` has the number of calls that were known to hang."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    task = loop.create_task(coroutine)
    for look in count(1):
        await asyncio.wait([task], timeout=_LOOK_SECONDS)
        if task.done():
            return task.result()
        now = hung(simulated)
        if now > struck[0] or (now and look % _STUCK_LOOKS == 0):
            struck[0] = now
            loop.skip(_LONGER_THAN_ANY_DEADLINE_SECONDS)
    raise AssertionError("counting has no end")


def hung(simulated: SimulatedGpus) -> int:
    """How many calls the faults that hang have struck."""
    return sum(
        min(max(0, fault["seen"] - fault["after"]), fault["count"] or fault["seen"])
        for fault in simulated.faults()
        if fault["hang"]
    )
