"""A byte rate that all connections of a fetch share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """Every byte is paid for with time after it came, and time in which nothing comes buys nothing: over any stretch the rate
    holds but for what each connection reads at once. Not for several threads at once; None is no limit."""

    bytes_per_second: float | None
    _paid_until: float = 0.0

    def spend(self, count: int, now: float) -> float:
        """Seconds for which whoever received ``count`` bytes at ``now`` has to leave the network alone."""
        if self.bytes_per_second is None:
            return 0.0
        self._paid_until = max(self._paid_until, now) + count / self.bytes_per_second
        return self._paid_until - now
