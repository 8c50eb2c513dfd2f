"""How much of the hub one caller gets: requests per window, and bytes per second of a connection and of an address."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_SECONDS = 300
# Quotas of a caller that nobody meets by accident; a test or a demonstration that wants to meet one sets it.
_PLENTY = 1_000_000


@dataclass(slots=True)
class RateLimits:
    """Requests that a caller (a token, else an address) may send in a fixed window, by kind of resource.

    ``api`` is everything below /api/, ``resolvers`` the files. Every answer says what is left, as the public hub does:
    ``RateLimit: "api";r=<left>;t=<seconds>``. Whether the public hub adds Retry-After to a refusal is not known; here
    ``retry_after`` decides.
    """

    quotas: dict[str, int] = field(default_factory=lambda: {"api": _PLENTY, "resolvers": _PLENTY})
    window_seconds: float = WINDOW_SECONDS
    retry_after: bool = True
    clock: Callable[[], float] = time.monotonic
    _windows: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def spend(self, caller: str, kind: str) -> tuple[bool, dict[str, str]]:
        """Whether the request is within the quota, and the headers that say so."""
        now = self.clock()
        began, spent = self._windows.get((caller, kind), (now, 0))
        if now >= began + self.window_seconds:
            began, spent = now, 0
        self._windows[caller, kind] = (began, spent + 1)
        quota = self.quotas.get(kind, _PLENTY)
        within, seconds = spent < quota, math.ceil(self.window_seconds - (now - began))
        headers = {
            "RateLimit": f'"{kind}";r={max(0, quota - spent - 1)};t={seconds}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={quota};w={math.ceil(self.window_seconds)}',
        }
        return within, headers | ({"Retry-After": str(seconds)} if self.retry_after and not within else {})


@dataclass(slots=True)
class Pace:
    """A byte rate that everything sent through it shares, first come first served."""

    bytes_per_second: float
    _free_at: float = 0.0

    @property
    def chunk_bytes(self) -> int:
        """What is sent in a twentieth of a second: small enough to look steady."""
        return max(1024, int(self.bytes_per_second / 20))

    async def wait_for(self, count: int) -> None:
        """Until ``count`` bytes may have been sent."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + count / self.bytes_per_second
        await asyncio.sleep(self._free_at - now)


@dataclass(slots=True)
class Throttle:
    """Rates of the bodies that the hub and its store send; None is no limit.

    A connection answers one request at a time and a pace gives no credit, so a pace per answer holds per connection.
    """

    connection_bytes_per_second: float | None = None
    address_bytes_per_second: float | None = None
    _addresses: dict[str, Pace] = field(default_factory=dict)

    def paces(self, address: str) -> list[Pace]:
        """What an answer to ``address`` has to keep to."""
        found = []
        if self.connection_bytes_per_second is not None:
            found.append(Pace(self.connection_bytes_per_second))
        if self.address_bytes_per_second is not None:
            pace = self._addresses.setdefault(address, Pace(self.address_bytes_per_second))
            pace.bytes_per_second = self.address_bytes_per_second
            found.append(pace)
        return found
