"""Remembers how slices are used, for `warmslice advise`: folds each look of the sampler, and writes the file now and then.

All that touches the disk is done by one thread of its own: a disk that hangs, is full or read-only costs the history and nothing
else. Until the file was read, looks are left out. An error that nobody thought of is said once and survived: what is remembered
is not worth the sampler or the partition role, in whose steps it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from agent.adapters.history_file import HistoryFile
from agent.model.errors import BadInputError
from agent.model.history import MOST_BYTES, History, Holders, Look, SlicePlace
from agent.model.mig import Gpu
from agent.model.report import PartitionReport
from agent.model.telemetry import TelemetrySnapshot
from agent.plan.history import encoded, fold, holders_of, look_of, with_gpus

WRITE_SECONDS = 300.0
_LAST_WRITE_SECONDS = 2.0
_LEAST_GAP_SECONDS = 60.0
_MOST_PERIODS = 3.0

log = logging.getLogger("warmslice.history")


@dataclass(slots=True)
class Remembering:
    """``run`` until it is cancelled. ``period_seconds``: how far looks are apart."""

    file: HistoryFile
    period_seconds: float
    _history: History | None = None
    _before: Look | None = None
    _holders: Mapping[SlicePlace, Holders] = field(default_factory=dict)
    _gpus: tuple[tuple[Gpu, ...], float] = ((), 0.0)
    _written: History | None = None
    _failing: bool = False
    _failed: set[str] = field(default_factory=set)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "history"))

    def partition(self, report: PartitionReport) -> None:
        """The last pass: who holds what, and what the GPUs are."""
        with self._surviving("partition"):
            self._holders = holders_of(report)
            if report.gpus and not report.error:
                self._gpus = (report.gpus, report.finished)

    def look(self, snapshot: TelemetrySnapshot) -> None:
        """The last look at the slices."""
        with self._surviving("look"):
            look = look_of(snapshot, self._holders)
            if self._history is not None and look is not None:
                gap = max(_LEAST_GAP_SECONDS, _MOST_PERIODS * self.period_seconds)
                self._history = fold(self._history, self._before, look, gap)
            self._before = look

    async def run(self) -> None:
        """Read what was remembered, then write it every few minutes and at the end."""
        try:
            while True:
                await self._on_thread(self._read if self._history is None else self._write)
                await asyncio.sleep(WRITE_SECONDS)
        finally:
            try:
                async with asyncio.timeout(_LAST_WRITE_SECONDS):
                    await self._on_thread(self._write)
            except TimeoutError:
                log.warning(
                    "history.not-written", extra={"file": str(self.file.path), "why": "the disk does not answer"}
                )
            self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], None]) -> None:
        with self._surviving("thread"):
            await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @contextmanager
    def _surviving(self, part: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            if part not in self._failed:
                log.exception("history.failing", extra={"part": part})
            self._failed.add(part)

    def _read(self) -> None:
        """Begins anew where it cannot be read."""
        found = History()
        with self._surviving("read"):
            try:
                found = self.file.read() or found
            except BadInputError as error:
                log.warning("history.unreadable", extra={"why": str(error), "aside": self._aside()})
        self._history = self._written = replace(found, period_seconds=self.period_seconds)

    def _aside(self) -> str:
        """Where it is now; empty where it cannot be moved: then the next write replaces it."""
        try:
            return str(self.file.put_aside())
        except OSError:
            return ""

    def _write(self) -> None:
        """Said once where it fails, and once when it succeeds again."""
        if self._history is None:
            return
        gpus, at = self._gpus
        history = with_gpus(self._history, gpus, at) if gpus else self._history
        if history == self._written:
            return
        with self._surviving("write"):
            self._write_down(history)

    def _write_down(self, history: History) -> None:
        try:
            self.file.write(encoded(history, MOST_BYTES))
        except OSError as error:
            if not self._failing:
                log.warning("history.not-written", extra={"file": str(self.file.path), "why": error.strerror})
            self._failing = True
            return
        if self._failing:
            log.info("history.written-again", extra={"file": str(self.file.path)})
        self._failing, self._written = False, history
