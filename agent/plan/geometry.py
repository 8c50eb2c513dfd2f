"""What a GPU can be cut into: the legal layouts of a wish, by placement, and the geometries that a GPU can have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from agent.model.mig import Gpu, GpuInstance, Layout, Part, Placement, Profile, Shape, Slot, arrange


def feasible(gpu: Gpu, shapes: tuple[Shape, ...]) -> bool:
    """Whether an empty GPU of this kind can have these instances together."""
    return next(completions(gpu, shapes), None) is not None


def completions(gpu: Gpu, shapes: tuple[Shape, ...], held: frozenset[Part] = frozenset()) -> Iterator[Layout]:
    """Every legal layout that has exactly these shapes, and in which the held slices can stay as they are."""
    if not media_allowed(gpu, shapes):
        return
    pinned = [i for i in gpu.instances if any(part.placement == i.placement for part in held)]
    for placed, rest in _pin(pinned, Counter(shapes), held):
        todo = sorted((shape for shape, n in rest.items() if n), key=lambda s: (-_size(gpu, s), s))
        taken = 0
        for slot in placed:
            taken |= mask_of(slot.placement)
        if todo:
            yield from _place([(_seats(gpu, shape), rest[shape]) for shape in todo], 0, taken, placed)
        else:
            yield tuple(sorted(placed, key=_start))


def _pin(
    pinned: list[GpuInstance], wanted: Counter[Shape], held: frozenset[Part]
) -> Iterator[tuple[Layout, Counter[Shape]]]:
    """The shapes that instances with held slices can have, and what is wanted besides."""
    if not pinned:
        yield (), wanted
        return
    first, *others = pinned
    starts = frozenset(part.compute for part in held if part.placement == first.placement)
    for shape in sorted(shape for shape, count in wanted.items() if count):
        if any(starts <= kept for kept in keepable(first, shape)):
            for placed, rest in _pin(others, wanted - Counter([shape]), held):
                yield (Slot(first.placement, shape), *placed), rest


def keepable(instance: GpuInstance, shape: Shape) -> tuple[frozenset[int], ...]:
    """The largest sets of compute instances (by where they start) that can stay when a GPU instance gets a shape.

    Empty where none can: then the whole instance is made anew.
    """
    if instance.profile != shape.profile:
        return ()
    if instance.shape == shape:
        return (frozenset(compute.start for compute in instance.compute),)
    found: list[frozenset[int]] = []
    for size in range(len(instance.compute) if shape.compute else 0, 0, -1):
        for kept in combinations(instance.compute, size):
            starts = frozenset(compute.start for compute in kept)
            missing = Counter(shape.compute)
            missing.subtract(compute.slices for compute in kept)
            if min(missing.values()) < 0 or any(starts < other for other in found):
                continue
            widths = sorted(missing.elements(), reverse=True)
            if arrange(widths, instance.rooms, [compute.placement for compute in kept]) is not None:
                found.append(starts)
    return tuple(found)


def media_allowed(gpu: Gpu, shapes: tuple[Shape, ...]) -> bool:
    """One instance with media engines per GPU (``+me``); ``+me.all`` takes them all and leaves only ``-me`` beside it."""
    media = Counter(profile.media for shape in shapes if (profile := gpu.profile(shape.profile)) is not None)
    if media["me.all"]:
        return media["me.all"] == 1 and not media["me"] and not media[""]
    return media["me"] <= 1


_Seat = tuple[int, int, Slot]
"""A slot with its memory slices as bits and where it starts."""


def _seats(gpu: Gpu, shape: Shape) -> list[_Seat]:
    profile = gpu.profile(shape.profile)
    places = profile.placements if profile is not None else ()
    return [(mask_of(place), place.start, Slot(place, shape)) for place in places]


def _place(
    todo: list[tuple[list[_Seat], int]], number: int, taken: int, placed: Layout, floor: int = -1, seated: int = 0
) -> Iterator[Layout]:
    """Place one kind in rising order of start (equal slices are not told apart), then the next kind. This is where planning
    spends its time: everything is looked up before."""
    seats, count = todo[number]
    kind_is_done = seated + 1 == count
    for mask, start, slot in seats:
        if start <= floor or taken & mask:
            continue
        now = (*placed, slot)
        if not kind_is_done:
            yield from _place(todo, number, taken | mask, now, start, seated + 1)
        elif number + 1 < len(todo):
            yield from _place(todo, number + 1, taken | mask, now)
        else:
            yield tuple(sorted(now, key=_start))


def _start(slot: Slot) -> int:
    """The order of slots that do not overlap."""
    return slot.placement.start


def mask_of(place: Placement) -> int:
    """The memory slices of a placement as bits."""
    return ((1 << place.size) - 1) << place.start


def _size(gpu: Gpu, shape: Shape) -> int:
    profile: Profile | None = gpu.profile(shape.profile)
    return profile.size if profile is not None else 0


def maximal_geometries(gpu: Gpu, held: Layout = ()) -> tuple[tuple[Shape, ...], ...]:
    """The largest multisets of instances that this GPU can have while the held ones stay as they are, largest slices first.

    What counts are the layouts in which every held slot stands, and beside these whole instances only. A multiset is listed
    when it is that of such a layout, and nothing more fits beside any such layout that has it: which of them is made
    is not for the wish to say. Without held slots these are the maximal geometries of the GPU.
    """
    places = [
        (mask_of(place), profile.name)
        for profile in sorted(gpu.profiles, key=lambda p: (-p.size, -p.slices, p.name))
        for place in profile.placements
    ]
    there = tuple(slot.shape for slot in held)
    taken_by_held = sum(mask_of(slot.placement) for slot in held)
    room: dict[tuple[Shape, ...], bool] = {}
    for shapes, taken in _layouts(gpu, places, taken_by_held, there, 0):
        key = tuple(sorted(shapes))
        more = any(not taken & mask and media_allowed(gpu, (*shapes, Shape(name))) for mask, name in places)
        room[key] = room.get(key, False) or more
    order = {profile.name: (-profile.size, -profile.slices) for profile in gpu.profiles}
    found = [tuple(sorted(shapes, key=lambda s: (order[s.profile], s))) for shapes in room if not room[shapes]]
    return tuple(sorted(found, key=lambda shapes: [(order[s.profile], s) for s in shapes]))


def _layouts(
    gpu: Gpu, places: list[tuple[int, str]], taken: int, shapes: tuple[Shape, ...], first: int
) -> Iterator[tuple[tuple[Shape, ...], int]]:
    yield shapes, taken
    for number in range(first, len(places)):
        mask, name = places[number]
        more = (*shapes, Shape(name))
        if taken & mask or not media_allowed(gpu, more):
            continue
        yield from _layouts(gpu, places, taken | mask, more, number + 1)
