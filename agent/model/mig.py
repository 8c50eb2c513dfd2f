"""MIG nouns: what a GPU can be cut into, and how it is cut now.

Placements are counted in memory slices, as NVML does. Identity is (GPU UUID, placement, profile); GPU instance ids, compute
instance ids, indices and MIG UUIDs are re-used by the driver and are facts about now only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agent.model.errors import BadInputError

_SLOT = re.compile(
    r"(?:(?P<compute>\d+c(?:\+\d+c)*)\.)?(?P<profile>\d+g\.\d+gb(?:[+-][a-z.]+)?)@(?P<start>\d+):(?P<size>[1-9]\d*)"
)


NAMELESS = "GPU-unknown-"
"""How what stands for the UUID of a GPU begins that has never been read."""


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """A run of memory slices on one GPU: ``size`` slices from slice ``start``."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first slice behind the run."""
        return self.start + self.size

    def overlaps(self, other: Placement) -> bool:
        """Two runs that share a slice cannot exist together."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.size}"


def arrange(
    widths: Iterable[int], rooms: Sequence[Placement], kept: Iterable[Placement]
) -> tuple[Placement, ...] | None:
    """Where compute instances of these widths go beside the kept ones, in the order of ``widths``; None where they do not fit.

    Each width takes the first of its rooms that leaves a room to all that come after it.
    """
    todo, taken = list(widths), list(kept)
    if not todo:
        return ()
    for room in rooms:
        if room.size != todo[0] or any(room.overlaps(other) for other in taken):
            continue
        rest = arrange(todo[1:], rooms, [*taken, room])
        if rest is not None:
            return room, *rest
    return None


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of GPU instance, as the driver of *this* GPU describes it.

    ``name`` is the driver's own, without "MIG " in front: ``1g.10gb``, ``1g.10gb+me``. ``id`` is the profile id that create
    takes (19), not the enum (0). ``max_instances`` is a hint (A30 reports it wrong); ``placements`` are the truth.
    ``compute`` lists how many compute slices its compute instances can have, the whole of it included. ``also`` are names that
    other drivers give to the same profile of this GPU model (GB200: ``1g.23gb`` and ``1g.24gb``).
    """

    name: str
    id: int
    slices: int
    memory_mib: int
    multiprocessors: int
    max_instances: int
    placements: tuple[Placement, ...]
    compute: tuple[int, ...]
    also: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Memory slices that one instance takes; 0 where the driver lists no placement."""
        return self.placements[0].size if self.placements else 0

    @property
    def media(self) -> str:
        """``"me"``, ``"me.all"``, ``"-me"`` or ``""``: how the profile takes the GPU's media engines."""
        for mark, meaning in (("+me.all", "me.all"), ("+me", "me"), ("-me", "-me")):
            if self.name.endswith(mark):
                return meaning
        return ""

    @property
    def plain(self) -> bool:
        """Without media or graphics attributes."""
        return not self.media and "+" not in self.name

    @property
    def rank(self) -> tuple[int, int]:
        """What makes a profile larger than another: compute slices, then memory."""
        return self.slices, self.memory_mib


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What is wanted of one GPU instance: its profile, and the compute slices of each of its compute instances.

    An empty ``compute`` means one compute instance of full size.
    """

    profile: str
    compute: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.compute:
            return self.profile
        return "+".join(f"{slices}c" for slices in self.compute) + "." + self.profile


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One GPU instance in a layout: a shape at a placement. With the GPU's UUID in front, this is its identity."""

    placement: Placement
    shape: Shape

    def __str__(self) -> str:
        return f"{self.shape}@{self.placement}"

    @classmethod
    def parse(cls, text: str) -> Slot:
        """What ``str`` wrote. BadInputError for anything else."""
        match = _SLOT.fullmatch(text)
        if match is None:
            raise BadInputError(f"{text!r} is not <profile>@<start>:<size> such as 3g.40gb@4:4")
        widths = tuple(int(width) for width in re.findall(r"\d+", match["compute"] or ""))
        return cls(Placement(int(match["start"]), int(match["size"])), Shape(match["profile"], widths))


Layout = tuple[Slot, ...]
"""The GPU instances of one GPU, in the order of their placements."""


Activation = Literal["now", "by reset", "by reboot"]
"""When a MIG mode that was asked for comes into force."""


@dataclass(frozen=True, slots=True)
class ComputeInstance:
    """A compute instance as it is now; with its GPU instance it is one MIG device. ``uuid`` is ``MIG-...``.

    ``full``: it has every multiprocessor that one compute instance of this GPU instance can have. The number of slices
    alone does not say so: 1g.20gb on Hopper offers 16 and 26 multiprocessors to one slice. ``start`` is its first compute
    slice within the GPU instance.
    """

    id: int
    slices: int
    full: bool
    uuid: str
    start: int = 0

    @property
    def placement(self) -> Placement:
        """Its run of compute slices within the GPU instance."""
        return Placement(self.start, self.slices)


