"""Acts as data: what a plan is made of, and what a pass can come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.model.desired import Refusal
from agent.model.mig import Layout, Part, Placement, Shape
from agent.model.node import PodRef
from agent.model.operation import Operation
from agent.model.reboot import RebootRecord


@dataclass(frozen=True, slots=True)
class Begin:
    """One patch of the node: cordon (if it was not), autoscaler guards, the operation record, state ``pending``.

    Clients whose originals are in the record already are paused in the same patch: nobody has to be drained first.
    """

    operation: Operation
    guards: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Recordon:
    """Somebody uncordoned midway: cordon again, once, and say so."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class Turn:
    """Write down where the operation goes from here: back after a failure, before the first step back; or out of a way back
    to a newer wish."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class Evict:
    """Ask for one pod's eviction, by budget and with its UID as precondition; with the grace period that the pod has itself.
    Who has a lower ``priority`` is asked first."""

    pod: PodRef
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop GPU clients by their deploy labels. In the same patch the record gets the originals, and says that from now on
    the hardware may be touched."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class SetMode:
    """Switch the MIG mode of one GPU. ``others`` says who is on each other GPU of the node, "" for nobody: a reset that has to
    take some of them too takes them only then."""

    gpu: str
    enabled: bool
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AnnounceReboot:
    """One patch of the node: the record says from which boot the machine is being rebooted, state ``rebooting``."""

    operation: Operation
    message: str


@dataclass(frozen=True, slots=True)
class Reboot:
    """Run the administrator's command that reboots this machine."""


@dataclass(frozen=True, slots=True)
class Destroy:
    """Remove one GPU instance with its compute instances."""

    gpu: str
    placement: Placement
    profile: str


@dataclass(frozen=True, slots=True)
class Trim:
    """Remove some compute instances, by their compute slices, of a GPU instance that stays."""

    gpu: str
    placement: Placement
    profile: str
    parts: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Create:
    """Make one GPU instance with its compute instances; one that is there gets those that it lacks."""

    gpu: str
    placement: Placement
    shape: Shape


@dataclass(frozen=True, slots=True)
class Prepare:
    """Run the configured commands that come before a change of the hardware: services of the host let go of the GPUs."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """Run the configured commands that make capability nodes and CDI specifications follow the slices."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Put the paused clients' labels back and choose the device plugin's configuration (None: none), and write that down; the
    operation goes on until they show the layout."""

    operation: Operation
    plugin_config: str | None


@dataclass(frozen=True, slots=True)
class RestartClient:
    """Delete one GPU client's pod on this node, so that its DaemonSet starts one that sees the new layout."""

    pod: PodRef


@dataclass(frozen=True, slots=True)
class End:
    """One patch of the node: originals back, uncordon only if we cordoned, state, record removed. ``reboot`` is what the status
    has to remember of modes that only a reboot brings."""

    operation: Operation
    state: Literal["success", "failed"]
    reason: str
    message: str
    uncordon: bool
    reboot: RebootRecord | None = None


Step = (
    Begin
    | Recordon
    | Turn
    | Evict
    | Pause
    | SetMode
    | Destroy
    | Trim
    | Create
    | AnnounceReboot
    | Reboot
    | Prepare
    | Refresh
    | Resume
    | RestartClient
    | End
)


@dataclass(frozen=True, slots=True)
class Trimming:
    """A GPU instance that stays, and those of its compute instances that go, by their compute slices."""

    placement: Placement
    profile: str
    parts: tuple[Placement, ...]

    def __str__(self) -> str:
        gone = "+".join(f"{part.size}c" for part in self.parts)
        return f"{gone}.{self.profile}@{self.placement}"


@dataclass(frozen=True, slots=True)
class GpuChange:
    """What happens to one GPU. ``remove`` are instances (complete or orphaned), ``finish`` those that get compute they lack:
    orphans, and instances whose split of the compute changes, after ``trim`` has taken from them what is not wanted.

    ``in_force``: the GPU has that ``mode`` already, and only another one that a reset would bring is called off.
    """

    gpu: str
    keep: Layout
    remove: tuple[tuple[Placement, str], ...] = ()
    create: Layout = ()
    finish: Layout = ()
    mode: bool | None = None
    in_force: bool = False
    trim: tuple[Trimming, ...] = ()

    def removes(self, part: Part) -> bool:
        """Whether this slice goes."""
        if any(placement == part.placement for placement, _ in self.remove):
            return True
        return any(
            trim.placement == part.placement and any(gone.start == part.compute for gone in trim.parts)
            for trim in self.trim
        )

    @property
    def destroyed(self) -> tuple[str, ...]:
        """What goes, as people read it: ``3g.40gb@4:4``, or ``1c+1c.3g.40gb@4:4`` of an instance that stays."""
        return (*(f"{profile}@{placement}" for placement, profile in self.remove), *map(str, self.trim))

    @property
    def switches(self) -> bool:
        """Nobody can use the GPU while its mode changes."""
        return self.mode is not None and not self.in_force

    @property
    def empty(self) -> bool:
        """Nothing to do on this GPU."""
        return not (self.remove or self.create or self.finish or self.trim) and self.mode is None


@dataclass(frozen=True, slots=True)
class Change:
    """The whole way from what is to what is wanted, and the pods that have to move for it.

    ``exact``: no way costs less. It is False where more GPUs share pods than can be decided together. ``sharing`` says in words
    what changes in how the device plugin shares.
    """

    gpus: tuple[GpuChange, ...]
    moves: tuple[PodRef, ...] = ()
    exact: bool = True
    sharing: str = ""

    @property
    def takes_away(self) -> bool:
        """Whether anything goes that somebody might hold."""
        return any(gpu.remove or gpu.trim or gpu.switches for gpu in self.gpus)

    @property
    def empty(self) -> bool:
        """The hardware is as wished."""
        return all(gpu.empty for gpu in self.gpus)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps to take now, in order; after them the world is read again. ``change`` is the whole way, for people to read."""

    change: Change
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not yet: something else has to happen first. ``look_again_seconds`` bounds the wait when no event comes; ``pods`` are those
    that it waits for."""

    reason: str
    message: str
    change: Change | None = None
    look_again_seconds: float = 10.0
    pods: tuple[PodRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing to do. ``asked`` is False on a node without a layout label."""

    message: str
    asked: bool = True


Outcome = Plan | Waiting | Refusal | Settled
