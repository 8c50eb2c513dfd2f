"""Hashes blobs while they come: from the memory into which they were received, as long as they come nearly in order.

# Note [Hash in flight]
# A hash goes from the beginning to the end, and pieces are asked for in that order, by several connections. Whoever has
# received and written a grain hands its memory to the hasher, which takes it in when all before it are; so the check ends
# soon after the last byte and nothing is read back. Only so many grains wait in memory. When that many wait, whoever brings
# one more waits too while the hasher gets on; where it cannot, since the grain that it needs is late, the new one is let go
# and is read from disk when its turn comes, as are the grains of an earlier fetch.
"""

from __future__ import annotations

import mmap
import time
from collections import deque
from dataclasses import dataclass, field
from threading import Condition, Thread

from agent.execute.fetch_blob import GRAIN_BYTES, Part
from agent.model.cache import FetchEndedError

_PATIENCE_SECONDS = 0.2
"""So long nothing may have been hashed before a grain is let go."""


class Buffers:
    """Memory for grains, at the beginning of a page as direct writes need it. It is used again, never given back."""

    def __init__(self) -> None:
        self._free: deque[memoryview] = deque()

    def take(self) -> memoryview:
        """Room for one grain."""
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, GRAIN_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Nobody reads it any more."""
        self._free.append(buffer)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What is to be hashed next; ``buffer`` is None where it has to be read."""

    part: Part
    buffer: memoryview | None


@dataclass(slots=True)
class _Followed:
    """``at_work``: a thread hashes the next grain."""

    kept: dict[int, memoryview] = field(default_factory=dict)
    at_work: bool = False
    error: FetchEndedError | None = None


class Hasher:
    """Threads that hash the blobs of a fetch, of each blob one grain at a time. At most ``most_kept`` grains wait in memory.
    See Note [Hash in flight]."""

    def __init__(self, buffers: Buffers, most_kept: int, threads: int) -> None:
        self._buffers = buffers
        self._most_kept = most_kept
        self._parts: dict[Part, _Followed] = {}
        self._got_on_at = time.monotonic()
        self._stopped = False
        self._changed = Condition()
        self._threads = [Thread(target=self._run, name="hasher", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def follow(self, part: Part) -> None:
        """From now on what is on disk of it is hashed."""
        with self._changed:
            self._parts.setdefault(part, _Followed())
            self._changed.notify_all()

    def grown(self) -> None:
        """More is on disk of a part that is followed."""
        with self._changed:
            self._changed.notify_all()

    def keep(self, part: Part, grain: int, buffer: memoryview) -> None:
        """Hand over a grain that is written. Returns when there is room for it, or it was let go."""
        with self._changed:
            while not self._has_room(part, grain) and not self._stopped:
                left = self._got_on_at + _PATIENCE_SECONDS - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            followed = self._parts.get(part)
            if followed is None or self._stopped or not self._has_room(part, grain):
                self._buffers.give(buffer)
                return
            followed.kept[grain] = buffer
            self._changed.notify_all()

    def finished(self, part: Part) -> bool:
        """Wait until the hash has the whole part, of which every grain is done; it is not followed any longer. False where
        the hasher was stopped before. Raises the FetchEndedError that reading met."""
        with self._changed:
            followed = self._parts.setdefault(part, _Followed())
            self._changed.notify_all()
            while part.hashed_grains < part.grains and followed.error is None and not self._stopped:
                self._changed.wait()
            del self._parts[part]
            if followed.error is not None:
                raise followed.error
            return part.hashed_grains == part.grains

    def stop(self) -> None:
        """Nobody waits any more; what is not hashed yet is left to the next fetch."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _has_room(self, part: Part, grain: int) -> bool:
        """The one that the hash needs next always has."""
        waiting = sum(len(followed.kept) for followed in self._parts.values())
        return waiting < self._most_kept or grain == part.hashed_grains

    def _turn(self) -> _Turn | None:
        """What is in memory first: it is what others wait for."""
        free = [(part, followed) for part, followed in self._parts.items() if not followed.at_work]
        for part, followed in free:
            if part.hashed_grains in followed.kept:
                return _Turn(part, followed.kept.pop(part.hashed_grains))
        for part, followed in free:
            if part.hashed_grains in part.done and followed.error is None:
                return _Turn(part, None)
        return None

    def _run(self) -> None:
        own = self._buffers.take()
        while (turn := self._next_turn()) is not None:
            error = self._hash(turn, own)
            with self._changed:
                self._got_on_at = time.monotonic()
                followed = self._parts.get(turn.part)
                if followed is not None:
                    followed.at_work, followed.error = False, error
                self._changed.notify_all()
            if turn.buffer is not None:
                self._buffers.give(turn.buffer)

    def _next_turn(self) -> _Turn | None:
        with self._changed:
            while not self._stopped:
                turn = self._turn()
                if turn is not None:
                    self._parts[turn.part].at_work = True
                    return turn
                self._changed.wait()
            return None

    @staticmethod
    def _hash(turn: _Turn, own: memoryview) -> FetchEndedError | None:
        start, end = turn.part.span(turn.part.hashed_grains)
        try:
            turn.part.take_into_hash(turn.part.read_next(own) if turn.buffer is None else turn.buffer[: end - start])
        except FetchEndedError as error:
            return error
        return None
