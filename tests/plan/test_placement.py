"""Which way is taken over several GPUs. The law is checked against a second, slower way: every combination of layouts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.mig import Gpu, GpuInstance, GpuWish, Layout, Part, Placement, Shape, Slot
from agent.model.node import PodRef
from agent.model.steps import Trimming
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import completions
from agent.plan.placement import Ask, Choice, Tenants, choose, moves, solve
from tests.fakes.world import cut
from tests.strategies import having, layouts

BOARDS = ("A30", "H100-80GB-SXM", "A30")
Price = tuple[int, int, int, int, tuple[int, ...], int]


def _pod(number: int) -> PodRef:
    return PodRef("ns", f"pod-{number}", f"uid-{number}")


@st.composite
def nodes(draw: st.DrawFn) -> list[Ask]:
    """Two or three GPUs with layouts, pods that hold slices on one or more of them, and a wish for each."""
    papers = [gpu_on_paper(board, index=index) for index, board in enumerate(BOARDS[: draw(st.integers(2, 3))])]
    gpus = [having(paper, draw(layouts(paper))) for paper in papers]
    pods: dict[str, dict[Part, frozenset[PodRef]]] = {gpu.uuid: {} for gpu in gpus}
    for gpu in gpus:
        for slot in gpu.layout:
            holder = draw(st.integers(0, 5))
            if holder:
                pods[gpu.uuid][Part(slot.placement)] = frozenset({_pod(holder)})
    spent = frozenset(_pod(number) for number in draw(st.sets(st.integers(1, 5))))
    ending = frozenset(_pod(number) for number in draw(st.sets(st.integers(1, 5), max_size=2)))
    asks = []
    for gpu, paper in zip(gpus, papers, strict=True):
        fixed = frozenset(place for place in pods[gpu.uuid] if draw(st.integers(0, 9)) == 0)
        movable = {place: who for place, who in pods[gpu.uuid].items() if place not in fixed}
        wish = GpuWish(True, tuple(slot.shape for slot in draw(layouts(paper))))
        asks.append(Ask(gpu, wish, Tenants(fixed, movable, spent, ending)))
    return asks


def _ways(ask: Ask) -> list[Layout]:
    held = {slot for slot in ask.gpu.layout if Part(slot.placement) in ask.tenants.fixed}
    return [layout for layout in completions(ask.gpu, ask.wish.shapes) if held <= set(layout)]


def _price(asks: Iterable[Ask], ways: Iterable[Layout]) -> Price:
    """What a combination costs, counted from scratch."""
    moved: set[PodRef] = set()
    spent: set[PodRef] = set()
    ending: set[PodRef] = set()
    awaited = destroyed = calls = 0
    left: Counter[tuple[int, int, str]] = Counter()
    for ask, way in zip(asks, ways, strict=True):
        gone = [slot for slot in ask.gpu.layout if slot not in way]
        held = [ask.tenants.pods.get(Part(slot.placement), frozenset()) for slot in gone]
        moved |= set().union(*held)
        spent |= ask.tenants.spent
        ending |= ask.tenants.ending
        awaited += len([pods for pods in held if pods & ask.tenants.ending])
        destroyed += len(gone)
        calls += len(gone) + len([slot for slot in way if slot not in ask.gpu.layout])
        for profile in ask.gpu.profiles:
            free = [p for p in profile.placements if not any(p.overlaps(slot.placement) for slot in way)]
            left[(-profile.size, -profile.slices, profile.name)] -= len(free)
    fragmentation = tuple(count for _, count in sorted(left.items()))
    moved -= ending
    return len(moved & spent), len(moved), awaited, destroyed, fragmentation, calls


def _chosen(asks: list[Ask], choice: Choice) -> list[Layout]:
    found = {change.gpu: tuple(sorted((*change.keep, *change.create))) for change in choice.changes}
    return [found[ask.gpu.uuid] for ask in asks]


@settings(max_examples=150)
@given(nodes())
def test_no_combination_of_layouts_costs_less(asks: list[Ask]) -> None:
    choice = choose(asks)
    possible = [ask for ask in asks if _ways(ask)]
    assert [ask.gpu.uuid for ask in choice.stuck] == [ask.gpu.uuid for ask in asks if not _ways(ask)]
    assert choice.exact
    cheapest = min(_price(possible, combination) for combination in itertools.product(*map(_ways, possible)))
    assert _price(possible, _chosen(possible, choice)) == cheapest


@settings(max_examples=60)
@given(nodes())
def test_one_by_one_is_legal_and_says_so(asks: list[Ask]) -> None:
    together, alone = choose(asks), choose(asks, most_joined=0)
    possible = [ask for ask in asks if _ways(ask)]
    assert alone.exact is not bool(possible)
    assert [ask.gpu.uuid for ask in alone.stuck] == [ask.gpu.uuid for ask in together.stuck]
    for ask, layout in zip(possible, _chosen(possible, alone), strict=True):
        assert layout in _ways(ask)
    assert _price(possible, _chosen(possible, alone)) >= _price(possible, _chosen(possible, together))


def test_a_pod_that_moves_anyway_pays_for_its_slice_on_the_other_gpu() -> None:
    """GPU 0 can only free pod-1's slice; so on GPU 1 the slice of pod-1 goes rather than that of pod-2."""
    full = cut("A30", "1g.6gb@0:1 2g.12gb@2:2", 0)
    other = cut("A30", "2g.12gb@0:2 2g.12gb@2:2", 1)
    asks = [
        Ask(full, _wish("2g.12gb", "2g.12gb"), _held(full, {0: 1})),
        Ask(other, _wish("2g.12gb", "1g.6gb"), _held(other, {0: 2, 2: 1})),
    ]
    choice = choose(asks)
    assert {pod for change, ask in zip(choice.changes, asks, strict=True) for pod in moves(change, ask.tenants)} == {
        _pod(1)
    }


