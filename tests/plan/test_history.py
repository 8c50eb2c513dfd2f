"""What is remembered of slices' use: only what was seen, by slice and by holder, and not for ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.errors import BadInputError
from agent.model.history import (
    MOST_BYTES,
    OTHERS,
    WINDOW_DAYS,
    Day,
    History,
    Holder,
    Holders,
    Look,
    Row,
    SlicePlace,
    Use,
    day_of,
)
from agent.model.mig import Placement
from agent.model.node import DeviceOwner
from agent.model.report import PartitionReport, PodWorkload
from agent.model.telemetry import SliceSample, TelemetrySnapshot, Utilization
from agent.plan.history import MOST_ROWS, bounded, encoded, fold, holders_of, look_of, with_gpus
from tests.fakes.world import h100

DAY = 86400.0
NOON = 20_000 * DAY + DAY / 2
GAP = 60.0
LARGE = SlicePlace("GPU-a", "3g.40gb", Placement(4, 4))
SMALL = SlicePlace("GPU-a", "1g.10gb", Placement(4, 1))
WEB = (Holder("default", "Deployment", "web"),)
BATCH = (Holder("ml", "Job", "train"),)
NOBODY: Holders = ()


def looks(history: History, *all_looks: Look, before: Look | None = None) -> History:
    """One after the other."""
    for look in all_looks:
        history, before = fold(history, before, look, GAP), look
    return history


def at(seconds: float, holders: Holders = WEB, place: SlicePlace = LARGE, **fields: float | None) -> Look:
    """One slice, so many seconds after noon."""
    return Look(NOON + seconds, {place: Use(holders, **fields)})  # type: ignore[arg-type]


def every_ten(start: float, until: float, holders: Holders = WEB, **fields: float | None) -> Iterable[Look]:
    return (at(float(n), holders, LARGE, **fields) for n in range(int(start), int(until) + 1, 10))


def only(history: History) -> Row:
    (row,) = history.rows
    return row


def total(row: Row) -> float:
    return sum(day.observed_seconds for day in row.days)


# -- who ---------------------------------------------------------------------------------------------------------------


def _report(*owners: DeviceOwner, known: bool = True) -> PartitionReport:
    gpu = h100("3g.40gb@4:4 1g.10gb@0:1")
    workloads = (PodWorkload("default", "web-7d9-x", "Deployment", "web"),)
    return PartitionReport(NOON, (gpu,), owners, None, workloads=workloads, owners_known=known)


def _owner(pod: str, device: str) -> DeviceOwner:
    return DeviceOwner("default", pod, "main", "nvidia.com/mig-3g.40gb", (device,))


def test_a_holder_is_the_workload_and_not_the_pod() -> None:
    gpu = _report().gpus[0]
    large, small = (SlicePlace(gpu.uuid, i.profile, i.placement) for i in reversed(gpu.instances))
    uuid = gpu.instances[1].compute[0].uuid
    report = _report(_owner("web-7d9-x", f"{uuid}::1"), _owner("web-7d9-x", f"{uuid}::0"), _owner("lone", uuid))
    assert holders_of(report) == {large: (*WEB, Holder("default", "Pod", "lone")), small: ()}


def test_slices_of_which_nobody_can_say_who_holds_them_are_not_called_free() -> None:
    assert holders_of(_report(known=False)) == {}
    assert holders_of(replace(_report(), error="the API server does not answer")) == {}


def test_an_owner_that_somebody_made_up_bursts_neither_the_file_nor_a_terminal() -> None:
    report = _report(_owner("web-7d9-x", _report().gpus[0].instances[1].compute[0].uuid))
    odd = replace(report, workloads=(PodWorkload("default", "web-7d9-x", "K\x1b[2J", "w\n" * 100_000),))
    ((holder,),) = (holders for holders in holders_of(odd).values() if holders)
    assert holder.kind == "K?[2J"
    assert holder.name == ("w?" * 127)[:253]


def test_more_holders_of_one_slice_than_are_told_apart_are_others() -> None:
    uuid = _report().gpus[0].instances[1].compute[0].uuid
    found = holders_of(_report(*(_owner(f"pod-{n}", uuid) for n in range(9))))
    assert OTHERS in found.values()


def test_compute_instances_of_one_instance_are_one_slice() -> None:
    def sample(part: int, processes: int | None) -> SliceSample:
        return SliceSample(
            "GPU-a",
            0,
            "3g.40gb",
            Placement(4, 4),
            1,
            part,
            f"MIG-{part}",
            7,
            40,
            processes,
            Utilization(0.5, 0.25),
            3.0,
        )

    found = look_of(TelemetrySnapshot(NOON, (sample(0, 0), sample(1, 2))), {LARGE: WEB})
    assert found == Look(NOON, {LARGE: Use(WEB, 7, 0.25, 3.0, True)})
    untold = look_of(TelemetrySnapshot(NOON, (sample(0, 0), sample(1, None))), {LARGE: WEB})
    assert untold is not None
    assert untold.uses[LARGE].in_use is None


def test_a_slice_that_no_pass_has_seen_yet_is_left_out() -> None:
    sample = SliceSample("GPU-a", 0, "1g.10gb", Placement(4, 1), 1, 0, "MIG-0")
    assert look_of(TelemetrySnapshot(NOON, (sample,)), {LARGE: WEB}) == Look(NOON, {})


@pytest.mark.parametrize("blind", [TelemetrySnapshot(NOON, paused=True), TelemetrySnapshot(NOON, error="no driver")])
def test_a_look_that_saw_nothing_is_none(blind: TelemetrySnapshot) -> None:
    assert look_of(blind, {LARGE: WEB}) is None


# -- how long ----------------------------------------------------------------------------------------------------------


def test_time_counts_between_two_looks_that_see_the_same_slice_in_the_same_hands() -> None:
    row = only(looks(History(), *every_ten(0, 100, memory_used_bytes=5, load=0.5)))
    assert (row.first_seen, row.last_seen, total(row)) == (NOON, NOON + 100, 100)
    assert row.days == (Day(20_000, 100.0, 100.0, 50.0, 5, 0.5),)


def test_time_while_the_agent_was_away_is_not_observed() -> None:
    first = looks(History(), *every_ten(0, 100))
    again = looks(first, *every_ten(1000, 1100))
    assert total(only(again)) == 200
    assert again.observed_seconds == 200


@pytest.mark.parametrize("gap", [61.0, 4000.0, 3 * DAY])
def test_a_gap_between_looks_is_not_observed(gap: float) -> None:
    assert total(only(looks(History(), at(0), at(10), at(10 + gap), at(20 + gap)))) == 20


def test_a_clock_that_goes_back_counts_nothing_and_takes_nothing_away() -> None:
    history = looks(History(), at(0), at(10), at(-500), at(-490))
    assert total(only(history)) == 20
    assert (only(history).last_seen, history.seen) == (NOON - 490, NOON - 490)


def test_days_that_are_yet_to_come_are_forgotten() -> None:
    """They were written while a clock was wrong."""
    wrong = looks(History(), at(40 * DAY), at(40 * DAY + 10))
    row = only(looks(wrong, at(0), at(10)))
    assert [day.day for day in row.days] == [20_000]


def test_a_slice_cut_anew_has_rows_of_its_own() -> None:
    history = looks(
        History(),
        at(0, WEB, LARGE, memory_used_bytes=30),
        at(10, WEB, LARGE, memory_used_bytes=30),
        at(20, WEB, SMALL, memory_used_bytes=2),
        at(30, WEB, SMALL, memory_used_bytes=2),
    )
    assert {row.place: (total(row), row.days[0].peak_memory_bytes) for row in history.rows} == {
        LARGE: (10, 30),
        SMALL: (10, 2),
    }


def test_a_counter_of_a_slice_made_anew_in_its_place_begins_anew() -> None:
    row = only(looks(History(), at(0, active_seconds=500.0), at(10, active_seconds=505.0), at(20, active_seconds=2.0)))
    assert row.days[0].active_seconds == 5 + 2


def test_a_slice_that_goes_from_hand_to_hand_is_counted_for_neither_meanwhile() -> None:
    history = looks(History(), at(0, WEB), at(10, WEB), at(20, BATCH), at(30, BATCH))
    assert {row.holders: total(row) for row in history.rows} == {WEB: 10, BATCH: 10}


def test_a_peak_is_of_the_hands_in_which_it_was() -> None:
    history = looks(History(), at(0, WEB, memory_used_bytes=9), at(10, BATCH, memory_used_bytes=3))
    assert {row.holders: row.days[0].peak_memory_bytes for row in history.rows} == {WEB: 9, BATCH: 3}


def test_what_a_workload_used_before_the_window_is_forgotten() -> None:
    long_ago = looks(History(), at(0, memory_used_bytes=30), at(10, memory_used_bytes=30))
    later = WINDOW_DAYS * DAY
    assert only(looks(long_ago, at(later - DAY, memory_used_bytes=2))).days[0].peak_memory_bytes == 30
    assert [day.peak_memory_bytes for day in only(looks(long_ago, at(later, memory_used_bytes=2))).days] == [2]


# -- quiet -------------------------------------------------------------------------------------------------------------


def test_a_slice_without_load_is_quiet_and_active_again_in_whosever_hands() -> None:
    quiet = looks(History(), *every_ten(0, 100, NOBODY, load=0.0), *every_ten(110, 210, WEB, load=0.0))
    assert {row.holders: row.quiet_seconds for row in quiet.rows} == {NOBODY: 100, WEB: 100}
    awake = looks(quiet, *every_ten(220, 230, WEB, load=0.01))
    assert {row.holders: (row.quiet_seconds, row.last_active) for row in awake.rows} == {
        NOBODY: (0, None),
        WEB: (0, NOON + 230),
    }


def test_ten_milliseconds_between_two_looks_are_activity() -> None:
    history = looks(History(), at(0, active_seconds=1.0), at(10, active_seconds=1.01))
    assert only(history).last_active == NOON + 10
    less = looks(History(), at(0, active_seconds=1.0), at(10, active_seconds=1.009))
    assert (only(less).last_active, only(less).quiet_seconds) == (None, 10)


def test_where_no_load_is_told_a_slice_is_quiet_as_long_as_no_process_is_on_it() -> None:
    quiet = looks(History(), *every_ten(0, 100, in_use=False))
    assert only(quiet).quiet_seconds == 100
    # A load that is not told for a moment, as at the agent's start, is no activity; one that lasts may be.
    moment = looks(quiet, *every_ten(110, 210, in_use=True))
    assert (only(moment).quiet_seconds, only(moment).last_process) == (100, NOON + 210)
    assert only(looks(moment, *every_ten(220, 520, in_use=True))).quiet_seconds == 0


def test_what_was_not_told_at_all_is_neither_quiet_nor_active() -> None:
    row = only(looks(History(), *every_ten(0, 1000)))
    assert (row.quiet_seconds, row.last_active) == (0, None)


@pytest.mark.parametrize(("away", "quiet"), [(3000.0, 200), (3700.0, 100), (-3800.0, 100)])
def test_who_was_away_for_an_hour_does_not_know_that_a_slice_was_quiet_meanwhile(away: float, quiet: float) -> None:
    before = looks(History(), *every_ten(0, 100, load=0.0))
    start = 100 + away
    assert only(looks(before, *every_ten(start, start + 100, load=0.0))).quiet_seconds == quiet


# -- size --------------------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Of a few slices, with many holders."""
    holders = st.sampled_from([NOBODY, OTHERS, WEB, BATCH, (*WEB, *BATCH)])
    keys = draw(st.lists(st.tuples(st.integers(0, 4), holders), unique=True, max_size=20))
    rows = []
    for start, who in keys:
        seen = NOON - draw(st.integers(0, 5)) * DAY
        days = draw(st.dictionaries(st.integers(19_998, 20_000), st.integers(0, 9), min_size=1, max_size=3))
        place = SlicePlace("GPU-a", "1g.10gb", Placement(start, 1))
        used = tuple(Day(day, 60.0 * n, 0.0, 0.0, n, None) for day, n in sorted(days.items()))
        rows.append(Row(place, who, seen, seen, quiet_seconds=float(start), days=used))
    return History(NOON, {}, tuple(sorted(rows, key=lambda row: row.key)))


