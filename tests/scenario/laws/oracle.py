"""What a GPU can have, tried out place by place: slow, plain, and nothing of the planner's in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.model.mig import Gpu, GpuInstance, Part, Placement, Profile, Shape
from tests.fakes.world import media_left


@dataclass(frozen=True)
class Asked:
    """What is asked of one GPU."""

    mig: bool
    shapes: tuple[Shape, ...] = ()


def can_be(gpu: Gpu, asked: Asked) -> bool:
    """Whether the GPU could have it if it were empty."""
    return not asked.mig or _fits(gpu, list(asked.shapes), [])


def can_become(gpu: Gpu, asked: Asked, held: frozenset[Part], whole: bool) -> bool:
    """Whether the GPU can get there while the held slices stay; ``whole``: somebody holds the undivided GPU."""
    if asked.mig != gpu.mig_enabled:
        return not held and not whole and can_be(gpu, asked)
    if not asked.mig:
        return True
    instances = [i for i in gpu.instances if any(part.placement == i.placement for part in held)]
    return any(_fits(gpu, rest, taken) for rest, taken in _around(instances, list(asked.shapes), held))


def most(gpu: Gpu, profile: str) -> int:
    """How many instances of one profile fit on an empty GPU."""
    count = 0
    while _fits(gpu, [Shape(profile)] * (count + 1), []):
        count += 1
    return count


def _around(
    instances: Sequence[GpuInstance], shapes: list[Shape], held: frozenset[Part]
) -> Iterator[tuple[list[Shape], list[Placement]]]:
    """Every way to find the instances that stay among the wished shapes: what is left to be placed, and where no more."""
    if not instances:
        yield shapes, []
        return
    first, *others = instances
    for shape in sorted(set(shapes)):
        if stays(first, shape, {part.compute for part in held if part.placement == first.placement}):
            rest = list(shapes)
            rest.remove(shape)
            for left, taken in _around(others, rest, held):
                yield left, [first.placement, *taken]


def stays(instance: GpuInstance, shape: Shape, starts: Iterable[int]) -> bool:
    """Whether a GPU instance can have that shape while the compute instances that begin there stay as they are."""
    kept = [one for one in instance.compute if one.start in set(starts)]
    if instance.profile != shape.profile:
        return False
    if not shape.compute or any(one.full for one in kept):
        return not shape.compute and all(one.full for one in kept)
    missing = list(shape.compute)
    for one in kept:
        if one.slices not in missing:
            return False
        missing.remove(one.slices)
    return _seated(missing, instance.rooms, [one.placement for one in kept])


def _seated(widths: list[int], rooms: Sequence[Placement], taken: list[Placement]) -> bool:
    if not widths:
        return True
    return any(
        _seated(widths[1:], rooms, [*taken, room])
        for room in rooms
        if room.size == widths[0] and not any(room.overlaps(other) for other in taken)
    )


def _fits(gpu: Gpu, shapes: list[Shape], taken: list[Placement]) -> bool:
    """Whether these shapes have places beside those that are taken. Media engines: all shapes of the wish count."""
    names = [shape.profile for shape in shapes]
    if not all(media_left(names[:n], names[n]) for n in range(len(names))):
        return False
    profiles = [profile_of(gpu, name) for name in names]
    if any(profile is None for profile in profiles):
        return False
    known = sorted((p for p in profiles if p is not None), key=lambda p: (-p.size, p.name))
    return _placed(known, sum(_bits(place) for place in taken), set())


def _placed(profiles: list[Profile], taken: int, dead: set[tuple[int, int]]) -> bool:
    if not profiles:
        return True
    if (len(profiles), taken) in dead:
        return False
    for place in profiles[0].placements:
        if not taken & _bits(place) and _placed(profiles[1:], taken | _bits(place), dead):
            return True
    dead.add((len(profiles), taken))
    return False


def _bits(place: Placement) -> int:
    return sum(1 << number for number in range(place.start, place.start + place.size))


def profile_of(gpu: Gpu, name: str) -> Profile | None:
    """By any of its names."""
    return next((p for p in gpu.profiles if name in (p.name, *p.also)), None)
