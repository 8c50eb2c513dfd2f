"""Reads a blob from the disk itself, slowly, and takes a damaged one out of the way.

# Note [Beside serving pods]
# Reading goes around the page cache (O_DIRECT), which would otherwise show what was read long ago and push out what pods read
# now. Where the file system reads through it all the same, what was not there before is given back at each step. It keeps to a
# byte rate, and pauses while tasks of this machine wait for I/O more than a fifth of their time (PSI, /proc/pressure/io; Linux
# 4.20 and later, and not on every kernel).
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from agent.adapters.files import content_digest
from agent.adapters.hub_cache import ModelFolder
from agent.adapters.page_cache import read_beside_cache
from agent.adapters.pressure import waiting_per_cent
from agent.execute.fetch_pace import Pace

_STEP_BYTES = 1024 * 1024
_BUSY_PER_CENT = 20.0
_PAUSE_SECONDS = 1.0
_NICENESS = 10
_DAMAGE = frozenset({errno.EIO, errno.ENODATA, errno.EUCLEAN, errno.EBADMSG})


class Found(StrEnum):
    """What reading a blob came to."""

    GOOD = "good"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    GONE = "gone"  # or another by now
    STOPPED = "stopped"


@dataclass(slots=True)
class Reader:
    """Reads on the thread that calls it, one blob at a time. ``read_bytes``: since the start. ``stop`` may be called from any
    thread and ends a reading within a step."""

    bytes_per_second: float
    pressure: Path
    read_bytes: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _pace: Pace | None = None
    _buffer: memoryview = field(default_factory=lambda: memoryview(mmap.mmap(-1, _STEP_BYTES)))

    def stop(self) -> None:
        self._stopped.set()

    def check(self, path: Path, name: str) -> Found:
        """Compare the content of ``path`` with its hash ``name``; what seems wrong is read twice before it is called so."""
        found = self._read(path, name)
        return self._read(path, name) if found in {Found.DAMAGED, Found.UNREADABLE} else found

    def _read(self, path: Path, name: str) -> Found:
        """What the disk cannot read is damaged; what we may not read, or is no file, is raised as OSError."""
        try:
            try:
                return self._read_by(path, name, os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return self._read_by(path, name, 0)  # a file system that cannot
        except FileNotFoundError:
            return Found.GONE
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            return Found.UNREADABLE

    def _read_by(self, path: Path, name: str, flag: int) -> Found:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # nothing beyond the step is read ahead
            return self._hash(descriptor, name)
        finally:
            os.close(descriptor)

    def _hash(self, descriptor: int, name: str) -> Found:
        size = os.fstat(descriptor).st_size
        digest = content_digest(name, size)
        position = 0
        while position < size:
            if self._wait():
                return Found.STOPPED
            count = read_beside_cache(descriptor, self._buffer, position, size)
            if not count:
                return Found.DAMAGED
            digest.update(self._buffer[: min(count, size - position)])
            position += count
            self._spend(count)
        return Found.GOOD if digest.hexdigest() == name else Found.DAMAGED

    def _spend(self, count: int) -> None:
        self._pace = self._pace or Pace(self.bytes_per_second)
        self.read_bytes += count
        self._stopped.wait(self._pace.spend(count, time.monotonic()))

    def _wait(self) -> bool:
        """While the disk is busy; True when it is time to stop."""
        while not self._stopped.is_set() and waiting_per_cent(self.pressure) > _BUSY_PER_CENT:
            self._stopped.wait(_PAUSE_SECONDS)
        return self._stopped.is_set()


def give_way() -> None:
    """Give the calling thread a lower priority for the processor, and with it for I/O (ioprio_set(2)). It keeps it."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def take_out(folder: ModelFolder, name: str, is_still: Callable[[os.stat_result], bool]) -> bool:
    """Remove the damaged blob, unless another has taken its place: nobody is to be served from it any more. Who has it open keeps
    it. A link to a shared store goes, and not what it leads to."""
    path = folder.blob(name)
    try:
        if not is_still(path.stat()):
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