@settings(max_examples=200)
@given(histories(), st.integers(5, 20))
def test_what_there_is_no_room_for_is_added_to_its_slice(history: History, most: int) -> None:
    left = bounded(history, most)
    assert len(left.rows) <= max(most, 5)
    assert len({row.key for row in left.rows}) == len(left.rows)
    for place in {row.place for row in history.rows}:
        before = [row for row in history.rows if row.place == place]
        after = [row for row in left.rows if row.place == place]
        for total_of in (total, lambda row: row.quiet_seconds):
            assert sum(map(total_of, after)) == pytest.approx(sum(map(total_of, before)))
        assert max(_peaks(after)) == max(_peaks(before))
    kept = [row for row in left.rows if row.holders != OTHERS]
    assert all(row in history.rows for row in kept)
    gone = [row for row in history.rows if row not in left.rows and row.holders != OTHERS]
    assert all(row.last_seen <= other.last_seen for row in gone for other in kept)


def _peaks(rows: list[Row]) -> list[int]:
    return [day.peak_memory_bytes or 0 for row in rows for day in row.days]


def test_more_workloads_than_there_is_room_for_leave_the_rows_of_those_that_are_there() -> None:
    history = looks(History(), at(0), at(10))
    for number in range(MOST_ROWS + 50):
        passing = (Holder("default", "Job", f"job-{number}"),)
        history = looks(history, at(20 + number, passing, SMALL))
        history = looks(history, at(20 + number + 0.5))
    assert len(history.rows) <= MOST_ROWS
    assert (LARGE, WEB) in {row.key for row in history.rows}
    assert (SMALL, OTHERS) in {row.key for row in history.rows}


