"""What a GPU can still become while the slices that are held stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec


@dataclass(frozen=True, slots=True)
class Geometry:
    """A maximal geometry. ``layout`` is the label value that asks for it, empty where none can: what a label says of splits of
    the compute is packed into as few instances as hold them. ``slots`` is the whole layout that the agent would make of it,
    each instance written ``profile@start:size``.
    """

    layout: str
    slots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GpuReach:
    """One GPU: its ``held`` instances, and the maximal geometries that leave them alone.

    ``gpu`` is its index, ``memory_slices`` how many it has, ``mig_enabled`` its MIG mode; while that is off nothing is listed.
    ``holders`` names who is on a held instance. ``unknown`` says why a GPU could not be read.
    """

    gpu: int
    uuid: str
    name: str
    memory_slices: int
    mig_enabled: bool
    held: tuple[str, ...] = ()
    holders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    geometries: tuple[Geometry, ...] = ()
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Reach:
    """Every GPU that can be cut. ``starting`` are pods (``namespace/name``) that are about to take a slice, which one is not
    known yet; ``unknown`` is one sentence on what could not be known, empty where all is.
    """

    gpus: tuple[GpuReach, ...]
    starting: tuple[str, ...] = ()
    unknown: str = ""

    def to_json(self) -> str:
        """Every key is there, always."""
        return msgspec.json.encode(self).decode()
