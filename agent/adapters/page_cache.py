"""Reading a file without changing what the page cache has of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import re

_LIBC = ctypes.CDLL(None, use_errno=True)
_LOWEST_BIT = bytes(value & 1 for value in range(256))  # mincore(2) leaves the others undefined
_ABSENT = re.compile(rb"\0+")


def resident_pages(descriptor: int, offset: int, length: int) -> bytes:
    """By mincore(2), 1 for each page from ``offset`` (that of a page) on that is in the page cache, else 0. Raises OSError, and
    ValueError where the file is shorter. The kernel says 1 of all to whoever could not write to the file."""
    if not length:
        return b""
    protection = mmap.PROT_READ | mmap.PROT_WRITE  # ctypes finds the address of what can be written only
    with mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE, prot=protection, offset=offset) as mapped:
        pages = (ctypes.c_ubyte * (-(-length // mmap.PAGESIZE)))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = _LIBC.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), pages)
        del first
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
        return bytes(pages).translate(_LOWEST_BIT)


def read_beside_cache(descriptor: int, buffer: memoryview, position: int, size: int) -> int:
    """Read into ``buffer``; what that brought into the page cache goes again, and what was there stays.

    Also where ``descriptor`` is one with O_DIRECT: some file systems take that and read through the page cache all the same (ext4
    with encryption or a journal of data, btrfs what is compressed). ``size``: of the file.
    """
    first = position // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        before = resident_pages(descriptor, first, min(position + len(buffer), size) - first)
    except (OSError, ValueError):  # nobody can say what was there: take nothing from anybody
        before = b""
    count = os.preadv(descriptor, [buffer], position)
    for absent in _ABSENT.finditer(before):
        start, length = absent.start() * mmap.PAGESIZE, len(absent[0]) * mmap.PAGESIZE
        os.posix_fadvise(descriptor, first + start, length, os.POSIX_FADV_DONTNEED)
    return count
