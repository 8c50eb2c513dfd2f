"""Reads every blob again within a set time, beside the cache loop: which is next, reads it, and notes what it found."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from agent.adapters.files import write_durably
from agent.adapters.hub_cache import ModelFolder
from agent.execute.scrub import Found, Reader, give_way, take_out
from agent.model.errors import AgentError
from agent.model.scrub import DamagedBlob, ScrubReport, ScrubTurn, StoredBlob
from agent.observe.stored import read_checked, stored_blobs
from agent.plan.scrub import next_turn

_LONGEST_SLEEP_SECONDS = 600.0
_SAVE_SECONDS = 60.0
_BACK_OFF_SECONDS = 60.0

log = logging.getLogger("warmslice.scrub")


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
    _checked: dict[tuple[str, str], float] = field(default_factory=dict)
    _put_off: dict[tuple[str, str], float] = field(default_factory=dict)  # what could not be read keeps nobody waiting
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
            self._save()

    async def step(self) -> float:
        """Read one blob if it is time; seconds until the next look."""
        turn = await asyncio.to_thread(self._turn)
        if turn is None:
            return _LONGEST_SLEEP_SECONDS
        if turn.begin_at_seconds > self.now():
            return min(turn.begin_at_seconds - self.now(), _LONGEST_SLEEP_SECONDS)
        try:
            damaged = await asyncio.get_running_loop().run_in_executor(self._thread, self._check, turn.blob)
        except OSError as error:
            log.warning("scrub.not-read", extra={"blob": turn.blob.name, "error": str(error)})
            self._put_off[turn.blob.repository, turn.blob.name] = self.now()
            return 0.0
        if damaged is not None:
            self._tell(damaged)
        return 0.0

    def _turn(self) -> ScrubTurn | None:
        blobs = [_checked_by(blob, self._checked) for blob in stored_blobs(self.cache)]
        self._oldest = min((blob.checked_at_seconds for blob in blobs), default=None)
        due = [_checked_by(blob, self._put_off) for blob in blobs]
        turn = next_turn(due, self.period_seconds, self.reader.bytes_per_second, self.now())
        late = turn.late_seconds if turn is not None else 0.0
        if late and not self._late:
            log.warning("scrub.too-slow", extra={"late_seconds": late})
        self._late = late
        return turn

    def _check(self, blob: StoredBlob) -> DamagedBlob | None:
        """What is wrong with it; then it is out of the way."""
        folder = ModelFolder(self.cache, blob.repository)
        path = folder.blob(blob.name)
        try:
            before = path.stat()
        except FileNotFoundError:
            return None
        found = self.reader.check(path, blob.name)
        if found in {Found.DAMAGED, Found.UNREADABLE}:
            if take_out(folder, blob.name, lambda status: os.path.samestat(status, before)):
                return DamagedBlob(blob.repository, blob.name, found.value)
        elif found is Found.GOOD:
            self._checked[blob.repository, blob.name] = self.now()
            if self.now() - self._saved_at >= _SAVE_SECONDS:
                self._save()
        return None

    def _tell(self, damaged: DamagedBlob) -> None:
        log.error(
            "scrub.damaged", extra={"repository": damaged.repository, "blob": damaged.name, "detail": damaged.why}
        )
        self._damaged += 1
        self._news.append(damaged)
        self.wake()

    def _save(self) -> None:
        """So that a restart does not begin anew. What is lost is read again sooner than it has to be."""
        by_repository: dict[str, dict[str, float]] = {}
        for (repository, name), at in self._checked.items():
            by_repository.setdefault(repository, {})[name] = at
        for repository, times in by_repository.items():
            folder = ModelFolder(self.cache, repository)
            here = {name: at for name, at in {**read_checked(folder), **times}.items() if folder.blob(name).exists()}
            try:
                write_durably(folder.checked, msgspec.json.encode(here))
            except OSError as error:
                log.warning("scrub.not-noted", extra={"error": str(error)})
        self._checked.clear()
        self._saved_at = self.now()


def _checked_by(blob: StoredBlob, times: Mapping[tuple[str, str], float]) -> StoredBlob:
    return replace(blob, checked_at_seconds=max(blob.checked_at_seconds, times.get((blob.repository, blob.name), 0.0)))
