"""What takes room in the cache, and what goes so that something else fits. Frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

UNFINISHED = "unfinished"
"""In place of a commit: the parts that a fetch left behind."""


class RevisionKey(NamedTuple):
    """A commit (40 hex digits) of a repository, or what is unfinished of it."""

    repository: str
    commit: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:12]}"


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit on disk that we checked and published, or the parts of an unfinished fetch. ``blobs``: file names in the
    repository's ``blobs`` folder and the bytes that each takes on disk; several commits may have the same. ``used_at_seconds``:
    when it was last seen in use (Unix time)."""

    key: RevisionKey
    blobs: Mapping[str, int]
    used_at_seconds: float

    @property
    def bytes(self) -> int:
        return sum(self.blobs.values())


@dataclass(frozen=True, slots=True)
class Going:
    """A revision that goes: ``blobs`` are those that nothing else needs, ``freed_bytes`` what they take. ``reason`` is a short
    word (a metric's label): ``room`` or ``old``; ``because`` ends the sentence "it goes, since it ..."."""

    key: RevisionKey
    blobs: tuple[str, ...]
    freed_bytes: int
    reason: str
    because: str


@dataclass(frozen=True, slots=True)
class Room:
    """``short_bytes``: what is still lacking when all of ``going`` is gone; then ``going`` is empty, since it would not help.
    ``held``: what takes room and stays, largest first, with the reason why it does."""

    going: tuple[Going, ...]
    short_bytes: int
    held: tuple[tuple[RevisionKey, int, str], ...]


@dataclass(frozen=True, slots=True)
class PodText:
    """A pod that may use a model: its name, ``namespace/name``, and every word of its containers' commands and environments,
    and the paths of the host that it mounts."""

    pod: str
    text: str
