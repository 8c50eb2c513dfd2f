"""One blob on its way to disk: a part file, a journal of its finished grains, and the check that gives it its name.

# Note [Grains]
# A blob is cut into grains of 4 MiB whatever the size of the ranges that are asked for. A grain counts as finished
# only when it stands in the journal, and it is written there only after the part file was synced: after kill -9 or
# power loss what the journal says is on disk, and only grains in flight are fetched again. One thread syncs and
# writes the journals, taking all grains that finished meanwhile at once, so that nobody who downloads waits for it.
# The journal is made before, and removed after, the part file; without its part file it says nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from agent.adapters.files import content_hash, preallocate, sync_directory, write_durably
from agent.model.cache import FetchEndedError
from agent.model.catalog import RepositoryFile

GRAIN_BYTES = 4 * 1024 * 1024
_HEADER = "warmslice-grains 1"
_FILE_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring grains that one request asks for: bytes ``start`` to ``end`` of the blob."""

    start: int
    end: int


@dataclass(slots=True)
class Part:
    """The unfinished blob. ``done`` are the indices of grains that are whole in the part file."""

    blobs: Path
    file: RepositoryFile
    done: set[int] = field(default_factory=set)
    _descriptor: int | None = None
    _journal: int | None = None
    _lock: Lock = field(default_factory=Lock)

    @staticmethod
    def found(blobs: Path, file: RepositoryFile) -> Part:
        """The part as an earlier fetch left it; without grains where there is none, or one of another size."""
        part = Part(blobs, file)
        part.done = part._read_journal()
        return part

    @property
    def path(self) -> Path:
        return self.blobs / f"{self.file.blob}.warmslice-part"

    @property
    def journal_path(self) -> Path:
        return self.blobs / f"{self.file.blob}.warmslice-grains"

    @property
    def grains(self) -> int:
        return -(-self.file.size_bytes // GRAIN_BYTES)

    @property
    def done_bytes(self) -> int:
        last = self.grains - 1
        short = self.grains * GRAIN_BYTES - self.file.size_bytes if last in self.done else 0
        return len(self.done) * GRAIN_BYTES - short

    def missing(self, longest_bytes: int) -> list[Piece]:
        """Runs of unfinished grains, none longer than ``longest_bytes``, in order."""
        most = max(1, longest_bytes // GRAIN_BYTES)
        runs: list[tuple[int, int]] = []
        for grain in (g for g in range(self.grains) if g not in self.done):
            if runs and runs[-1][1] == grain and grain - runs[-1][0] < most:
                runs[-1] = (runs[-1][0], grain + 1)
            else:
                runs.append((grain, grain + 1))
        return [Piece(a * GRAIN_BYTES, min(b * GRAIN_BYTES, self.file.size_bytes)) for a, b in runs]

    def open(self) -> None:
        """Make the part file with its full size on disk, unless that was done. Raises FetchEndedError when full."""
        with self._lock, disk_errors():
            if self._descriptor is not None:
                return
            if not self.done:
                self.journal_path.unlink(missing_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
            preallocate(self._descriptor, self.file.size_bytes)
            os.ftruncate(self._descriptor, self.file.size_bytes)
            if self.grains > 1:
                self._open_journal()

    def write(self, offset: int, content: memoryview) -> None:
        assert self._descriptor is not None
        with disk_errors():
            while content:
                written = os.pwrite(self._descriptor, content, offset)
                offset, content = offset + written, content[written:]

    def record(self, grains: Iterable[int]) -> None:
        """Sync the part file, then note the grains. See Note [Grains]."""
        finished = sorted(set(grains))
        with disk_errors():
            if self._journal is not None and self._descriptor is not None:
                os.fdatasync(self._descriptor)
                os.write(self._journal, "".join(f"{grain}\n" for grain in finished).encode())
        self.done.update(finished)

    def publish(self) -> bool:
        """Give the blob its name if its content is what the listing says; else throw it away, and False.

        Under its final name a blob is whole, checked and durable.
        """
        with disk_errors():
            if content_hash(self.path, like=self.file.blob) != self.file.blob:
                self.discard()
                return False
            assert self._descriptor is not None
            os.fchmod(self._descriptor, _FILE_MODE)
            os.fsync(self._descriptor)
            self.path.rename(self.blobs / self.file.blob)
            sync_directory(self.blobs)
            self.close()
            self.journal_path.unlink(missing_ok=True)
        return True

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)
        self.done.clear()

    def close(self) -> None:
        for descriptor in (self._descriptor, self._journal):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._journal = None

    def _header(self) -> str:
        return f"{_HEADER} {self.file.size_bytes} {GRAIN_BYTES}"

    def _open_journal(self) -> None:
        """Written anew, so that nothing is appended to a line that a crash cut short."""
        lines = "".join(f"{grain}\n" for grain in sorted(self.done))
        write_durably(self.journal_path, f"{self._header()}\n{lines}".encode())
        self._journal = os.open(self.journal_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _read_journal(self) -> set[int]:
        try:
            if self.path.stat().st_size != self.file.size_bytes:
                return set()
            # A line that a crash cut short has no end and is not counted: "1" may have been meant as "17".
            header, *lines = self.journal_path.read_text(encoding="ascii").split("\n")[:-1]
        except (FileNotFoundError, ValueError):
            return set()
        if header != self._header():
            return set()
        return {int(line) for line in lines if line.isdecimal() and int(line) < self.grains}


class GrainRecorder:
    """The thread that syncs parts and writes their journals. See Note [Grains]."""

    def __init__(self) -> None:
        self._finished: SimpleQueue[tuple[Part, int] | _Flush | None] = SimpleQueue()
        self._error: FetchEndedError | None = None
        self._thread = Thread(target=self._run, name="grain-recorder", daemon=True)
        self._thread.start()

    def finished(self, part: Part, grain: int) -> None:
        self._finished.put((part, grain))

    def flush(self) -> None:
        """Wait until everything finished so far is recorded. Raises the error that recording met."""
        flush = _Flush()
        flush.done.acquire()
        self._finished.put(flush)
        flush.done.acquire()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._finished.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batch = [self._finished.get()]
            while not self._finished.empty():
                batch.append(self._finished.get())
            self._record([item for item in batch if isinstance(item, tuple)])
            for item in batch:
                if isinstance(item, _Flush):
                    item.done.release()
            if None in batch:
                return

    def _record(self, finished: list[tuple[Part, int]]) -> None:
        by_part: dict[int, tuple[Part, list[int]]] = {}
        for part, grain in finished:
            by_part.setdefault(id(part), (part, []))[1].append(grain)
        for part, grains in by_part.values():
            try:
                part.record(grains)
            except FetchEndedError as error:
                self._error = error


@dataclass(slots=True)
class _Flush:
    done: Lock = field(default_factory=Lock)


@contextmanager
def disk_errors() -> Iterator[None]:
    """What the disk refuses ends the fetch: the parts stay, and a later fetch goes on from them."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise FetchEndedError("no-space", f"the disk is full: {error}") from error
        raise FetchEndedError("disk", f"the cache cannot be written: {error}") from error
