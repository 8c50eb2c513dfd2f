"""A layout that changes with the time of the day and the week."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Period:
    """``layout`` holds from ``start`` (minutes of the day, by the clock on the wall) on these ``days`` (0 is Monday) until
    another period begins."""

    name: str
    days: frozenset[int]
    start: int
    layout: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """Two or more periods, of which one is always in force."""

    name: str
    zone: ZoneInfo
    periods: tuple[Period, ...]


@dataclass(frozen=True, slots=True)
class InForce:
    """The period of now, and until when (seconds since the epoch)."""

    schedule: Schedule
    period: Period
    until: float
