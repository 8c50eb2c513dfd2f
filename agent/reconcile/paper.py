"""Answers without hardware or cluster: what a change would do, what a GPU model can be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from agent.desired.resolve import Sources, resolve
from agent.model.desired import Desired, Refusal
from agent.model.errors import BadInputError
from agent.model.labels import CONFIG
from agent.model.mig import Gpu, GpuWish, Layout, Placement, Shape, Slot
from agent.model.steps import GpuChange
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import feasible, maximal_geometries
from agent.plan.placement import Tenants, solve

_CELL = 9
"""Characters that one memory slice takes in a drawing."""

Answer = tuple[int, str]
"""Exit code and text."""


def plan_on_paper(model: str, start: str, to: str, as_json: bool) -> Answer:
    """What a change from one layout to another would keep, destroy and create on one GPU of that model."""
    empty = gpu_on_paper(model)
    before: Layout = ()
    if start:
        placed = solve(empty, _wish(empty, start), Tenants())
        before = tuple(sorted(placed.create)) if placed is not None else ()
    gpu = gpu_on_paper(model, before)
    change = solve(gpu, _wish(gpu, to), Tenants())
    if change is None:
        raise BadInputError(f"layout {to!r} has no legal placement on {model}")
    return 0, json.dumps(_change(change), indent=2) if as_json else _drawing(gpu, before, change)


def layouts_on_paper(model: str, as_json: bool) -> Answer:
    """The maximal geometries of a GPU model."""
    found = [_inline(shapes) for shapes in maximal_geometries(gpu_on_paper(model))]
    if as_json:
        return 0, json.dumps(found, indent=2)
    return 0, "\n".join([f"{model}: {len(found)} maximal geometries, as label values", *found])


def _wish(gpu: Gpu, layout: str) -> GpuWish:
    wish = resolve(Sources(CONFIG, {CONFIG: layout}, {}), (gpu,), feasible)
    match wish:
        case Desired():
            return wish.wishes[gpu.uuid]
        case Refusal():
            raise BadInputError(wish.message)
        case _:
            raise BadInputError("the layout is empty; write one such as 7x1g.10gb, or 'disabled'")


def _inline(shapes: tuple[Shape, ...]) -> str:
    counts = Counter(shape.profile.replace("+", ".") for shape in shapes)
    return "_".join(f"{count}x{profile}" for profile, count in counts.items())


def _change(change: GpuChange) -> dict[str, list[dict[str, object]]]:
    return {
        "keep": [_slot(slot.placement, str(slot.shape)) for slot in change.keep],
        "destroy": [_slot(placement, profile) for placement, profile in change.remove],
        "create": [_slot(slot.placement, str(slot.shape)) for slot in (*change.finish, *change.create)],
    }


def _slot(placement: Placement, profile: str) -> dict[str, object]:
    return {"profile": profile, "start": placement.start, "size": placement.size}


def _drawing(gpu: Gpu, before: Layout, change: GpuChange) -> str:
    after = (*change.keep, *change.finish, *change.create)
    width = max((place.end for profile in gpu.profiles for place in profile.placements), default=0)
    rows = [
        f"before  {_bar(before, width)}",
        f"after   {_bar(after, width)}",
        f"{len(change.keep)} kept, {len(change.remove)} destroyed, {len(change.create) + len(change.finish)} created",
    ]
    rows += [f"  destroy {profile} at {placement}" for placement, profile in change.remove]
    rows += [f"  create  {slot.shape} at {slot.placement}" for slot in (*change.finish, *change.create)]
    return "\n".join(rows)


def _bar(layout: Iterable[Slot], width: int) -> str:
    """Memory slices from left to right; ``.`` is a free one."""
    cells = [".".center(_CELL)] * width
    for slot in layout:
        place = slot.placement
        box = str(slot.shape).center(_CELL * place.size - 1, "-") + "|"
        cells[place.start : place.end] = [box] + [""] * (place.size - 1)
    return "|" + "".join(cells)
