"""Schedules: which layout they mean at which time, and what is wrong with one that cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.desired.layout_file import read_layouts
from agent.desired.schedule import in_force
from agent.model.schedule import Period, Schedule

ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu")
CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
)
MOMENTS = st.one_of(
    st.integers(0, 3 * 365 * 1440).map(lambda minutes: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),
    st.builds(lambda at, hours: at + timedelta(hours=hours), st.sampled_from(CHANGES), st.floats(-30, 30)),
)
STARTS = st.one_of(st.integers(0, 1439), st.integers(90, 210))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    starts = draw(st.lists(STARTS, min_size=2, max_size=4, unique=True))
    days = [draw(st.frozensets(st.integers(0, 6), min_size=1)) for _ in starts]
    periods = tuple(
        Period(str(n), on, at, f"{n + 1}x1g.10gb") for n, (on, at) in enumerate(zip(days, starts, strict=True))
    )
    return Schedule("s", ZoneInfo(draw(st.sampled_from(ZONES))), periods)


def _by_watching_the_clock(schedule: Schedule, now: datetime) -> Period | None:
    """Minute by minute for nine days: a period begins when the clock first shows its time or a later one."""
    ruling, highest = None, _shown(schedule, now - timedelta(days=9))
    for minute in range(9 * 1440 - 1, -1, -1):
        wall = _shown(schedule, now - timedelta(minutes=minute))
        while highest < wall:
            highest += timedelta(minutes=1)
            at, day = highest.hour * 60 + highest.minute, highest.weekday()
            ruling = next((p for p in schedule.periods if p.start == at and day in p.days), ruling)
    return ruling


def _shown(schedule: Schedule, moment: datetime) -> datetime:
    return moment.astimezone(schedule.zone).replace(tzinfo=None)


@settings(max_examples=40)
@given(schedules(), MOMENTS)
def test_the_period_of_now_is_that_whose_time_the_clock_on_the_wall_showed_last(
    schedule: Schedule, now: datetime
) -> None:
    """Also where the clocks change, and what they show is skipped or comes twice."""
    now = now.replace(second=0, microsecond=0)
    found = in_force(schedule, now.timestamp())
    assert found.period == _by_watching_the_clock(schedule, now)


@given(schedules(), MOMENTS)
def test_it_holds_until_it_says_so_and_then_another_one_does(schedule: Schedule, now: datetime) -> None:
    found = in_force(schedule, now.timestamp())
    assert now.timestamp() < found.until <= now.timestamp() + 8.1 * 86400
    assert in_force(schedule, found.until - 1).period == found.period
    step = max(60, int(found.until - now.timestamp()) // 50)
    assert all(
        in_force(schedule, at).period == found.period for at in range(int(now.timestamp()) + 1, int(found.until), step)
    )
    assert in_force(schedule, found.until).period != found.period


GOOD = """\
version: v1
mig-configs:
  halves: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}]
schedules:
  office:
    time-zone: Europe/Berlin
    periods:
      day: {from: 'Mon-Fri 07:00', layout: 7x1g.10gb}
      night: {from: '19:00', layout: halves}
"""


def test_a_schedule_is_read() -> None:
    read = read_layouts(GOOD)
    assert not read.mistakes
    week = frozenset(range(7))
    day, night = Period("day", week - {5, 6}, 420, "7x1g.10gb"), Period("night", week, 1140, "halves")
    assert read.schedules == {"office": Schedule("office", ZoneInfo("Europe/Berlin"), (day, night))}


@pytest.mark.parametrize(
    ("wrong", "right", "sentence"),
    [
        ("Europe/Berlin", "Berlin", "6:16: schedules.office.time-zone is 'Berlin'; this system knows no such zone"),
        ("'19:00'", "'24:00'", "9:21: schedules.office.periods.night.from is '24:00'; it must be a time"),
        ("'19:00'", "1140", "9:21: schedules.office.periods.night.from is 1140; it must be a time"),
        ("'Mon-Fri 07:00'", "'Mo 07:00'", "8:19: schedules.office.periods.day.from is 'Mo 07:00'; it must be a time"),
        ("'19:00'", "'Fri 07:00'", "9:7: schedules.office.periods.night begins when day does"),
        ("halves}\n", "halves, x: 1}\n", "9:46: schedules.office.periods.night: unknown field 'x'; a period has"),
        (
            ", layout: halves",
            "",
            "9:14: schedules.office.periods.night: layout is missing; a period has from and layout",
        ),
        ("  office:", "  halves:", "5:3: schedules.halves: mig-configs has a layout of that name"),
        (
            "      night: {from: '19:00', layout: halves}\n",
            "",
            "8:7: schedules.office.periods: one period is no schedule",
        ),
        ("    periods:", "    period:", "6:5: schedules.office is a mapping; it must be a mapping with periods"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said_with_its_place(wrong: str, right: str, sentence: str) -> None:
    assert wrong in GOOD
    mistakes = read_layouts(GOOD.replace(wrong, right)).mistakes
    assert sentence in [mistake.at("f").removeprefix("f:")[: len(sentence)] for mistake in mistakes]
