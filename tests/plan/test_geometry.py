"""Where slices go. The laws are checked against a second, slower way: all layouts of a GPU, by brute force."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.desired.inline import parse_inline, shapes_of
from agent.model.mig import Gpu, GpuWish, Layout, Part, Placement, Shape, Slot
from agent.model.node import PodRef
from agent.observe.paper import gpu_on_paper, models
from agent.plan.geometry import feasible, maximal_geometries
from agent.plan.placement import Tenants, moves, solve
from agent.reconcile.reach import reach_on_paper
from tests.fakes.world import cut, h100
from tests.plan.every_layout import every_layout
from tests.strategies import BOARDS, fixed_slices, gpus, having, layouts

H100 = "H100-80GB-SXM"


def _model(gpu: Gpu) -> str:
    return next(m for m in models() if gpu_on_paper(m).name == gpu.name)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Gpu, tuple[Shape, ...], frozenset[Part]]:
    gpu = draw(gpus())
    wish = draw(layouts(gpu))
    shapes = tuple(slot.shape for slot in wish)
    if draw(st.booleans()):
        shapes += (Shape(draw(st.sampled_from([p.name for p in gpu.profiles]))),)
    return gpu, tuple(sorted(shapes)), draw(fixed_slices(gpu))


@settings(max_examples=300)
@given(cases())
def test_a_change_keeps_the_fixed_slices_and_destroys_as_few_as_any_way_would(
    case: tuple[Gpu, tuple[Shape, ...], frozenset[Part]],
) -> None:
    gpu, shapes, fixed = case
    current = set(gpu.layout)
    held = {slot for slot in current if Part(slot.placement) in fixed}
    ways = [
        layout
        for layout in every_layout(_model(gpu))
        if Counter(s.shape for s in layout) == Counter(shapes) and held <= set(layout)
    ]
    change = solve(gpu, GpuWish(True, shapes), Tenants(fixed=fixed))
    if not ways:
        assert change is None
        return
    assert change is not None
    result = set(change.keep) | set(change.create)
    assert tuple(sorted(result)) in ways
    assert held <= set(change.keep)
    assert len(change.remove) == min(len(current - set(way)) for way in ways)
    assert {placement for placement, _ in change.remove} == {slot.placement for slot in current - result}


@settings(max_examples=150)
@given(gpus(), st.data())
def test_no_way_moves_fewer_pods(gpu: Gpu, data: st.DataObject) -> None:
    wish = data.draw(layouts(gpu))
    pods = {
        Part(slot.placement): frozenset({PodRef("ns", f"pod-{number}", f"uid-{number}")})
        for number, slot in enumerate(gpu.layout)
        if data.draw(st.booleans())
    }
    tenants = Tenants(pods=pods)
    shapes = tuple(slot.shape for slot in wish)
    change = solve(gpu, GpuWish(True, shapes), tenants)
    assert change is not None
    ways = [way for way in every_layout(_model(gpu)) if Counter(s.shape for s in way) == Counter(shapes)]
    fewest = min(len([s for s in gpu.layout if s not in way and Part(s.placement) in pods]) for way in ways)
    assert len(moves(change, tenants)) == fewest


@settings(max_examples=100)
@given(gpus(), st.data())
def test_a_way_that_was_begun_is_gone_to_its_end(gpu: Gpu, data: st.DataObject) -> None:
    """Killed after any number of calls, planning anew needs no call that undoes one."""
    wish = GpuWish(True, tuple(slot.shape for slot in data.draw(layouts(gpu))))
    change = solve(gpu, wish, Tenants())
    assert change is not None
    calls = len(change.remove) + len(change.create)
    done = data.draw(st.integers(0, calls))
    gone = {placement for placement, _ in change.remove[:done]}
    made = change.create[: max(0, done - len(change.remove))]
    midway = having(gpu, tuple(sorted([s for s in gpu.layout if s.placement not in gone] + list(made))))
    rest = solve(midway, wish, Tenants())
    assert rest is not None
    assert len(rest.remove) + len(rest.create) <= calls - done


@st.composite
def held_layouts(draw: st.DrawFn) -> tuple[Gpu, Layout]:
    """Some instances of a legal layout, a few with their compute split: a GPU on which somebody holds them all."""
    board = gpu_on_paper(draw(st.sampled_from(BOARDS)))
    held = draw(st.sets(st.sampled_from(whole))) if (whole := draw(layouts(board))) else set()
    slots = tuple(sorted(draw(st.sampled_from((slot, *_splits(board, slot)))) for slot in held))
    return cut(_model(board), " ".join(map(str, slots))), slots


def _splits(board: Gpu, slot: Slot) -> list[Slot]:
    """The slot as one or two compute instances that leave some of it unused, or share it."""
    profile = board.profile(slot.shape.profile)
    assert profile is not None
    found: list[tuple[int, ...]] = [(width,) for width in profile.compute if width < profile.slices]
    found += [(1, 1)] if profile.slices > 1 and 1 in profile.compute else []
    return [Slot(slot.placement, Shape(profile.name, widths)) for widths in found]


@settings(max_examples=200)
@given(held_layouts())
def test_beside_held_slices_the_maximal_geometries_are_those_that_trying_everything_finds(
    case: tuple[Gpu, Layout],
) -> None:
    gpu, held = case
    assert set(maximal_geometries(gpu, held)) == _maximal_by_trying(_model(gpu), held)
    assert len(set(maximal_geometries(gpu, held))) == len(maximal_geometries(gpu, held))


def _maximal_by_trying(model: str, held: Layout) -> set[tuple[Shape, ...]]:
    """A multiset is maximal when none of the layouts that have it and the held slots is a part of a larger layout."""
    split = {slot.placement: slot for slot in held}
    standing = {Slot(slot.placement, Shape(slot.shape.profile)) for slot in held}
    everything = {frozenset(layout) for layout in every_layout(model)}
    single = frozenset().union(*everything)
    full: dict[tuple[Shape, ...], bool] = {}
    gpu = gpu_on_paper(model)
    sizes = {profile.name: (-profile.size, -profile.slices) for profile in gpu.profiles}
    for layout in everything:
        if standing <= layout:
            shapes = [split[s.placement].shape if s in standing else s.shape for s in layout]
            key = tuple(sorted(shapes, key=lambda s: (sizes[s.profile], s)))
            grows = any(layout | {slot} in everything for slot in single - layout)
            full[key] = full.get(key, True) and not grows
    return {key for key, alone in full.items() if alone}


@settings(max_examples=100)
@given(held_layouts())
def test_every_geometry_listed_is_one_that_the_agent_makes_without_touching_what_is_held(
    case: tuple[Gpu, Layout],
) -> None:
    gpu, held = case
    reach = reach_on_paper(_model(gpu), " ".join(map(str, held))).gpus[0]
    assert reach.held == tuple(map(str, held))
    assert reach.geometries
    for found in reach.geometries:
        slots = tuple(map(Slot.parse, found.slots))
        assert set(held) <= set(slots)
        if found.layout:
            asked = shapes_of(gpu, parse_inline(found.layout), "")
            assert Counter(asked) == Counter(slot.shape for slot in slots)
            change = solve(gpu, GpuWish(True, asked), Tenants(fixed=_parts(gpu)))
            assert change is not None
            assert (set(change.keep), change.remove) == (set(held), ())


def _parts(gpu: Gpu) -> frozenset[Part]:
    return frozenset(Part(i.placement, c.start) for i in gpu.instances for c in i.compute)


def test_a_split_that_no_label_can_ask_for_is_listed_without_a_label() -> None:
    """A label's one and two compute slices of a profile go into one instance; here they are in two."""
    found = reach_on_paper(H100, "1c.3g.40gb@0:4 2c.3g.40gb@4:4").gpus[0].geometries
    assert [(one.layout, one.slots) for one in found] == [("", ("1c.3g.40gb@0:4", "2c.3g.40gb@4:4"))]


