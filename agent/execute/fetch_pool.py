"""Downloads blobs with one pool of threads: every connection takes the next missing piece of any of them.

A few blobs are begun at once, the largest first; of those the one that lacks most comes next, its pieces in order: so the largest
has most of the connections, and those of one size are hashed side by side. Whoever brings a blob's last piece checks and
publishes it.

# Note [Length of pieces]
# A piece is what one request asks for. Long pieces ask seldom; short ones come nearly in order, so that the hash can follow
# from memory.
#
# Note [More connections where each is slow]
# Some connections begin at once. The others join only where these bring less than a connection can and the hub did not ask
# to slow down: on a fast network more of them cost memory and bring nothing, and hubs count them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, pairwise
from typing import TYPE_CHECKING

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from agent.execute.fetch_blob import GRAIN_BYTES, GrainRecorder, Part, Piece
from agent.execute.fetch_hash import Buffers, Hasher
from agent.execute.fetch_http import Connections, Source
from agent.execute.fetch_pace import Pace
from agent.model.cache import FetchEndedError, FetchError, FetchFaultError, FetchLimits

if TYPE_CHECKING:
    from agent.adapters.xet import XetStore

_PIECE_BYTES = 4 * GRAIN_BYTES
_MOST_KEPT_GRAINS = 6
_HASHING_THREADS = 2
_BLOBS_AT_ONCE = 4
_LOCK_LOOK_SECONDS = 0.5
_FIRST_CONNECTIONS = 8
_SLOW_BYTES_PER_SECOND = 64_000_000  # of one connection
_LOOK_SECONDS = 0.5
_READ_BYTES = 512 * 1024  # of a body at once: so often a rate is kept and a stop is seen
_TIMES_WRONG = 3


class StoppedError(Exception):
    """Another thread met the error that ends the fetch."""


@dataclass(slots=True, eq=False)
class Download:
    """A blob with the place it comes from. ``waiting`` are pieces that nobody brings yet. All but the first
    two belong to the pool's lock."""

    part: Part
    source: Source
    xet: XetStore | None = None  # until it fails
    waiting: deque[Piece | None] = field(default_factory=deque)
    pieces_left: int = 0
    times_wrong: int = 0
    published: bool = False
    whole_body: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class Tally:
    """What happened so far; counted under the pool's lock. ``faults`` are reasons that were tried again."""

    received_bytes: int = 0
    verify_failures: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def retrying(limits: FetchLimits, stopped: threading.Event) -> Retrying:
    """Exponential with jitter, or what the other side asks for; a wait asked for that is too long ends the fetch, and
    whoever started it comes back later."""
    return Retrying(
        stop=stop_after_attempt(limits.attempts),
        wait=_Wait(limits.longest_wait_seconds),
        retry=retry_if_exception(lambda e: isinstance(e, FetchFaultError) and _bearable(e, limits)),
        sleep=lambda seconds: _sleep(seconds, stopped),
        reraise=True,
    )


