"""Which blob is read again next, and when. Pure.

# Note [In time]
# Each blob has to be read again within the period. Models come in one go, so many have the same deadline: reading begins so
# early that all of them can be read before it, one after the other, the earliest deadline first. That order keeps every
# deadline that any order keeps.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.scrub import ScrubTurn, StoredBlob

_USABLE = 0.7
"""Of the rate: the rest is for pauses while the disk is busy, and for restarts."""


def next_turn(
    blobs: Iterable[StoredBlob], period_seconds: float, bytes_per_second: float, now_seconds: float
) -> ScrubTurn | None:
    """None where there is nothing to read. A time that is yet to come, since the clock was set back, counts as now."""
    queue = sorted(blobs, key=lambda blob: (min(blob.checked_at_seconds, now_seconds), blob.repository, blob.name))
    if not queue:
        return None
    rate, latest, late, ready_at = bytes_per_second * _USABLE, float("inf"), 0.0, now_seconds
    for blob in reversed(queue):
        deadline = min(blob.checked_at_seconds, now_seconds) + period_seconds
        latest = min(deadline, latest) - blob.bytes / rate
    for blob in queue:
        ready_at += blob.bytes / bytes_per_second
        late = max(late, ready_at - min(blob.checked_at_seconds, now_seconds) - period_seconds)
    return ScrubTurn(queue[0], latest, max(0.0, late))
