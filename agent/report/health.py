"""Whether this process lives, and whether it is ready: two questions with two kinds of answer.

# Note [Alive is not ready]
# Liveness asks only whether the loops still turn. It never depends on the API server, the driver or the hub: restarting the
# agent mends none of them, and a restart in mid-change costs time. Readiness says that the agent can do its work, and which
# part it still lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

NOT_LOOKED_YET = "not looked at yet"


@dataclass(frozen=True, slots=True)
class _Pulse:
    last: float
    within_seconds: float


class Heartbeats:
    """When each loop last finished a pass. ``monotonic`` gives seconds of a clock that never jumps."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._pulses: dict[str, _Pulse] = {}

    def expect(self, loop: str, within_seconds: float) -> None:
        """From now on the loop has to beat at least so often: its longest wait plus its longest pass."""
        self._pulses[loop] = _Pulse(self._monotonic(), within_seconds)

    def beat(self, loop: str) -> None:
        """The loop has finished a pass, well or badly. KeyError for a loop that was never expected."""
        self._pulses[loop] = _Pulse(self._monotonic(), self._pulses[loop].within_seconds)

    def overdue(self) -> tuple[str, ...]:
        """A sentence for each loop that has not finished a pass in its time."""
        now = self._monotonic()
        return tuple(
            f"{loop} loop: no pass finished for {now - pulse.last:.0f} s (expected within {pulse.within_seconds:.0f} s)"
            for loop, pulse in self._pulses.items()
            if now - pulse.last > pulse.within_seconds
        )


class Readiness:
    """What has to be right before the agent can do its work; every part is lacking until it is said to be there."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._why: dict[str, str] = dict.fromkeys(parts, NOT_LOOKED_YET)

    def ready(self, part: str) -> None:
        """The part is as it should be."""
        self._set(part, "")

    def lacks(self, part: str, why: str) -> None:
        """The part is not as it should be: ``why`` is a sentence for people."""
        self._set(part, why)

    def lacking(self) -> tuple[str, ...]:
        """A sentence for each part that is not ready; empty when all are."""
        return tuple(f"{part}: {why}" for part, why in self._why.items() if why)

    def _set(self, part: str, why: str) -> None:
        if part not in self._why:
            raise KeyError(part)
        self._why[part] = why
