"""Reads every blob again within a set time, beside the cache loop: which is next, reads it, and notes what it found."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from agent.adapters.files import write_durably
from agent.adapters.hub_cache import ModelFolder
from agent.execute.scrub import Found, Reader, give_way, take_out
from agent.model.errors import AgentError
from agent.model.scrub import BlobKey, DamagedBlob, ScrubReport, ScrubTurn, StoredBlob
from agent.observe.stored import believable, stored_blobs
from agent.plan.scrub import plan_scrub

_LONGEST_SLEEP_SECONDS = 600.0
_LOOK_SECONDS = 60.0
_SAVE_SECONDS = 60.0
_BACK_OFF_SECONDS = 60.0

log = logging.getLogger("warmslice.scrub")

# Note [One thread]
# Whatever touches the disk is done by one thread of a low priority, one thing after the other, the last note at a stop too: so
# nothing needs a lock, and the event loop never waits for a disk. What the loop alone may do (waking others, what a report
# takes) is done when the thread has answered.


@dataclass(slots=True)
class Scrub:
    """``run`` until it is cancelled. ``period_seconds``: within which each blob is read again. ``wake`` is called when a blob was
    damaged and is gone: the cache loop then says that its model is not ready, and fetches it. ``now`` is Unix time in seconds."""

    cache: Path
    reader: Reader
    period_seconds: float
    wake: Callable[[], None]
    now: Callable[[], float]
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "scrub", give_way))
    _queue: deque[ScrubTurn] = field(default_factory=deque)
    _known: dict[BlobKey, float] = field(default_factory=dict)  # also what could not be noted
    _put_off: dict[BlobKey, float] = field(default_factory=dict)  # what could not be read keeps nobody waiting
    _unsaved: set[str] = field(default_factory=set)  # repositories
    _looked_at: float = 0.0
    _saved_at: float = 0.0
    _oldest: float | None = None
    _late: float = 0.0
    _damaged: int = 0
    _news: list[DamagedBlob] = field(default_factory=list)

    def report(self) -> ScrubReport:
        """How it stands; what is new is given once."""
        news, self._news = tuple(self._news), []
        return ScrubReport(self._oldest, self.reader.read_bytes, self._damaged, self._late, news)

    async def run(self) -> None:
        """A disk that does not answer is asked again later."""
        try:
            while True:
                try:
                    await asyncio.sleep(await self.step())
                except (AgentError, OSError) as error:
                    log.warning("scrub.failed", extra={"error": str(error)})
                    await asyncio.sleep(_BACK_OFF_SECONDS)
        finally:
            self.reader.stop()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._save)
            self._thread.shutdown(wait=False)

    async def step(self) -> float:
        """Read one blob if it is time; seconds until the next look. See Note [One thread]."""
        wait, damaged = await asyncio.get_running_loop().run_in_executor(self._thread, self._next)
        if damaged is not None:
            self._damaged += 1
            self._news.append(damaged)
            self.wake()
        return wait

    def _next(self) -> tuple[float, DamagedBlob | None]:
        """A look reads every manifest, so it serves for all that is due, or for a minute."""
        if self._wait() > 0.0 or not 0.0 <= self.now() - self._looked_at < _LOOK_SECONDS:
            self._look()
        if (wait := self._wait()) > 0.0:
            return wait, None
        return 0.0, self._check(self._queue.popleft().blob)

    def _wait(self) -> float:
        if not self._queue:
            return _LONGEST_SLEEP_SECONDS
        return min(self._queue[0].begin_at_seconds - self.now(), _LONGEST_SLEEP_SECONDS)

    def _look(self) -> None:
        now = self._looked_at = self.now()
        blobs = stored_blobs(self.cache, self._known, now)
        self._known = {blob.key: blob.checked_at_seconds for blob in blobs}
        self._unsaved &= {blob.repository for blob in blobs}
        # These count as found right from now on: noted, so that a restart does not put them off again.
        self._unsaved |= {blob.repository for blob in blobs if blob.checked_at_seconds == now}
        self._oldest = min(self._known.values(), default=None)
        plan = plan_scrub(
            [self._put_off_if_unreadable(blob, now) for blob in blobs],
            self.period_seconds,
            self.reader.bytes_per_second,
        )
        self._queue = deque(plan.turns)
        if plan.late_seconds and not self._late:
            log.warning("scrub.too-slow", extra={"late_seconds": plan.late_seconds})
        self._late = plan.late_seconds

    def _put_off_if_unreadable(self, blob: StoredBlob, now: float) -> StoredBlob:
        if blob.key not in self._put_off:
            return blob
        at = believable((blob.checked_at_seconds, self._put_off[blob.key]), now)
        return replace(blob, checked_at_seconds=at)

    def _check(self, blob: StoredBlob) -> DamagedBlob | None:
        """What is wrong with it; then it is out of the way."""
        folder = ModelFolder(self.cache, blob.repository)
        path = folder.blob(blob.name)
        try:
            before = path.stat()
            found = self.reader.check(path, blob.name)
            if found is Found.GOOD:
                self._note(blob)
            if found in {Found.DAMAGED, Found.UNREADABLE} and take_out(
                folder, blob.name, lambda status: os.path.samestat(status, before)
            ):
                return self._damage(blob, found)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("scrub.not-read", extra={"blob": blob.name, "error": str(error)})
            self._put_off[blob.key] = self.now()
        return None

    def _damage(self, blob: StoredBlob, found: Found) -> DamagedBlob:
        """Logged here, since a stop may come before anybody hears the answer."""
        log.error("scrub.damaged", extra={"repository": blob.repository, "blob": blob.name, "detail": found.value})
        self._known.pop(blob.key, None)
        self._unsaved.add(blob.repository)
        return DamagedBlob(blob.repository, blob.name, found.value)

    def _note(self, blob: StoredBlob) -> None:
        self._known[blob.key] = self.now()
        self._unsaved.add(blob.repository)
        if not 0.0 <= self.now() - self._saved_at < _SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        """So that a restart does not begin anew. What cannot be noted now is kept, and noted later."""
        self._saved_at = self.now()
        for repository in sorted(self._unsaved):
            folder = ModelFolder(self.cache, repository)
            times = {name: at for (owner, name), at in self._known.items() if owner == repository}
            try:
                for draft in folder.private.glob(f".{folder.checked.name}.*.draft"):  # left by a kill
                    draft.unlink(missing_ok=True)
                write_durably(folder.checked, msgspec.json.encode(times))
                self._unsaved.discard(repository)
            except OSError as error:
                log.warning("scrub.not-noted", extra={"repository": repository, "error": str(error)})
