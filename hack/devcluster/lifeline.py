"""Processes that end when the one they belong to ends, however it ends.

Two means. ``die_with_parent`` asks the kernel for a signal at the parent's death. A lifeline is a FIFO that the owner
holds open for writing: a process that blocks reading it gets end-of-file when the owner is gone, even where the two
are not parent and child.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """To be called by a child at its start; ends it at once where the parent is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


class Lifeline:
    """Readers of ``path`` live as long as this is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_fifo():
            os.mkfifo(path)
        # For reading as well, since a FIFO cannot be opened for writing alone without a reader. Not inheritable, so no
        # child keeps the line alive.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._descriptor)
