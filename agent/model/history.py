"""What the agent remembers of its slices' use: who held which slice, for how long, and what of it was used. Frozen data.

# Note [What is remembered]
# A slice is its GPU's UUID, its profile and its placement: what was cut away and made again in the same shape is the same place
# for advice, and what has another shape is another. Each slice has a row for each workload that held it (several at once, as by
# time-slicing, are one row together, since nothing tells what each of them used), and one for nobody. A row has a bucket for
# each day of UTC, so that what a workload did before it changed is forgotten after ``WINDOW_DAYS``. What there is no room for is
# added to the slice's row of ``OTHERS``: then it is not known any more who it was, but a slice that was used stays one that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from agent.model.errors import BadInputError
from agent.model.mig import Gpu, Placement

WINDOW_DAYS = 30
DAY_SECONDS = 86400.0
MOST_BYTES = 1024 * 1024
"""Of the file: as many rows as are remembered at most, over the whole window and with names of usual length, have room in it."""

_VERSION = 1


@dataclass(frozen=True, slots=True, order=True)
class SlicePlace:
    """A GPU instance by what lasts. Its compute instances share its memory and its load, so they are one."""

    gpu: str
    profile: str
    placement: Placement

    def __str__(self) -> str:
        return f"{self.profile}@{self.placement}"


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A workload: ``Deployment`` ``web``, or a pod that nothing made."""

    namespace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.kind}/{self.name}"


Holders = tuple[Holder, ...]
"""Sorted; none at all: nobody."""

OTHERS: Holders = (Holder("", "", ""),)
"""Whoever it was. See Note [What is remembered]."""


class Day(msgspec.Struct, frozen=True, array_like=True):
    """One day (since the epoch, UTC) of a row: how long it was looked at, how long its load was known, its load times that time;
    the most memory that it had, and the highest load between two looks (0 to 1), each None where it was not told."""

    day: int
    observed_seconds: float = 0.0
    loaded_seconds: float = 0.0
    active_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    peak_load: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A slice in the hands of some holders. Times are seconds since the epoch.

    ``quiet_seconds``: how long it was looked at in their hands since the slice was last active, in whosever hands.
    ``blind_seconds``: for how long since then a process was on it of which no load was told. ``last_process``: when a process was
    last on it.
    """

    place: SlicePlace
    holders: Holders
    first_seen: float
    last_seen: float
    last_active: float | None = None
    last_process: float | None = None
    quiet_seconds: float = 0.0
    blind_seconds: float = 0.0
    days: tuple[Day, ...] = ()

    @property
    def key(self) -> tuple[SlicePlace, Holders]:
        """There is one row of each."""
        return self.place, self.holders


@dataclass(frozen=True, slots=True)
class Use:
    """One slice at one look. ``load`` is what part of its multiprocessors was busy (0 to 1), or where that is not told, for what
    part of the time any was, which is no less. ``active_seconds`` counts since the instance was first sampled. ``in_use``:
    whether a process is on it; None: not known."""

    holders: Holders
    memory_used_bytes: int | None = None
    load: float | None = None
    active_seconds: float | None = None
    in_use: bool | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Every slice whose holders are known, at one moment."""

    at: float
    uses: Mapping[SlicePlace, Use]


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is remembered. ``seen`` is the last look, 0 before the first. ``observed`` maps a day to the seconds of it
    in which the agent looked. ``gpus`` are the GPUs as they were at ``gpus_seen``, without what is on them. ``period_seconds`` is
    how far looks are apart, so over how long a load is averaged; 0 where that is not known."""

    seen: float = 0.0
    observed: dict[int, float] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpus_seen: float = 0.0
    period_seconds: float = 0.0

    @property
    def observed_seconds(self) -> float:
        """How long the agent has looked within the window."""
        return sum(self.observed.values())

    def to_json(self) -> bytes:
        """As it stands in the file."""
        rows = tuple(replace(row, days=tuple(map(_rounded, row.days))) for row in self.rows)
        return msgspec.json.encode(_File(_VERSION, replace(self, rows=rows)))

    @classmethod
    def from_json(cls, text: bytes) -> History:
        """What ``to_json`` wrote. BadInputError for anything else."""
        try:
            file = msgspec.json.decode(text, type=_File)
        except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors, and so is text that is no UTF-8
            raise BadInputError(f"it is no history of this agent's: {error}") from error
        if file.version != _VERSION:
            raise BadInputError(f"it is a history of version {file.version}; this agent reads version {_VERSION}")
        return file.history


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    history: History


def day_of(at: float) -> int:
    """The day of a moment."""
    return int(at // DAY_SECONDS)


def _rounded(day: Day) -> Day:
    return Day(
        day.day,
        round(day.observed_seconds, 1),
        round(day.loaded_seconds, 1),
        round(day.active_seconds, 2),
        day.peak_memory_bytes,
        None if day.peak_load is None else round(day.peak_load, 4),
    )
