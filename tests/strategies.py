"""Random hardware, layouts and holders, mostly feasible: what is drawn is what a GPU could really be."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from agent.model.mig import ComputeInstance, Gpu, GpuInstance, Part, Shape, Slot
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import media_allowed

BOARDS = ("H100-80GB-SXM", "A30", "RTX-PRO-6000-96GB", "A100-SXM4-40GB")


@st.composite
def layouts(draw: st.DrawFn, gpu: Gpu) -> tuple[Slot, ...]:
    """A legal layout, by placing what still fits until the draw says stop."""
    placed: list[Slot] = []
    for _ in range(draw(st.integers(0, 7))):
        free = [
            Slot(place, Shape(profile.name))
            for profile in gpu.profiles
            for place in profile.placements
            if not any(place.overlaps(slot.placement) for slot in placed)
            and media_allowed(gpu, (*(slot.shape for slot in placed), Shape(profile.name)))
        ]
        if not free:
            break
        placed.append(draw(st.sampled_from(free)))
    return tuple(sorted(placed))


def having(gpu: Gpu, layout: tuple[Slot, ...]) -> Gpu:
    """The GPU with these instances on it."""
    instances = []
    for number, slot in enumerate(layout):
        profile = gpu.profile(slot.shape.profile)
        assert profile is not None
        compute = (ComputeInstance(0, profile.slices, True, f"MIG-{gpu.index}-{number}"),)
        instances.append(GpuInstance(100 + number, profile.name, slot.placement, compute))
    return replace(gpu, instances=tuple(instances))


@st.composite
def gpus(draw: st.DrawFn) -> Gpu:
    """A GPU of some model with some layout."""
    gpu = gpu_on_paper(draw(st.sampled_from(BOARDS)))
    return having(gpu, draw(layouts(gpu)))


@st.composite
def fixed_slices(draw: st.DrawFn, gpu: Gpu) -> frozenset[Part]:
    """Some of the slices, held by somebody who cannot be moved."""
    parts = [Part(instance.placement, compute.start) for instance in gpu.instances for compute in instance.compute]
    return draw(st.frozensets(st.sampled_from(parts))) if parts else frozenset()
