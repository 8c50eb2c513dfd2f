"""Hardware that is not as it was last applied, though this agent has not changed it."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 3600.0
CALM_SECONDS = 3600.0
"""Hardware that stayed as it was put right for so long: the next drift is another story."""

_MOST_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Drift:
    """Drifts in a row: found ``times`` since ``since``, last at ``found``. ``corrected`` is when the hardware was as wished
    again, None until then. All times are seconds since the epoch.

    # Note [Nobody fights]
    # Whoever changes the hardware by hand (or by a program that we do not know) may have a reason and comes back. The first
    # drift is put right at once; each further one of a row waits longer, so that two owners do not take turns at pods.
    """

    since: float
    found: float
    times: int = 1
    corrected: float | None = None

    @property
    def due(self) -> float:
        """When the hardware may be put right. See Note [Nobody fights]."""
        if self.times == 1:
            return self.found
        pause: float = FIRST_PAUSE_SECONDS * 2 ** min(self.times - 2, _MOST_DOUBLINGS)
        return self.found + min(LONGEST_PAUSE_SECONDS, pause)

    def put_right(self, now: float) -> Drift:
        """Now the hardware is as wished again."""
        return replace(self, corrected=now) if self.corrected is None else self


def found_drift(last: Drift | None, now: float) -> Drift:
    """The row with a drift that is found now."""
    if last is None or (last.corrected is not None and now - last.corrected > CALM_SECONDS):
        return Drift(now, now)
    if last.corrected is None:
        return last
    return Drift(last.since, now, last.times + 1)
