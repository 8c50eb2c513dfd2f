"""How much of a file is in the page cache, and processes that share a limited memory, page cache included."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.page_cache import cached_bytes, resident_bytes

__all__ = ["MemoryGroup", "NoGroupError", "cached_bytes", "memory_group", "resident_bytes"]

_GROUPS = Path("/sys/fs/cgroup")


class NoGroupError(Exception):
    """No memory group can be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group. Children of its processes belong to it too."""

    folder: Path

    def take(self, pid: int) -> None:
        """From now on what this process reads and writes counts here."""
        (self.folder / "cgroup.procs").write_text(str(pid), "ascii")


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A group whose processes, with the page cache they fill, have so much memory and no more: what a node is like whose memory
    is taken. Its processes have to end within the block. Raises NoGroupError."""
    parent, limit = _memory_controller()
    folder = parent / f"warmslice-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoGroupError(f"no control group can be made: {error}") from error
    try:
        (folder / limit).write_text(str(limit_bytes), "ascii")
        yield MemoryGroup(folder)
    finally:
        _remove(folder)


def _memory_controller() -> tuple[Path, str]:
    """Where groups are made, and the name of the file with their limit: version 1, else 2."""
    if (_GROUPS / "memory" / "memory.limit_in_bytes").exists():
        return _GROUPS / "memory", "memory.limit_in_bytes"
    controllers = _GROUPS / "cgroup.subtree_control"
    if controllers.exists() and "memory" in controllers.read_text("ascii").split():
        return _GROUPS, "memory.max"
    raise NoGroupError("control groups do not limit memory here")


def _remove(folder: Path) -> None:
    """Processes that have just ended are counted for a moment longer."""
    late = time.monotonic() + 5.0
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > late:
                raise
            time.sleep(0.02)
        else:
            return
