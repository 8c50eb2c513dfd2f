"""What `warmslice advise` says: how the slices of a node could be used better. Nothing of it is ever applied. Frozen data.

Slices are written ``profile@start:size``, holders ``namespace/kind/name``; GPUs are named by index. ``frees_*`` is what following
the advice would set free; of a geometry it is by how much the largest slice that could then be made is larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True, order=True)
class GpuSlice:
    """One slice, and who holds it."""

    gpu: int
    slice: str
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Oversized:
    """A workload that never used more memory than a smaller profile has, on any of its ``slices``.

    ``fits`` is the smallest plain profile whose memory would do. ``peak_load`` is the highest load between two looks, which are
    ``load_seconds`` apart (0: not known): an average over that time, in which shorter bursts are not seen. ``compute``: whether
    ``fits`` has twice the multiprocessors that were busy then (``enough``), less than twice (``tight``), or fewer than were
    (``short``). ``enough`` is the smallest profile of less memory that has the memory and twice the multiprocessors, empty where
    there is none or the load is not known. Loads are parts of the multiprocessors of ``profile``, 0 to 1.
    """

    holders: tuple[str, ...]
    profile: str
    slices: tuple[GpuSlice, ...]
    observed_seconds: float
    peak_memory_bytes: int
    fits: str
    fits_memory_bytes: int
    compute: Literal["enough", "tight", "short", "unknown"]
    enough: str
    peak_load: float | None
    load_seconds: float
    mean_load: float | None
    frees_memory_slices: int
    frees_bytes: int
    kind: Literal["oversized"] = "oversized"


@dataclass(frozen=True, slots=True)
class Idle:
    """A slice on which nothing was active in ``quiet_seconds`` of looking, in its holders' hands, or in anybody's where nobody
    holds it. ``last_active`` is None where it was not seen active at all; ``process``: one is on it all the same."""

    slice: GpuSlice
    quiet_seconds: float
    last_active: float | None
    process: bool
    frees_memory_slices: int
    frees_bytes: int
    kind: Literal["idle"] = "idle"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The slices of a GPU in other places, so that a larger one could be made: ``frees``, where ``instead_of`` is the largest now
    (empty: none).

    ``layout`` as value of the node's label ``label`` has the agent do it, and make that slice; it is empty where no label value
    asks for such a layout. ``moves`` are the slices that would be made anew elsewhere; their holders would be moved.
    """

    gpu: int
    uuid: str
    frees: str
    instead_of: str
    label: str
    layout: str
    moves: tuple[GpuSlice, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    memory_slices: int
    frees_memory_slices: int
    frees_bytes: int
    kind: Literal["geometry"] = "geometry"


Advice = Oversized | Idle | Geometry


@dataclass(frozen=True, slots=True)
class Fragments:
    """How the free memory of a GPU lies. ``largest_free`` is the largest plain profile that could be made now,
    ``largest_possible`` the largest if the same slices lay elsewhere, each empty where there is none.

    ``fragmentation`` is the part of the latter that is lost by where the slices lie, of its compute or its memory slices,
    whichever is more: 0 where another place gains nothing, 1 where now nothing could be made at all. ``unusable`` are free memory
    slices that no profile can use beside what is there.
    """

    gpu: int
    uuid: str
    name: str
    memory_slices: int
    slices: tuple[str, ...]
    free_memory_slices: int
    unusable: tuple[int, ...]
    largest_free: str
    largest_possible: str
    fragmentation: float


@dataclass(frozen=True, slots=True)
class Advised:
    """The whole answer, advice that frees most first. ``seen`` is the last look that it rests on (seconds since the epoch, None:
    there was none), ``needed_seconds`` how long a use has to be observed before anything is said of it. ``gpus_seen`` is when the
    GPUs were as they are told, None: now. ``unknown`` is one sentence on what could not be known."""

    observed_seconds: float
    needed_seconds: float
    seen: float | None
    gpus_seen: float | None
    advice: tuple[Advice, ...] = ()
    gpus: tuple[Fragments, ...] = ()
    unknown: str = ""

    def to_json(self) -> str:
        """Every key is there, always."""
        return msgspec.json.encode(self).decode()
