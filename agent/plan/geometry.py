"""Where the slices of one GPU go: by placement, exact, deterministic.

Among all legal completions of a wish that leave the fixed slices where they are, the one is taken that moves the fewest
pods without budget, then the fewest pods, destroys the fewest slices, leaves the largest profiles creatable, and takes the
fewest calls; the lowest placements on a tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from agent.model.mig import Gpu, GpuWish, Layout, Placement, Profile, Shape, Slot
from agent.model.node import PodRef
from agent.model.steps import GpuChange

Disruption = tuple[int, int, int]
Tie = tuple[tuple[int, ...], int, Layout]
Rooms = tuple[tuple[int, ...], ...]
"""The placements of each profile as bits, largest profile first."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """Who holds the slices of one GPU: ``fixed`` placements cannot be freed, ``pods`` can be moved.

    ``whole`` are the pods that hold the GPU undivided, ``whole_fixed`` says of those that cannot be moved who they are:
    they matter to a change of mode. ``spent`` are the pods that no budget lets go now. ``leaving`` names, in mid-change, what
    an evicted pod leaves behind for a moment: nobody to move, but the slice (the GPU: ``whole_leaving``) is not free yet.
    """

    fixed: frozenset[Placement] = frozenset()
    pods: Mapping[Placement, frozenset[PodRef]] = field(default_factory=dict)
    spent: frozenset[PodRef] = frozenset()
    whole: frozenset[PodRef] = frozenset()
    whole_fixed: tuple[str, ...] = ()
    leaving: Mapping[Placement, tuple[str, ...]] = field(default_factory=dict)
    whole_leaving: tuple[str, ...] = ()


def solve(gpu: Gpu, wish: GpuWish, tenants: Tenants) -> GpuChange | None:
    """The best change of one GPU towards the wish; None where no legal completion leaves the fixed slices alone."""
    current = gpu.layout
    fixed = tuple(slot for slot in current if slot.placement in tenants.fixed)
    mode = None if gpu.mig_enabled == wish.mig_enabled else wish.mig_enabled
    if not wish.mig_enabled or mode is not None:
        if fixed or (mode is not None and tenants.whole_fixed):
            return None
        target: Layout | None = best(gpu, (), wish, tenants) if wish.mig_enabled else ()
        return None if target is None else _settled(gpu, wish, difference(gpu, target, mode))
    target = best(gpu, fixed, wish, tenants)
    return None if target is None else _settled(gpu, wish, difference(gpu, target, mode))


def _settled(gpu: Gpu, wish: GpuWish, change: GpuChange) -> GpuChange:
    """A mode that the next reset or reboot would bring, against the wish, is called off."""
    if change.mode is not None or gpu.mig_pending in (None, wish.mig_enabled):
        return change
    return replace(change, mode=wish.mig_enabled, in_force=True)


def moves(change: GpuChange, tenants: Tenants) -> frozenset[PodRef]:
    """The pods that have to go for a change: holders of removed slices; for a change of mode everyone on that GPU."""
    if change.switches:
        return tenants.whole.union(*tenants.pods.values())
    doomed = (tenants.pods.get(placement, frozenset()) for placement, _ in change.remove)
    return frozenset[PodRef]().union(*doomed)


def not_free(change: GpuChange, tenants: Tenants) -> tuple[str, ...]:
    """What is still on slices that a change removes."""
    gone = tenants.leaving if change.switches else {placement for placement, _ in change.remove}
    whole = tenants.whole_leaving if change.switches else ()
    return whole + tuple(text for placement in sorted(gone) for text in tenants.leaving.get(placement, ()))


def best(gpu: Gpu, fixed: Layout, wish: GpuWish, tenants: Tenants) -> Layout | None:
    """The cheapest completion; None where there is none."""
    if wish.placed is not None:
        return wish.placed if set(fixed) <= set(wish.placed) else None
    return cheapest(gpu, completions(gpu, fixed, wish.shapes), tenants)


def cheapest(gpu: Gpu, layouts: Iterable[Layout], tenants: Tenants) -> Layout | None:
    """The first of the cheapest. What only breaks ties is looked at only where there is one."""
    have, rooms = gpu.layout, _rooms(gpu)
    chosen: tuple[Disruption, Tie] | None = None
    for layout in layouts:
        disruption = disruption_of(have, layout, tenants)
        if chosen is not None and disruption > chosen[0]:
            continue
        tie = tie_of(rooms, have, layout)
        if chosen is None or (disruption, tie) < chosen:
            chosen = disruption, tie
    return chosen[1][2] if chosen is not None else None


def feasible(gpu: Gpu, shapes: tuple[Shape, ...]) -> bool:
    """Whether an empty GPU of this kind can have these instances together."""
    return next(completions(gpu, (), shapes), None) is not None


def completions(gpu: Gpu, fixed: Layout, shapes: tuple[Shape, ...]) -> Iterator[Layout]:
    """Every legal layout that has exactly these shapes and the fixed slots among them."""
    rest = Counter(shapes)
    rest.subtract(slot.shape for slot in fixed)
    if any(count < 0 for count in rest.values()) or not media_allowed(gpu, shapes):
        return
    todo = sorted((shape for shape, n in rest.items() if n), key=lambda s: (-_size(gpu, s), s))
    taken = 0
    for slot in fixed:
        taken |= _mask(slot.placement)
    yield from _place(gpu, [(shape, rest[shape]) for shape in todo], taken, fixed)


def media_allowed(gpu: Gpu, shapes: tuple[Shape, ...]) -> bool:
    """One instance with media engines per GPU (``+me``); ``+me.all`` takes them all and leaves only ``-me`` beside it."""
    media = Counter(profile.media for shape in shapes if (profile := gpu.profile(shape.profile)) is not None)
    if media["me.all"]:
        return media["me.all"] == 1 and not media["me"] and not media[""]
    return media["me"] <= 1


def disruption_of(have: Layout, target: Layout, tenants: Tenants) -> Disruption:
    """(pods moved that have no budget now, pods moved, slices destroyed)."""
    gone = [slot for slot in have if slot not in target]
    if not tenants.pods:
        return 0, 0, len(gone)
    pods = frozenset[PodRef]().union(*(tenants.pods.get(slot.placement, frozenset()) for slot in gone))
    return len(pods & tenants.spent), len(pods), len(gone)


def tie_of(rooms: Rooms, have: Layout, target: Layout) -> Tie:
    """(at how many placements one more of each profile could be made, negated, largest first; calls; the layout itself)."""
    taken = 0
    for slot in target:
        taken |= _mask(slot.placement)
    left = tuple([-sum([not taken & mask for mask in masks]) for masks in rooms])
    changed = sum(1 for slot in have if slot not in target) + sum(1 for slot in target if slot not in have)
    return left, changed, target


def _rooms(gpu: Gpu) -> Rooms:
    ordered = sorted(gpu.profiles, key=lambda p: (-p.size, -p.slices, p.name))
    return tuple(tuple(_mask(place) for place in profile.placements) for profile in ordered)


def difference(gpu: Gpu, target: Layout, mode: bool | None) -> GpuChange:
    """The calls that lead from what the GPU has to the target: remove, finish orphans, create largest first."""
    wanted = set(target)
    have = set(gpu.layout)
    orphans = {(i.placement, i.profile) for i in gpu.instances if not i.compute}
    finish = tuple(slot for slot in target if (slot.placement, slot.shape.profile) in orphans)
    finished = {(slot.placement, slot.shape.profile) for slot in finish}
    remove = [(s.placement, s.shape.profile) for s in have if s not in wanted]
    remove += [orphan for orphan in orphans if orphan not in finished]
    create = [slot for slot in target if slot not in have and slot not in finish]
    return GpuChange(
        gpu.uuid,
        keep=tuple(sorted(have & wanted)),
        remove=tuple(sorted(remove)),
        create=tuple(sorted(create, key=lambda s: (-s.placement.size, s.placement.start))),
        finish=finish,
        mode=mode,
    )


def _place(gpu: Gpu, todo: list[tuple[Shape, int]], taken: int, placed: Layout, floor: int = -1) -> Iterator[Layout]:
    """Place the first kind in rising order of start (equal slices are not told apart), then the next kind."""
    if not todo:
        yield tuple(sorted(placed))
        return
    (shape, count), rest = todo[0], todo[1:]
    profile = gpu.profile(shape.profile)
    for place in profile.placements if profile is not None else ():
        if place.start <= floor or taken & _mask(place):
            continue
        last = count == 1
        yield from _place(
            gpu,
            rest if last else [(shape, count - 1), *rest],
            taken | _mask(place),
            (*placed, Slot(place, shape)),
            -1 if last else place.start,
        )


def _mask(place: Placement) -> int:
    return ((1 << place.size) - 1) << place.start


def _size(gpu: Gpu, shape: Shape) -> int:
    profile: Profile | None = gpu.profile(shape.profile)
    return profile.size if profile is not None else 0


def maximal_geometries(gpu: Gpu) -> tuple[tuple[Shape, ...], ...]:
    """The multisets of whole instances beside which nothing more fits in any of their layouts, largest slices first."""
    places = [
        (_mask(place), profile.name)
        for profile in sorted(gpu.profiles, key=lambda p: (-p.size, -p.slices, p.name))
        for place in profile.placements
    ]
    room: dict[tuple[str, ...], bool] = {}
    for names, taken in _layouts(gpu, places, 0, (), 0):
        key = tuple(sorted(names))
        more = any(
            not taken & mask and media_allowed(gpu, tuple(Shape(n) for n in (*names, name))) for mask, name in places
        )
        room[key] = room.get(key, False) or more
    order = {profile.name: (-profile.size, -profile.slices) for profile in gpu.profiles}
    shapes = [
        tuple(sorted(map(Shape, names), key=lambda s: (order[s.profile], s))) for names in room if not room[names]
    ]
    return tuple(sorted(shapes, key=lambda found: [(order[s.profile], s) for s in found]))


def _layouts(
    gpu: Gpu, places: list[tuple[int, str]], taken: int, names: tuple[str, ...], first: int
) -> Iterator[tuple[tuple[str, ...], int]]:
    yield names, taken
    for number in range(first, len(places)):
        mask, name = places[number]
        if taken & mask or not media_allowed(gpu, tuple(Shape(n) for n in (*names, name))):
            continue
        yield from _layouts(gpu, places, taken | mask, (*names, name), number + 1)
