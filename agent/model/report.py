"""What the agent says of a node: the status annotation, and the report of a pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from agent.model.drift import Drift
from agent.model.mig import Gpu
from agent.model.node import DeviceOwner
from agent.model.operation import Before, Operation
from agent.model.reboot import RebootRecord
from agent.model.steps import Change, Step

SINCE_BOOT = "; failed by the kubelet since the boot: "
"""Behind a success: the pods that the reboot before it cost."""

_MOST_BYTES = 8000
_LONGEST_MESSAGE = 1500

State = Literal["pending", "success", "failed", "rebooting"]


@dataclass(frozen=True, slots=True)
class JobsWait:
    """Since when a wish (its revision) has waited for pods of Jobs to end by themselves."""

    revision: str
    since: float


@dataclass(frozen=True, slots=True)
class ScheduleNow:
    """The schedule that the label names, which of its periods is in force, and until when (seconds since the epoch)."""

    name: str
    period: str
    until: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The status annotation. Times are seconds since the epoch; ``since`` is when ``state`` and ``reason`` began.

    ``revision`` is of the wish that the status speaks of. ``placements`` maps a GPU's UUID to the instances last applied,
    ``profile@start:size`` each: a hint after a reboot; ``applied`` is the revision that they were applied for, ``boot_id`` the
    boot in which. ``attempts`` counts failures in a row of the wish ``tried`` (a revision), ``next_try`` says when the next
    attempt at it may begin, whatever is said in between. ``owed`` is how GPUs were found that an operation had to end without
    (see Note [A GPU that does not answer] in plan/partition.py): what a way back leads to while the same wish is tried again,
    in the boot ``owed_in``. ``jobs`` outlives a failure: who was waited for long enough is not waited for again. ``schedule`` is
    where ``layout`` comes from when the label names a schedule. ``offers``: how many of each nvidia.com resource the node has
    once the wish is applied, for whoever has to know which pods may come. ``reboot`` are modes that a change gave up on, see Note
    [What only a reboot brings] in model/reboot.py.
    """

    state: State
    reason: str
    message: str
    since: float
    layout: str = ""
    revision: str = ""
    gpus: int | None = None
    placements: dict[str, list[str]] = field(default_factory=dict)
    attempts: int = 0
    next_try: float | None = None
    applied: str = ""
    boot_id: str = ""
    drift: Drift | None = None
    owed: dict[str, Before] = field(default_factory=dict)
    owed_in: str = ""
    tried: str = ""
    reboot: RebootRecord | None = None
    jobs: JobsWait | None = None
    schedule: ScheduleNow | None = None
    offers: dict[str, int] | None = None

    def to_json(self) -> str:
        """As it stands in the annotation: below 8 KiB. First the message is cut, then hints go; ``reboot`` never."""
        text = msgspec.json.encode(self.cut)
        if len(text) > _MOST_BYTES:
            text = msgspec.json.encode(replace(self.cut, placements={}))
        if len(text) > _MOST_BYTES:
            text = msgspec.json.encode(replace(self.cut, placements={}, owed={}))
        return text.decode()

    @property
    def cut(self) -> NodeStatus:
        """The same with a message of a length that people read."""
        if len(self.message) <= _LONGEST_MESSAGE:
            return self
        return replace(self, message=f"{self.message[: _LONGEST_MESSAGE - 4]} ...")

    @classmethod
    def from_json(cls, text: str) -> NodeStatus | None:
        """Read an annotation back; None when it is not ours. Nothing is lost with it but hints."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.ValidationError, msgspec.DecodeError):
            return None


@dataclass(frozen=True, slots=True)
class WaitedFor:
    """A pod that the layout waits for. ``owner`` is its controller (``ReplicaSet/web-1``), ``budget`` a PodDisruptionBudget that
    covers it; each may be empty."""

    namespace: str
    pod: str
    owner: str
    budget: str


@dataclass(frozen=True, slots=True)
class PodWorkload:
    """Which workload a pod that has GPUs or slices belongs to: ``Deployment`` ``web``, or its own name where nothing made it."""

    namespace: str
    pod: str
    kind: str
    workload: str


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """What the last pass of the partition loop saw and came to; metrics, page and readiness are made from it.

    ``finished`` and ``waits_since`` are seconds since the epoch. ``waits_for`` is empty when nothing is waited for, else
    ``waits_message`` says it in a sentence; ``pods`` are those that the layout waits for. ``error`` is the sentence of a pass
    that failed; then the rest is of the pass before. ``operation`` is the change under way by its record, ``change`` the whole
    way that is planned or waited for. ``steps`` are those of the plan that is being carried out; by their numbers, ``taken`` are
    done and ``doing`` under way. Without ``owners_known`` the kubelet did not say who holds what: ``owners`` and ``workloads``
    are then what it said last, if ever.
    """

    finished: float
    gpus: tuple[Gpu, ...]
    owners: tuple[DeviceOwner, ...]
    status: NodeStatus | None
    waits_for: str = ""
    waits_since: float = 0.0
    error: str = ""
    pods: tuple[WaitedFor, ...] = ()
    waits_message: str = ""
    operation: Operation | None = None
    change: Change | None = None
    steps: tuple[Step, ...] = ()
    taken: frozenset[int] = frozenset()
    doing: frozenset[int] = frozenset()
    workloads: tuple[PodWorkload, ...] = ()
    owners_known: bool = True
