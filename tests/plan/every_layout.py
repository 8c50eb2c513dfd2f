"""All layouts of a GPU by brute force: a second, slower way to what planning finds."""

from __future__ import annotations

from functools import cache

from agent.model.mig import Layout, Shape, Slot
from agent.observe.paper import gpu_on_paper


@cache
def every_layout(model: str) -> tuple[Layout, ...]:
    """All sets of non-overlapping placements, by trying each one in or out; media engines as the driver rules them."""
    gpu = gpu_on_paper(model)
    slots = [Slot(place, Shape(p.name)) for p in gpu.profiles for place in p.placements]
    found: list[tuple[Slot, ...]] = [()]
    for slot in slots:
        found += [(*layout, slot) for layout in found if not any(slot.placement.overlaps(o.placement) for o in layout)]
    return tuple(tuple(sorted(layout)) for layout in found if _media_fine(layout))


def _media_fine(layout: Layout) -> bool:
    names = [slot.shape.profile for slot in layout]
    everything = [n for n in names if n.endswith("+me.all")]
    some = [n for n in names if n.endswith("+me")]
    without = [n for n in names if n.endswith("-me")]
    if everything:
        return len(everything) == 1 and len(without) == len(names) - 1
    return len(some) <= 1
