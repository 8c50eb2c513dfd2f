"""What one look at the slices' load has found. Frozen data, made by the sampler and shown in metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.model.mig import Placement


@dataclass(frozen=True, slots=True)
class Utilization:
    """Load of one GPU instance between two looks, 0 to 1, as reported by GPM; its compute instances cannot be told apart.

    None is what this GPU or driver does not report: everything on Ampere, and everything at the first look at an instance.
    """

    graphics: float | None = None
    sm: float | None = None
    sm_occupancy: float | None = None
    tensor: float | None = None
    dram_bandwidth: float | None = None


@dataclass(frozen=True, slots=True)
class SliceSample:
    """One MIG device at one look. Memory is the GPU instance's, which its compute instances share."""

    gpu: str
    gpu_index: int
    profile: str
    placement: Placement
    gpu_instance: int
    compute_instance: int
    uuid: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: int | None = None
    utilization: Utilization = field(default_factory=Utilization)


@dataclass(frozen=True, slots=True)
class TelemetrySnapshot:
    """All slices of the node at one look. ``sampled_at`` is seconds since the epoch. ``unreadable`` maps the index of a GPU
    that could not be read to the reason; its slices are not in it. ``error`` says why the driver could not be asked at all.
    ``paused``: nothing was asked of it."""

    sampled_at: float
    slices: tuple[SliceSample, ...] = ()
    unreadable: Mapping[int, str] = field(default_factory=dict)
    error: str = ""
    paused: bool = False
