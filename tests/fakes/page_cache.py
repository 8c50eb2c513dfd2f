"""What of a file is in the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path


def resident_bytes(path: Path) -> int:
    """By mincore(2), page by page."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
            first = ctypes.c_char.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(first))
            failed = ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(size), pages)
            del first
            if failed:
                raise OSError(ctypes.get_errno(), "mincore")
            return sum(page & 1 for page in pages) * mmap.PAGESIZE


def can_drop(folder: Path) -> bool:
    """Whether pages of files in ``folder`` can be given back at all: in memory (tmpfs) they cannot."""
    probe = folder / "probe"
    probe.write_bytes(bytes(mmap.PAGESIZE))
    with probe.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident_bytes(probe) == 0
