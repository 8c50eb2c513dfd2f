"""Whether tests can tell what a file has in the page cache, and who keeps nothing there."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from agent.model.catalog import CatalogModel
from agent.model.page_cache import PageCacheReport
from hack.page_cache import resident_bytes

__all__ = ["NotWarm", "can_drop", "resident_bytes"]


def can_drop(folder: Path) -> bool:
    """Whether pages of files in ``folder`` can be given back at all: in memory (tmpfs) they cannot."""
    probe = folder / "probe"
    probe.write_bytes(bytes(mmap.PAGESIZE))
    with probe.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident_bytes(probe) == 0


class NotWarm:
    """Keeps nothing in memory. ``wanted``: what the cache loop asked for last."""

    def __init__(self) -> None:
        self.wanted: tuple[CatalogModel, ...] = ()

    def want(self, models: Sequence[CatalogModel]) -> None:
        self.wanted = tuple(models)

    def report(self) -> PageCacheReport:
        return PageCacheReport()
