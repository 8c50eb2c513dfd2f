"""How a driver keeps the ResourceSlices of its pool: what to create, change and delete, and when the generation goes up.

As the helper does that Kubernetes offers to drivers (``k8s.io/dynamic-resource-allocation/resourceslice``): one change of
one slice needs no new generation, since no reader can see half of it; anything more does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hack.devcluster.objects import Object, clone, dig, name_of

MOST_DEVICES = 128  # in one slice


@dataclass(frozen=True, slots=True)
class Publication:
    """To be done in this order."""

    delete: Sequence[Object]
    update: Sequence[Object]
    create: Sequence[Object]


def publication(existing: Sequence[Object], devices: Sequence[Object], frame: Object, per_slice: int) -> Publication:
    """``existing``: the pool's slices now. ``frame``: a slice without its devices, pool generation and count. A pool
    without devices is one empty slice."""
    chunks = [list(devices[start : start + per_slice]) for start in range(0, len(devices), per_slice)] or [[]]
    generation = max((_generation(slice_) for slice_ in existing), default=0)
    current = [slice_ for slice_ in existing if _generation(slice_) == generation]
    kept = _matched(current, chunks)
    surplus = [slice_ for slice_ in existing if all(slice_ is not match for match in kept if match is not None)]
    changed = [
        match is not None and (dig(match, "spec.devices") or [], _count(match)) != (chunk, len(chunks))
        for match, chunk in zip(kept, chunks, strict=True)
    ]
    bump = None in kept or sum(changed) > 1
    pool = {**frame["spec"]["pool"], "generation": generation + bump, "resourceSliceCount": len(chunks)}
    update, create = [], []
    for match, chunk, is_changed in zip(kept, chunks, changed, strict=True):
        spec = {**frame["spec"], "pool": pool, "devices": chunk}
        if match is None:
            create.append({"metadata": clone(frame["metadata"]), "spec": spec})
        elif is_changed or bump:
            update.append({**match, "spec": spec})
    return Publication(surplus, update, create)


def _matched(current: Sequence[Object], chunks: Sequence[Sequence[Object]]) -> list[Object | None]:
    """Slices that say the same already are matched first, the rest by name in order."""
    left = sorted(current, key=name_of)
    matches: list[Object | None] = []
    for chunk in chunks:
        same = next((slice_ for slice_ in left if (dig(slice_, "spec.devices") or []) == chunk), None)
        matches.append(same)
        left = [slice_ for slice_ in left if slice_ is not same]
    return [match if match is not None or not left else left.pop(0) for match in matches]


def _generation(slice_: Object) -> int:
    return int(dig(slice_, "spec.pool.generation", 0))


def _count(slice_: Object) -> int:
    return int(dig(slice_, "spec.pool.resourceSliceCount", 0))
