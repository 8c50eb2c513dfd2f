"""How what is remembered of slices grows with each look, and ages. Pure; see Note [What is remembered] in model/history.py.

# Note [What counts as observed]
# The time between two looks counts for a slice that both saw in the same hands, if it is not longer than looks are apart. So what
# happened while the agent was away, the driver was paused, a GPU did not answer or a clock was set is in no sum. A clock that
# goes back makes a new beginning, and days that are yet to come are forgotten: they were written while it was wrong.
#
# Quiet is what a slice is that was seen not to be active. A load that is told says so; where none is told, a process on it may
# be active, and is taken to be once that has lasted ``_BLIND_SECONDS``. After an hour in which nobody looked it begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from agent.model.history import (
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
from agent.model.mig import Gpu
from agent.model.node import DeviceOwner
from agent.model.report import PartitionReport, PodWorkload
from agent.model.telemetry import SliceSample, TelemetrySnapshot

N = TypeVar("N", int, float)

MOST_ROWS = 400
MOST_HOLDERS = 8
"""Of one slice at once; more are ``OTHERS``."""
LEAST_LOAD = 0.001
"""Below it a slice is not active: 10 ms of the 10 s between two looks."""

_LONGEST_UNSEEN_SECONDS = 3600.0
_BLIND_SECONDS = 300.0
_SPARE_PART = 32
"""One such part of the file is left free where rows had to go: sums may have more digits than the sum of all."""
_LONGEST_NAME = 253
"""That the API server lets an object have."""

_Rows = dict[tuple[SlicePlace, Holders], Row]


def holders_of(report: PartitionReport) -> Mapping[SlicePlace, Holders]:
    """Who holds each slice, by the last pass; nothing where that could not tell."""
    if not report.owners_known or report.error:
        return {}
    by_device = _by_device(report.owners, report.workloads)
    return {
        SlicePlace(gpu.uuid, instance.profile, instance.placement): _few(
            holder for part in instance.compute for holder in by_device.get(part.uuid, ())
        )
        for gpu in report.gpus
        if not gpu.unknown
        for instance in gpu.instances
    }


def look_of(snapshot: TelemetrySnapshot, holders: Mapping[SlicePlace, Holders]) -> Look | None:
    """What one look of the sampler says of slices whose holders are known; None where it saw nothing."""
    if snapshot.paused or snapshot.error:
        return None
    samples: dict[SlicePlace, list[SliceSample]] = {}
    for one in snapshot.slices:
        samples.setdefault(SlicePlace(one.gpu, one.profile, one.placement), []).append(one)
    uses = {place: _use(parts, holders[place]) for place, parts in samples.items() if place in holders}
    return Look(snapshot.sampled_at, uses)


def fold(history: History, before: Look | None, look: Look, longest_gap_seconds: float) -> History:
    """With one more look. ``before`` is the look before it, None where there was none. See Note [What counts as observed]."""
    lasted = look.at - before.at if before is not None else 0.0
    counts = 0.0 < lasted <= longest_gap_seconds
    known = before.uses if before is not None and counts else {}
    same_day = before is not None and day_of(history.seen) == day_of(look.at)
    rows = _by_place(history.rows if same_day and not _unseen(history, look.at) else _aged(history, look.at))
    for place, use in look.uses.items():
        was = known.get(place)
        seconds = lasted if was is not None and was.holders == use.holders else 0.0
        rows[place] = _used(rows.get(place, []), place, was, use, look.at, seconds)
    observed = {day: seconds for day, seconds in history.observed.items() if _remembered(day, look.at)}
    if counts:
        observed[day_of(look.at)] = observed.get(day_of(look.at), 0.0) + lasted
    kept = tuple(row for place in sorted(rows) for row in rows[place])
    return bounded(replace(history, seen=look.at, observed=observed, rows=kept), MOST_ROWS)


def with_gpus(history: History, gpus: Sequence[Gpu], at: float) -> History:
    """With the GPUs as they are now, without what the driver re-uses and what is on them. One that cannot be read stays as it
    was."""
    before = {gpu.uuid: gpu for gpu in history.gpus}
    known = (before.get(gpu.uuid) if gpu.unknown else _lasting(gpu) for gpu in gpus)
    return replace(history, gpus=tuple(gpu for gpu in known if gpu is not None), gpus_seen=at)


def bounded(history: History, most_rows: int) -> History:
    """With as many rows at most: those seen last stay, the others are added to their slice's row of ``OTHERS``."""
    if len(history.rows) <= most_rows:
        return history
    left = _joined_but(history, max(0, most_rows - len(_places(history)))).rows
    if len(left) > most_rows:
        left = tuple(sorted(sorted(left, key=_age)[:most_rows], key=_key))
    return replace(history, rows=left)


