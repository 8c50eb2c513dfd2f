"""The history on disk: written now and then and at the end, read at the start, whole whatever happens, and never in the way."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.adapters.history_file import HistoryFile
from agent.model.history import MOST_BYTES, History
from agent.model.mig import Placement
from agent.model.report import PartitionReport
from agent.model.telemetry import SliceSample, TelemetrySnapshot
from agent.reconcile.history import WRITE_SECONDS, Remembering
from tests.fakes.world import h100

pytestmark = pytest.mark.looptime(idle_timeout=1e9)

NOON = 20_000 * 86400.0 + 43200.0
GPU = h100("3g.40gb@4:4")


@asynccontextmanager
async def remembering(folder: Path) -> AsyncIterator[Remembering]:
    """An agent's memory from its start to its end; the file has been read."""
    memory = Remembering(HistoryFile(folder / "state" / "history.json"), 10.0)
    memory.partition(PartitionReport(NOON, (GPU,), (), None))
    running = asyncio.create_task(memory.run())
    await asyncio.sleep(1)
    try:
        yield memory
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def look(seconds: float, used: int = 5) -> TelemetrySnapshot:
    """So many seconds after noon."""
    sample = SliceSample(GPU.uuid, 0, "3g.40gb", Placement(4, 4), 1, 0, "MIG-0", used, 40, 0)
    return TelemetrySnapshot(NOON + seconds, (sample,))


def written(folder: Path) -> History:
    found = HistoryFile(folder / "state" / "history.json").read()
    assert found is not None
    return found


def observed(history: History) -> float:
    (row,) = history.rows
    return sum(day.observed_seconds for day in row.days)


async def test_it_is_written_every_few_minutes_and_at_the_end(tmp_path: Path) -> None:
    async with remembering(tmp_path) as memory:
        for n in range(11):
            memory.look(look(10.0 * n))
        assert not (tmp_path / "state").exists()
        await asyncio.sleep(WRITE_SECONDS)
        assert observed(written(tmp_path)) == 100
        memory.look(look(110.0))
        assert observed(written(tmp_path)) == 100
    assert observed(written(tmp_path)) == 110
    assert written(tmp_path).gpus[0].layout == GPU.layout


async def test_an_agent_that_starts_again_goes_on_from_there(tmp_path: Path) -> None:
    async with remembering(tmp_path) as memory:
        memory.look(look(0))
        memory.look(look(10))
    async with remembering(tmp_path) as memory:
        memory.look(look(200))
        memory.look(look(210))
    assert observed(written(tmp_path)) == 20


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"\x00\x01",
        b'{"version": 7, "history": {}}',
        b'{"version": 1, "history": {"gpus": [{"uuid": "\xff"}]}}',
        b"x" * (MOST_BYTES + 1),
    ],
)
async def test_a_file_that_cannot_be_read_is_put_aside_and_said_once(
    foreign: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "history.json").write_bytes(foreign)
    async with remembering(tmp_path) as memory:
        memory.look(look(0))
        memory.look(look(10))
    (line,) = [record for record in caplog.records if record.name == "warmslice.history"]
    assert (line.message, line.levelno) == ("history.unreadable", logging.WARNING)
    assert (tmp_path / "state" / "history.json.unreadable").read_bytes() == foreign
    assert observed(written(tmp_path)) == 10


async def test_a_disk_that_takes_nothing_is_said_once_and_changes_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "state").write_text("not a directory")
    async with remembering(tmp_path) as memory:
        for n in range(5):
            memory.look(look(10.0 * n))
            await asyncio.sleep(WRITE_SECONDS)
        # Reading told of it too: what is there is no file of ours.
        told = [record.message for record in caplog.records]
        assert told.count("history.not-written") == 1
        (tmp_path / "state").unlink()
        memory.look(look(50.0))
        await asyncio.sleep(WRITE_SECONDS)
        assert observed(written(tmp_path)) == 50
    assert [record.message for record in caplog.records].count("history.written-again") == 1


@dataclass(frozen=True, slots=True)
class BrokenFile(HistoryFile):
    """What no disk does: an error that nobody thought of, at each read and write."""

    def read(self) -> History | None:
        raise LookupError("read")

    def write(self, text: bytes) -> None:
        raise LookupError("write")


async def test_an_error_that_nobody_thought_of_ends_neither_the_sampler_nor_the_partition_role(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Remembering(BrokenFile(tmp_path / "history.json"), 10.0)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(memory.run())
        await asyncio.sleep(1)
        for n in range(3):
            memory.partition(PartitionReport(NOON, (GPU,), (), None))
            memory.look(look(10.0 * n))
            await asyncio.sleep(WRITE_SECONDS)
        # What the driver never tells: a look at no time, and a pass over no GPU.
        for _ in range(3):
            memory.look(replace(look(50.0), sampled_at=None))  # type: ignore[arg-type]
            memory.partition(PartitionReport(NOON, (None,), (), None))  # type: ignore[arg-type]
        assert not running.done()
        running.cancel()
    told = [record for record in caplog.records if record.name == "warmslice.history"]
    assert [(one.message, one.part, one.exc_info is not None) for one in told] == [  # type: ignore[attr-defined]
        ("history.failing", part, True) for part in ("read", "write", "look", "partition")
    ]


async def test_a_slice_that_is_held_by_nobody_known_is_not_looked_at(tmp_path: Path) -> None:
    """The kubelet did not answer: that is not nobody."""
    async with remembering(tmp_path) as memory:
        memory.look(look(0))
        memory.look(look(10))
        memory.partition(replace(PartitionReport(NOON, (GPU,), (), None), owners_known=False))
        memory.look(look(20))
        memory.look(look(30))
    assert observed(written(tmp_path)) == 10


KILLED = """
import json, os, signal, sys
from pathlib import Path
from agent.adapters.history_file import HistoryFile
from agent.model.history import History

file = HistoryFile(Path(sys.argv[1]))
file.write(History(seen=1.0).to_json())
new = History(seen=2.0).to_json()
found = []
for number in range(1000):
    child = os.fork()
    if child == 0:
        calls = 0
        def kill(frame, event, about):
            global calls
            if event == "c_call":
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
        sys.setprofile(kill)
        file.write(new)
        sys.setprofile(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    history = file.read()
    found.append(history.seen if history else None)
    if status == 0:
        break
    file.write(History(seen=1.0).to_json())
print(json.dumps([found, sorted(os.listdir(file.path.parent))]))
"""


def test_a_write_that_is_killed_anywhere_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Before each call into the system or the interpreter, of a process of its own."""
    told = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "history.json")], capture_output=True, text=True, check=True
    )
    found, left = json.loads(told.stdout)
    assert set(found) == {1.0, 2.0}
    assert found == sorted(found)
    assert len(found) > 10
    # Drafts of the killed are taken away by the next write.
    assert left == ["history.json"]
