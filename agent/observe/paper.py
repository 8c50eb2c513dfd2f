"""GPUs on paper: what a model of the geometry table would report, for planning without hardware."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from agent.model.errors import BadInputError
from agent.model.mig import ComputeInstance, Gpu, GpuInstance, Layout, Placement, Profile, Slot


@cache
def _table() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((files("agent") / "data" / "mig_geometry.json").read_text("utf-8"))
    return document


def models() -> tuple[str, ...]:
    """The GPU models of the table."""
    return tuple(_table())


def gpu_on_paper(model: str, layout: Layout = (), index: int = 0) -> Gpu:
    """A GPU of that model in MIG mode that has that layout. BadInputError for a model not in the table."""
    row = _table().get(model)
    if row is None:
        raise BadInputError(f"GPU model {model!r} is not in the table; it has {', '.join(models())}")
    profiles = tuple(_profile(p) for p in row["profiles"])
    return Gpu(
        uuid=f"GPU-{index:08x}-0000-0000-0000-000000000000",
        index=index,
        name=row["names"][0],
        pci_device_id=next(iter(row["pci_device_ids"]), ""),
        memory_mib=row["memory_mib"] or 0,
        mig_enabled=True,
        mig_pending=True,
        resetless=row["resetless_mig"],
        profiles=profiles,
        instances=tuple(_instance(number, slot, profiles) for number, slot in enumerate(layout)),
    )


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


def _instance(number: int, slot: Slot, profiles: tuple[Profile, ...]) -> GpuInstance:
    profile = next(p for p in profiles if p.name == slot.shape.profile)
    widths = [(width, False) for width in slot.shape.compute] or [(profile.slices, True)]
    compute = tuple(
        ComputeInstance(part, width, full, f"MIG-{number}-{part}") for part, (width, full) in enumerate(widths)
    )
    return GpuInstance(number, profile.name, slot.placement, compute)
