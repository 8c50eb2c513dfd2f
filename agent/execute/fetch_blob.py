"""One blob on its way to disk: a part file, a journal of its finished grains, and the check that gives it its name.

# Note [Grains]
# A blob is cut into grains of 2 MiB whatever the size of the ranges that are asked for. A grain counts as finished
# only when it stands in the journal, and it is written there only after the part file was synced: after kill -9 or
# power loss what the journal says is on disk, and only grains in flight are fetched again. One thread syncs and
# writes the journals, taking all grains that finished meanwhile at once, so that nobody who downloads waits for it.
# After kill -9 the kernel still has what was written, synced or not: so whoever writes a grain notes that too, with a "~" and at
# once, and in the same boot such a grain counts. Whatever a journal says, the hash has the last word.
# Each connection has memory for one grain and loses at most that to a kill: so grains are small, and yet large enough for writes
# that go directly to the disk.
# The journal is made before, and removed after, the part file; without its part file it says nothing.
#
# Note [Around the page cache]
# A fetch must not push the files of serving pods out of memory, so grains go to the disk directly (O_DIRECT). A file system
# that cannot do that gets them through the page cache, from where they are given back once they are synced. The last bytes
# of a blob, less than a block, and blobs of less than a grain always go that way.
#
# Note [Written once]
# A grain is written by whoever claims it, once: so the bytes that were hashed (agent.execute.fetch_hash) are the bytes on
# disk even where a server that ignores ranges sends again what came before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from agent.adapters.boot import this_boot
from agent.adapters.files import (
    Digest,
    content_digest,
    content_hash,
    open_direct,
    preallocate,
    sync_directory,
    take_lock,
    write_durably,
)
from agent.adapters.hub_cache import ModelFolder
from agent.model.cache import FetchEndedError
from agent.model.catalog import RepositoryFile

GRAIN_BYTES = 2 * 1024 * 1024
_HEADER = "warmslice-grains 1"
_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
_FILE_MODE = 0o644
_BLOCK_BYTES = 4096
"""Offsets and lengths of direct writes are multiples of it: of the largest logical block that disks have (open(2))."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring grains that one request asks for: bytes ``start`` to ``end`` of the blob."""

    start: int
    end: int


