"""Child processes that end with their parent, whatever ends it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """In the child, before exec: SIGTERM when the parent is gone. Signals of the terminal are the parent's business."""
    os.setpgid(0, 0)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def rss_mb(pid: int | str = "self") -> float:
    """What a process has in memory, shared pages too."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


class Children:
    """Processes by name, with their output in files; all ended, youngest first, when the block is left."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._children)):
            self.end(name)

    def start(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start one; its stdout and stderr go to ``<name>.log``."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                preexec_fn=_end_with_parent,
            )

    def end(self, name: str, seconds: float = 10.0) -> int:
        """SIGTERM, then SIGKILL when that does not help; the exit code."""
        child = self._children.pop(name)
        child.terminate()
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            return child.wait()

    def kill(self, name: str) -> None:
        """SIGKILL, as `kill -9`."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def pid(self, name: str) -> int:
        """The process id of a child."""
        return self._children[name].pid

    def ended(self) -> str | None:
        """The name of a child that ended by itself, with its last line; None while all run."""
        for name, child in self._children.items():
            if child.poll() is not None:
                lines = self.log(name).strip().splitlines()
                return f"{name} ended with exit code {child.returncode}: {lines[-1] if lines else 'no output'}"
        return None

    def log(self, name: str) -> str:
        """What a child has written."""
        return (self._logs / f"{name}.log").read_text("utf-8", "replace")
