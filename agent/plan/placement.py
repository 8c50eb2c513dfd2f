"""Which of the legal ways is taken: by placement, over the whole node, exact, deterministic.

Among all legal completions of a wish that leave the fixed slices where they are, the one is taken that moves the fewest
pods without budget, then the fewest pods, waits for the fewest slices of pods that are ending anyway, destroys the fewest
slices, leaves the largest profiles creatable, and takes the fewest calls; the lowest placements on a tie.

# Note [GPUs that share a pod]
# A pod is moved once, however many of its slices have to go, so GPUs on which one pod has slices are decided together; all
# others alone. Each GPU offers, for every set of shared pods that it could move, the cheapest way that moves them. Ways are
# joined GPU by GPU, and of a choice half made only that is remembered which a later GPU still asks for: which shared pods
# it moves. What ways cost adds up, so no choice that was dropped could have become the best. Past ``MOST_JOINED`` choices
# the GPUs are decided one after the other, each knowing which pods move already, and the change says ``exact: false``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

from agent.model.mig import Gpu, GpuInstance, GpuWish, Layout, Part, Placement, Profile
from agent.model.node import PodRef
from agent.model.steps import GpuChange, Trimming
from agent.plan.geometry import completions, keepable, mask_of

MOST_JOINED = 40_000
"""Choices looked at in one decision over GPUs that share pods; about 20 ms."""

Cost = int
"""Every part of a cost in 16 bits, the most important first: costs add up and compare as one number."""

_PART_BITS = 16
Pods = frozenset[PodRef]
Kind = tuple[int, int, str]
"""A profile by what makes it large, largest first: (-memory slices, -compute slices, name)."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """Who holds the slices of one GPU: ``fixed`` ones cannot be freed, ``pods`` can be moved.

    ``whole`` are the pods that hold the GPU undivided, ``whole_fixed`` says of those that cannot be moved who they are:
    they matter to a change of mode. ``spent`` are the pods that no budget lets go now, ``ending`` those that go already: moving
    these costs nobody anything any more, but their slices have to be waited for. ``leaving`` names, in mid-change, what
    an evicted pod leaves behind for a moment: nobody to move, but the slice (the GPU: ``whole_leaving``) is not free yet.
    """

    fixed: frozenset[Part] = frozenset()
    pods: Mapping[Part, Pods] = field(default_factory=dict)
    spent: Pods = frozenset()
    ending: Pods = frozenset()
    whole: Pods = frozenset()
    whole_fixed: tuple[str, ...] = ()
    leaving: Mapping[Part, tuple[str, ...]] = field(default_factory=dict)
    whole_leaving: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """One GPU, what is wanted of it, and who is on it."""

    gpu: Gpu
    wish: GpuWish
    tenants: Tenants

    @property
    def switches(self) -> bool:
        """Whether the MIG mode has to change: then everybody has to leave the GPU."""
        return self.gpu.mig_enabled != self.wish.mig_enabled

    @property
    def movable(self) -> Pods:
        """The pods that some way could move, without those that go already."""
        held = Pods().union(*self.tenants.pods.values())
        return (held | self.tenants.whole if self.switches else held) - self.tenants.ending


@dataclass(frozen=True, slots=True)
class Choice:
    """A change for every ask that has a way; ``stuck`` are those that have none. ``exact``: no way costs less."""

    changes: tuple[GpuChange, ...]
    stuck: tuple[Ask, ...] = ()
    exact: bool = True


class _Target(NamedTuple):
    """A layout to go to. ``kept`` are the slices that stay in instances whose split of the compute changes."""

    layout: Layout
    kept: tuple[Part, ...] = ()


class _Way(NamedTuple):
    """Where to go, and what it costs without the shared pods."""

    cost: Cost
    target: _Target


_Menu = dict[int, _Way]
"""The cheapest way for each set of shared pods moved, as bits."""


def choose(asks: Sequence[Ask], most_joined: int = MOST_JOINED) -> Choice:
    """The best changes of all these GPUs together."""
    on_gpus = Counter(pod for ask in asks for pod in ask.movable)
    targets: dict[str, _Target] = {}
    exact = True
    for group in _groups(asks, Pods(pod for pod, gpus in on_gpus.items() if gpus > 1)):
        found = _Group(group, most_joined)
        targets |= found.targets
        exact = exact and found.exact
    return Choice(
        tuple(_change(ask, targets[ask.gpu.uuid]) for ask in asks if ask.gpu.uuid in targets),
        tuple(ask for ask in asks if ask.gpu.uuid not in targets),
        exact,
    )


def solve(gpu: Gpu, wish: GpuWish, tenants: Tenants) -> GpuChange | None:
    """The best change of one GPU alone; None where no legal completion leaves the fixed slices where they are."""
    return next(iter(choose((Ask(gpu, wish, tenants),)).changes), None)


def moves(change: GpuChange, tenants: Tenants) -> Pods:
    """The pods that have to go for a change: holders of removed slices; for a change of mode everyone on that GPU."""
    if change.switches:
        return tenants.whole.union(*tenants.pods.values())
    return Pods().union(*(pods for part, pods in tenants.pods.items() if change.removes(part)))


def not_free(change: GpuChange, tenants: Tenants) -> tuple[str, ...]:
    """What is still on slices that a change removes."""
    whole = tenants.whole_leaving if change.switches else ()
    gone = [part for part in sorted(tenants.leaving) if change.switches or change.removes(part)]
    return whole + tuple(text for part in gone for text in tenants.leaving[part])


def difference(gpu: Gpu, target: _Target, mode: bool | None) -> GpuChange:
    """The calls that lead from what the GPU has to the target: remove, finish what lacks compute, create largest first."""
    wanted, have = set(target.layout), set(gpu.layout)
    split = {part.placement for part in target.kept}
    orphans = {(i.placement, i.profile) for i in gpu.instances if not i.compute}
    finish = tuple(
        slot
        for slot in target.layout
        if (slot.placement, slot.shape.profile) in orphans or (slot not in have and slot.placement in split)
    )
    finished = {(slot.placement, slot.shape.profile) for slot in finish}
    remove = [(s.placement, s.shape.profile) for s in have if s not in wanted and s.placement not in split]
    remove += [orphan for orphan in orphans if orphan not in finished]
    create = [slot for slot in target.layout if slot not in have and slot not in finish]
    return GpuChange(
        gpu.uuid,
        keep=tuple(sorted(have & wanted)),
        remove=tuple(sorted(remove)),
        create=tuple(sorted(create, key=lambda s: (-s.placement.size, s.placement.start))),
        finish=finish,
        trim=tuple(trim for i in gpu.instances if i.placement in split and (trim := _trim(i, target.kept)) is not None),
        mode=mode,
    )


def _trim(instance: GpuInstance, kept: tuple[Part, ...]) -> Trimming | None:
    gone = tuple(c.placement for c in instance.compute if Part(instance.placement, c.start) not in kept)
    return Trimming(instance.placement, instance.profile, gone) if gone else None


def _change(ask: Ask, target: _Target) -> GpuChange:
    """The change towards a layout; a mode that the next reset or reboot would bring, against the wish, is called off."""
    gpu, wish = ask.gpu, ask.wish
    change = difference(gpu, target, wish.mig_enabled if ask.switches else None)
    if ask.switches or gpu.mig_pending in (None, wish.mig_enabled, wish.pending):
        return change
    return replace(change, mode=wish.mig_enabled, in_force=True)


def _groups(asks: Sequence[Ask], shared: Pods) -> Iterator[list[Ask]]:
    """The GPUs that have to be decided together: those that share a pod, and those that share one with these."""
    rest = list(asks)
    while rest:
        group = [rest.pop(0)]
        pods = group[0].movable & shared
        while near := [ask for ask in rest if ask.movable & pods]:
            group += near
            rest = [ask for ask in rest if not ask.movable & pods]
            pods = pods.union(*(ask.movable & shared for ask in near))
        yield sorted(group, key=lambda ask: ask.gpu.index)


class _Group:
    """Some GPUs that are decided together. See Note [GPUs that share a pod]."""

    def __init__(self, asks: Sequence[Ask], most_joined: int) -> None:
        on_gpus = Counter(pod for ask in asks for pod in ask.movable)
        self._shared = sorted(pod for pod, gpus in on_gpus.items() if gpus > 1)
        self._kinds = sorted({_kind(profile) for ask in asks for profile in ask.gpu.profiles})
        menus = [(ask, menu) for ask in asks if (menu := self._menu(ask))]
        spent = Pods().union(*(ask.tenants.spent for ask in asks))
        self._spent = self._bits(spent)
        self._last = [self._bits(ask.movable) for ask, _ in menus]
        chosen = self._jointly([menu for _, menu in menus], most_joined)
        self.exact = chosen is not None
        if chosen is None:
            chosen = self._one_by_one([menu for _, menu in menus])
        self.targets = {ask.gpu.uuid: target for (ask, _), target in zip(menus, chosen, strict=True)}

    def _menu(self, ask: Ask) -> _Menu:
        """What this GPU offers; nothing where every way would touch a fixed slice."""
        rooms = _rooms(ask.gpu, self._kinds)
        seen = _Disruptions(ask, self._shared)
        menu: dict[int, _Way] = {}
        least: dict[int, Cost] = {}
        for target in _targets(ask):
            bits, disruption, calls = seen.of(target)
            if disruption > least.get(bits, disruption):
                continue
            # What only breaks ties is looked at only where there is one.
            way = _Way(_packed(disruption, *_blocked(rooms, target.layout), calls), target)
            if bits not in menu or way < menu[bits]:
                menu[bits], least[bits] = way, disruption
        return _without_needless(menu)

    def _jointly(self, menus: list[_Menu], most_joined: int) -> list[_Target] | None:
        """The cheapest combination; None where there are too many to look at."""
        halfway: dict[int, tuple[Cost, tuple[_Target, ...]]] = {0: (0, ())}
        looked_at = 0
        for number, menu in enumerate(menus):
            later = 0
            for bits in self._last[number + 1 :]:
                later |= bits
            looked_at += len(halfway) * len(menu)
            if looked_at > most_joined:
                return None
            further: dict[int, tuple[Cost, tuple[_Target, ...]]] = {}
            for moved, (cost, targets) in halfway.items():
                for bits, way in menu.items():
                    total = cost + way.cost + self._moving(bits & ~moved)
                    known = further.get(key := (moved | bits) & later)
                    if known is None or total < known[0]:
                        further[key] = total, (*targets, way.target)
                    elif total == known[0]:
                        further[key] = min(known, (total, (*targets, way.target)))
            halfway = further
        return list(halfway[0][1])

    def _one_by_one(self, menus: list[_Menu]) -> list[_Target]:
        moved, chosen = 0, []
        for menu in menus:
            _, target, bits = min((way.cost + self._moving(b & ~moved), way.target, b) for b, way in menu.items())
            chosen.append(target)
            moved |= bits
        return chosen

    def _moving(self, bits: int) -> Cost:
        """The cost of moving these shared pods too."""
        if not bits:
            return 0
        tail = [0] * (len(self._kinds) + 3)
        return _packed((bits & self._spent).bit_count(), bits.bit_count(), *tail)

    def _bits(self, pods: Pods) -> int:
        return sum(1 << number for number, pod in enumerate(self._shared) if pod in pods)


class _Disruptions:
    """What the targets of one GPU cost its pods. Pods are bits: first the shared ones, as the group numbers them."""

    def __init__(self, ask: Ask, shared: Sequence[PodRef]) -> None:
        number = {pod: bit for bit, pod in enumerate(shared)}
        for pod in sorted(ask.movable):
            number.setdefault(pod, len(number))
        self._shared = (1 << len(shared)) - 1
        self._spent = sum(1 << number[pod] for pod in ask.tenants.spent if pod in number)
        self._everybody = sum(1 << number[pod] for pod in ask.movable) if ask.switches else None
        parts = _parts(ask.gpu)
        ending = ask.tenants.ending
        pods = {
            part: (sum(1 << number[pod] for pod in held - ending), bool(held & ending))
            for part, held in ask.tenants.pods.items()
        }
        nobody = 0, False
        self._have = [
            (slot, [(part, *pods.get(part, nobody)) for part in parts[slot.placement]]) for slot in ask.gpu.layout
        ]
        self._by_start = {slot.placement.start: (1 << bit, slot) for bit, (slot, _) in enumerate(self._have)}
        self._known: dict[tuple[int, tuple[Part, ...]], tuple[int, Cost, int]] = {}

    def of(self, target: _Target) -> tuple[int, Cost, int]:
        """(shared pods that it moves, cost of what it moves and takes away, calls)."""
        staying = new = 0
        for slot in target.layout:
            bit, there = self._by_start.get(slot.placement.start, (0, None))
            if there == slot:
                staying |= bit
            else:
                new += 1
        found = self._known.get((staying, target.kept))
        if found is None:
            found = self._known[staying, target.kept] = self._count(staying, target.kept)
        bits, disruption, calls = found
        return bits, disruption, calls + new

    def _count(self, staying: int, kept: tuple[Part, ...]) -> tuple[int, Cost, int]:
        """The same for all targets in which these slots and slices stay; calls without those that make something."""
        changed = [parts for bit, (_, parts) in enumerate(self._have) if not staying >> bit & 1]
        gone = [(pods, is_ending) for parts in changed for part, pods, is_ending in parts if part not in kept]
        moved = awaited = 0
        for pods, is_ending in gone:
            moved |= pods
            awaited += is_ending
        if self._everybody is not None:
            moved = self._everybody
        own = moved & ~self._shared
        disruption = _packed((own & self._spent).bit_count(), own.bit_count(), awaited, len(gone))
        return moved & self._shared, disruption, len(gone if kept else changed)


def _targets(ask: Ask) -> Iterator[_Target]:
    """The ways to fulfil the wish that touch nothing fixed."""
    split = {i.placement: i for i in ask.gpu.instances if len(i.compute) > 1 or i.rooms}
    if not split:
        yield from (_Target(layout, ()) for layout in _layouts(ask))
        return
    for layout in _layouts(ask):
        resplit = [
            (slot.placement, sets)
            for slot in layout
            if slot.placement in split
            and split[slot.placement].shape != slot.shape
            and (sets := keepable(split[slot.placement], slot.shape))
        ]
        for choice in product(*(sets for _, sets in resplit)):
            kept = (Part(place, start) for (place, _), starts in zip(resplit, choice, strict=True) for start in starts)
            target = _Target(layout, tuple(sorted(kept)))
            if not resplit or _leaves(ask, target):
                yield target


def _leaves(ask: Ask, target: _Target) -> bool:
    """Whether the fixed slices of instances that get another split are among those that stay."""
    split = {part.placement for part in target.kept}
    return all(part in target.kept for part in ask.tenants.fixed if part.placement in split)


def _layouts(ask: Ask) -> Iterable[Layout]:
    """The layouts that fulfil the wish and in which what is fixed has its place."""
    gpu, wish, tenants = ask.gpu, ask.wish, ask.tenants
    fixed = frozenset(part for parts in _parts(gpu).values() for part in parts) & tenants.fixed
    if fixed and (ask.switches or not wish.mig_enabled):
        return ()
    if ask.switches and tenants.whole_fixed:
        return ()
    if not wish.mig_enabled:
        return ((),)
    if wish.placed is not None:
        return (wish.placed,) if all(_stays(gpu, part, wish.placed) for part in fixed) else ()
    return completions(gpu, wish.shapes, fixed)


def _stays(gpu: Gpu, part: Part, layout: Layout) -> bool:
    """Whether a slice can stay in a layout."""
    here = [slot.shape for slot in layout if slot.placement == part.placement]
    there = [instance for instance in gpu.instances if instance.placement == part.placement]
    return any(part.compute in kept for shape in here for instance in there for kept in keepable(instance, shape))


def _parts(gpu: Gpu) -> dict[Placement, tuple[Part, ...]]:
    """The slices of each complete instance."""
    return {i.placement: tuple(Part(i.placement, c.start) for c in i.compute) for i in gpu.instances if i.compute}


def _without_needless(menu: _Menu) -> _Menu:
    """Without ways that move the same shared pods and more, and cost no less."""
    kept: _Menu = {}
    for bits, way in sorted(menu.items(), key=lambda item: (item[1].cost, item[0].bit_count(), item[1].target)):
        if not any(other & ~bits == 0 for other in kept):
            kept[bits] = way
    return kept


def _rooms(gpu: Gpu, kinds: Sequence[Kind]) -> list[list[int]]:
    """The placements of each kind on this GPU as bits."""
    masks = {_kind(profile): [mask_of(place) for place in profile.placements] for profile in gpu.profiles}
    return [masks.get(kind, []) for kind in kinds]


def _blocked(rooms: list[list[int]], layout: Layout) -> list[int]:
    """At how many placements of each kind nothing more can be made beside a layout."""
    taken = 0
    for slot in layout:
        taken |= mask_of(slot.placement)
    return [sum([1 for mask in masks if taken & mask]) for masks in rooms]


def _kind(profile: Profile) -> Kind:
    return -profile.size, -profile.slices, profile.name


def _packed(*parts: int) -> Cost:
    cost = 0
    for part in parts:
        cost = cost << _PART_BITS | part
    return cost
