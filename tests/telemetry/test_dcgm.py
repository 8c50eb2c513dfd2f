"""Slices of GPUs without GPM, over real HTTP from a simulated dcgm-exporter of the same simulated GPUs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from agent.adapters.dcgm import DcgmExporter
from agent.model.errors import RetryError
from agent.model.telemetry import SliceSample, TelemetrySnapshot, Utilization
from agent.observe.dcgm import DcgmLoads
from agent.observe.telemetry import Telemetry
from hack.dcgm_exporter import Fault, SimulatedExporter
from tests.telemetry.node import PERIOD_SECONDS, Node

INTERVAL_SECONDS = 0.2
LIMIT_SECONDS = 0.5
LOAD = {"graphics": 0.5, "sm": 0.4, "occupancy": 0.3, "tensor": 0.2, "dram": 0.1}
NOTHING = Utilization()


@dataclass
class Watched:
    """A node of an A100 (0) and an H100 (1), its exporter, and the last look as the agent would show it."""

    node: Node
    exporter: SimulatedExporter
    shown: list[TelemetrySnapshot] = field(default_factory=list)

    async def until(self, holds: Callable[[tuple[SliceSample, ...]], bool]) -> tuple[SliceSample, ...]:
        """The slices of the first look from now on of which it is so."""
        self.shown.clear()
        async with asyncio.timeout(10):
            while not (self.shown and holds(self.shown[-1].slices)):
                await asyncio.sleep(0.02)
        return self.shown[-1].slices

    async def looks(self, count: int) -> list[TelemetrySnapshot]:
        """So many looks from now on."""
        self.shown.clear()
        async with asyncio.timeout(10):
            while len(self.shown) < count:
                await asyncio.sleep(0.02)
        return self.shown[:count]


@pytest_asyncio.fixture
async def watched(two_kinds: Node) -> AsyncIterator[Watched]:
    exporter = SimulatedExporter(two_kinds.gpus.show, INTERVAL_SECONDS)
    async with exporter.serving() as url:
        found = Watched(two_kinds, exporter)
        door = DcgmExporter(lambda: url, LIMIT_SECONDS)
        loads = DcgmLoads(door, INTERVAL_SECONDS, PERIOD_SECONDS, time.monotonic)
        telemetry = Telemetry(
            two_kinds.hardware, PERIOD_SECONDS, time.time, lambda seen: found.shown.append(loads.filled(seen))
        )
        running = [asyncio.create_task(work) for work in (telemetry.run(), loads.run())]
        try:
            yield found
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)


def busy(node: Node, one: SliceSample, **load: float) -> None:
    node.gpus.run("util", "--device", one.uuid, *(word for kind in load for word in (f"--{kind}", str(load[kind]))))


async def test_a_slice_of_an_a100_has_the_load_that_dcgm_tells(watched: Watched) -> None:
    for index in (0, 1):
        await watched.node.cut(await watched.node.gpu(index), "1g.10gb", 0, 1)
    await watched.node.cut(await watched.node.gpu(0), "1g.10gb", 1, 1)
    slices = await watched.until(lambda slices: len(slices) == 3)
    busy(watched.node, slices[0], **LOAD)

    first, second, hopper = await watched.until(lambda slices: slices[0].utilization.graphics == 0.5)
    assert first.utilization == Utilization(*LOAD.values())
    assert second.utilization.graphics == 0
    assert hopper.utilization.graphics == 0
    assert first.active_seconds is not None
    later, *_ = await watched.until(lambda slices: (slices[0].active_seconds or 0) > (first.active_seconds or 0))
    assert later.utilization.graphics == 0.5


async def test_nobody_asks_the_exporter_while_gpm_tells_everything(watched: Watched) -> None:
    await watched.node.cut(await watched.node.gpu(1), "1g.10gb", 0, 1)
    await watched.until(lambda slices: bool(slices) and slices[0].utilization.graphics == 0)
    await watched.looks(4)
    assert watched.exporter.asked == 0


@pytest.mark.parametrize("recut", ["1g.10gb", "1g.20gb"])
async def test_after_a_recut_no_look_shows_the_load_of_the_slice_before(watched: Watched, recut: str) -> None:
    """It gets the same id, and a while later a load of its own: none. The looks in between say nothing."""
    gpu = await watched.node.gpu(0)
    await watched.node.cut(gpu, "1g.10gb", 0, 1)
    (before,) = await watched.until(lambda slices: bool(slices))
    busy(watched.node, before, graphics=1)
    await watched.until(lambda slices: slices[0].utilization.graphics == 1)

    watched.exporter.fault = Fault.FROZEN
    await watched.node.remove(gpu, "1g.10gb", 0, 1)
    await watched.until(lambda slices: not slices)
    await watched.node.cut(gpu, recut, 0, 2 if recut == "1g.20gb" else 1)
    (after,) = await watched.until(lambda slices: bool(slices))
    assert after.utilization == NOTHING
    watched.exporter.fault = Fault.NONE
    watched.shown.clear()
    await watched.until(lambda slices: slices[0].utilization.graphics == 0)
    assert {one.utilization.graphics for look in watched.shown for one in look.slices} <= {None, 0.0}


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.NONE, Fault.GARBAGE, Fault.FROZEN)])
async def test_an_exporter_with_a_fault_takes_its_own_numbers_away_and_nothing_else(
    watched: Watched, fault: Fault
) -> None:
    """Looks go on in time, memory stays, and the load comes back with the exporter."""
    await watched.node.cut(await watched.node.gpu(0), "1g.10gb", 0, 1)
    await watched.until(lambda slices: bool(slices) and slices[0].utilization.graphics == 0)
    watched.exporter.fault = fault
    (one,) = await watched.until(lambda slices: slices[0].utilization == NOTHING)
    assert one.memory_used_bytes is not None
    lasted = [await _seconds_of_four_looks(watched) for _ in range(3)]
    assert min(lasted) < 3 * PERIOD_SECONDS + 1, "the exporter is waited for"
    watched.exporter.fault = Fault.NONE
    await watched.until(lambda slices: slices[0].utilization.graphics == 0)


async def _seconds_of_four_looks(watched: Watched) -> float:
    times = [look.sampled_at for look in await watched.looks(4)]
    return times[-1] - times[0]


async def test_garbage_among_the_metrics_is_passed_over(watched: Watched) -> None:
    watched.exporter.fault = Fault.GARBAGE
    await watched.node.cut(await watched.node.gpu(0), "1g.10gb", 0, 1)
    await watched.until(lambda slices: bool(slices) and slices[0].utilization.graphics == 0)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault.DOWN, "cannot be asked: "),
        (Fault.ERROR, "answered 500"),
        (Fault.SLOW, "did not answer within 0.5 s"),
        (Fault.HUGE, "answered more than 8 MiB"),
        (Fault.PACKED, "packed its answer"),
        (Fault.REDIRECT, "answered 302"),
    ],
)
async def test_what_is_wrong_with_an_exporter_is_one_sentence(fault: Fault, sentence: str) -> None:
    exporter = SimulatedExporter(lambda: {"gpus": []})
    exporter.fault = fault
    patience_seconds = (
        LIMIT_SECONDS if fault is Fault.SLOW else 60.0
    )  # 8 MiB take a busy machine more than half a second
    async with exporter.serving() as url:
        with pytest.raises(RetryError) as refused:
            await DcgmExporter(lambda: url, patience_seconds).read()
    assert str(refused.value).startswith(f"the dcgm-exporter at {url} ")
    assert sentence in str(refused.value)


async def test_nobody_listens_there() -> None:
    with pytest.raises(RetryError, match="cannot be asked"):
        await DcgmExporter(lambda: "http://127.0.0.1:1/metrics", LIMIT_SECONDS).read()
    assert await DcgmExporter(lambda: None, LIMIT_SECONDS).read() is None