def _wish(*profiles: str) -> GpuWish:
    return GpuWish(True, tuple(map(Shape, profiles)))


def _held(gpu: Gpu, holders: dict[int, int]) -> Tenants:
    return Tenants(
        pods={
            Part(slot.placement): frozenset({_pod(holders[slot.placement.start])})
            for slot in gpu.layout
            if slot.placement.start in holders
        }
    )


BIG = ("4g.40gb@0:4 3g.40gb@4:4", "7g.80gb@0:8", "4g.40gb@0:4 2g.20gb@4:2", "3g.40gb@0:4 1g.20gb@6:2")


@st.composite
def splits(draw: st.DrawFn, of: str | None = None) -> Layout:
    """Layouts of an H100 of large instances, or one of these, cut into compute instances or not."""
    gpu = cut("H100-80GB-SXM", draw(st.sampled_from(BIG)) if of is None else of)
    found = []
    for slot in gpu.layout:
        profile = gpu.profile(slot.shape.profile)
        assert profile is not None
        ways = [way for way in _splits(profile.slices) if set(way) <= set(profile.compute)]
        found.append(Slot(slot.placement, Shape(profile.name, draw(st.sampled_from([*ways, ()])))))
    return tuple(found)


def _splits(slices: int) -> list[tuple[int, ...]]:
    """Ways to cut that many compute slices into two or more, largest first, some left over or not."""
    found: list[tuple[int, ...]] = []
    for count in range(2, slices + 1):
        every = itertools.combinations_with_replacement(range(slices, 0, -1), count)
        found += [way for way in every if sum(way) <= slices]
    return found


@settings(max_examples=150)
@given(splits(), splits(), st.data())
def test_another_split_costs_no_more_slices_and_pods_than_it_must(
    now: Layout, wish: Layout, data: st.DataObject
) -> None:
    """The second way tries every set of compute instances to keep, and every place for those that are made."""
    gpu = cut("H100-80GB-SXM", " ".join(map(str, now)))
    parts = [Part(i.placement, c.start) for i in gpu.instances for c in i.compute]
    holders = {part: data.draw(st.integers(0, 4)) for part in parts}
    fixed = frozenset(part for part, holder in holders.items() if holder == 4)
    pods = {part: frozenset({_pod(holder)}) for part, holder in holders.items() if holder in (1, 2)}
    tenants = Tenants(fixed, pods)
    shapes = tuple(slot.shape for slot in wish)
    costs = [
        (len({pod for part in gone for pod in pods.get(part, ())}), len(gone))
        for layout in completions(gpu, shapes)
        for kept in itertools.product(*(_keeps(i, layout) for i in gpu.instances))
        if not (gone := set(parts) - set().union(*kept)) & fixed
    ]
    change = choose([Ask(gpu, GpuWish(True, shapes), tenants)]).changes
    assert bool(change) is bool(costs)
    if change:
        gone = {part for part in parts if change[0].removes(part)}
        assert not gone & fixed
        assert (len(moves(change[0], tenants)), len(gone)) == min(costs)


def _keeps(instance: GpuInstance, layout: Layout) -> list[set[Part]]:
    """Every set of an instance's slices that can stay in a layout."""
    shape = next((slot.shape for slot in layout if slot.placement == instance.placement), None)
    if shape is None or shape.profile != instance.profile:
        return [set()]
    if shape == instance.shape:
        return [{Part(instance.placement, one.start) for one in instance.compute}]
    found: list[set[Part]] = [set()]
    for count in range(1, len(instance.compute) + 1):
        for kept in itertools.combinations(instance.compute, count):
            rest = Counter(shape.compute)
            rest.subtract(one.slices for one in kept)
            if min(rest.values(), default=-1) >= 0 and _room_for(
                list(rest.elements()), [o.placement for o in kept], instance
            ):
                found.append({Part(instance.placement, one.start) for one in kept})
    return found


def _room_for(widths: list[int], kept: list[Placement], instance: GpuInstance) -> bool:
    choices = [[room for room in instance.rooms if room.size == width] for width in widths]
    return any(
        not any(one.overlaps(other) for one, other in itertools.combinations([*kept, *places], 2))
        for places in itertools.product(*choices)
    )


def test_one_split_becomes_another_around_the_slice_that_is_held() -> None:
    gpu = cut("H100-80GB-SXM", "1c+1c+1c.3g.40gb@0:4")
    held = Tenants(fixed=frozenset({Part(Placement(0, 4), 2)}))
    change = solve(gpu, GpuWish(True, (Shape("3g.40gb", (2, 1)),)), held)
    assert change is not None
    assert change.trim == (Trimming(Placement(0, 4), "3g.40gb", (Placement(0, 1), Placement(1, 1))),)
    assert change.finish == (Slot(Placement(0, 4), Shape("3g.40gb", (2, 1))),)
    assert not change.remove
    in_the_middle = Tenants(fixed=frozenset({Part(Placement(0, 4), 1)}))
    assert solve(gpu, GpuWish(True, (Shape("3g.40gb", (2, 1)),)), in_the_middle) is None
