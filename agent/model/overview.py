"""How a node stands, for people and for programs: what the status page shows and ``/api/v1/status`` answers. Frozen data.

All times are seconds since the epoch, all sizes bytes. None is what is not known, or not told by this hardware.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MigWord = Literal["on", "off", "none"]
Stage = Literal["done", "doing", "to do"]


@dataclass(frozen=True, slots=True)
class LoadView:
    """What a slice or a whole GPU does. Ratios are 0 to 1, between the last two samples."""

    utilization_ratio: float | None = None
    sm_utilization_ratio: float | None = None
    tensor_utilization_ratio: float | None = None
    dram_bandwidth_utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class SliceView:
    """A slice: ``size`` memory slices of its GPU from ``start``. ``holders`` are pods (``namespace/name``), several where it is
    shared. ``compute`` is its part of the GPU instance, "" where it has all of it."""

    profile: str
    start: int
    size: int
    compute: str
    gpu_instance: int
    compute_instance: int
    uuid: str
    holders: tuple[str, ...] = ()
    load: LoadView = field(default_factory=LoadView)


@dataclass(frozen=True, slots=True)
class GpuView:
    """A GPU. ``down`` says why it cannot be read, and is empty while it answers. ``slices``, and ``holders`` and ``load`` where
    its MIG mode is off. ``after``: what its slices will be once the change under way is done (``profile@start:size``); None where
    none is under way."""

    index: int
    uuid: str
    model: str
    mig: MigWord
    memory_slices: int
    down: str = ""
    temperature_celsius: float | None = None
    power_watts: float | None = None
    ecc_uncorrected: int | None = None
    xids: dict[str, int] = field(default_factory=dict)
    slices: tuple[SliceView, ...] = ()
    holders: tuple[str, ...] = ()
    load: LoadView = field(default_factory=LoadView)
    after: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """A step of the plan that is being carried out."""

    text: str
    state: Stage


@dataclass(frozen=True, slots=True)
class ChangeView:
    """A change of layout that has begun. ``failure`` says why it goes back, and is empty while it goes forward. ``moves`` are the
    pods that have to move (``namespace/name``)."""

    since: float
    layout: str
    cordoned: bool
    failure: str = ""
    moves: tuple[str, ...] = ()
    steps: tuple[StepView, ...] = ()


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A pod that is waited for, what made it, and a disruption budget that covers it; each of these may be empty."""

    pod: str
    owner: str
    budget: str


@dataclass(frozen=True, slots=True)
class WaitView:
    """What the layout waits for."""

    reason: str
    message: str
    since: float
    pods: tuple[InTheWay, ...] = ()


@dataclass(frozen=True, slots=True)
class LayoutView:
    """The wish and how it stands, as in the node's annotation ``warmslice.dev/status``. ``state`` is empty where no layout was
    ever asked for."""

    layout: str
    state: Literal["", "pending", "success", "failed", "rebooting"]
    reason: str
    message: str
    since: float
    next_try: float | None = None
    schedule: str = ""


@dataclass(frozen=True, slots=True)
class PartitionView:
    """The container ``partition``. ``at`` is when its last pass ended, ``error`` why that failed."""

    at: float
    error: str
    layout: LayoutView
    gpus: tuple[GpuView, ...]
    waits: WaitView | None = None
    change: ChangeView | None = None
    sampled_at: float | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that is wanted on this node. ``because`` says who wants it."""

    name: str
    repository: str
    revision: str
    commit: str | None
    state: Literal["ready", "fetching", "waiting", "failed"]
    reason: str
    message: str
    size_bytes: int
    fetched_bytes: int
    since: float
    next_try: float | None
    because: str
    gate: bool


@dataclass(frozen=True, slots=True)
class CacheView:
    """The container ``cache``. ``at`` is when its last pass ended, ``refusal`` why the catalog cannot be followed, ``over`` why
    the cache takes more than it may. ``gate``: what the start-up taint of this node waits for."""

    at: float
    refusal: str
    models: tuple[ModelView, ...]
    used_bytes: int
    free_bytes: int
    total_bytes: int
    budget_bytes: int | None
    over: str = ""
    gate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventView:
    """An Event that the agent has said since it started. ``about`` is what it is about (``Node gpu-1``)."""

    at: float
    warning: bool
    reason: str
    message: str
    about: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """What one container says of itself. ``missing`` says why it says nothing, ``missing_since`` since when that is so."""

    partition: PartitionView | None = None
    cache: CacheView | None = None
    events: tuple[EventView, ...] = ()
    missing: str = ""
    missing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """The node as its agent sees it, at ``at``. Of ``partition`` and ``cache`` the one is None that has not looked yet, or does
    not answer: ``missing`` says why, by container. ``events`` are the last ones of both, the newest first."""

    node: str
    at: float
    version: str
    partition: PartitionView | None
    cache: CacheView | None
    events: tuple[EventView, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    missing_since: dict[str, float] = field(default_factory=dict)
