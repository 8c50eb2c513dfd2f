"""Times as people write them, by the clock on a wall: days of the week, times of the day, zones."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_TIME = re.compile(r"\d\d:\d\d")


def days_of(text: str | None) -> frozenset[int]:
    """``Mon-Fri,Sun`` as numbers (0 is Monday); None is every day. Empty where it names no days."""
    found: set[int] = set()
    for part in text.split(",") if text is not None else ["Mon-Sun"]:
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            return frozenset()
        begin, count = _DAYS.index(first), (_DAYS.index(last or first) - _DAYS.index(first)) % 7
        found |= {(begin + day) % 7 for day in range(count + 1)}
    return frozenset(found)


def minutes_of(text: str) -> int | None:
    """``HH:MM`` as minutes of the day; None where it is none."""
    if not _TIME.fullmatch(text):
        return None
    hour, minute = int(text[:2]), int(text[3:])
    return hour * 60 + minute if hour < 24 and minute < 60 else None


def zone_of(name: str) -> ZoneInfo | None:
    """None where this system knows none of that name."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return None


def moment(day: date, minutes: int, zone: ZoneInfo) -> float:
    """When the clock shows that time of that day, or a later one, for the first time, in seconds since the epoch: a time that
    the clocks skip is the moment at which they do, and of one that comes twice the first counts."""
    wall = datetime.combine(day, time(minutes // 60, minutes % 60))
    later = wall.replace(tzinfo=zone).timestamp()
    earlier = wall.replace(tzinfo=zone, fold=1).timestamp()
    if earlier >= later:
        return later
    # It is skipped somewhere between the two.
    low, high = int(earlier), int(later)
    while high - low > 1:
        middle = (low + high) // 2
        shown = datetime.fromtimestamp(middle, UTC).astimezone(zone).replace(tzinfo=None)
        low, high = (low, middle) if shown >= wall else (middle, high)
    return float(high)