def encoded(history: History, most_bytes: int) -> bytes:
    """As it stands in the file, with as many rows as there is room for."""
    text = history.to_json()
    if len(text) <= most_bytes:
        return text
    least = _joined_but(history, 0)
    while len(text := least.to_json()) > most_bytes and least.rows:
        least = bounded(least, len(least.rows) // 2)
    room, named = most_bytes - len(text) - most_bytes // _SPARE_PART, 0
    for row in sorted(history.rows, key=_age):
        room -= len(History(rows=(row,)).to_json()) if row.holders != OTHERS else 0
        if room < 0:
            break
        named += row.holders != OTHERS
    return _joined_but(history, named).to_json() if named else text


def _joined_but(history: History, named: int) -> History:
    """With so many rows of known holders, those seen last; the others are added to their slice's row of ``OTHERS``."""
    rows: _Rows = {}
    for row in sorted(history.rows, key=_age):
        if row.holders != OTHERS and named:
            named -= 1
            rows[row.key] = row
        else:
            there = rows.get((row.place, OTHERS))
            rows[row.place, OTHERS] = replace(row, holders=OTHERS) if there is None else _joined(there, row)
    return replace(history, rows=tuple(sorted(rows.values(), key=_key)))


def _places(history: History) -> set[SlicePlace]:
    return {row.place for row in history.rows}


def _key(row: Row) -> tuple[SlicePlace, Holders]:
    return row.key


def _age(row: Row) -> tuple[float, tuple[SlicePlace, Holders]]:
    """Seen last comes first."""
    return -row.last_seen, row.key


def _by_device(owners: Iterable[DeviceOwner], workloads: Iterable[PodWorkload]) -> dict[str, set[Holder]]:
    """MIG UUID to workloads; a pod of which the API server says nothing is its own."""
    known = {(one.namespace, one.pod): _holder(one) for one in workloads}
    found: dict[str, set[Holder]] = {}
    for owner in owners:
        holder = known.get((owner.namespace, owner.name)) or Holder(owner.namespace, "Pod", owner.name)
        for uuid in owner.uuids:
            found.setdefault(uuid, set()).add(holder)
    return found


def _holder(one: PodWorkload) -> Holder:
    """Whoever makes a pod can write anything as its owner, and at any length."""
    return Holder(one.namespace, _tame(one.kind), _tame(one.workload))


def _tame(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_NAME])


def _few(holders: Iterable[Holder]) -> Holders:
    found = tuple(sorted(set(holders)))
    return found if len(found) <= MOST_HOLDERS else OTHERS


def _use(parts: Sequence[SliceSample], holders: Holders) -> Use:
    """Of all compute instances of one GPU instance."""
    loads = [one.utilization.graphics if one.utilization.sm is None else one.utilization.sm for one in parts]
    counts = [one.processes for one in parts if one.processes is not None]
    return Use(
        holders,
        memory_used_bytes=_most(one.memory_used_bytes for one in parts),
        load=_most(loads),
        active_seconds=_most(one.active_seconds for one in parts),
        in_use=any(counts) if any(counts) or len(counts) == len(parts) else None,
    )


def _by_place(rows: Iterable[Row]) -> dict[SlicePlace, list[Row]]:
    found: dict[SlicePlace, list[Row]] = {}
    for row in rows:
        found.setdefault(row.place, []).append(row)
    return found


def _used(rows: list[Row], place: SlicePlace, was: Use | None, use: Use, at: float, seconds: float) -> list[Row]:
    """The rows of one slice with what one look adds."""
    there = next((row for row in rows if row.holders == use.holders), None)
    mine = _with(there or Row(place, use.holders, at, at), was, use, at, seconds)
    rows = sorted((*rows, mine), key=_key) if there is None else [mine if row is there else row for row in rows]
    return list(map(_awake, rows)) if mine.last_active == at else rows


