"""Reading blobs again, to find what the disk has changed. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that a manifest vouches for. ``checked_at_seconds``: when its content was last found right (Unix time)."""

    repository: str
    name: str
    bytes: int
    checked_at_seconds: float


@dataclass(frozen=True, slots=True)
class ScrubTurn:
    """The blob that is next, and the latest moment at which to begin so that every one is read in time. ``late_seconds``: by how
    much the rate is too low for that; 0 where it is enough."""

    blob: StoredBlob
    begin_at_seconds: float
    late_seconds: float


@dataclass(frozen=True, slots=True)
class DamagedBlob:
    """A blob with other bytes than were checked when it came. It is gone."""

    repository: str
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """``oldest_seconds``: the longest ago that a blob was found right (Unix time), None where there are none; ``read_bytes`` and
    ``damaged`` since the start; ``news``: what was found damaged since the report before."""

    oldest_seconds: float | None = None
    read_bytes: int = 0
    damaged: int = 0
    late_seconds: float = 0.0
    news: tuple[DamagedBlob, ...] = ()
