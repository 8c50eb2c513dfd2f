"""A host as `warmslice doctor --here` sees it at one moment. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.mig import Gpu


@dataclass(frozen=True, slots=True)
class Capability:
    """A slice (``GPU 0, 1g.10gb@0:1``), and the device node that the driver's capability of it names; ``there``: whether that
    exists."""

    slice: str
    device_node: str
    access_file: str
    there: bool


@dataclass(frozen=True, slots=True)
class Directory:
    """``kind`` is the type of its file system, "" where that is not known."""

    path: str
    there: bool
    writable: bool
    kind: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with a file: the setting that names it, its path, and why, in words."""

    setting: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class HostView:
    """``roles`` are the agent's loops whose needs were looked at. ``nvml_error``: why NVML cannot be opened; ``host_pids`` None:
    not known. ``capabilities`` None: the driver's own list of them is not to be seen. ``kubelet``: why PodResources does not
    answer, "" where it does, None where there is no kubelet. A ``..._error`` of a file is the sentence that the agent says."""

    roles: frozenset[str]
    root: bool
    host_pids: bool | None
    nvml_error: str
    driver: str
    gpus: tuple[Gpu, ...]
    capabilities: tuple[Capability, ...] | None
    kubelet: str | None
    cache: Directory
    reserve_ratio: float
    state_directory: str
    missing_pressure: tuple[str, ...]
    unreadable: tuple[Complaint, ...]
    layouts_error: str
    catalog_error: str
    token_fault: str
