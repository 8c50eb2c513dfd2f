"""What an agent shows of its node to whoever looks: the status page, and the JSON of ``/api/v1/status``. Frozen data.

The JSON's schema (``agent/data/status.schema.json``) is made from these classes, and their docstrings are its descriptions.
Times are seconds since the epoch. Null, or an empty text, is what is not known, not reported, or not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.model.report import ScheduleNow

Moment = Annotated[float, Meta(description="Seconds since the epoch")]
Ratio = Annotated[float, Meta(description="0 to 1")]
Role = Literal["partition", "cache"]
Stage = Literal["planned", "draining", "cutting", "advertising"]
StepState = Literal["done", "doing", "to do"]


@dataclass(frozen=True, slots=True)
class HoldingPod:
    """A pod that has a slice or a GPU, and the workload that it belongs to as far as it is known: ``kind`` Deployment."""

    namespace: str
    pod: str
    kind: str = ""
    workload: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured of a slice or a whole GPU. ``utilization`` is that of the graphics engines since the look before."""

    utilization: Ratio | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class ShownDevice:
    """A MIG device, what a pod holds. ``name`` is its GPU instance's profile, or ``1c.3g.40gb`` where it has a part of it.
    Several ``pods`` share it by time-slicing or MPS."""

    uuid: str
    name: str
    pods: tuple[HoldingPod, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownInstance:
    """A GPU instance on the memory slices ``start`` to ``start + size - 1``. Without devices nobody can use it. ``fate`` is what
    the change that is under way, or waited for, does to it."""

    profile: str
    start: int
    size: int
    devices: tuple[ShownDevice, ...]
    load: Load = field(default_factory=Load)
    fate: Literal["stays", "goes", "changes"] = "stays"


@dataclass(frozen=True, slots=True)
class FreeRun:
    """Memory slices that no instance has. ``fits`` is the largest profile that could be made of them, empty for none."""

    start: int
    size: int
    fits: str


@dataclass(frozen=True, slots=True)
class PlannedSlot:
    """An instance that is there after the change; ``new`` where it is made by it."""

    profile: str
    start: int
    size: int
    new: bool


@dataclass(frozen=True, slots=True)
class ShownXid:
    """An error of the driver's by NVIDIA's number, how often since the agent began to listen."""

    number: int
    gpu_instance: int | None
    count: int


@dataclass(frozen=True, slots=True)
class ShownGpu:
    """A GPU. ``down`` says why it cannot be read; then the rest is what was known of it. With MIG on, ``instances`` and ``free``
    cover its ``memory_slices``; with MIG off, or none, ``load`` and ``pods`` are of the whole GPU. ``planned`` is null where no
    change concerns it. ``mode_after`` is the MIG mode that the change brings, empty for the same."""

    index: int
    uuid: str
    name: str
    mig: Literal["on", "off", "none", "unknown"]
    memory_slices: int
    instances: tuple[ShownInstance, ...] = ()
    free: tuple[FreeRun, ...] = ()
    planned: tuple[PlannedSlot, ...] | None = None
    mode_after: Literal["", "on", "off"] = ""
    down: str = ""
    load: Load = field(default_factory=Load)
    pods: tuple[HoldingPod, ...] = ()
    temperature_celsius: float | None = None
    power_watts: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xids: tuple[ShownXid, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownLayout:
    """What the node is asked for, and how it stands: the words of the annotation ``warmslice.dev/status``."""

    layout: str
    revision: str
    state: Literal["pending", "success", "failed", "rebooting"]
    reason: str
    message: str
    since: Moment
    attempts: int = 0
    next_try: Moment | None = None
    schedule: ScheduleNow | None = None


@dataclass(frozen=True, slots=True)
class PodInTheWay:
    """A pod that the layout waits for. ``owner`` is its controller, ``budgets`` the PodDisruptionBudgets that cover it."""

    namespace: str
    pod: str
    owner: str
    budgets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """What the layout waits for, since when, and which pods that is about."""

    reason: str
    message: str
    since: Moment
    pods: tuple[PodInTheWay, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownStep:
    """A step of the plan that is being carried out; ``kind`` is its type's name."""

    kind: str
    words: str
    state: StepState


@dataclass(frozen=True, slots=True)
class ShownChange:
    """The change that is under way, or waited for (``planned``). ``back``: it failed, for ``failure``, and goes back to what was
    before. ``moves`` are the pods that have to move; ``steps`` are empty while none is taken."""

    layout: str
    stage: Stage
    summary: str
    started: Moment | None = None
    back: bool = False
    failure: str = ""
    moves: tuple[str, ...] = ()
    steps: tuple[ShownStep, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownPartition:
    """What the partition role knows. ``looked`` is when its loop last finished a pass, ``error`` why that pass failed.
    ``layout`` is null where nothing is asked of the node. ``unsampled`` says why there is no load."""

    looked: Moment | None
    error: str
    layout: ShownLayout | None
    wait: Wait | None
    change: ShownChange | None
    gpus: tuple[ShownGpu, ...]
    sampled: Moment | None
    unsampled: str = ""


@dataclass(frozen=True, slots=True)
class ShownModel:
    """A model that is wanted on this node. ``because`` says by whom; ``gate``: a node that starts waits for it.
    ``in_memory_bytes`` of its weights are in the page cache, where they are to be; ``why_not_in_memory`` says what keeps them
    out."""

    name: str
    repository: str
    revision: str
    commit: str | None
    state: Literal["ready", "fetching", "waiting", "failed"]
    reason: str
    message: str
    size_bytes: int
    fetched_bytes: int
    since: Moment
    next_try: Moment | None
    because: str
    gate: bool = False
    in_memory_bytes: int | None = None
    why_not_in_memory: str = ""


@dataclass(frozen=True, slots=True)
class ShownCache:
    """What the cache role knows. ``refusal`` says why the catalog cannot be followed, ``over`` why the cache takes more than it
    may. ``received_bytes`` came over the network since the agent started."""

    looked: Moment
    refusal: str
    models: tuple[ShownModel, ...]
    used_bytes: int
    free_bytes: int
    total_bytes: int
    budget_bytes: int | None
    received_bytes: int
    over: str = ""


@dataclass(frozen=True, slots=True)
class ShownGate:
    """The start-up gate is shut: since when, for what it waits, and when it opens whatever is missing."""

    since: Moment
    waits_for: str
    message: str
    opens: Moment


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """An Event that the agent wrote, ``count`` times. ``about`` is empty for the node, else ``Pod ml/train-0``."""

    at: Moment
    role: Role
    warning: bool
    reason: str
    message: str
    about: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class ShownContainer:
    """A role of the agent. ``here``: this answer is its own; ``answers``: it was asked; ``away``: it does not answer, for
    ``why``, since somebody first looked in vain; ``elsewhere``: nobody asks it from here. ``lacks`` is what it says to
    ``/readyz``."""

    role: Role
    state: Literal["here", "answers", "away", "elsewhere"]
    version: str = ""
    lacks: tuple[str, ...] = ()
    since: Moment | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything at one moment. ``partition`` and ``cache`` are null where that role has not looked yet, or does not answer."""

    node: str
    at: Moment
    cordoned: bool | None
    containers: tuple[ShownContainer, ...]
    partition: ShownPartition | None
    cache: ShownCache | None
    gate: ShownGate | None
    events: tuple[ShownEvent, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What the cache container tells the partition container, on a socket between the two."""

    version: str
    lacks: tuple[str, ...]
    cache: ShownCache | None
    events: tuple[ShownEvent, ...]

    @classmethod
    def from_json(cls, text: bytes) -> Share | None:
        """None when it is not ours."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Away:
    """The cache container does not answer: why, and since when."""

    why: str
    since: Moment
