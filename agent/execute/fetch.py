"""Starts fetching processes, follows them, and stops them. The long-lived process's side of a fetch."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agent.execute.fetch_messages import Done, Failed, Instructions, Outcome, Progress, Resolved, read_message
from agent.model.cache import FailureKind, FetchLimits, FetchOrder, FetchProgress, FetchTotals
from agent.model.catalog import CatalogModel
from agent.model.errors import BadInputError

StartTask = Callable[[Coroutine[Any, Any, None]], object]

_ERROR_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class EndedFetch:
    """A fetch that is over. ``failure`` is None where the model is published, or where we stopped it ourselves."""

    progress: FetchProgress
    failure: Failed | None
    stopped: bool
    ended_at_seconds: float


@dataclass(slots=True)
class _Running:
    progress: FetchProgress
    process: asyncio.subprocess.Process | None = None
    stopped: bool = False
    counted: Progress | None = None  # the last figures it gave, already in the totals


@dataclass(slots=True)
class FetchSupervisor:
    """At most one process per model name.

    ``start_task`` runs a coroutine until it ends (a TaskGroup's ``create_task``); cancelling that task kills the
    process. ``wake`` is called when a fetch ends. ``token`` is asked at each start for the one of a name, or without a name
    for that of the settings, and may raise BadInputError. ``now`` is Unix time in seconds.
    """

    cache: Path
    start_task: StartTask
    wake: Callable[[], None]
    token: Callable[[str | None], str | None]
    now: Callable[[], float]
    totals: FetchTotals = field(default_factory=FetchTotals)
    _running: dict[str, _Running] = field(default_factory=dict)
    _ended: list[EndedFetch] = field(default_factory=list)
    _closed: bool = False

    def running(self) -> Mapping[str, FetchProgress]:
        """By model name, as the processes last told."""
        return {name: running.progress for name, running in self._running.items()}

    def take_ended(self) -> tuple[EndedFetch, ...]:
        """What ended since the last call, in order; each is given once."""
        ended, self._ended = tuple(self._ended), []
        return ended

    def start(
        self, model: CatalogModel, endpoint: str | None, limits: FetchLimits, require_safetensors: bool = False
    ) -> None:
        """Begin to fetch ``model``; ``endpoint`` is the hub to use where the model names none. Nothing begins after ``close``."""
        if self._closed:
            return
        order = FetchOrder(
            repository=model.repository,
            revision=model.revision,
            allow_patterns=model.allow_patterns,
            ignore_patterns=model.ignore_patterns,
            endpoint=model.endpoint or endpoint,
            cache_directory=str(self.cache),
            parent_pid=os.getpid(),
            engine=model.engine,
            require_safetensors=require_safetensors,
            limits=limits,
        )
        running = _Running(FetchProgress(model, self.now()))
        self._running[model.name] = running
        # The token of the settings is for their hub: a catalog entry that names another endpoint must not be given it.
        foreign = model.endpoint not in (None, endpoint)
        ask = None if foreign and model.token is None else partial(self.token, model.token)
        self.start_task(self._follow(running, order, ask))

    def stop(self, name: str) -> None:
        """Kill the fetch of a model that is not wanted any more; its parts stay."""
        running = self._running.get(name)
        if running is not None:
            running.stopped = True
            _kill(running.process)

    def close(self) -> None:
        """Kill all, and begin none any more: the agent is told to go, perhaps with its machine. Their parts stay."""
        self._closed = True
        for name in list(self._running):
            self.stop(name)

    async def _follow(self, running: _Running, order: FetchOrder, ask: Callable[[], str | None] | None) -> None:
        failure: Failed | None = Failed(FailureKind.FAULT, "killed", "the fetch was cut off")
        try:
            if not running.stopped:
                token = ask() if ask is not None else None
                failure = (await self._run(running, Instructions(order, token))).failure
        except BadInputError as error:
            failure = Failed(FailureKind.REFUSED, "token", str(error))
        except OSError as error:
            failure = Failed(FailureKind.FAULT, "start", f"the fetching process cannot be started: {error}")
        finally:
            del self._running[running.progress.model.name]
            failure = None if running.stopped else failure
            self._count_failure(failure)
            self._ended.append(EndedFetch(running.progress, failure, running.stopped, self.now()))
            self.wake()

    async def _run(self, running: _Running, instructions: Instructions) -> Outcome:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent.execute.fetcher",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        running.process = process
        try:
            if running.stopped:
                _kill(process)
            async with asyncio.TaskGroup() as readers:
                errors = readers.create_task(_tail(process))
                outcome = await self._converse(process, running, instructions)
            await process.wait()
        finally:
            _kill(process)
            await process.wait()
        return outcome if outcome is not None else _cut_off(process.returncode, errors.result())

    async def _converse(
        self, process: asyncio.subprocess.Process, running: _Running, instructions: Instructions
    ) -> Outcome | None:
        """Give the instructions, take in what it says; None where it ended without a last word."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(instructions))
            await process.stdin.drain()
            process.stdin.close()
            await process.stdin.wait_closed()
        except (BrokenPipeError, ConnectionResetError):
            return None
        outcome = None
        async for line in lines_of(process.stdout):
            match read_message(line):
                case Resolved(commit, size, present):
                    running.progress = replace(running.progress, commit=commit, size_bytes=size, fetched_bytes=present)
                case Progress() as progress:
                    self._count_progress(running, progress)
                case Done(commit):
                    outcome = Outcome(commit, None)
                case Failed() as failed:
                    outcome = Outcome(None, failed)
                case None:
                    continue
        return outcome

    def _count_progress(self, running: _Running, progress: Progress) -> None:
        before = running.counted or Progress(0, 0, 0, {})
        self.totals = replace(
            self.totals,
            received_bytes=self.totals.received_bytes + progress.received_bytes - before.received_bytes,
            verify_failures=self.totals.verify_failures + progress.verify_failures - before.verify_failures,
            retries=_sum(self.totals.retries, progress.faults, before.faults),
        )
        running.counted = progress
        running.progress = replace(
            running.progress, fetched_bytes=progress.fetched_bytes, retries=dict(progress.faults)
        )

    def _count_failure(self, failure: Failed | None) -> None:
        if failure is not None:
            count = self.totals.failures.get(failure.reason, 0) + 1
            self.totals = replace(self.totals, failures={**self.totals.failures, failure.reason: count})


def _sum(totals: Mapping[str, int], now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    more = {reason: count - before.get(reason, 0) for reason, count in now.items()}
    return {reason: totals.get(reason, 0) + more.get(reason, 0) for reason in {**totals, **more}}


async def lines_of(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Line by line; one longer than the reader's limit is none of ours and is left out."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line


async def _tail(process: asyncio.subprocess.Process) -> bytes:
    """The last words on standard error, read so that the pipe never fills."""
    assert process.stderr is not None
    tail = b""
    while chunk := await process.stderr.read(_ERROR_TAIL_BYTES):
        tail = (tail + chunk)[-_ERROR_TAIL_BYTES:]
    return tail


def _cut_off(returncode: int | None, errors: bytes) -> Outcome:
    last = errors.decode(errors="replace").strip().rpartition("\n")[2]
    message = f"the fetching process ended with {returncode} before it was done" + (f": {last}" if last else "")
    return Outcome(None, Failed(FailureKind.FAULT, "killed", message))


def _kill(process: asyncio.subprocess.Process | None) -> None:
    if process is not None and process.returncode is None:
        process.kill()