class Pool:
    """One fetch of many blobs. ``run`` blocks until all are published or one error ends it, which it raises."""

    def __init__(self, downloads: Sequence[Download], limits: FetchLimits) -> None:
        self.tally = Tally()
        self._limits = limits
        self._downloads = downloads
        self._queue: list[tuple[int, int, Download]] = []  # a heap: the largest first
        self._begun: list[Download] = []  # of those that have pieces which nobody brings yet
        self._numbers = count()
        self._changed = threading.Condition()
        self._open_downloads = len(downloads)
        self._at_work = limits.connections
        self._stopped = threading.Event()
        self._error: FetchError | None = None
        self.buffers = Buffers()
        self._hasher = Hasher(self.buffers, _MOST_KEPT_GRAINS, _HASHING_THREADS)
        self._recorder = GrainRecorder(self._hasher.grown)
        self._pace = Pace(limits.bytes_per_second)
        self._quiet_until = 0.0

    @property
    def fetched_bytes(self) -> int:
        """Bytes of the blobs that are safely on disk."""
        return sum(d.part.file.size_bytes if d.published else d.part.done_bytes for d in self._downloads)

    def run(self, tick: Callable[[], None], tick_seconds: float) -> None:
        """``tick`` is called from this thread now and then while the others work."""
        for download in self._downloads:
            self._enqueue(download)
        with ThreadPoolExecutor(self._limits.connections, thread_name_prefix="connection") as threads:
            workers = [threads.submit(self._work, number) for number in range(self._limits.connections)]
            while self._still_at_work(tick_seconds):
                tick()
        self._recorder.stop()
        self._hasher.stop()
        for download in self._downloads:
            download.part.close()
        if self._error is not None:
            raise self._error
        for worker in workers:
            worker.result()

    def _still_at_work(self, wait_seconds: float) -> bool:
        with self._changed:
            if self._at_work:
                self._changed.wait(wait_seconds)
            return self._at_work > 0

    def _enqueue(self, download: Download) -> None:
        """A blob that lacks nothing (an empty one, or one that was never checked) still has to be published."""
        # The Xet store is asked for one long piece: it brings it over connections of its own.
        longest = _PIECE_BYTES if download.xet is None else download.part.file.size_bytes
        pieces: list[Piece | None] = [*download.part.missing(longest)] or [None]
        with self._changed:
            download.pieces_left = len(pieces)
            download.waiting.extend(pieces)
            heappush(self._queue, (-download.part.file.size_bytes, next(self._numbers), download))
            self._changed.notify_all()

    def _work(self, number: int) -> None:
        connections = Connections(self._limits.stall_seconds)
        try:
            if number >= _FIRST_CONNECTIONS:
                self._wait_until_needed()
            while (taken := self._take()) is not None:
                self._bring(*taken, connections)
        except StoppedError:
            pass
        except FetchError as error:
            self._end(error)
        except BaseException as error:
            self._end(FetchEndedError("internal", f"the fetch met an error of its own: {error!r}"))
            raise
        finally:
            connections.close()
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def _wait_until_needed(self) -> None:
        """See Note [More connections where each is slow]."""
        slow = _SLOW_BYTES_PER_SECOND * _FIRST_CONNECTIONS * _LOOK_SECONDS
        with self._changed:
            while True:
                before = self.tally.received_bytes
                if self._changed.wait_for(self._over, _LOOK_SECONDS):
                    return
                held_back = self._limits.bytes_per_second is not None or "throttled" in self.tally.faults
                if self.tally.received_bytes - before < slow and not held_back:
                    return

    def _over(self) -> bool:
        return not self._open_downloads or self._stopped.is_set()

    def _take(self) -> tuple[Download, Piece | None] | None:
        """The next piece; waits for blobs that may come back with wrong bytes; None at the end."""
        with self._changed:
            while not self._queue and not self._begun and not self._over():
                self._changed.wait()
            if self._over():
                return None
            while self._queue and len(self._begun) < _BLOBS_AT_ONCE:
                self._begun.append(heappop(self._queue)[2])
            download = max(self._begun, key=_lacking)
            piece = download.waiting.popleft()
            if not download.waiting:
                self._begun.remove(download)
            return download, piece

    def _end(self, error: FetchError) -> None:
        with self._changed:
            self._error = self._error or error
            self._stopped.set()
            self._changed.notify_all()
        self._hasher.stop()

    def _bring(self, download: Download, piece: Piece | None, connections: Connections) -> None:
        self._open(download.part)
        if piece is not None and not download.part.brought_by_another:
            with closing(_Reading(self, download, piece, connections)) as reading:
                self._bring_by_xet(reading, download)
                reading.until_done()
        with self._changed:
            download.pieces_left -= 1
            last = download.pieces_left == 0
        if last:
            self._recorder.flush()
            self._publish(download)

    def _bring_by_xet(self, reading: _Reading, download: Download) -> None:
        """What the store does not bring is cut into pieces for all connections; the first of them is this reading's."""
        store = download.xet
        if store is None:
            return
        rest = reading.by_xet(store)
        if rest:
            with self._changed:
                download.xet = None
                download.pieces_left += len(rest)
                download.waiting.extend(rest)
                heappush(self._queue, (-download.part.file.size_bytes, next(self._numbers), download))
                self._changed.notify_all()

    def _open(self, part: Part) -> None:
        """Once nobody else is at it: the hub's own client brings a blob under a lock."""
        while not part.open():
            _sleep(_LOCK_LOOK_SECONDS, self._stopped)
        if not part.brought_by_another:
            self._hasher.follow(part)

    def _publish(self, download: Download) -> None:
        if not download.part.brought_by_another and not self._hasher.finished(download.part):
            raise StoppedError
        if download.part.publish():
            with self._changed:
                download.published = True
                self._open_downloads -= 1
                self._changed.notify_all()
            return
        with self._changed:
            self.tally.verify_failures += 1
            download.times_wrong += 1
            download.xet = None
        if download.times_wrong >= _TIMES_WRONG:
            path = download.part.file.path
            message = (
                f"the hub sent wrong bytes for {path} {_TIMES_WRONG} times: a mirror may have to forget what it keeps"
            )
            raise FetchEndedError("wrong-bytes", message)
        download.source.forget_address()
        self._enqueue(download)

    # -- for readings -------------------------------------------------------------------------------------------

    def received(self, size: int) -> None:
        """Counts them, and returns when the rate allows for more."""
        with self._changed:
            self.tally.received_bytes += size
            wait = self._pace.spend(size, time.monotonic())
        if self._stopped.is_set():
            raise StoppedError
        if wait:
            _sleep(wait, self._stopped)

    def grain_written(self, part: Part, grain: int, buffer: memoryview) -> None:
        """``buffer`` holds it, and is the hasher's from now on."""
        part.note_written(grain)
        self._hasher.keep(part, grain, buffer)
        self._recorder.finished(part, grain)

    def flush(self) -> None:
        self._recorder.flush()

    def keep_quiet(self) -> None:
        """As long as the other side has asked any of us to wait: it counts callers, not connections."""
        with self._changed:
            wait = self._quiet_until - time.monotonic()
        if wait > 0:
            _sleep(wait, self._stopped)

    def fault(self, fault: FetchFaultError) -> None:
        with self._changed:
            if fault.after_seconds is not None and _bearable(fault, self._limits):
                self._quiet_until = max(self._quiet_until, time.monotonic() + fault.after_seconds)
            self.tally.faults[fault.reason] = self.tally.faults.get(fault.reason, 0) + 1

    def retrying(self) -> Retrying:
        return retrying(self._limits, self._stopped)


