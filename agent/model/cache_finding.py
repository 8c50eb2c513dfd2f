"""What is odd in a cache, and what could be done about it. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Remedy(StrEnum):
    """What `warmslice cache doctor --fix` does."""

    ADOPT = "adopt"  # check the content, and vouch for it
    REMOVE = "remove"  # nobody misses it
    OPEN = "open"  # let everybody read it
    UNSHARE = "unshare"  # put the file itself in place of the link to it
    NONE = "none"  # somebody has to look


@dataclass(frozen=True, slots=True)
class Finding:
    """``paths`` are below the cache, those that the remedy is for; ``what`` is a sentence without its subject's name, which is
    ``where``: a repository, or a folder of the cache."""

    where: str
    what: str
    remedy: Remedy
    paths: tuple[str, ...] = ()
    bytes: int = 0