@dataclass(frozen=True, slots=True)
class GpuInstance:
    """A GPU instance as it is now. Without a compute instance it is an orphan: no MIG device, but the memory is taken.

    ``rooms`` are the placements (in compute slices) that its compute instances can have, occupied or not; empty where they
    are not known, or do not matter because one of full size has it all.
    """

    id: int
    profile: str
    placement: Placement
    compute: tuple[ComputeInstance, ...] = ()
    rooms: tuple[Placement, ...] = ()

    @property
    def shape(self) -> Shape | None:
        """The shape that this instance has; None for an orphan, which has none yet."""
        if not self.compute:
            return None
        if len(self.compute) == 1 and self.compute[0].full:
            return Shape(self.profile)
        return Shape(self.profile, tuple(sorted((c.slices for c in self.compute), reverse=True)))


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A slice of one GPU, what a pod holds: the compute instance that starts at compute slice ``compute`` of the GPU instance
    at ``placement``. Together with the GPU's UUID it lasts while the slice does.
    """

    placement: Placement
    compute: int = 0


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a GPU. ``gpu_instance`` and ``compute_instance`` are None for one that uses the whole GPU.

    ``pod`` is the UID of the pod that it runs in, "" outside every pod, None where that cannot be seen.
    """

    pid: int
    gpu_instance: int | None
    compute_instance: int | None
    memory_bytes: int = 0
    command: str = ""
    pod: str | None = None
    user: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML shows it now.

    ``mig_enabled`` is None on a GPU that has no MIG. ``pending`` differs from ``mig_enabled`` while a reset is owed.
    ``unknown`` says why the GPU could not be read; then nothing else of it can be trusted; ``listed`` False: the driver does not
    list it any more, so its ``index`` may be another GPU's by now. ``profiles_unknown``: MIG is off
    and this driver lists profiles only while it is on, so ``profiles`` is empty and says nothing. The PCI ids are written as
    mig-parted's device filters have them: ``0x<device><vendor>``, ``0x233010DE``.
    """

    uuid: str
    index: int
    name: str
    pci_device_id: str
    memory_mib: int
    mig_enabled: bool | None
    mig_pending: bool | None
    resetless: bool
    profiles: tuple[Profile, ...] = ()
    instances: tuple[GpuInstance, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    unknown: str = ""
    pci_subsystem_id: str = ""
    profiles_unknown: bool = False
    listed: bool = True

    def profile(self, name: str) -> Profile | None:
        """The profile of that name, of this driver or another; None where this GPU has none."""
        own = next((p for p in self.profiles if p.name == name), None)
        return own if own is not None else next((p for p in self.profiles if name in p.also), None)

    @property
    def layout(self) -> Layout:
        """The complete instances of now; orphans are not in it."""
        return tuple(sorted(Slot(i.placement, i.shape) for i in self.instances if i.shape is not None))

    @property
    def never_read(self) -> bool:
        """Nothing is known of it but its place, and perhaps its UUID: it may be of any model."""
        return bool(self.unknown) and not self.pci_device_id

    @property
    def nameless(self) -> bool:
        """Not even its UUID is known: it may be any GPU that is asked for."""
        return bool(self.unknown) and self.uuid.startswith(NAMELESS)

    @property
    def short(self) -> str:
        """The first 8 hexadecimal digits of the UUID, as they stand in label names."""
        return self.uuid.removeprefix("GPU-")[:8]


def largest_free_profile(gpu: Gpu) -> Profile | None:
    """The largest plain profile of which one more instance would fit without touching the others; None when nothing fits. An
    orphaned instance takes its place like any other, and one that has all media engines leaves none to a plain one."""
    if any(instance.profile.endswith("+me.all") for instance in gpu.instances):
        return None
    taken = [instance.placement for instance in gpu.instances]
    free = (profile for profile in gpu.profiles if profile.plain and free_places(profile, taken))
    return max(free, key=lambda profile: profile.rank, default=None)


def free_places(profile: Profile, taken: Sequence[Placement]) -> tuple[Placement, ...]:
    """The placements of a profile that overlap nothing that is taken."""
    return tuple(place for place in profile.placements if not any(place.overlaps(other) for other in taken))


@dataclass(frozen=True, slots=True)
class GpuWish:
    """What is wanted of one GPU: MIG mode, and with it the instances (a multiset, sorted largest first by the resolver).

    ``placed`` names exact placements instead: a way back, or the layout last applied. ``pending`` is another mode that may
    wait for a reboot meanwhile; what else waits is called off.
    """

    mig_enabled: bool
    shapes: tuple[Shape, ...] = ()
    placed: Layout | None = field(default=None)
    pending: bool | None = None
