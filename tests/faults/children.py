"""Forked children: each cell has a process of its own, so that a call that hangs, a kill or a crash ends that cell alone."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: what its function answered, or what went wrong; ``signal`` is the one that killed it, else 0."""

    answer: Any = None
    wrong: str = ""
    signal: int = 0


def in_child(function: Callable[[], Any], seconds: float = 60.0) -> Ended:
    """Run it in a fork of this process, which must have no threads; killed when it takes longer."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run(function, writing)
    os.close(writing)
    written = _read(reading, seconds)
    if written is None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if written is None:
        return Ended(wrong=f"did not end within {seconds:.0f} s")
    if os.WIFSIGNALED(status):
        return Ended(signal=os.WTERMSIG(status), wrong=f"killed by signal {os.WTERMSIG(status)}")
    answer, wrong = pickle.loads(written)
    return Ended(answer, wrong)


def _run(function: Callable[[], Any], writing: int) -> None:
    try:
        said = (function(), "")
    except BaseException:
        said = (None, traceback.format_exc())
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(pickle.dumps(said))
    # Threads that hang in the driver would hold an ordinary exit.
    os._exit(0)


def _read(descriptor: int, seconds: float) -> bytes | None:
    """All until the other end closes; None when that takes too long."""
    until = time.monotonic() + seconds
    read = b""
    try:
        while select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            more = os.read(descriptor, 1 << 16)
            if not more:
                return read
            read += more
        return None
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class Client:
    """A fork that has done something and stays; it ends when it is told to, or with this process."""

    pid: int
    life: int

    def end(self) -> None:
        """It is gone when this returns."""
        if self.pid:
            os.close(self.life)
            os.waitpid(self.pid, 0)
            self.pid = 0


def fork_of(function: Callable[[], Any]) -> Client:
    """A fork of this process in which the function has returned."""
    done, say_done = os.pipe()
    until, life = os.pipe()
    pid = os.fork()
    if pid == 0:
        # What else is open here would keep others from seeing that this process has ended.
        for descriptor in set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, say_done, until}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        function()
        os.close(say_done)
        os.read(until, 1)
        os._exit(0)
    os.close(say_done)
    os.close(until)
    os.read(done, 1)
    os.close(done)
    return Client(pid, life)
