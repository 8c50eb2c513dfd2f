"""Reading blobs again, to find what the disk has changed. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass

BlobKey = tuple[str, str]
"""A repository and the name of a blob."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that a manifest vouches for. ``checked_at_seconds``: when its content was last found right (Unix time)."""

    repository: str
    name: str
    bytes: int
    checked_at_seconds: float

    @property
    def key(self) -> BlobKey:
        return self.repository, self.name


@dataclass(frozen=True, slots=True)
class ScrubTurn:
    """A blob, and the latest moment at which to begin it so that it and every later one are read in time."""

    blob: StoredBlob
    begin_at_seconds: float


@dataclass(frozen=True, slots=True)
class ScrubPlan:
    """All of them, in their order. ``late_seconds``: by how much longer than the period reading all of them takes at the rate; 0
    where it is enough. A scrub that was away for long is behind, and its rate enough."""

    turns: tuple[ScrubTurn, ...]
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