def _with(row: Row, was: Use | None, use: Use, at: float, seconds: float) -> Row:
    """With what one look adds; ``seconds`` of it count."""
    active = _active_seconds(was, use, seconds)
    days = _with_day(row.days, _day(use, at, seconds, active))
    last_process = at if use.in_use else row.last_process
    row = replace(row, last_seen=at, last_process=last_process, days=days)
    if not seconds:
        return row
    if active is not None and active >= LEAST_LOAD * seconds:
        return replace(row, last_active=at)
    if active is not None or use.in_use is False:
        return replace(row, quiet_seconds=row.quiet_seconds + seconds)
    blind = row.blind_seconds + seconds if use.in_use else row.blind_seconds
    return replace(row, blind_seconds=blind, last_active=at if blind >= _BLIND_SECONDS else row.last_active)


def _active_seconds(was: Use | None, use: Use, seconds: float) -> float | None:
    """Of the counter where there is one: one that went back began anew, with another instance. None: no load is told."""
    if not seconds or was is None:
        return None
    if use.active_seconds is not None and was.active_seconds is not None:
        begun = was.active_seconds if was.active_seconds <= use.active_seconds else 0.0
        return min(use.active_seconds - begun, seconds)
    return use.load * seconds if use.load is not None else None


def _day(use: Use, at: float, seconds: float, active: float | None) -> Day:
    loaded = 0.0 if active is None else seconds
    return Day(day_of(at), seconds, loaded, active or 0.0, use.memory_used_bytes, use.load)


def _with_day(days: tuple[Day, ...], more: Day) -> tuple[Day, ...]:
    if days and days[-1].day == more.day:
        return (*days[:-1], _sum(days[-1], more))
    return _merged(days, (more,))


def _merged(days: Iterable[Day], more: Iterable[Day]) -> tuple[Day, ...]:
    by_day = {one.day: one for one in days}
    for one in more:
        there = by_day.get(one.day)
        by_day[one.day] = one if there is None else _sum(there, one)
    return tuple(by_day[day] for day in sorted(by_day))


def _sum(one: Day, other: Day) -> Day:
    return Day(
        one.day,
        one.observed_seconds + other.observed_seconds,
        one.loaded_seconds + other.loaded_seconds,
        one.active_seconds + other.active_seconds,
        _most((one.peak_memory_bytes, other.peak_memory_bytes)),
        _most((one.peak_load, other.peak_load)),
    )


def _joined(one: Row, other: Row) -> Row:
    """Two rows of a slice as one."""
    return Row(
        one.place,
        one.holders,
        min(one.first_seen, other.first_seen),
        max(one.last_seen, other.last_seen),
        _most((one.last_active, other.last_active)),
        _most((one.last_process, other.last_process)),
        one.quiet_seconds + other.quiet_seconds,
        one.blind_seconds + other.blind_seconds,
        _merged(one.days, other.days),
    )


def _awake(row: Row) -> Row:
    """The slice is active: it is quiet in nobody's hands any more."""
    return replace(row, quiet_seconds=0.0, blind_seconds=0.0) if row.quiet_seconds or row.blind_seconds else row


def _aged(history: History, at: float) -> Iterable[Row]:
    """What is still to be remembered at that time. See Note [What counts as observed]."""
    unseen = _unseen(history, at)
    for row in history.rows:
        days = tuple(day for day in row.days if _remembered(day.day, at))
        if days:
            yield replace(row, days=days, quiet_seconds=0.0 if unseen else row.quiet_seconds)


def _unseen(history: History, at: float) -> bool:
    return abs(at - history.seen) > _LONGEST_UNSEEN_SECONDS


def _remembered(day: int, at: float) -> bool:
    return 0 <= day_of(at) - day < WINDOW_DAYS


def _lasting(gpu: Gpu) -> Gpu:
    instances = tuple(
        replace(instance, id=number, compute=tuple(replace(part, uuid="") for part in instance.compute))
        for number, instance in enumerate(gpu.instances)
    )
    return replace(gpu, instances=instances, processes=())


def _most(values: Iterable[N | None]) -> N | None:
    return max((value for value in values if value is not None), default=None)
