"""Threads for calls that may take a second, or for ever. See Note [NVML on threads]."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from agent.model.errors import RetryError

T = TypeVar("T")


class Threads:
    """One thread per name. ``about`` is what a call is about: while one that outlived its deadline has not come back, nothing
    more is asked about the same, so that no more than one thread hangs for it."""

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._left: dict[str, Future[Any]] = {}

    async def call(self, thread: str, about: str, function: Callable[[], T], seconds: float) -> T:
        """What the function returns; RetryError when that takes longer, or an earlier call about the same still hangs."""
        if about in self.hanging():
            raise RetryError(f"{about}: a call to the driver has not come back")
        if thread not in self._threads:
            self._threads[thread] = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"nvml-{thread}")
        pool = self._threads[thread]
        future = pool.submit(function)
        try:
            # Not asyncio.wait_for: that of Python 3.11 forgets to be cancelled where the answer comes in the same moment.
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            # Whoever comes next gets another thread; one that only stood in the queue is cancelled, and has left nothing.
            if self._threads.get(thread) is pool:
                del self._threads[thread]
            if not future.done():
                self._left[about] = future
            raise RetryError(f"{about}: the driver did not answer within {seconds:.0f} s") from error

    def hanging(self) -> tuple[str, ...]:
        """What calls are about that have been left behind and have not come back."""
        self._left = {about: left for about, left in self._left.items() if not left.done()}
        return tuple(self._left)