def test_all_that_is_remembered_of_a_full_node_over_the_whole_window_fits_the_file() -> None:
    def row(gpu: int, start: int, who: str) -> Row:
        days = tuple(Day(day, 86_399.98, 86_399.98, 43_210.12, 9_876_543_210, 0.1234) for day in range(19_971, 20_001))
        place = SlicePlace(f"GPU-{gpu:08d}-553e-54b3-a462-f332a88d0a45", "1g.10gb", Placement(start, 1))
        return Row(place, (Holder("a" * 63, "Deployment", who),), NOON - DAY, NOON, NOON, NOON, 1.5, 2.5, days)

    gpus = tuple(h100(" ".join(f"1g.10gb@{n}:1" for n in range(7)), index) for index in range(8))
    full = with_gpus(
        History(NOON, dict.fromkeys(range(30), DAY), tuple(row(g, s, "web") for g in range(8) for s in range(7))),
        gpus,
        NOON,
    )
    assert len(encoded(full, MOST_BYTES)) < MOST_BYTES
    assert len(History.from_json(encoded(full, MOST_BYTES)).rows) == 56
    rows = tuple(row(g, s, f"{'w' * 60}-{n}") for g in range(8) for s in range(7) for n in range(8))[:MOST_ROWS]
    remembered = replace(full, rows=rows)
    assert len(rows) == MOST_ROWS
    assert [row.key for row in History.from_json(encoded(remembered, MOST_BYTES)).rows] == [row.key for row in rows]