def _lacking(download: Download) -> int:
    """Bytes that nobody brings yet."""
    first = download.waiting[0]
    return download.part.file.size_bytes - first.start if first is not None else 0


class _Reading:
    """One piece on its way. A fault loses at most the grain it was in; only faults in a row without a grain count."""

    def __init__(self, pool: Pool, download: Download, piece: Piece, connections: Connections) -> None:
        self._pool = pool
        self._download = download
        self._piece = piece
        self._connections = connections
        self._finished_to = piece.start  # all before is written
        self._position = piece.start
        self._grain: memoryview | None = None  # where the bytes since ``_finished_to`` are

    def close(self) -> None:
        if self._grain is not None:
            self._pool.buffers.give(self._grain)
            self._grain = None

    def by_xet(self, store: XetStore) -> list[Piece]:
        """All that comes from there; what is to be brought otherwise beside the piece that this reading then has."""
        file = self._download.part.file
        assert file.xet is not None
        try:
            for chunk in store.stream(file.xet, file.size_bytes, self._finished_to, self._piece.end):
                self._put(memoryview(chunk))
        except FetchFaultError as fault:
            self._pool.fault(fault)
        if self._finished_to == self._piece.end:
            return []
        bounds = [*range(self._finished_to, self._piece.end, _PIECE_BYTES), self._piece.end]
        own, *rest = [Piece(start, end) for start, end in pairwise(bounds)]
        self._piece = own
        return rest

    def _put(self, content: memoryview) -> None:
        while content:
            room = self.room()
            count = min(len(room), len(content))
            room[:count] = content[:count]
            self.took(count)
            content = content[count:]

    def until_done(self) -> None:
        while self._finished_to < self._piece.end:
            self._pool.retrying()(self._try)

    def _try(self) -> None:
        before = self._finished_to
        self._pool.keep_quiet()
        try:
            self._read()
        except FetchFaultError as fault:
            self._pool.fault(fault)
            if self._finished_to == before or fault.after_seconds is not None:
                raise

    def _read(self) -> None:
        source = self._download.source
        if not source.ranges_ignored:
            self._position = self._finished_to
            if self._connections.read(source, self._position, self._piece.end, self):
                return
            source.ranges_ignored = True
        self._read_whole()

    def _read_whole(self) -> None:
        """The server knows no ranges: one thread reads the whole file, the others find their pieces done."""
        part = self._download.part
        with self._download.whole_body:
            size = part.file.size_bytes
            if not self._piece_written():
                with closing(_Reading(self._pool, self._download, Piece(0, size), self._connections)) as whole:
                    self._connections.read(self._download.source, 0, size, whole)
                self._pool.flush()
            self._finished_to = self._piece.end

    def _piece_written(self) -> bool:
        grains = range(self._piece.start // GRAIN_BYTES, -(-self._piece.end // GRAIN_BYTES))
        return all(grain in self._download.part.done for grain in grains)

    def room(self) -> memoryview:
        """In the grain that is on its way."""
        if self._grain is None:
            self._grain = self._pool.buffers.take()
        filled = self._position - self._finished_to
        return self._grain[filled : filled + _READ_BYTES]

    def took(self, count: int) -> None:
        """Writes the grain that this makes whole."""
        self._position += count
        self._pool.received(count)
        part, grain = self._download.part, self._finished_to // GRAIN_BYTES
        _, end = part.span(grain)
        if self._position < end:
            return
        if part.claim(grain) and self._grain is not None:
            buffer, self._grain = self._grain, None
            part.write(self._finished_to, buffer[: end - self._finished_to])
            self._pool.grain_written(part, grain, buffer)
        self._finished_to = end


class _Wait:
    def __init__(self, longest_seconds: float) -> None:
        self._exponential = wait_random_exponential(multiplier=0.2, max=longest_seconds)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, FetchFaultError) and error.after_seconds is not None:
            return error.after_seconds
        return self._exponential(state)


def _bearable(fault: FetchFaultError, limits: FetchLimits) -> bool:
    return fault.after_seconds is None or fault.after_seconds <= limits.longest_wait_seconds


def _sleep(seconds: float, stopped: threading.Event) -> None:
    if stopped.wait(seconds):
        raise StoppedError
