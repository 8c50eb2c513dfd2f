"""What one look at the slices' load has found. Frozen data, made by the sampler and shown in metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.model.mig import Placement


@dataclass(frozen=True, slots=True)
class Utilization:
    """Load of one GPU instance between two looks, 0 to 1, as reported by GPM, or where there is none by a dcgm-exporter; its
    compute instances cannot be told apart.

    None is what nobody reports: everything on Ampere without an exporter, and everything at the first look at an instance.
    """

    graphics: float | None = None
    sm: float | None = None
    sm_occupancy: float | None = None
    tensor: float | None = None
    dram_bandwidth: float | None = None


@dataclass(frozen=True, slots=True)
class SliceSample:
    """One MIG device at one look. Memory is the GPU instance's, which its compute instances share. ``active_seconds`` is its
    load times the time, since this instance was first sampled; None where no load was ever reported. ``gpu_share`` is its part of
    the GPU, 0 to 1."""

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
    active_seconds: float | None = None
    gpu_share: float | None = None


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One physical GPU at one look. ``down`` says why it cannot be read: lost, or no answer; then the rest is what was known
    of it. ``mig`` None: it has no MIG. What is measured of it as a whole (memory, processes, load, ``active_seconds`` as of a
    slice) is None while its MIG mode is on: its slices have that. ``ecc_*`` count since the driver was loaded. ``pci_bus_id`` is
    as the driver writes it, ``00000000:1A:00.0``. ``last_xid`` is the number of the last Xid heard, 0 before the first, None
    while nobody listens."""

    uuid: str
    index: int
    model: str = ""
    mig: bool | None = None
    down: str = ""
    temperature_celsius: float | None = None
    power_watts: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: int | None = None
    utilization: Utilization = field(default_factory=Utilization)
    active_seconds: float | None = None
    pci_bus_id: str = ""
    last_xid: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Xid:
    """An error of the driver's, by NVIDIA's number. ``gpu_instance`` None: of the GPU as a whole, as far as the driver says."""

    gpu: str
    gpu_index: int
    gpu_instance: int | None
    number: int


@dataclass(frozen=True, slots=True)
class TelemetrySnapshot:
    """All slices and GPUs of the node at one look. ``sampled_at`` is seconds since the epoch. ``unreadable`` maps the index of a
    GPU that could not be read to the reason; its slices are not in it. ``error`` says why the driver could not be asked at all.
    ``paused``: nothing was asked of it. ``xids`` counts what was heard since the agent began to listen."""

    sampled_at: float
    slices: tuple[SliceSample, ...] = ()
    unreadable: Mapping[int, str] = field(default_factory=dict)
    error: str = ""
    paused: bool = False
    gpus: tuple[GpuSample, ...] = ()
    xids: Mapping[Xid, int] = field(default_factory=dict)
