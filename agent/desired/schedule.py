"""Which layout a schedule means now. Pure: the time is given."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from agent.model.schedule import InForce, Period, Schedule
from agent.model.wall import moment

_DAYS_BACK, _DAYS_AHEAD = 8, 9


def in_force(schedule: Schedule, now: float) -> InForce:
    """The period that began last, and when another one begins. ``now`` is seconds since the epoch."""
    starts = sorted(_starts(schedule, now), key=lambda start: start[:2])
    ruling = [period for at, _, period in starts if at <= now][-1]
    until = next(at for at, _, period in starts if at > now and period != ruling)
    return InForce(schedule, ruling, until)


def _starts(schedule: Schedule, now: float) -> Iterator[tuple[float, tuple[int, int], Period]]:
    """(when, which of those that the clocks brought together is the later one, what begins)."""
    today = datetime.fromtimestamp(now, schedule.zone).date()
    for number in range(-_DAYS_BACK, _DAYS_AHEAD):
        day = today + timedelta(number)
        for period in schedule.periods:
            if day.weekday() in period.days:
                yield moment(day, period.start, schedule.zone), (number, period.start), period
