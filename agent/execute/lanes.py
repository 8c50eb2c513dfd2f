"""Takes steps in lanes, side by side. Nothing is decided here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from agent.model.errors import AgentError


async def side_by_side(
    lanes: Sequence[Sequence[int]], take: Callable[[int], Awaitable[None]], alone: bool
) -> dict[int, AgentError]:
    """Each lane's steps in their order; the error of each step that was not taken.

    An error ends its lane. The others go on where each is for itself (``alone``); else they end with the step that they are at,
    since a call to the driver cannot be broken off. Returns when no lane has a step under way.
    """
    errors: dict[int, AgentError] = {}

    async def follow(lane: Sequence[int]) -> None:
        for number in lane:
            if errors and not alone:
                return
            try:
                await take(number)
            except AgentError as error:
                errors[number] = error
                return

    tasks = [asyncio.create_task(follow(lane)) for lane in lanes]
    try:
        if tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
    for task in tasks:
        task.result()
    return errors
