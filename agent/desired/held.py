"""Held slices as a person writes them: ``3g.40gb@4:4 1g.10gb@0:1``, with commas or spaces between them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from agent.model.errors import BadInputError
from agent.model.mig import Gpu, Layout, Shape, Slot

Fits = Callable[[Gpu, tuple[Shape, ...]], bool]


def held_slots(gpu: Gpu, text: str, media_allowed: Fits) -> Layout:
    """The slots named, if this GPU can have them all together; BadInputError says which cannot be, and what could.

    ``media_allowed`` says whether the GPU's media engines suffice for some instances.
    """
    slots = tuple(sorted(_slot(gpu, Slot.parse(word)) for word in text.replace(",", " ").split()))
    for one, other in combinations(slots, 2):
        if one.placement.overlaps(other.placement):
            raise BadInputError(f"{one} and {other} overlap: a memory slice belongs to one instance only")
    if not media_allowed(gpu, tuple(slot.shape for slot in slots)):
        named = ", ".join(map(str, slots))
        raise BadInputError(
            f"{named} cannot be together: one instance may have media engines (+me), and beside +me.all only -me may be"
        )
    return slots


def _slot(gpu: Gpu, slot: Slot) -> Slot:
    """The slot as this driver names it; compute instances widest first, and one of full size is no split."""
    profile = gpu.profile(slot.shape.profile)
    if profile is None:
        offered = ", ".join(p.name for p in gpu.profiles)
        raise BadInputError(f"{slot}: {gpu.name} has no profile {slot.shape.profile}; it has {offered}")
    if slot.placement not in profile.placements:
        legal = ", ".join(map(str, profile.placements))
        raise BadInputError(f"{slot}: {profile.name} cannot be at {slot.placement} on {gpu.name}, only at {legal}")
    compute = tuple(sorted(slot.shape.compute, reverse=True))
    return Slot(slot.placement, Shape(profile.name, () if compute == (profile.slices,) else compute))
