"""How many slices a change of layout destroys: the planner beside wiping the GPU, which is what mig-parted does.

From every layout of a board to every other geometry (multiset of profiles), all slices movable; then with each slice of every
layout held in turn, so that it must stay. The empty layout is left out on both sides.

    python -m hack.bench.disruption            a seeded sample of the large boards, all of the small ones
    python -m hack.bench.disruption --full     every change of every board (some minutes)
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent.model.mig import ComputeInstance, Gpu, GpuInstance, GpuWish, Layout, Part, Shape, Slot
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import media_allowed
from agent.plan.placement import Tenants, solve

SAMPLE = 6_000
Geometry = tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """A GPU model, with or without the profiles that take media engines."""

    name: str
    gpu: Gpu


@dataclass(slots=True)
class Totals:
    """What some changes cost. ``seconds`` holds the time of each plan."""

    changes: int = 0
    slices: int = 0
    destroyed: int = 0
    held: int = 0
    held_kept: int = 0
    seconds: list[float] | None = None


def boards() -> tuple[Board, ...]:
    """The boards that the comparison is known for."""
    h100 = gpu_on_paper("H100-80GB-SXM")
    media = tuple(p for p in h100.profiles if p.media in ("", "me"))
    return (
        Board("H100-80GB, plain profiles", _plain(h100)),
        Board("H100-80GB, with 1g.10gb+me", replace(h100, profiles=media)),
        Board("A30, plain profiles", _plain(gpu_on_paper("A30"))),
        Board("RTX PRO 6000, plain profiles", _plain(gpu_on_paper("RTX-PRO-6000-96GB"))),
    )


def layouts(gpu: Gpu) -> list[Layout]:
    """Every legal layout but the empty one."""
    slots = [Slot(place, Shape(profile.name)) for profile in gpu.profiles for place in profile.placements]
    found: list[tuple[Slot, ...]] = [()]
    for slot in slots:
        found += [(*layout, slot) for layout in found if not any(slot.placement.overlaps(o.placement) for o in layout)]
    legal = (layout for layout in found if layout and media_allowed(gpu, tuple(slot.shape for slot in layout)))
    return sorted(tuple(sorted(layout)) for layout in legal)


def geometry(layout: Layout) -> Geometry:
    """The multiset of its profiles."""
    return tuple(sorted(slot.shape for slot in layout))


def having(gpu: Gpu, layout: Layout) -> Gpu:
    """The GPU cut so."""
    instances = tuple(
        GpuInstance(number, slot.shape.profile, slot.placement, (ComputeInstance(0, 0, True, str(number)),))
        for number, slot in enumerate(layout)
    )
    return replace(gpu, instances=instances)


def measure(gpu: Gpu, sample: int | None, busy: bool) -> Totals:
    """Plan every change, or a seeded sample of that many; with ``busy`` also each slice held in turn."""
    totals = Totals(seconds=[])
    for layout, wish in _changes(gpu, sample):
        cut = having(gpu, layout)
        began = time.perf_counter()
        change = solve(cut, GpuWish(True, wish), Tenants())
        assert totals.seconds is not None
        totals.seconds.append(time.perf_counter() - began)
        assert change is not None, "every geometry fits an empty GPU"
        totals.changes += 1
        totals.slices += len(layout)
        totals.destroyed += len(change.remove)
        for slot in layout if busy else ():
            totals.held += 1
            held = solve(cut, GpuWish(True, wish), Tenants(fixed=frozenset({Part(slot.placement)})))
            totals.held_kept += held is not None
    return totals


def _changes(gpu: Gpu, sample: int | None) -> Iterator[tuple[Layout, Geometry]]:
    every = layouts(gpu)
    geometries = sorted({geometry(layout) for layout in every})
    pairs = [(layout, wish) for layout in every for wish in geometries if wish != geometry(layout)]
    if sample is not None and sample < len(pairs):
        pairs = random.Random(1).sample(pairs, sample)
    yield from pairs


def _plain(gpu: Gpu) -> Gpu:
    return replace(gpu, profiles=tuple(p for p in gpu.profiles if not {"+", "-"} & set(p.name)))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every change of every board")
    parser.add_argument("--no-busy", action="store_true", help="leave out the busy slices")
    options = parser.parse_args()
    head = (
        "board",
        "layouts",
        "geometries",
        "changes",
        "wiping destroys",
        "planner destroys",
        "ratio",
        "held kept of",
        "p99 ms",
    )
    print(" | ".join(head))
    for board in boards():
        every = layouts(board.gpu)
        totals = measure(board.gpu, None if options.full else SAMPLE, not options.no_busy)
        assert totals.seconds is not None
        p99 = sorted(totals.seconds)[int(len(totals.seconds) * 0.99)] * 1000
        row = (
            board.name,
            len(every),
            len({geometry(layout) for layout in every}),
            totals.changes,
            totals.slices,
            totals.destroyed,
            f"{totals.destroyed / totals.slices:.3f}",
            f"{totals.held_kept} of {totals.held}",
            f"{p99:.2f}",
        )
        print(" | ".join(str(cell) for cell in row), flush=True)


if __name__ == "__main__":
    main()
