"""One blob on its way to disk: a part file, a journal of its finished grains, and the check that gives it its name.

# Note [Grains]
# A blob is cut into grains of 4 MiB whatever the size of the ranges that are asked for. A grain counts as finished
# only when it stands in the journal, and it is written there only after the part file was synced: after kill -9 or
# power loss what the journal says is on disk, and only grains in flight are fetched again. One thread syncs and
# writes the journals, taking all grains that finished meanwhile at once, so that nobody who downloads waits for it.
# The journal is made before, and removed after, the part file; without its part file it says nothing.
#
# Note [Hash in flight]
# A hash goes from the beginning to the end, so it follows the journalled grains: one thread reads each as soon as all before
# it are there, while it is still in the page cache, and then gives its pages back. So the check ends soon after the last
# byte, and a fetch does not push the files of serving pods out of memory. What is read is the file, not what came: a disk
# that keeps other bytes is noticed. An earlier fetch's grains are read from disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from agent.adapters.files import Digest, content_digest, preallocate, sync_directory, write_durably
from agent.model.cache import FetchEndedError
from agent.model.catalog import RepositoryFile

GRAIN_BYTES = 4 * 1024 * 1024
_HEADER = "warmslice-grains 1"
_FILE_MODE = 0o644
_HASH_BUFFER_BYTES = 1024 * 1024


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
    _digest: Digest | None = None
    _hashed_grains: int = 0
    _hash_lock: Lock = field(default_factory=Lock)

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

    def hash_on(self, buffer: memoryview, stopped: Callable[[], bool] = lambda: False) -> str:
        """Take in the grains that are there without a gap, read through ``buffer``; the hash of all so far.
        See Note [Hash in flight]."""
        with self._hash_lock, disk_errors():
            if self._digest is None:
                self._digest = content_digest(self.file.blob, self.file.size_bytes)
            while self._descriptor is not None and self._hashed_grains in self.done and not stopped():
                start = self._hashed_grains * GRAIN_BYTES
                length = min(GRAIN_BYTES, self.file.size_bytes - start)
                _hash(self._digest, self._descriptor, start, start + length, buffer)
                os.posix_fadvise(self._descriptor, start, length, os.POSIX_FADV_DONTNEED)
                self._hashed_grains += 1
            return self._digest.hexdigest()

    def publish(self) -> bool:
        """Give the blob its name if its content is what the listing says; else throw it away, and False.

        Under its final name a blob is whole, checked and durable.
        """
        with disk_errors():
            if self.hash_on(hash_buffer()) != self.file.blob:
                self.discard()
                return False
            assert self._descriptor is not None
            os.fchmod(self._descriptor, _FILE_MODE)
            os.fsync(self._descriptor)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
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
        with self._hash_lock:
            self._digest, self._hashed_grains = None, 0

    def close(self) -> None:
        with self._hash_lock:
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


class Hasher:
    """The thread that hashes what is on disk while the rest comes. See Note [Hash in flight]."""

    def __init__(self) -> None:
        self._grown: SimpleQueue[Part | None] = SimpleQueue()
        self._stopped = False
        self._buffer = hash_buffer()
        self._thread = Thread(target=self._run, name="hasher", daemon=True)
        self._thread.start()

    def grown(self, part: Part) -> None:
        self._grown.put(part)

    def stop(self) -> None:
        """What it has not hashed yet is left to the next fetch."""
        self._stopped = True
        self._grown.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (part := self._grown.get()) is not None:
            # What the disk refuses is met again, and told, by whoever publishes.
            with suppress(FetchEndedError):
                part.hash_on(self._buffer, lambda: self._stopped)


class GrainRecorder:
    """The thread that syncs parts and writes their journals; ``recorded`` hears of each part that grew. See Note [Grains]."""

    def __init__(self, recorded: Callable[[Part], None]) -> None:
        self._recorded = recorded
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
                self._recorded(part)
            except FetchEndedError as error:
                self._error = error


@dataclass(slots=True)
class _Flush:
    done: Lock = field(default_factory=Lock)


def hash_buffer() -> memoryview:
    """So small that it stays in a processor's cache between the read and the hash, so large that turns are few."""
    return memoryview(bytearray(_HASH_BUFFER_BYTES))


def _hash(digest: Digest, descriptor: int, start: int, end: int, buffer: memoryview) -> None:
    while start < end:
        count = os.preadv(descriptor, [buffer[: end - start]], start)
        if not count:
            raise OSError(errno.EIO, "the part file is shorter than it was made")
        digest.update(buffer[:count])
        start += count


@contextmanager
def disk_errors() -> Iterator[None]:
    """What the disk refuses ends the fetch: the parts stay, and a later fetch goes on from them."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise FetchEndedError("no-space", f"the disk is full: {error}") from error
        raise FetchEndedError("disk", f"the cache cannot be written: {error}") from error