@pytest.mark.parametrize("most_bytes", [MOST_BYTES, 300_000])
def test_long_names_do_not_burst_the_file_and_those_seen_last_stay(most_bytes: int) -> None:
    def row(place: SlicePlace, number: int) -> Row:
        seen = NOON - number * 60
        days = tuple(Day(day, 86_399.98, 86_399.98, 43_210.12, 9_876_543_210, 0.1234) for day in range(19_971, 20_001))
        return Row(place, tuple(Holder("n" * 253, "k" * 253, f"{n}" * 253) for n in range(5)), seen, seen, days=days)

    places = [SlicePlace(f"GPU-{g}", "1g.10gb", Placement(s, 1)) for g in range(8) for s in range(7)]
    rows = [row(place, number) for number in range(7) for place in places]
    distinct = [replace(row, holders=(*row.holders, Holder("", "Pod", str(n)))) for n, row in enumerate(rows)]
    text = encoded(History(NOON, {}, tuple(sorted(distinct, key=lambda row: row.key))), most_bytes)
    left = History.from_json(text).rows
    assert most_bytes * 0.8 < len(text) <= most_bytes
    assert {row.place for row in left} == set(places)
    named = [row for row in left if row.holders != OTHERS]
    assert named
    assert len(named) + 56 == len(left)
    kept = {row.key for row in named}
    assert min(row.last_seen for row in named) >= max(row.last_seen for row in distinct if row.key not in kept)
    assert sum(map(total, left)) == pytest.approx(sum(map(total, distinct)))


def test_a_look_touches_no_rows_but_those_of_the_slices_in_whose_hands_it_saw_them() -> None:
    """On a full node there are hundreds of rows of 30 days, and a look each few seconds on the loop of everything else."""
    history = looks(History(), at(0, WEB), at(10, BATCH), at(20, NOBODY), at(30, WEB, SMALL))
    after = looks(history, at(40, BATCH), before=at(30, WEB, SMALL))
    assert {row.holders for row in after.rows if not any(row is one for one in history.rows)} == {BATCH}
    assert len(after.rows) == len(history.rows)


def test_what_was_written_is_read_again() -> None:
    gpu = h100("3g.40gb@4:4 2c+1c.3g.40gb@0:4")
    history = with_gpus(looks(History(), *every_ten(0, 100, memory_used_bytes=5, load=0.25)), (gpu,), NOON)
    assert History.from_json(history.to_json()) == history
    assert history.gpus[0].layout == gpu.layout


def test_a_gpu_that_cannot_be_read_stays_as_it_was_and_nothing_of_now_is_kept_of_any() -> None:
    gpu = h100("3g.40gb@4:4")
    history = with_gpus(History(), (gpu,), NOON)
    assert with_gpus(history, (replace(gpu, unknown="lost", instances=()),), NOON + 1).gpus == history.gpus
    assert "MIG-" not in history.to_json().decode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1}',
        b'{"version": 2, "history": {}}',
        b'{"version": 1, "history": {"rows": [{}]}}',
        b'{"version": 1, "history": {}, "more": 1}',
        b"\xff\xfe",
        b'{"version": 1, "history": {"gpus": [{"uuid": "\xff"}]}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_history_is_refused(text: bytes) -> None:
    with pytest.raises(BadInputError):
        History.from_json(text)


def test_a_day_begins_at_midnight_utc() -> None:
    assert (day_of(20_000 * DAY - 1), day_of(20_000 * DAY)) == (19_999, 20_000)
