"""Advice by what is remembered. Geometries are checked against all layouts of a GPU, by brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.advice import Advice, Advised, Geometry, GpuSlice, Idle, Oversized
from agent.model.history import OTHERS, Day, History, Holder, Holders, Row, SlicePlace
from agent.model.mig import Gpu, Layout, Placement, Profile, Shape, largest_free_profile
from agent.observe.paper import gpu_on_paper, models
from agent.plan.advise import MARGIN_RATIO, RESERVE_BYTES, advise, better_geometry, fragments
from agent.reconcile.advise import advised
from tests.fakes.world import cut, h100
from tests.plan.every_layout import every_layout
from tests.strategies import BOARDS, gpus, having

H100 = "H100-80GB-SXM"
DAY = 86400.0
NOW = 20_000 * DAY
GIB = 1 << 30
WEB = (Holder("default", "Deployment", "web"),)
BATCH = (Holder("ml", "Job", "train"),)
NOBODY: Holders = ()


def row(gpu: Gpu, slot: str, holders: Holders, *days: Day, **fields: float | None) -> Row:
    """Seen at the last look unless it is said otherwise."""
    instance = next(one for one in gpu.instances if f"{one.profile}@{one.placement}" == slot)
    place = SlicePlace(gpu.uuid, instance.profile, instance.placement)
    return replace(Row(place, holders, NOW - DAY, NOW, days=days), **fields)  # type: ignore[arg-type]


def used(
    peak_gib: float | None, load: float | None = None, day: int = 19_999, hours: float = 24, mean: float | None = None
) -> Day:
    """One day of use; ``load`` None: not told."""
    seconds = hours * 3600
    peak = None if peak_gib is None else int(peak_gib * GIB)
    mean_load = (load if mean is None else mean) or 0.0
    return Day(day, seconds, 0.0 if load is None else seconds, mean_load * seconds, peak, load)


def said(gpu: Gpu, *rows: Row, days: float = 1.0) -> tuple[Advice, ...]:
    return advise(History(NOW, {19_999: DAY}, rows), (gpu,), NOW, days * DAY)


def only_size(gpu: Gpu, *rows: Row) -> Oversized | None:
    found = [one for one in said(gpu, *rows) if isinstance(one, Oversized)]
    assert len(found) <= 1
    return found[0] if found else None


def _model(gpu: Gpu) -> str:
    return next(m for m in models() if gpu_on_paper(m).name == gpu.name)


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_a_workload_that_never_used_more_than_a_smaller_profile_has_is_named_with_it() -> None:
    gpu = h100("3g.40gb@4:4")
    found = only_size(gpu, row(gpu, "3g.40gb@4:4", WEB, used(6)))
    assert found is not None
    assert (found.holders, found.profile, found.fits) == (("default/Deployment/web",), "3g.40gb", "1g.10gb")
    assert found.slices == (GpuSlice(0, "3g.40gb@4:4", ("default/Deployment/web",)),)
    assert (found.peak_memory_bytes, found.observed_seconds) == (6 * GIB, DAY)
    assert (found.frees_memory_slices, found.compute, found.enough) == (3, "unknown", "")


def test_slices_of_one_workload_are_one_advice_by_the_most_that_any_of_them_used() -> None:
    gpu = h100("2g.20gb@0:2 2g.20gb@2:2 2g.20gb@4:2")
    rows = [row(gpu, f"2g.20gb@{start}:2", WEB, used(peak)) for start, peak in ((0, 3), (2, 8), (4, 2))]
    found = only_size(gpu, *rows)
    assert found is not None
    assert (len(found.slices), found.peak_memory_bytes, found.frees_memory_slices) == (3, 8 * GIB, 3)
    # Three slices for a day are a day, not three.
    assert found.observed_seconds == DAY
    assert only_size(gpu, *rows[:2], row(gpu, "2g.20gb@4:2", WEB, used(9))) is None


def test_what_a_workload_used_on_another_slice_before_counts_too() -> None:
    gpu = h100("3g.40gb@4:4 3g.40gb@0:4")
    before = row(gpu, "3g.40gb@0:4", WEB, used(30, day=19_998), last_seen=NOW - DAY)
    now = row(gpu, "3g.40gb@4:4", WEB, used(6))
    assert only_size(gpu, before, now, row(gpu, "3g.40gb@0:4", NOBODY)) is None


def test_a_workload_that_was_seen_for_less_than_is_asked_for_is_not_judged() -> None:
    gpu = h100("3g.40gb@4:4")
    assert only_size(gpu, row(gpu, "3g.40gb@4:4", WEB, used(6, hours=23.9))) is None
    assert only_size(gpu, row(gpu, "3g.40gb@4:4", WEB, used(6, hours=12), used(6, day=20_000, hours=12))) is not None


def test_a_workload_that_has_gone_needs_no_advice() -> None:
    gpu = h100("3g.40gb@4:4")
    gone = row(gpu, "3g.40gb@4:4", WEB, used(6), last_seen=NOW - 60)
    assert only_size(gpu, gone, row(gpu, "3g.40gb@4:4", BATCH)) is None


def test_memory_that_was_never_told_is_no_advice() -> None:
    gpu = h100("3g.40gb@4:4")
    assert only_size(gpu, row(gpu, "3g.40gb@4:4", WEB, used(None, 0.1))) is None


def test_who_shares_an_instance_of_several_compute_instances_is_not_judged() -> None:
    gpu = h100("2c+1c.3g.40gb@4:4")
    place = SlicePlace(gpu.uuid, "3g.40gb", Placement(4, 4))
    assert only_size(gpu, Row(place, (*WEB, *BATCH), NOW - DAY, NOW, days=(used(6),))) is None


@pytest.mark.parametrize("slot", ["2g.48gb+gfx@0:6", "2g.48gb-me@0:6", "2g.48gb@0:6"])
def test_who_asked_for_media_or_graphics_engines_may_need_them(slot: str) -> None:
    gpu = cut("RTX-PRO-6000-96GB", slot)
    found = only_size(gpu, row(gpu, slot, WEB, used(0.1)))
    assert (found is not None) == (slot == "2g.48gb@0:6")


@pytest.mark.parametrize(
    ("peak", "load", "verdict"),
    [
        (6, 0.13, ("1g.10gb", "enough", "1g.10gb", 3)),  # 60 multiprocessors: 7.8 busy, twice that of 16
        (6, 0.2, ("1g.10gb", "tight", "1g.20gb", 2)),  # 12 of 16, twice that of 26
        (6, 0.26, ("1g.10gb", "tight", "2g.20gb", 2)),  # 15.6 of 16, twice that of 32
        (6, 0.4, ("1g.10gb", "short", "", 3)),  # 24 of 32
        (6, 0.9, ("1g.10gb", "short", "", 3)),
        (12, 0.1, ("1g.20gb", "enough", "1g.20gb", 2)),
    ],
)
def test_a_smaller_profile_is_held_against_the_load_where_it_is_known(
    peak: float, load: float, verdict: tuple[str, str, str, int]
) -> None:
    gpu = h100("3g.40gb@4:4")
    found = only_size(gpu, row(gpu, "3g.40gb@4:4", WEB, used(peak, load, mean=0.05)))
    assert found is not None
    assert (found.fits, found.compute, found.enough, found.frees_memory_slices) == verdict
    assert found.peak_load == load
    assert found.mean_load == pytest.approx(0.05)


def test_who_is_busy_for_a_second_of_ten_is_not_told_that_the_smallest_slice_is_enough() -> None:
    gpu = h100("7g.80gb@0:8")
    found = only_size(gpu, row(gpu, "7g.80gb@0:8", WEB, used(6, 0.1)))
    assert found is not None
    assert (found.fits, found.compute) == ("1g.10gb", "tight")
    assert found.enough not in ("", "1g.10gb")


def test_a_load_that_was_known_for_a_part_of_the_time_is_not_known() -> None:
    gpu = h100("3g.40gb@4:4")
    found = only_size(gpu, row(gpu, "3g.40gb@4:4", WEB, used(6, 0.1), used(6, None, day=19_998)))
    assert found is not None
    assert (found.compute, found.peak_load, found.mean_load) == ("unknown", None, None)


@settings(max_examples=300)
@given(gpus(), st.floats(0.01, 100), st.one_of(st.none(), st.floats(0, 1)), st.data())
def test_what_is_advised_holds_what_was_used_and_nothing_smaller_does(
    gpu: Gpu, peak: float, load: float | None, data: st.DataObject
) -> None:
    if not gpu.instances:
        return
    instance = data.draw(st.sampled_from(gpu.instances))
    held = gpu.profile(instance.profile)
    assert held is not None
    found = only_size(gpu, row(gpu, f"{instance.profile}@{instance.placement}", WEB, used(peak, load)))
    bytes_used = int(peak * GIB)
    enough = [
        p
        for p in _plain(gpu)
        if p.size < held.size and (p.memory_mib << 20) - RESERVE_BYTES >= bytes_used * (1 + MARGIN_RATIO)
    ]
    if "+" in held.name or "-" in held.name or not enough:
        assert found is None
        return
    assert found is not None
    fits = gpu.profile(found.fits)
    assert fits in enough
    assert all((fits.size, fits.slices) <= (p.size, p.slices) for p in enough)
    if load is not None:
        busy = load * held.multiprocessors
        able = [p for p in enough if p.multiprocessors >= 2 * busy]
        assert (found.compute == "enough") == (fits in able)
        assert (found.compute == "short") == (fits.multiprocessors < busy)
        assert bool(found.enough) == bool(able)
        best = gpu.profile(found.enough)
        assert best is None or (best in able and best.size == min(p.size for p in able))
        given_up = best or fits
        assert found.frees_memory_slices == held.size - given_up.size > 0


def _plain(gpu: Gpu) -> Iterator[Profile]:
    return (p for p in gpu.profiles if "+" not in p.name and "-" not in p.name)


# -- idle slices -------------------------------------------------------------------------------------------------------


def only_idle(gpu: Gpu, *rows: Row) -> Idle | None:
    found = [one for one in said(gpu, *rows) if isinstance(one, Idle)]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_slice_that_is_held_and_not_active_for_a_day_is_idle() -> None:
    gpu = h100("3g.40gb@4:4")
    quiet = row(gpu, "3g.40gb@4:4", WEB, used(1), quiet_seconds=DAY, last_active=NOW - 2 * DAY, last_process=NOW)
    found = only_idle(gpu, quiet)
    assert found is not None
    assert found.slice == GpuSlice(0, "3g.40gb@4:4", ("default/Deployment/web",))
    assert (found.quiet_seconds, found.last_active, found.process) == (DAY, NOW - 2 * DAY, True)
    assert (found.frees_memory_slices, found.frees_bytes) == (4, 40448 << 20)
    assert only_idle(gpu, replace(quiet, quiet_seconds=DAY - 1)) is None


def test_what_is_idle_is_not_called_too_large_as_well() -> None:
    gpu = h100("3g.40gb@4:4")
    (one,) = said(gpu, row(gpu, "3g.40gb@4:4", WEB, used(1), quiet_seconds=DAY))
    assert isinstance(one, Idle)


def test_a_slice_that_nobody_holds_is_idle_though_somebody_held_it_without_use() -> None:
    gpu = h100("3g.40gb@4:4")
    before = row(gpu, "3g.40gb@4:4", WEB, used(1), quiet_seconds=DAY / 2, last_seen=NOW - DAY / 2)
    found = only_idle(gpu, before, row(gpu, "3g.40gb@4:4", NOBODY, quiet_seconds=DAY / 2))
    assert found is not None
    assert (found.slice.holders, found.quiet_seconds, found.last_active) == ((), DAY, None)


def test_who_came_a_moment_ago_to_a_slice_that_nobody_used_is_left_alone() -> None:
    gpu = h100("3g.40gb@4:4")
    empty = row(gpu, "3g.40gb@4:4", NOBODY, used(0), quiet_seconds=3 * DAY, last_seen=NOW - 60)
    assert only_idle(gpu, empty, row(gpu, "3g.40gb@4:4", WEB, quiet_seconds=60.0)) is None


def test_nothing_is_said_of_slices_that_are_gone_and_of_gpus_that_cannot_be_read() -> None:
    gpu = h100("3g.40gb@4:4")
    quiet = row(gpu, "3g.40gb@4:4", WEB, used(1), quiet_seconds=DAY)
    assert said(having(gpu, ()), quiet) == ()
    assert said(replace(gpu, unknown="lost"), quiet) == ()
    assert said(replace(gpu, mig_enabled=False), quiet) == ()


def test_what_frees_most_comes_first() -> None:
    gpu = h100("1g.10gb@0:1 3g.40gb@4:4 2g.20gb@2:2")
    found = said(
        gpu,
        row(gpu, "1g.10gb@0:1", WEB, used(1), quiet_seconds=DAY),
        row(gpu, "3g.40gb@4:4", OTHERS, used(1), quiet_seconds=DAY),
        row(gpu, "2g.20gb@2:2", BATCH, used(6)),
    )
    assert [(one.kind, one.frees_memory_slices) for one in found] == [("idle", 4), ("oversized", 1), ("idle", 1)]
    assert next(one.slice.holders for one in found if isinstance(one, Idle)) == ("several",)


# -- geometry ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(gpus(), st.data())
def test_no_other_places_of_the_same_slices_free_a_larger_profile_and_none_as_good_moves_fewer(
    gpu: Gpu, data: st.DataObject
) -> None:
    held = {i.placement: data.draw(st.sampled_from([WEB, NOBODY])) for i in gpu.instances}
    there = Counter(slot.shape for slot in gpu.layout)
    ways = _ways(_model(gpu))[tuple(sorted(there.elements()))]
    now = largest_free_profile(gpu)
    ranks = {way: _ranks_of_room(_model(gpu))[way] for way in ways}
    assert ranks[gpu.layout] == (now.rank if now is not None else (0, 0))
    best = max(ranks.values())
    found = better_geometry(gpu, held)
    lies = fragments(gpu)
    if best <= (now.rank if now is not None else (0, 0)):
        assert found is None
        assert (lies.fragmentation, lies.largest_possible) == (0, lies.largest_free)
        return
    assert found is not None
    frees = gpu.profile(found.frees)
    assert frees is not None
    assert frees.rank == best
    assert lies.largest_possible == found.frees
    assert 0 < lies.fragmentation <= 1
    # What it leads to is a layout of this GPU, with these slices and the one that it frees.
    after = Counter(name.rpartition("@")[0] for name in found.after)
    assert after == Counter(str(shape) for shape in there.elements()) + Counter([found.frees])
    assert found.after in [tuple(map(str, layout)) for layout in every_layout(_model(gpu))]
    moved = {one.slice for one in found.moves}
    assert moved == {str(slot) for slot in gpu.layout} - set(found.after)
    fewest = min(
        len([slot for slot in gpu.layout if slot not in way and held[slot.placement]])
        for way in ways
        if ranks[way] == best
    )
    assert len([one for one in found.moves if one.holders]) == fewest


@cache
def _ranks_of_room(model: str) -> dict[Layout, tuple[int, int]]:
    """Of the largest plain profile that some layout has beside the slices of each."""
    plain = {p.name: p.rank for p in _plain(gpu_on_paper(model))}
    ranks: dict[Layout, tuple[int, int]] = {}
    for layout in every_layout(model):
        ranks.setdefault(layout, (0, 0))
        for number, slot in enumerate(layout):
            way = layout[:number] + layout[number + 1 :]
            ranks[way] = max(ranks.get(way, (0, 0)), plain.get(slot.shape.profile, (0, 0)))
    return ranks


@cache
def _ways(model: str) -> dict[tuple[Shape, ...], list[Layout]]:
    """All layouts by what they have."""
    found: dict[tuple[Shape, ...], list[Layout]] = {}
    for layout in every_layout(model):
        found.setdefault(tuple(sorted(slot.shape for slot in layout)), []).append(layout)
    return found


def test_a_slice_in_the_wrong_half_costs_a_gpu_its_largest_one() -> None:
    gpu = h100("1g.10gb@1:1 1g.10gb@5:1")
    found = better_geometry(gpu, {Placement(1, 1): NOBODY, Placement(5, 1): WEB})
    assert found is not None
    assert (found.frees, found.instead_of, found.frees_memory_slices) == ("4g.40gb", "2g.20gb", 2)
    assert found.moves == (GpuSlice(0, "1g.10gb@1:1"),)
    assert fragments(gpu).fragmentation == pytest.approx(0.5)


SPREAD = h100("1g.10gb@1:1 1g.10gb@5:1")
HELD_BY_NOBODY = {Placement(1, 1): NOBODY, Placement(5, 1): NOBODY}


def told(*rows: Row, gpus_seen: float | None = None, now: float = NOW) -> Advised:
    return advised(History(NOW, {19_999: DAY}, rows), (SPREAD,), gpus_seen, now, DAY)


def test_a_geometry_is_named_by_the_label_that_makes_it() -> None:
    (one,) = told(row(SPREAD, "1g.10gb@1:1", NOBODY), row(SPREAD, "1g.10gb@5:1", WEB)).advice
    assert isinstance(one, Geometry)
    assert (one.label, one.layout) == ("warmslice.dev/gpu-00000000.layout", f"1x{one.frees}_2x1g.10gb")


def test_no_slice_is_taken_for_free_because_nobody_knows_who_holds_it() -> None:
    """The kubelet did not answer, the GPU could not be read, or the agent never looked: that is not nobody."""
    seen_before = row(SPREAD, "1g.10gb@5:1", WEB, last_seen=NOW - 10)
    for rows, slices in (
        ((), "1g.10gb@1:1, 1g.10gb@5:1"),
        ((row(SPREAD, "1g.10gb@1:1", NOBODY), seen_before), "1g.10gb@5:1"),
    ):
        answer = told(*rows)
        assert answer.advice == ()
        assert answer.unknown == f"GPU 0: who holds {slices} is not known, so no other places are advised"
    never = advised(History(), (SPREAD,), None, NOW, DAY)
    assert never.advice == ()
    assert "who holds 1g.10gb@1:1, 1g.10gb@5:1 is not known" in never.unknown


def test_who_held_slices_at_a_look_of_long_ago_is_not_who_holds_them_now() -> None:
    rows = [row(SPREAD, f"1g.10gb@{n}:1", NOBODY, used(0), quiet_seconds=3 * DAY) for n in (1, 5)]
    assert [one.kind for one in told(*rows, now=NOW + 899).advice] == ["geometry", "idle", "idle"]
    for now in (NOW + 901, NOW - 901):
        late = told(*rows, now=now)
        assert late.advice == ()
        assert late.unknown.startswith("the history ends more than 15 min from when the GPUs were so")
    # As of then it is known, whenever that is asked.
    assert len(told(*rows, gpus_seen=NOW - 3600, now=NOW + 9 * DAY).advice) == 3
    assert told(*rows, gpus_seen=NOW + 3600, now=NOW + 9 * DAY).advice == ()


def test_an_orphan_is_about_to_go_and_nothing_is_said_meanwhile() -> None:
    first, other = SPREAD.instances
    assert better_geometry(replace(SPREAD, instances=(replace(first, compute=()), other)), HELD_BY_NOBODY) is None


# -- fragmentation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "lies"),
    [
        ("", (8, (), "7g.80gb", 0.0)),
        ("7g.80gb@0:8", (0, (), "", 0.0)),
        # The eighth memory slice belongs to no profile beside seven small ones: nobody's fault, and no fragmentation.
        (" ".join(f"1g.10gb@{n}:1" for n in range(7)), (1, (7,), "", 0.0)),
        ("3g.40gb@0:4", (4, (), "3g.40gb", 0.25)),
        ("4g.40gb@0:4", (4, (), "3g.40gb", 0.0)),
        ("1g.10gb@0:1 1g.10gb@4:1", (6, (), "2g.20gb", 0.5)),
    ],
)
def test_fragmentation_is_what_the_places_of_slices_cost_and_not_what_the_hardware_does(
    layout: str, lies: tuple[int, tuple[int, ...], str, float]
) -> None:
    found = fragments(h100(layout))
    assert (found.free_memory_slices, found.unusable, found.largest_free, found.fragmentation) == lies


@settings(max_examples=200)
@given(gpus())
def test_a_free_memory_slice_is_unusable_where_no_layout_that_keeps_the_slices_has_it(gpu: Gpu) -> None:
    there = set(gpu.layout)
    taken = {n for slot in there for n in range(slot.placement.start, slot.placement.end)}
    reached = {
        n
        for layout in every_layout(_model(gpu))
        if there <= set(layout)
        for slot in layout
        for n in range(slot.placement.start, slot.placement.end)
    }
    found = fragments(gpu)
    assert set(found.unusable) == set(range(found.memory_slices)) - taken - reached
    assert found.free_memory_slices == found.memory_slices - len(taken)


def test_every_board_is_drawn() -> None:
    assert set(BOARDS) <= set(models())