def test_seven_small_slices_make_room_for_a_large_one_at_the_cost_of_three() -> None:
    gpu = h100(" ".join(f"1g.10gb@{start}:1" for start in range(7)))
    change = solve(gpu, GpuWish(True, (Shape("3g.40gb"),) + (Shape("1g.10gb"),) * 4), Tenants())
    assert change is not None
    assert [slot.placement.start for slot in change.keep] == [0, 1, 2, 3]
    assert [placement.start for placement, _ in change.remove] == [4, 5, 6]
    assert change.create == (Slot(Placement(4, 4), Shape("3g.40gb")),)


def test_two_pods_with_budget_are_moved_rather_than_one_without() -> None:
    gpu = h100("1g.10gb@0:1 1g.10gb@4:1 1g.10gb@5:1")
    one, two, spent = (PodRef("ns", name, name) for name in ("one", "two", "spent"))
    pods = {
        Part(Placement(0, 1)): frozenset({spent}),
        Part(Placement(4, 1)): frozenset({one}),
        Part(Placement(5, 1)): frozenset({two}),
    }
    tenants = Tenants(pods=pods, spent=frozenset({spent}))
    change = solve(gpu, GpuWish(True, (Shape("3g.40gb"), Shape("1g.10gb"))), tenants)
    assert change is not None
    assert moves(change, tenants) == {one, two}


def test_an_orphan_is_finished_where_it_fits_the_wish_and_removed_where_not() -> None:
    orphaned = _with_orphans(h100("1g.10gb@0:1 3g.40gb@4:4"))
    change = solve(orphaned, GpuWish(True, (Shape("3g.40gb"),)), Tenants())
    assert change is not None
    assert change.finish == (Slot(Placement(4, 4), Shape("3g.40gb")),)
    assert change.remove == ((Placement(0, 1), "1g.10gb"),)


def _with_orphans(gpu: Gpu) -> Gpu:
    return replace(gpu, instances=tuple(replace(i, compute=()) for i in gpu.instances))


def test_geometries_of_an_h100_are_as_many_as_exhaustive_search_finds() -> None:
    """722 layouts and 28 maximal geometries without +me, 2,318 and 44 with it (two independent programs agree)."""
    plain = [way for way in every_layout(H100) if not any("+" in slot.shape.profile for slot in way)]
    assert (len(every_layout(H100)) - 1, len(plain) - 1) == (2318, 722)
    maximal = maximal_geometries(gpu_on_paper(H100))
    assert len(maximal) == 44


@pytest.mark.parametrize(
    ("wish", "fits"),
    [
        ({"3g.40gb": 2, "2g.20gb": 1}, False),
        ({"3g.40gb": 1, "2g.20gb": 1, "1g.20gb": 1}, True),
        ({"1g.10gb": 7}, True),
        ({"1g.10gb": 8}, False),
        ({"1g.10gb+me": 2}, False),
        ({"1g.10gb+me": 1, "1g.10gb": 6}, True),
    ],
)
def test_what_fits_an_h100(wish: dict[str, int], fits: bool) -> None:
    shapes = tuple(Shape(name) for name, count in wish.items() for _ in range(count))
    assert feasible(gpu_on_paper(H100), shapes) is fits


def test_all_media_engines_leave_only_slices_without_any_beside_them() -> None:
    gpu = gpu_on_paper("RTX-PRO-6000-96GB")
    assert feasible(gpu, (Shape("1g.24gb+me.all"), Shape("1g.24gb-me")))
    assert not feasible(gpu, (Shape("1g.24gb+me.all"), Shape("1g.24gb")))
