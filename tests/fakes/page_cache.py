"""Whether tests can tell what a file has in the page cache."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from hack.page_cache import resident_bytes

__all__ = ["can_drop", "resident_bytes"]


def can_drop(folder: Path) -> bool:
    """Whether pages of files in ``folder`` can be given back at all: in memory (tmpfs) they cannot."""
    probe = folder / "probe"
    probe.write_bytes(bytes(mmap.PAGESIZE))
    with probe.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident_bytes(probe) == 0
