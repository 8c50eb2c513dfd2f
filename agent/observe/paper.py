"""What the geometry table knows of GPU models: GPUs on paper, for planning without hardware, and names of other drivers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from agent.model.errors import BadInputError
from agent.model.mig import ComputeInstance, Gpu, GpuInstance, Layout, Placement, Profile, Slot, arrange


@cache
def _table() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((files("agent") / "data" / "mig_geometry.json").read_text("utf-8"))
    return document


def models() -> tuple[str, ...]:
    """The GPU models of the table."""
    return tuple(_table())


def model_named(name: str) -> str | None:
    """The model whose GPUs call themselves that; dashes and spaces count alike."""
    plain = name.replace("-", " ")
    return next((m for m, row in _table().items() if plain in [own.replace("-", " ") for own in row["names"]]), None)


def with_other_names(gpu: Gpu) -> Gpu:
    """The GPU as it is, and for each profile the names that other drivers give it on that model, by the table."""
    aliases: dict[str, list[str]] = next(
        (row["name_aliases"] for row in _table().values() if gpu.name in row["names"]), {}
    )
    groups = [{name, *others} for name, others in aliases.items()]
    return (
        replace(gpu, profiles=tuple(_with_other_names(profile, groups) for profile in gpu.profiles)) if groups else gpu
    )


def _with_other_names(profile: Profile, groups: list[set[str]]) -> Profile:
    base = re.split(r"[+-]", profile.name)[0]
    attributes = profile.name.removeprefix(base)
    also = tuple(sorted(name + attributes for group in groups if base in group for name in group - {base}))
    return replace(profile, also=also)


def gpu_on_paper(model: str, layout: Layout = (), index: int = 0) -> Gpu:
    """A GPU of that model in MIG mode that has that layout. BadInputError for a model not in the table."""
    row = _table().get(model)
    if row is None:
        raise BadInputError(f"GPU model {model!r} is not in the table; it has {', '.join(models())}")
    profiles = tuple(_profile(p) for p in row["profiles"])
    gpu = Gpu(
        uuid=f"GPU-{index:08x}-0000-0000-0000-000000000000",
        index=index,
        name=row["names"][0],
        pci_device_id=next(iter(row["pci_device_ids"]), ""),
        memory_mib=row["memory_mib"] or 0,
        mig_enabled=True,
        mig_pending=True,
        resetless=row["resetless_mig"],
        profiles=profiles,
        instances=tuple(
            instance_on_paper(number, slot, next(p for p in profiles if p.name == slot.shape.profile))
            for number, slot in enumerate(layout)
        ),
    )
    return with_other_names(gpu)


def _profile(row: dict[str, Any]) -> Profile:
    return Profile(
        name=row["name"],
        id=row["id"] if row["id"] is not None else -1 - row["enum"],
        slices=row["slices"],
        memory_mib=row["memory_mib"] or 0,
        multiprocessors=row["multiprocessors"] or 0,
        max_instances=row["max_instances"],
        placements=tuple(Placement(start, row["size"]) for start in row["starts"]),
        compute=tuple(sorted({c["slices"] for c in row["compute"]})),
    )


def instance_on_paper(number: int, slot: Slot, profile: Profile, uuids: str = "MIG") -> GpuInstance:
    """A GPU instance at that slot; its MIG devices are called ``<uuids>-<number>-<n>``."""
    rooms = _rooms(profile)
    split = slot.shape.compute
    places = arrange(split, rooms, ()) if split else (Placement(0, profile.slices),)
    if places is None:
        offered = ", ".join(f"{width}c" for width in profile.compute)
        raise BadInputError(
            f"{slot}: {profile.name} has no room for that split; it has {profile.slices} compute slices for {offered}"
        )
    compute = tuple(
        ComputeInstance(part, place.size, not split, f"{uuids}-{number}-{part}", place.start)
        for part, place in enumerate(places)
    )
    return GpuInstance(number, profile.name, slot.placement, compute, rooms if split else ())


def _rooms(profile: Profile) -> tuple[Placement, ...]:
    """Where compute instances can be: every ``width`` slices, rounded up to a power of two (as GPU instances on the boards)."""
    return tuple(
        Placement(start, width)
        for width in profile.compute
        for start in range(0, profile.slices - width + 1, 1 << (width - 1).bit_length())
    )
