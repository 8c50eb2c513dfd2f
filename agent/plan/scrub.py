"""In which order blobs are read again, and when. Pure.

# Note [In time]
# Each blob has to be read again within the period. Models come in one go, so many have the same deadline: reading begins so
# early that all of them can be read before it, one after the other, the earliest deadline first. That order keeps every
# deadline that any order keeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from agent.model.scrub import ScrubPlan, ScrubTurn, StoredBlob

_USABLE = 0.7
"""Of the rate: the rest is for pauses while the disk is busy, and for restarts."""


def plan_scrub(blobs: Iterable[StoredBlob], period_seconds: float, bytes_per_second: float) -> ScrubPlan:
    """See Note [In time]. The plan stays right while its turns are taken one by one: what was read needs no turn before the
    others have had theirs."""
    queue = sorted(blobs, key=lambda blob: (blob.checked_at_seconds, blob.repository, blob.name))
    turns, latest = deque[ScrubTurn](), float("inf")
    for blob in reversed(queue):
        deadline = blob.checked_at_seconds + period_seconds
        latest = min(deadline, latest) - blob.bytes / (bytes_per_second * _USABLE)
        turns.appendleft(ScrubTurn(blob, latest))
    needed_seconds = sum(blob.bytes for blob in queue) / bytes_per_second
    return ScrubPlan(tuple(turns), max(0.0, needed_seconds - period_seconds))