@dataclass(slots=True, eq=False)
class Part:
    """The unfinished blob. ``done`` are the indices of grains that are whole in the part file; the first ``hashed_grains``
    are in the hash. Only whoever hashes changes that (agent.execute.fetch_hash). ``lock``: what the hub's own client holds
    while it brings the blob; ``brought_by_another``: it has done so while we waited."""

    blobs: Path
    file: RepositoryFile
    lock: Path
    done: set[int] = field(default_factory=set)
    hashed_grains: int = 0
    brought_by_another: bool = False
    _digest: Digest | None = None
    _claimed: set[int] = field(default_factory=set)
    _descriptor: int | None = None
    _direct: int | None = None
    _held: int | None = None
    _journal: int | None = None
    _lock: Lock = field(default_factory=Lock)

    @staticmethod
    def found(folder: ModelFolder, file: RepositoryFile) -> Part:
        """The part as an earlier fetch left it; without grains where there is none, or one of another size."""
        part = Part(folder.blobs, file, folder.lock_of_the_client(file.blob))
        part.done = part._read_journal()
        part._claimed = set(part.done)
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

    def span(self, grain: int) -> tuple[int, int]:
        """Its first byte and the one after its last."""
        return grain * GRAIN_BYTES, min((grain + 1) * GRAIN_BYTES, self.file.size_bytes)

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

    def open(self) -> bool:
        """Make the part file with its full size on disk, unless that was done. False, with nothing done, while another program
        brings the blob. Raises FetchEndedError when full."""
        with self._lock, disk_errors():
            if self._descriptor is not None or self.brought_by_another:
                return True
            if not self._take_lock():
                return False
            if (self.blobs / self.file.blob).is_file():
                self.brought_by_another = True
                return True
            if not self.done:
                self.journal_path.unlink(missing_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
            preallocate(self._descriptor, self.file.size_bytes)
            os.ftruncate(self._descriptor, self.file.size_bytes)
            if self.grains > 1:
                self._direct = open_direct(self.path)
                self._open_journal()
            return True

    def claim(self, grain: int) -> bool:
        """Whether the caller is the one who writes it. See Note [Written once]."""
        with self._lock:
            first = grain not in self._claimed
            self._claimed.add(grain)
            return first

    def write(self, offset: int, content: memoryview) -> None:
        """``content`` begins at a multiple of the block size, in the file and in memory, where it is long."""
        assert self._descriptor is not None
        with disk_errors():
            blocks = len(content) // _BLOCK_BYTES * _BLOCK_BYTES if self._direct is not None else 0
            if blocks and self._direct is not None and not _write_directly(self._direct, offset, content[:blocks]):
                blocks = 0
            _write_all(self._descriptor, offset + blocks, content[blocks:])

    def record(self, grains: Iterable[int]) -> None:
        """Sync the part file, then note the grains. See Note [Grains]."""
        finished = sorted(set(grains))
        with disk_errors():
            if self._journal is not None and self._descriptor is not None:
                os.fdatasync(self._descriptor)
                self._give_pages_back(finished)
                os.write(self._journal, "".join(f"{grain}\n" for grain in finished).encode())
        self.done.update(finished)

    def note_written(self, grain: int) -> None:
        """Before it is synced. See Note [Grains]."""
        with disk_errors():
            if self._journal is not None:
                os.write(self._journal, f"~{grain}\n".encode())

    def take_into_hash(self, content: memoryview) -> None:
        """The next grain's bytes."""
        self._the_digest().update(content)
        self.hashed_grains += 1

    def read_next(self, buffer: memoryview) -> memoryview:
        """The bytes of the grain that the hash needs next, from the disk. Raises FetchEndedError."""
        start, end = self.span(self.hashed_grains)
        with disk_errors():
            assert self._descriptor is not None
            content = buffer[: end - start]
            _read_all(self._descriptor, start, content)
            self._give_pages_back([self.hashed_grains])
        return content

    def publish(self) -> bool:
        """Once all is hashed: give the blob its name if its content is what the listing says; else throw it away, and
        False.

        Under its final name a blob is whole, checked and durable.
        """
        if self.brought_by_another:
            return self._check_what_another_brought()
        assert self.hashed_grains == self.grains
        with disk_errors():
            if self._the_digest().hexdigest() != self.file.blob:
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
        """Nothing of it was good."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)
        self.done.clear()
        self._claimed.clear()
        self._digest, self.hashed_grains = None, 0

    def close(self) -> None:
        """What is on disk stays."""
        for descriptor in (self._descriptor, self._direct, self._journal, self._held):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._direct = self._journal = self._held = None

    def _take_lock(self) -> bool:
        """True too where no lock can be made: the other program could not make one either."""
        try:
            self.lock.parent.mkdir(parents=True, exist_ok=True)
            self._held = take_lock(self.lock)
        except PermissionError:
            return True
        return self._held is not None

    def _check_what_another_brought(self) -> bool:
        """Other programs check lengths only."""
        with disk_errors():
            blob = self.blobs / self.file.blob
            right = blob.stat().st_size == self.file.size_bytes and content_hash(blob, self.file.blob) == self.file.blob
            if right:
                blob.chmod(_FILE_MODE)
            else:
                blob.unlink()
            self.discard()
        self.brought_by_another = False
        return right

    def _the_digest(self) -> Digest:
        if self._digest is None:
            self._digest = content_digest(self.file.blob, self.file.size_bytes)
        return self._digest

    def _give_pages_back(self, grains: Iterable[int]) -> None:
        """See Note [Around the page cache]."""
        assert self._descriptor is not None
        for start, end in map(self.span, grains):
            os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)

    def _header(self) -> str:
        return f"{_HEADER} {self.file.size_bytes} {GRAIN_BYTES}"

    def _open_journal(self) -> None:
        """Written anew, so that nothing is appended to a line that a crash cut short."""
        if self.done and self._descriptor is not None:
            os.fdatasync(self._descriptor)  # some may only have been written
        lines = "".join(f"{grain}\n" for grain in sorted(self.done))
        write_durably(self.journal_path, f"{self._header()}\nboot {_boot()}\n{lines}".encode())
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
        if lines and _boot() and lines[0] == f"boot {_boot()}":
            lines = [line.removeprefix("~") for line in lines]
        return {int(line) for line in lines if line.isdecimal() and int(line) < self.grains}


@cache
def _boot() -> str:
    return this_boot(_BOOT_ID_FILE).id


class GrainRecorder:
    """The thread that syncs parts and writes their journals; ``recorded`` is called after it. See Note [Grains]."""

    def __init__(self, recorded: Callable[[], None]) -> None:
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
            self._recorded()
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


def _write_directly(descriptor: int, offset: int, content: memoryview) -> bool:
    """False where the file system takes no such writes after all, as some say only now."""
    try:
        _write_all(descriptor, offset, content)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _write_all(descriptor: int, offset: int, content: memoryview) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        offset, content = offset + written, content[written:]


def _read_all(descriptor: int, offset: int, into: memoryview) -> None:
    while into:
        count = os.preadv(descriptor, [into], offset)
        if not count:
            raise OSError(errno.EIO, "the part file is shorter than it was made")
        offset, into = offset + count, into[count:]


@contextmanager
def disk_errors() -> Iterator[None]:
    """What the disk refuses ends the fetch: the parts stay, and a later fetch goes on from them."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise FetchEndedError("no-space", f"the disk is full: {error}") from error
        raise FetchEndedError("disk", f"the cache cannot be written: {error}") from error
