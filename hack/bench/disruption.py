"""How many slices a change of layout destroys, and how long it takes to say: the planner beside wiping the GPU.

Wiping is what mig-parted does. From every layout of a board to every other geometry (multiset of profiles), all slices
movable; then with each slice of every layout held in turn, so that it must stay; then by how the geometry changes; then the
time of a plan, for one GPU of every model and for eight that share pods. The empty layout is left out on both sides.

    python -m hack.bench.disruption            a seeded sample of the large boards, all of the small ones
    python -m hack.bench.disruption --full     every change of every board (some minutes)
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.model.mig import ComputeInstance, Gpu, GpuInstance, GpuWish, Layout, Part, Shape, Slot
from agent.model.node import PodRef
from agent.observe.paper import gpu_on_paper, models
from agent.plan.geometry import media_allowed
from agent.plan.placement import Ask, Tenants, choose, solve

SAMPLE = 6_000
EVERY = "to every other geometry"
Geometry = tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """A GPU model, with or without the profiles that take media engines."""

    name: str
    gpu: Gpu


@dataclass(slots=True)
class Totals:
    """What some changes cost."""

    changes: int = 0
    slices: int = 0
    destroyed: int = 0
    held: int = 0
    held_kept: int = 0

    def add(self, layout: Layout, destroyed: int) -> None:
        """One more change."""
        self.changes += 1
        self.slices += len(layout)
        self.destroyed += destroyed


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


def measure(gpu: Gpu, sample: int | None, busy: bool) -> dict[str, Totals]:
    """Plan every change, or a seeded sample of that many; with ``busy`` also each slice held in turn. By kind of change."""
    kinds = {kind: Totals() for kind in (EVERY, "one slice more", "one slice less", "one slice another")}
    for layout, wish in changes(gpu, sample):
        cut = having(gpu, layout)
        change = solve(cut, GpuWish(True, wish), Tenants())
        assert change is not None, "every geometry fits an empty GPU"
        for kind in (EVERY, _kind(geometry(layout), wish)):
            if kind:
                kinds[kind].add(layout, len(change.remove))
        for slot in layout if busy else ():
            held = solve(cut, GpuWish(True, wish), Tenants(fixed=frozenset({Part(slot.placement)})))
            kinds[EVERY].held += 1
            kinds[EVERY].held_kept += held is not None
    return kinds


def _kind(now: Geometry, wish: Geometry) -> str:
    more, less = Counter(wish) - Counter(now), Counter(now) - Counter(wish)
    counts = more.total(), less.total()
    return {(1, 0): "one slice more", (0, 1): "one slice less", (1, 1): "one slice another"}.get(counts, "")


def times(cases: Iterable[Sequence[Ask]]) -> list[float]:
    """Milliseconds of each plan, sorted; of this thread's own time, so that a busy machine does not count."""
    found = []
    for asks in cases:
        began = time.thread_time()
        choose(asks)
        found.append((time.thread_time() - began) * 1000)
    return sorted(found)


def one_gpu(model: str, sample: int) -> Iterator[Sequence[Ask]]:
    """Changes of one GPU of a model, between random layouts of it, every slice held by a pod of its own."""
    gpu = gpu_on_paper(model)
    for layout, wish in changes(gpu, sample):
        yield (Ask(having(gpu, layout), GpuWish(True, wish), Tenants(pods=_pods(layout))),)


def eight_gpus(sample: int) -> Iterator[Sequence[Ask]]:
    """Changes of eight H100 of which every pod holds two slices, wherever they are."""
    random_case = random.Random(1)
    papers = [gpu_on_paper("H100-80GB-SXM", index=index) for index in range(8)]
    every = layouts(papers[0])
    for _ in range(sample):
        now = [random_case.choice(every) for _ in papers]
        wishes = [geometry(random_case.choice(every)) for _ in papers]
        slots = [(index, Part(slot.placement)) for index, layout in enumerate(now) for slot in layout]
        random_case.shuffle(slots)
        pods: list[dict[Part, frozenset[PodRef]]] = [{} for _ in papers]
        for number, (index, part) in enumerate(slots):
            pods[index][part] = frozenset({PodRef("bench", f"pod-{number // 2}", str(number // 2))})
        yield [
            Ask(having(paper, layout), GpuWish(True, wish), Tenants(pods=held))
            for paper, layout, wish, held in zip(papers, now, wishes, pods, strict=True)
        ]


def _pods(layout: Layout) -> dict[Part, frozenset[PodRef]]:
    return {Part(slot.placement): frozenset({PodRef("bench", str(slot), str(slot))}) for slot in layout}


def changes(gpu: Gpu, sample: int | None) -> Iterator[tuple[Layout, Geometry]]:
    """Every layout with every other geometry, or a seeded sample."""
    every = layouts(gpu)
    geometries = sorted({geometry(layout) for layout in every})
    if sample is None or sample >= len(every) * len(geometries):
        yield from ((layout, wish) for layout in every for wish in geometries if wish != geometry(layout))
        return
    choose_one = random.Random(1)
    for _ in range(sample):
        layout, wish = choose_one.choice(every), choose_one.choice(geometries)
        if wish != geometry(layout):
            yield layout, wish


def _plain(gpu: Gpu) -> Gpu:
    return replace(gpu, profiles=tuple(p for p in gpu.profiles if not {"+", "-"} & set(p.name)))


def main() -> int:
    """Print the tables; 1 where a plan takes longer than its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every change of every board")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="so many changes of a large board")
    parser.add_argument("--no-busy", action="store_true", help="leave out the busy slices")
    options = parser.parse_args()
    _row("board", "layouts", "geometries", "kind of change", "changes", "wiping", "planner", "ratio", "held kept of")
    for board in boards():
        every = layouts(board.gpu)
        geometries = len({geometry(layout) for layout in every})
        for kind, totals in measure(board.gpu, None if options.full else options.sample, not options.no_busy).items():
            held = f"{totals.held_kept} of {totals.held}" if totals.held else ""
            ratio = f"{totals.destroyed / totals.slices:.3f}" if totals.slices else ""
            _row(board.name, len(every), geometries, kind, totals.changes, totals.slices, totals.destroyed, ratio, held)
    print()
    _row("time of a plan", "plans", "median ms", "p99 ms", "limit ms", "p99 / limit")
    shares = [_time(model, times(one_gpu(model, 100_000 if options.full else 1_000)), 5.0) for model in models()]
    shares.append(_time("eight H100, pods on two slices each", times(eight_gpus(2_000 if options.full else 200)), 40.0))
    return int(max(shares) > 1)


def _time(name: str, found: list[float], limit: float) -> float:
    """Prints it; p99 as a share of the limit."""
    p99 = found[int(len(found) * 0.99)]
    _row(name, len(found), f"{found[len(found) // 2]:.2f}", f"{p99:.2f}", f"{limit:.0f}", f"{p99 / limit:.2f}")
    return p99 / limit


def _row(*cells: object) -> None:
    print(" | ".join(str(cell) for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
