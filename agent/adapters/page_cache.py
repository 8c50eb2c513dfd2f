"""What the page cache has of a file, and reading one without changing that."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LOWEST_BIT = bytes(value & 1 for value in range(256))  # mincore(2) leaves the others undefined
_ABSENT = re.compile(rb"\0+")
_CACHESTAT = 451  # the same number everywhere
_WINDOW_BYTES = 1 << 30
_READ_AHEAD_BYTES = 128 * 1024
_DEVICES = Path("/sys/class/bdi")


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")]


def cached_bytes(path: Path) -> int:
    """Bytes of the file that are in the page cache, in whole pages. By cachestat(2), which costs next to nothing however large
    it is; by mincore(2) before Linux 6.5, and where a container's filter of system calls does not know it. Raises OSError."""
    with path.open("rb") as file:
        counts = _Counts()
        whole = _Range(0, 0)
        if not _LIBC.syscall(_CACHESTAT, file.fileno(), ctypes.byref(whole), ctypes.byref(counts), 0):
            return int(counts.cached) * mmap.PAGESIZE
    code = ctypes.get_errno()
    # mincore(2) says "all" to whoever could not write to the file: that is no answer.
    if code == errno.ENOSYS or (code == errno.EPERM and os.access(path, os.W_OK)):
        return resident_bytes(path)
    raise OSError(code, "cachestat")


def resident_bytes(path: Path) -> int:
    """The same by mincore(2), page by page."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        windows = range(0, size, _WINDOW_BYTES)
        pages = (sum(resident_pages(file.fileno(), at, min(_WINDOW_BYTES, size - at))) for at in windows)
        return sum(pages) * mmap.PAGESIZE


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


def read_ahead_bytes(descriptor: int) -> int:
    """What one call of posix_fadvise(WILLNEED) brings for sure: the kernel cuts it short at the device's read-ahead, which is
    this much unless somebody has made it smaller."""
    device = os.fstat(descriptor).st_dev
    file = _DEVICES / f"{os.major(device)}:{os.minor(device)}" / "read_ahead_kb"
    try:
        found = int(file.read_text("ascii")) * 1024
    except (OSError, ValueError):  # some file systems have no device of that number
        return _READ_AHEAD_BYTES
    return min(found, _READ_AHEAD_BYTES) if found else _READ_AHEAD_BYTES


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
