"""Weights in the page cache: what is there, and what memory has room for. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights, and how much of it the page cache has: at most all of it."""

    path: Path
    bytes: int
    resident_bytes: int

    @property
    def missing_bytes(self) -> int:
        return self.bytes - self.resident_bytes


@dataclass(frozen=True, slots=True)
class Weights:
    """All files of one ready model that a server maps."""

    model: str
    revision: str
    files: tuple[WeightsFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def resident_bytes(self) -> int:
        return sum(file.resident_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Of a control group: its limit, what it uses, and what of that are pages of files, which the kernel takes back when it needs
    them."""

    limit_bytes: int
    used_bytes: int
    file_bytes: int

    @property
    def for_files_bytes(self) -> int:
        """What pages of files may take, those there are already included."""
        return self.limit_bytes - (self.used_bytes - self.file_bytes)


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """``available_bytes``: what the machine could give without swapping (MemAvailable, which counts the page cache);
    ``waiting_per_cent``: of the last ten seconds, how much somebody waited for memory; ``limits``: of the control groups that
    whatever we read is charged to."""

    available_bytes: int
    waiting_per_cent: float = 0.0
    limits: tuple[MemoryLimit, ...] = ()


class Cause(StrEnum):
    """What keeps weights out of memory."""

    LIMIT = "limit"
    SHARE = "share"
    PRESSURE = "pressure"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why weights are not read into memory; ``sentence`` is for people."""

    cause: Cause
    weights_bytes: int
    room_bytes: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Reading:
    """When weights were last read, and how often in a row that was soon after the time before. ``kept``: they were there
    afterwards."""

    ended_at_seconds: float
    times: int
    kept: bool


@dataclass(frozen=True, slots=True)
class WarmPlan:
    """What may be read now, in order, and what may not, by the model's name."""

    reads: tuple[Weights, ...]
    hindrances: dict[str, Hindrance]


@dataclass(frozen=True, slots=True)
class ModelInMemory:
    """``why_not``: a sentence where something keeps the weights out of memory."""

    model: str
    revision: str
    weights_bytes: int
    resident_bytes: int
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class PageCacheReport:
    """Of each model that is ready and is to be in memory, as last seen."""

    models: tuple[ModelInMemory, ...] = ()
