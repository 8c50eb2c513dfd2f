"""The layout last applied, as the status remembers it: how it comes back, and what it means that the hardware differs from it.

What a reboot or a reset took comes back where it was: pods and people know slices by their places. The placements are a hint
only, held against this hardware before they are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

from agent.model.desired import Desired
from agent.model.drift import Drift, found_drift
from agent.model.errors import BadInputError
from agent.model.mig import Gpu, GpuWish, Layout, Slot
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import Change, GpuChange, Waiting
from agent.plan.geometry import media_allowed


def as_applied(wish: Desired, gpus: tuple[Gpu, ...], last: NodeStatus | None) -> Desired:
    """The same wish, with the placements last applied for it where nothing stands that is not in them."""
    if last is None or last.applied != wish.revision:
        return wish
    placed = {gpu.uuid: _back(gpu, wish.wishes.get(gpu.uuid), last.placements) for gpu in gpus}
    return replace(wish, wishes={uuid: placed.get(uuid) or one for uuid, one in wish.wishes.items()})


def _back(gpu: Gpu, wish: GpuWish | None, placements: Mapping[str, list[str]]) -> GpuWish | None:
    if wish is None or not wish.mig_enabled or wish.placed is not None:
        return None
    try:
        layout = tuple(sorted(map(Slot.parse, placements.get(gpu.uuid, ()))))
    except BadInputError:
        return None
    if not _is_legal(gpu, wish, layout):
        return None
    places = {(slot.placement, slot.shape.profile) for slot in layout}
    if all((i.placement, i.profile) in places for i in gpu.instances) and set(gpu.layout) <= set(layout):
        return replace(wish, placed=layout)
    return None


def _is_legal(gpu: Gpu, wish: GpuWish, layout: Layout) -> bool:
    """Whether this hardware can have that layout, and it is what is wished."""
    if Counter(slot.shape for slot in layout) != Counter(wish.shapes):
        return False
    profiles = [(gpu.profile(slot.shape.profile), slot.placement) for slot in layout]
    offered = all(profile is not None and place in profile.placements for profile, place in profiles)
    apart = not any(one.placement.overlaps(other.placement) for one, other in pairwise(layout))
    return offered and apart and media_allowed(gpu, wish.shapes)


def drifted(wish: Desired, seen: Snapshot, last: NodeStatus | None, change: Change) -> Waiting | None:
    """The hardware was changed by somebody else since this wish was applied in this boot; None where it was not, or where it
    has been said and is to be put right now."""
    if last is None or (last.applied, last.boot_id) != (wish.revision, seen.node.boot_id) or not last.boot_id:
        return None
    if all(gpu.empty for gpu in change.gpus):
        return None
    row = found_drift(last.drift, seen.now)
    if row == last.drift and row.due <= seen.now:
        return None
    message = f"changed, and not by this agent: {_differences(seen, last, change)}; {_how_often(row, seen.now)}"
    return Waiting("drift", message, change, max(0.0, row.due - seen.now))


def _how_often(row: Drift, now: float) -> str:
    if row.times == 1:
        return "put right now"
    since = datetime.fromtimestamp(row.since, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    wait = max(0.0, row.due - now)
    return (
        f"found so {row.times} times since {since}, so it is put right in {wait:.0f} s only; find who changes the GPUs"
    )


def _differences(seen: Snapshot, last: NodeStatus, change: Change) -> str:
    gpus = {gpu.uuid: gpu for gpu in seen.gpus}
    return ", ".join(_difference(gpus[one.gpu], last, one) for one in change.gpus if not one.empty)


def _difference(gpu: Gpu, last: NodeStatus, change: GpuChange) -> str:
    if change.switches:
        return f"GPU {gpu.index} has MIG {'on' if gpu.mig_enabled else 'off'}"
    before, now = last.placements.get(gpu.uuid, []), list(map(str, gpu.layout))
    words = [f"{slot} is gone" for slot in before if slot not in now]
    words += [f"{slot} is new" for slot in now if slot not in before]
    words += [f"{i.profile}@{i.placement} has no compute instance" for i in gpu.instances if not i.compute]
    return f"GPU {gpu.index}: {' and '.join(words) or 'another mode is pending'}"
