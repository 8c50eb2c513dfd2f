"""Waiting longer after each failure in a row."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Wait:
    failure: str
    length_s: float
    since: float


@dataclass(slots=True)
class BackOff:
    """Per key, one wait for each new failure, twice as long as the last one; after two quiet waits it begins anew."""

    first_s: float
    longest_s: float
    _waits: dict[str, _Wait] = field(default_factory=dict)

    def is_over(self, key: str, failure: str) -> bool:
        """Whether the wait for this failure, which begins when it is first named, has passed."""
        now = time.monotonic()
        wait = self._waits.get(key)
        if wait is None or wait.failure != failure:
            wait = self._waits[key] = _Wait(failure, self._next_length(wait, now), now)
        return now - wait.since >= wait.length_s

    def _next_length(self, last: _Wait | None, now: float) -> float:
        if last is None or now - last.since > 3 * last.length_s:
            return self.first_s
        return min(2 * last.length_s, self.longest_s)
