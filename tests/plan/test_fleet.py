"""The laws of granting, of the window and of the election, each against a slower second way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from agent.model.errors import BadInputError
from agent.model.fleet import Leader, Limit, Member, Slot, Window, Word
from agent.plan.fleet import (
    LEASE_SECONDS,
    LOOK_SECONDS,
    RENEW_SECONDS,
    SILENT_SECONDS,
    UNSEEN_SECONDS,
    Sighting,
    is_free,
    opens,
    orders,
    why,
)

NAMES = [f"gpu-{number}" for number in range(8)]
LIMITS = st.one_of(
    st.builds(Limit, number=st.integers(1, 5)),
    st.builds(Limit, percent=st.integers(1, 100)),
)


def _slot(node: str, since: int = 0, granted: bool = False) -> Slot:
    return Slot(node, f"uid-{node}-{since}", "1", float(since), granted)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Slot], dict[str, Member]]:
    """Any mixture of nodes that wait, hold, change without a slot, or are not seen."""
    asking = draw(st.lists(st.sampled_from(NAMES), unique=True))
    slots = [_slot(name, draw(st.integers(0, 3)), draw(st.booleans())) for name in asking]
    seen = draw(st.lists(st.sampled_from(NAMES), unique=True))
    members = {name: Member(name, draw(st.booleans()), draw(st.booleans())) for name in seen}
    return slots, members


def _slowly(slots: list[Slot], members: dict[str, Member], most: int) -> list[Slot]:
    """One after the other: as long as there is room, whoever nobody waits longer than."""
    granted: list[Slot] = []
    while True:
        busy = {name for name in NAMES if name in members and members[name].changing}
        busy |= {slot.node for slot in [*slots, *granted] if slot.granted}
        waiting = [slot for slot in slots if slot.node not in busy]
        if len(busy) >= most or not waiting:
            return [replace(slot, granted=False) for slot in granted]
        longest = next(
            one for one in waiting if all((one.since, one.node) <= (other.since, other.node) for other in waiting)
        )
        granted.append(replace(longest, granted=True))


@given(fleets(), LIMITS)
def test_granted_is_what_granting_one_after_the_other_comes_to(
    fleet: tuple[list[Slot], dict[str, Member]], limit: Limit
) -> None:
    slots, members = fleet
    most = limit.of(sum(member.labelled for member in members.values()))
    said = orders(slots, members, {}, limit, None)
    event(f"{len(said.grant)} granted")
    assert list(said.grant) == _slowly(slots, members, most)


@given(fleets(), LIMITS)
def test_no_grant_leads_over_the_limit_and_none_that_is_possible_is_left_out(
    fleet: tuple[list[Slot], dict[str, Member]], limit: Limit
) -> None:
    slots, members = fleet
    said = orders(slots, members, {}, limit, None)
    taken = {m.name for m in members.values() if m.changing} | {s.node for s in slots if s.granted}
    after = taken | {slot.node for slot in said.grant}
    assert not said.grant or len(after) <= said.word.limit
    assert said.word.waiting == 0 or len(after) >= said.word.limit
    assert (said.word.changing, said.word.waiting) == (len(after), len({s.node for s in slots} - after))
    left = [slot for slot in slots if slot.node not in after]
    assert all((one.since, one.node) < (two.since, two.node) for one in said.grant for two in left)


@given(fleets(), LIMITS, st.floats(0, 1e9))
def test_outside_the_window_nothing_is_granted(
    fleet: tuple[list[Slot], dict[str, Member]], limit: Limit, opening: float
) -> None:
    slots, members = fleet
    said = orders(slots, members, {}, limit, opening)
    assert (said.grant, said.word.opens) == ((), opening)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), LIMITS, st.data())
def test_nobody_starves_whoever_comes_later(asks: list[int], limit: Limit, data: st.DataObject) -> None:
    """Each round one of those in change ends, any, and asks again at once. Whoever is n-th in the queue has its turn after as
    many rounds as it takes without those."""
    slots = [_slot(f"n{number:02}", since) for number, since in enumerate(asks)]
    members = {slot.node: Member(slot.node, True, False) for slot in slots}
    queue, most, turns = sorted(slots, key=lambda slot: (slot.since, slot.node)), limit.of(len(slots)), set[str]()
    for round_ in range(len(asks)):
        said = orders(slots, members, {}, limit, None)
        slots = [replace(slot, granted=slot.granted or slot in said.grant) for slot in slots]
        holding = [slot for slot in slots if slot.granted]
        turns |= {slot.node for slot in holding}
        assert {slot.node for slot in queue[: most + round_]} <= turns
        assert len(holding) == min(most, len(slots))
        ends = data.draw(st.sampled_from(holding))
        slots = [_slot(ends.node, 31 + round_) if slot == ends else slot for slot in slots]


def test_a_slot_is_looked_into_only_after_silence_and_where_no_record_is_seen() -> None:
    silent, fresh = {"uid-a-0": SILENT_SECONDS}, {"uid-a-0": SILENT_SECONDS - 0.1}
    idle, busy = {"a": Member("a", True, False)}, {"a": Member("a", True, True)}
    granted, wish = [_slot("a", granted=True)], [_slot("a")]

    def looked(slots: list[Slot], members: dict[str, Member], still: dict[str, float]) -> bool:
        return bool(orders(slots, members, still, Limit(3), None).look)

    assert looked(granted, idle, silent)
    assert not looked(granted, idle, fresh)
    assert not looked(granted, busy, {"uid-a-0": 1e9})
    assert not looked(wish, idle, {"uid-a-0": 1e9})
    assert looked(wish, {}, {"uid-a-0": UNSEEN_SECONDS})
    assert not looked(wish, {}, {})


def test_what_was_looked_into_is_free_where_the_node_is_gone_or_a_granted_slot_is_silent_and_has_no_record() -> None:
    granted, wish = _slot("a", granted=True), _slot("a")
    idle, busy = Member("a", True, False), Member("a", True, True)
    assert all(is_free(slot, None, UNSEEN_SECONDS) for slot in (granted, wish))
    assert is_free(granted, idle, SILENT_SECONDS)
    assert not is_free(granted, idle, SILENT_SECONDS - 0.1), "its record may be on the way"
    assert not any(is_free(slot, member, 1e9) for slot, member in ((granted, busy), (wish, idle), (wish, busy)))


@given(st.integers(0, 20_000), st.integers(1, 100))
def test_per_cent_is_rounded_down_and_one_may_always_go(nodes: int, percent: int) -> None:
    most = Limit.parse(f"{percent}%").of(nodes)
    assert most == max(1, sum(1 for one in range(1, nodes + 1) if one * 100 <= nodes * percent))


@pytest.mark.parametrize("text", ["-1", "0%", "101%", "3.5", "ten", "", "%", "5 %", "²"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="max_unavailable is"):
        Limit.parse(text)


# -- the window -------------------------------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn) -> Window:
    days = frozenset(draw(st.sets(st.integers(0, 6), min_size=1)))
    zone = ZoneInfo(draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])))
    return Window(days, draw(st.integers(0, 95)) * 15, draw(st.integers(0, 95)) * 15, zone)


def _open_by_the_clock_on_the_wall(window: Window, moment: datetime) -> bool:
    """By what the clock shows, and the day, of this moment alone."""
    local = moment.astimezone(window.zone)
    minute, day = local.hour * 60 + local.minute, local.weekday()
    if window.start < window.end:
        return day in window.days and window.start <= minute < window.end
    return (day in window.days and minute >= window.start) or ((day - 1) % 7 in window.days and minute < window.end)


MOMENTS = st.integers(0, 2 * 365 * 288).map(
    lambda steps: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=5 * steps)
)
CLOCK_CHANGES = st.sampled_from(["2026-03-29T01:00Z", "2026-10-25T01:00Z", "2026-03-08T07:00Z", "2026-11-01T06:00Z"])
NEAR_CHANGES = st.builds(
    lambda change, steps: datetime.fromisoformat(change) + timedelta(minutes=5 * steps),
    CLOCK_CHANGES,
    st.integers(-40, 40),
)


def _clocks_change_near(zone: ZoneInfo, moment: datetime) -> bool:
    day = timedelta(days=1)
    return (moment - day).astimezone(zone).utcoffset() != (moment + day).astimezone(zone).utcoffset()


@given(windows(), MOMENTS)
def test_the_window_is_open_when_the_clock_on_the_wall_says_so(window: Window, moment: datetime) -> None:
    if _clocks_change_near(window.zone, moment):
        return
    assert (opens(window, moment.timestamp()) is None) is _open_by_the_clock_on_the_wall(window, moment)


@given(windows(), st.one_of(MOMENTS, NEAR_CHANGES))
def test_a_closed_window_opens_when_it_says_and_not_before(window: Window, moment: datetime) -> None:
    """Also where the clocks change: every five minutes until then it is closed, and then it is open."""
    now = moment.timestamp()
    opening = opens(window, now)
    if opening is None:
        return
    assert now < opening <= now + 8 * 86400
    assert opens(window, opening) is None
    assert all(opens(window, now + step) == opening for step in range(0, int(opening - now), 300))


@pytest.mark.parametrize(
    ("text", "days", "start", "end", "zone"),
    [
        ("22:00-06:00", {0, 1, 2, 3, 4, 5, 6}, 1320, 360, "UTC"),
        ("Mon-Fri 22:00-06:00 Europe/Berlin", {0, 1, 2, 3, 4}, 1320, 360, "Europe/Berlin"),
        ("Sat,Sun 00:00-23:59", {5, 6}, 0, 1439, "UTC"),
        ("Fri-Mon,Wed 01:30-02:00 Etc/GMT+5", {4, 5, 6, 0, 2}, 90, 120, "Etc/GMT+5"),
    ],
)
def test_a_window_is_read(text: str, days: set[int], start: int, end: int, zone: str) -> None:
    assert Window.parse(text) == Window(frozenset(days), start, end, ZoneInfo(zone))


@pytest.mark.parametrize(
    "text", ["22-06", "Mo 22:00-06:00", "Mon 24:00-06:00", "22:00-06:60", "22:00-06:00 Berlin", "x"]
)
def test_a_window_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match=f"maintenance_window is '{text}'; "):
        Window.parse(text)


# -- who leads --------------------------------------------------------------------------------------------------------


def _leader(mark: int) -> Leader:
    return Leader("a", str(mark), "1", 0)


@given(st.floats(0, 30), st.floats(0, 30), st.lists(st.floats(0, 1), min_size=60, max_size=60))
def test_who_waits_never_unseats_a_leader_that_renews_and_one_that_died_is_followed_in_time(
    first_look: float, dies_after: float, chances: list[float]
) -> None:
    """No clock is shared: the mark is an opaque word. By when: a look, the length of a lease, and that is all."""
    death = first_look + dies_after
    sighting, clock = Sighting(), first_look
    for chance in chances:
        sighting = sighting.then(_leader(int(min(clock, death) // RENEW_SECONDS)), 3, clock)
        if sighting.vacant(clock):
            break
        clock += sighting.next_look(clock, chance)
    assert sighting.vacant(clock)
    last_renewal = death // RENEW_SECONDS * RENEW_SECONDS
    assert clock >= last_renewal + LEASE_SECONDS - RENEW_SECONDS
    assert clock <= death + 1.25 * LOOK_SECONDS + LEASE_SECONDS + 0.25 * LOOK_SECONDS


def test_an_empty_lead_may_be_taken_at_the_first_look() -> None:
    assert Sighting().then(None, None, 5.0).vacant(5.0)
    assert Sighting().then(replace(_leader(1), holder=""), None, 5.0).vacant(5.0)
    assert not Sighting().then(_leader(1), None, 5.0).vacant(5.0)


def test_five_hundred_that_wait_look_together_about_twice_a_second() -> None:
    first = Sighting().then(_leader(1), None, 0.0)
    few, many = (first.then(_leader(2), waiting, 5.0) for waiting in (3, 500))
    assert [few.next_look(5.0, chance) for chance in (0.0, 0.5, 1.0)] == [3.75, 5.0, 6.25]
    assert [many.next_look(5.0, chance) for chance in (0.0, 0.5, 1.0)] == [0.0, 500.0, 1000.0]
    long_after = many.then(_leader(200), 500, 700.0)
    assert long_after.next_look(700.0, 0.5) == 5.0, "that it led at some time says nothing about now"


def test_a_leader_that_says_nothing_is_looked_at_rarer_and_rarer() -> None:
    """It may be those who look that keep it from saying anything."""
    sighting, clock, looks = Sighting(), 0.0, 0
    while clock < 1800.0:
        looks += 1
        sighting = sighting.then(_leader(int(clock // RENEW_SECONDS)), None, clock)
        assert not sighting.vacant(clock)
        clock += sighting.next_look(clock, 0.5)
    assert looks <= 20, "every five seconds would be 360"


@given(st.lists(st.floats(0, 1), min_size=60, max_size=60))
def test_one_that_dies_before_it_has_said_anything_is_followed_in_time(chances: list[float]) -> None:
    sighting, clock = Sighting(), 0.0
    for chance in chances:
        sighting = sighting.then(_leader(0), None, clock)
        if sighting.vacant(clock):
            break
        clock += sighting.next_look(clock, chance)
    assert sighting.vacant(clock)
    assert clock <= LEASE_SECONDS + LOOK_SECONDS


# -- what is said -----------------------------------------------------------------------------------------------------


def test_who_waits_says_since_when_and_for_what() -> None:
    slot, now = _slot("a", 1_000_000), 1_000_100.0
    since = "waits since 1970-01-12 13:46:40Z for a slot: "
    assert why(None, slot, now) == f"{since}no leader yet"
    assert why(Word(7, 3, 3), slot, now) == f"{since}3 of 3 nodes in change"
    closed = "outside the maintenance window, which opens 1970-01-12 14:00:00Z"
    assert why(Word(7, 0, 3, 1_000_800.0), slot, now) == f"{since}{closed}"
    assert why(Word(7, 0, 3, 1_000_800.0), slot, 1_000_900.0) == f"{since}0 of 3 nodes in change"
