"""A loop that looks again: after an event, after the time that a pass asked for, and after a fault later each time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from agent.model.errors import AgentError, RetryError

log = logging.getLogger("warmslice.loop")

_FIRST_BACKOFF_SECONDS = 0.5
_LAST_BACKOFF_SECONDS = 60.0
_LONGEST_ASKED_SECONDS = 300.0
"""What stands before an API server may ask for a day, which nobody would see pass."""
_MOST_DOUBLINGS = 10
_SHORTEST_SECONDS = 0.02
_AT_ONCE_IN_A_ROW = 50


async def keep_passing(
    name: str, one_pass: Callable[[], Awaitable[float]], wake: asyncio.Event, stopping: asyncio.Event
) -> None:
    """Pass until ``stopping``; a pass that has begun is ended, since nobody may stop between destroy and create.

    A pass answers after how many seconds to look again at the latest; an event on ``wake`` shortens the wait and carries no
    news. Passes that want to go on at once are slowed down when they never settle.
    """
    failures = in_a_row = 0
    while not stopping.is_set():
        wake.clear()
        try:
            wait = await one_pass()
            failures = 0
        except AgentError as error:
            failures += 1
            longest = min(_LAST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(failures, _MOST_DOUBLINGS))
            wait = random.uniform(0.5, 1) * longest
            if isinstance(error, RetryError) and error.after_seconds:
                wait = max(wait, min(error.after_seconds, _LONGEST_ASKED_SECONDS))
            log.warning("pass.failed", extra={"loop": name, "error": str(error), "wait_seconds": round(wait, 1)})
        in_a_row = in_a_row + 1 if wait == 0 else 0
        if not stopping.is_set():
            await _wait(wake, wait if in_a_row < _AT_ONCE_IN_A_ROW else 5.0)


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    # Even a storm of events leaves other tasks their turn.
    await asyncio.sleep(min(seconds, _SHORTEST_SECONDS))
    if seconds <= _SHORTEST_SECONDS:
        return
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return
