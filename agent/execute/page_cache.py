"""Reads files into the page cache, on the thread that calls it.

# Note [Step by step]
# posix_fadvise(WILLNEED) neither copies what it brings nor holds the interpreter's lock, and one call for a whole file brings one
# read-ahead of it only: so it is called for each read-ahead. It returns when the device has been asked. So the slice before is
# waited for, by reading the last byte of each step: no more than two slices are on their way, and a reading has ended when its
# bytes are here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.adapters.page_cache import read_ahead_bytes

_SLICE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Warmer:
    """``stop`` may be called from any thread and ends a reading within a step."""

    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self._stopped.set()

    def read(self, path: Path, goes_on: Callable[[int], bool]) -> bool:
        """The whole file, as long as ``goes_on``, which is asked before each slice with the bytes read so far. True when all of
        it was read. Raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # waiting for a byte brings no others
            return self._read(descriptor, goes_on)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, goes_on: Callable[[int], bool]) -> bool:
        """See Note [Step by step]."""
        size, step = os.fstat(descriptor).st_size, read_ahead_bytes(descriptor)
        before = range(0)
        for start in range(0, size, _SLICE_BYTES):
            steps = range(start, min(start + _SLICE_BYTES, size), step)
            if not goes_on(start) or not self._ask(descriptor, steps) or not self._wait(descriptor, before):
                return False
            before = steps
        return self._wait(descriptor, before)

    def _ask(self, descriptor: int, steps: range) -> bool:
        for start in steps:
            if self._stopped.is_set():
                return False
            os.posix_fadvise(descriptor, start, min(steps.step, steps.stop - start), os.POSIX_FADV_WILLNEED)
        return True

    def _wait(self, descriptor: int, steps: range) -> bool:
        for start in steps:
            if self._stopped.is_set():
                return False
            os.pread(descriptor, 1, min(start + steps.step, steps.stop) - 1)
        return True
