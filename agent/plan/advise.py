"""How the slices of a node could be used better, by what is remembered of their use. Pure; nothing of it is ever applied.

# Note [What advice rests on]
# Memory is looked at each telemetry period, so a peak between two looks is not seen, and a server that takes its memory in
# advance uses all that it took. A smaller profile has to hold the peak and a tenth more, beside ``RESERVE_BYTES``: a slice shows
# up to some 32 MiB less than the memory that the driver lists for its profile. What the driver itself takes of a slice (11 to 44
# MiB, more of larger ones) is in the peak already. A load is an average over the time between two looks: who keeps everything
# busy for a second of ten shows a tenth. So a smaller profile has to have ``LOAD_MARGIN`` times the multiprocessors that were
# busy, and even that is no promise. Only plain profiles are compared: who asked for media or graphics engines may need them, and
# who shares an instance of several compute instances cannot be given a smaller one alone.
#
# Who holds a slice is known where the last look knew it, and that look was not more than ``LONGEST_UNSEEN_SECONDS`` from the
# moment that is judged. Of a slice whose holders are not known nothing is said, and none of its GPU is proposed to be moved:
# whoever took it for free would move a workload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from agent.model.advice import Advice, Fragments, Geometry, GpuSlice, Idle, Oversized
from agent.model.history import OTHERS, Day, History, Holders, Row, SlicePlace
from agent.model.mig import (
    Gpu,
    GpuInstance,
    GpuWish,
    Part,
    Placement,
    Profile,
    Shape,
    Slot,
    free_places,
    largest_free_profile,
)
from agent.model.node import PodRef
from agent.model.steps import GpuChange
from agent.plan.geometry import media_allowed
from agent.plan.placement import Tenants, solve

MARGIN_RATIO = 0.1
RESERVE_BYTES = 64 * 1024 * 1024
LOAD_MARGIN = 2
KNOWN_LOAD_RATIO = 0.9
"""Of the time that a workload was observed its load has to be known for a word on it."""
LONGEST_UNSEEN_SECONDS = 900.0
"""Three writes of the history."""

Compute = Literal["enough", "tight", "short", "unknown"]
"""As in Oversized."""

_MIB = 1024 * 1024


def advise(history: History, gpus: Sequence[Gpu], at: float, least_seconds: float) -> tuple[Advice, ...]:
    """All there is to say by that history of these GPUs as they were at that time, what frees most first. Nothing is said of a
    use that was observed for less than ``least_seconds``."""
    readable = [gpu for gpu in gpus if gpu.mig_enabled and not gpu.unknown]
    remembered = _Remembered(history, readable, at)
    idle = [*_idle(remembered, least_seconds)]
    quiet = {one.slice for one in idle}
    oversized = [one for one in _oversized(remembered, least_seconds) if not quiet.issuperset(one.slices)]
    geometry = [one for gpu in readable if (one := better_geometry(gpu, remembered.holders_on(gpu))) is not None]
    found: list[Advice] = [*idle, *oversized, *geometry]
    return tuple(sorted(found, key=lambda one: (-one.frees_memory_slices, -one.frees_bytes)))


def not_seen(history: History, at: float) -> bool:
    """Whether the last look is too far from that time to tell who held a slice then."""
    return abs(at - history.seen) > LONGEST_UNSEEN_SECONDS


def unknown_holders(history: History, gpu: Gpu, at: float) -> tuple[str, ...]:
    """The slices of which it is not known who held them at that time."""
    known = _Remembered(history, (gpu,), at).holders_on(gpu)
    return tuple(_name(instance) for instance in gpu.instances if instance.placement not in known)


def holds(profile: Profile, peak_bytes: int) -> bool:
    """Whether the memory of a profile would do for that peak. See Note [What advice rests on]."""
    return profile.memory_mib * _MIB - RESERVE_BYTES >= peak_bytes * (1 + MARGIN_RATIO)


def fragments(gpu: Gpu) -> Fragments:
    """How the free memory of a GPU lies."""
    taken = [instance.placement for instance in gpu.instances]
    every = {number for profile in gpu.profiles for place in profile.placements for number in _slices(place)}
    free = every.difference(*map(_slices, taken))
    now = largest_free_profile(gpu)
    better = _larger(gpu, now, Tenants())
    possible = now if better is None else better[0]
    return Fragments(
        gpu.index,
        gpu.uuid,
        gpu.name,
        memory_slices=len(every),
        slices=_written(gpu),
        free_memory_slices=len(free),
        unusable=tuple(sorted(free - _usable(gpu, taken))),
        largest_free=now.name if now is not None else "",
        largest_possible=possible.name if possible is not None else "",
        fragmentation=_lost(now, possible),
    )


def better_geometry(gpu: Gpu, holders: Mapping[Placement, Holders]) -> Geometry | None:
    """The same slices in other places, so that the largest profile that then fits is as large as can be, with as few of the held
    ones moved as can be, then as few of all; None where no other places gain anything, or of any slice it is not known who holds
    it."""
    if any(instance.placement not in holders for instance in gpu.instances):
        return None
    now = largest_free_profile(gpu)
    pods = {
        Part(instance.placement, part.start): frozenset({PodRef("", "holder", str(instance.placement))})
        for instance in gpu.instances
        if holders[instance.placement]
        for part in instance.compute
    }
    better = _larger(gpu, now, Tenants(pods=pods))
    if better is None:
        return None
    frees, change = better
    gone = {placement for placement, _ in change.remove}
    return Geometry(
        gpu.index,
        gpu.uuid,
        frees.name,
        now.name if now is not None else "",
        label="",
        layout="",
        moves=tuple(
            GpuSlice(gpu.index, str(slot), _names(holders[slot.placement]))
            for slot in gpu.layout
            if slot.placement in gone
        ),
        before=_written(gpu),
        after=tuple(map(str, sorted((*change.keep, *change.create)))),
        memory_slices=max(place.end for profile in gpu.profiles for place in profile.placements),
        frees_memory_slices=frees.size - (now.size if now is not None else 0),
        frees_bytes=_bytes(frees) - (_bytes(now) if now is not None else 0),
    )


def _larger(gpu: Gpu, now: Profile | None, tenants: Tenants) -> tuple[Profile, GpuChange] | None:
    """The largest plain profile beyond the one that fits now for which the slices that are there could make room, and how. An
    orphan is about to be completed or removed, and then all is different."""
    if not gpu.instances or any(not instance.compute for instance in gpu.instances):
        return None
    shapes = tuple(slot.shape for slot in gpu.layout)
    plain = sorted((profile for profile in gpu.profiles if profile.plain), key=lambda p: p.rank, reverse=True)
    for profile in plain:
        if now is not None and profile.rank <= now.rank:
            return None
        change = solve(gpu, GpuWish(True, (*shapes, Shape(profile.name))), tenants)
        if change is not None:
            return profile, change
    return None


class _Remembered:
    """A history beside the GPUs of some time. Who holds a slice is who did at the last look, where that was near enough."""

    def __init__(self, history: History, gpus: Sequence[Gpu], at: float) -> None:
        self.gpus = gpus
        self._rows: dict[SlicePlace, list[Row]] = {}
        for row in history.rows:
            self._rows.setdefault(row.place, []).append(row)
        self._seen = history.seen
        self._far = not_seen(history, at)
        self.period_seconds = history.period_seconds

    def instances(self) -> Iterator[tuple[Gpu, GpuInstance, Row, list[Row]]]:
        """Every slice that there is and whose holders are known: its row of now, and all of its rows."""
        if self._far:
            return
        for gpu in self.gpus:
            for instance in gpu.instances:
                rows = self._rows.get(SlicePlace(gpu.uuid, instance.profile, instance.placement), [])
                now = next((row for row in rows if row.last_seen == self._seen), None)
                if now is not None:
                    yield gpu, instance, now, rows

    def rows_of(self, model: str, profile: str, holders: Holders) -> list[Row]:
        """Of these holders on every slice of that profile, of now and of before, on GPUs of that model."""
        uuids = {gpu.uuid for gpu in self.gpus if gpu.name == model}
        return [
            row
            for rows in self._rows.values()
            for row in rows
            if row.holders == holders and row.place.profile == profile and row.place.gpu in uuids
        ]

    def holders_on(self, gpu: Gpu) -> dict[Placement, Holders]:
        """Who holds what of one GPU; slices of which that is not known are missing."""
        return {instance.placement: row.holders for one, instance, row, _ in self.instances() if one.uuid == gpu.uuid}

    def in_use(self, row: Row) -> bool:
        """Whether a process was on it at the last look."""
        return row.last_process == self._seen


def _idle(remembered: _Remembered, least_seconds: float) -> Iterator[Idle]:
    for gpu, instance, now, rows in remembered.instances():
        profile = gpu.profile(instance.profile)
        quiet = now.quiet_seconds if now.holders else sum(row.quiet_seconds for row in rows)
        if profile is None or not quiet or quiet < least_seconds:
            continue
        yield Idle(
            GpuSlice(gpu.index, _name(instance), _names(now.holders)),
            quiet,
            max((row.last_active for row in rows if row.last_active is not None), default=None),
            remembered.in_use(now),
            frees_memory_slices=profile.size,
            frees_bytes=_bytes(profile),
        )


def _oversized(remembered: _Remembered, least_seconds: float) -> Iterator[Oversized]:
    groups: dict[tuple[str, str, Holders], list[tuple[Gpu, GpuInstance]]] = {}
    for gpu, instance, now, _ in remembered.instances():
        split = instance.shape is None or instance.shape.compute
        if now.holders and now.holders != OTHERS and not split:
            groups.setdefault((gpu.name, instance.profile, now.holders), []).append((gpu, instance))
    for (model, name, holders), held in groups.items():
        gpu = held[0][0]
        profile = gpu.profile(name)
        rows = remembered.rows_of(model, name, holders)
        if profile is None or not profile.plain or _at_least_observed(rows) < least_seconds:
            continue
        slices = tuple(GpuSlice(gpu.index, _name(instance), _names(holders)) for gpu, instance in held)
        found = _smaller(gpu, profile, [day for row in rows for day in row.days])
        if found is not None:
            many = len(slices)
            yield replace(
                found,
                holders=_names(holders),
                slices=slices,
                observed_seconds=_at_least_observed(rows),
                load_seconds=remembered.period_seconds,
                frees_memory_slices=found.frees_memory_slices * many,
                frees_bytes=found.frees_bytes * many,
            )


def _smaller(gpu: Gpu, profile: Profile, days: Sequence[Day]) -> Oversized | None:
    """What one slice could be instead; None where nothing smaller holds what was used, or that is not known."""
    peak = max((day.peak_memory_bytes for day in days if day.peak_memory_bytes is not None), default=None)
    if peak is None:
        return None
    smaller = [p for p in gpu.profiles if p.plain and p.placements and p.size < profile.size and holds(p, peak)]
    if not smaller:
        return None
    smaller.sort(key=lambda p: (p.size, p.slices, p.memory_mib))
    fits, load = smaller[0], _peak_load(days)
    busy = load * profile.multiprocessors if load is not None and profile.multiprocessors else None
    enough, compute = _compute(smaller, busy)
    instead = enough or fits
    return Oversized(
        holders=(),
        profile=profile.name,
        slices=(),
        observed_seconds=0.0,
        peak_memory_bytes=peak,
        fits=fits.name,
        fits_memory_bytes=_bytes(fits),
        compute=compute,
        enough=enough.name if enough is not None else "",
        peak_load=load,
        load_seconds=0.0,
        mean_load=sum(day.active_seconds for day in days) / _loaded(days) if load is not None else None,
        frees_memory_slices=profile.size - instead.size,
        frees_bytes=_bytes(profile) - _bytes(instead),
    )


def _compute(smaller: Sequence[Profile], busy: float | None) -> tuple[Profile | None, Compute]:
    """The first of these that has the margin over so many busy multiprocessors, and whether the first of all has."""
    if busy is None:
        return None, "unknown"
    enough = next((profile for profile in smaller if profile.multiprocessors >= LOAD_MARGIN * busy), None)
    if enough is smaller[0]:
        return enough, "enough"
    return enough, "tight" if smaller[0].multiprocessors >= busy else "short"


def _peak_load(days: Sequence[Day]) -> float | None:
    """None where the load was not known nearly all of the time."""
    observed = sum(day.observed_seconds for day in days)
    if not _loaded(days) or _loaded(days) < KNOWN_LOAD_RATIO * observed:
        return None
    return max((day.peak_load for day in days if day.peak_load is not None), default=None)


def _loaded(days: Iterable[Day]) -> float:
    return sum(day.loaded_seconds for day in days)


def _at_least_observed(rows: Sequence[Row]) -> float:
    """How long holders were observed at the least, by the clock: on several slices at once no time counts twice."""
    longest: dict[int, float] = {}
    for row in rows:
        for day in row.days:
            longest[day.day] = max(longest.get(day.day, 0.0), day.observed_seconds)
    return sum(longest.values())


def _lost(now: Profile | None, possible: Profile | None) -> float:
    """See Fragments."""
    if possible is None or now is possible:
        return 0.0
    if now is None:
        return 1.0
    return 1 - min(now.slices / possible.slices, now.size / possible.size)


def _usable(gpu: Gpu, taken: Sequence[Placement]) -> set[int]:
    """Free memory slices on which some profile could still be made."""
    shapes = tuple(Shape(instance.profile) for instance in gpu.instances)
    return {
        number
        for profile in gpu.profiles
        if media_allowed(gpu, (*shapes, Shape(profile.name)))
        for place in free_places(profile, taken)
        for number in _slices(place)
    }


def _slices(place: Placement) -> range:
    return range(place.start, place.end)


def _written(gpu: Gpu) -> tuple[str, ...]:
    return tuple(_name(instance) for instance in sorted(gpu.instances, key=lambda one: one.placement))


def _name(instance: GpuInstance) -> str:
    """As a slot is written; one without its compute instances as what it is."""
    return str(Slot(instance.placement, instance.shape or Shape(instance.profile)))


def _names(holders: Holders) -> tuple[str, ...]:
    return ("several",) if holders == OTHERS else tuple(map(str, holders))


def _bytes(profile: Profile) -> int:
    return profile.memory_mib * _MIB
