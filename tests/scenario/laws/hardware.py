"""GPUs as they could be in a node: models of the table and one that nobody has listed, in any state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from agent.model.mig import Gpu, GpuInstance, Placement, Profile, Shape, Slot
from agent.observe.paper import gpu_on_paper, instance_on_paper, models
from tests.fakes.world import media_left

COMMON = ("H100-80GB-SXM", "A100-SXM4-40GB", "A30", "RTX-PRO-6000-96GB", "GB200-186GB")


@st.composite
def nodes(draw: st.DrawFn) -> tuple[Gpu, ...]:
    """The GPUs of one node: mostly of one model."""
    model = draw(_models())
    kinds = draw(st.lists(st.sampled_from(("same", "same", "same", "other", "no MIG")), min_size=0, max_size=2))
    papers = [model(0)]
    for index, kind in enumerate(kinds, 1):
        if kind == "no MIG":
            papers.append(_without_mig(index))
        else:
            papers.append(model(index) if kind == "same" else draw(_models())(index))
    return tuple(draw(_states(paper)) if paper.profiles else paper for paper in papers)


def _models() -> st.SearchStrategy[Callable[[int], Gpu]]:
    listed = st.one_of(st.sampled_from(COMMON), st.sampled_from(models()))
    return st.one_of(listed.map(_listed), listed.map(_listed), listed.map(_listed), _invented())


def _listed(model: str) -> Callable[[int], Gpu]:
    return lambda index: gpu_on_paper(model, index=index)


def _without_mig(index: int) -> Gpu:
    old = gpu_on_paper("A30", index=index)
    return replace(old, name="Tesla T4", mig_enabled=None, mig_pending=None, resetless=False, profiles=())


@st.composite
def _invented(draw: st.DrawFn) -> Callable[[int], Gpu]:
    """A model with profiles, sizes and places that no table has."""
    slices = draw(st.integers(3, 8))
    resetless = draw(st.booleans())
    profiles = []
    for number in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, slices))
        starts = sorted(draw(st.sets(st.integers(0, slices - size), min_size=1)))
        width = draw(st.sampled_from((1, 1, 2, 3, 4)))
        places = tuple(Placement(start, size) for start in starts)
        widths = tuple(sorted({1, width}))
        media = draw(st.sampled_from(("", "", "+me")))
        name = f"{width}g.{5 + number}gb{media}"
        profiles.append(Profile(name, 40 + number, width, 1024 * (5 + number), 10, len(places), places, widths))

    def gpu(index: int) -> Gpu:
        base = gpu_on_paper("H100-80GB-SXM", index=index)
        return replace(base, name="NVIDIA N1", resetless=resetless, profiles=tuple(profiles))

    return gpu


@st.composite
def _states(draw: st.DrawFn, paper: Gpu) -> Gpu:
    if draw(st.integers(0, 4)) == 0:
        return replace(paper, mig_enabled=False, mig_pending=False)
    instances: list[GpuInstance] = []
    for slot in _split_now(draw, paper, draw(layouts(paper))):
        profile = next(p for p in paper.profiles if p.name == slot.shape.profile)
        number = 100 + len(instances)
        fresh = replace(instance_on_paper(number, slot, profile, f"MIG-{paper.index}"), id=number)
        orphan = draw(st.integers(0, 14)) == 0
        instances.append(replace(fresh, compute=(), rooms=()) if orphan else fresh)
    return replace(paper, instances=tuple(sorted(instances, key=lambda i: i.placement)))


def _split_now(draw: st.DrawFn, gpu: Gpu, slots: tuple[Slot, ...]) -> list[Slot]:
    return [Slot(slot.placement, draw(splits(gpu, slot.shape.profile))) for slot in slots]


@st.composite
def splits(draw: st.DrawFn, gpu: Gpu, name: str) -> Shape:
    """The profile, mostly whole."""
    profile = next(p for p in gpu.profiles if p.name == name)
    narrow = [width for width in profile.compute if width < profile.slices]
    if not narrow or draw(st.integers(0, 3)):
        return Shape(name)
    widths: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        fitting = [width for width in narrow if sum(widths) + width <= profile.slices]
        if not fitting:
            break
        widths.append(draw(st.sampled_from(fitting)))
    return Shape(name, tuple(sorted(widths, reverse=True)))


@st.composite
def layouts(draw: st.DrawFn, gpu: Gpu, begin: tuple[Slot, ...] = ()) -> tuple[Slot, ...]:
    """A legal layout of whole instances around those of ``begin``, by placing what still fits until the draw says stop."""
    placed = list(begin)
    for _ in range(draw(st.integers(0, 7))):
        free = [
            Slot(place, Shape(profile.name))
            for profile in gpu.profiles
            for place in profile.placements
            if not any(place.overlaps(slot.placement) for slot in placed)
            and media_left([slot.shape.profile for slot in placed], profile.name)
        ]
        if not free:
            break
        placed.append(draw(st.sampled_from(free)))
    return tuple(sorted(placed))
