"""What the sampler sees of slices, on the real pynvml over simulated GPUs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import astuple
from pathlib import Path

import pytest

from agent.model.mig import Placement
from agent.model.telemetry import SliceSample, TelemetrySnapshot, Utilization
from agent.observe.telemetry import Telemetry
from tests.telemetry.node import PERIOD_SECONDS, Node, simulated_node

NOTHING = Utilization()


async def apart() -> None:
    """GPM measures between two moments: let there be a little time between them."""
    await asyncio.sleep(PERIOD_SECONDS / 2 + 0.02)


async def test_a_slice_is_described_by_its_place_and_its_ids_of_now(node: Node) -> None:
    gpu = await node.gpu()
    await node.cut(gpu, "3g.40gb", 4, 4)

    one = await node.only_slice()
    instance = (await node.gpu()).instances[0]
    assert (one.gpu, one.gpu_index, one.profile, one.placement) == (gpu.uuid, 0, "3g.40gb", Placement(4, 4))
    assert (one.gpu_instance, one.compute_instance) == (instance.id, instance.compute[0].id)
    assert one.uuid == instance.compute[0].uuid
    assert one.memory_total_bytes is not None
    assert 39 << 30 < one.memory_total_bytes < 40 << 30


async def test_load_shows_from_the_second_look_on(node: Node) -> None:
    await node.cut(await node.gpu(), "1g.10gb", 0, 1)
    one = await node.only_slice()
    assert one.utilization == NOTHING

    load = {"graphics": 0.5, "sm": 0.4, "occupancy": 0.3, "tensor": 0.2, "dram": 0.1}
    node.gpus.run("util", "--device", one.uuid, *(word for kind in load for word in (f"--{kind}", str(load[kind]))))
    await apart()
    await node.only_slice()
    await apart()
    measured = (await node.only_slice()).utilization
    assert astuple(measured) == pytest.approx(tuple(load.values()), abs=0.01)


async def test_a_look_out_of_turn_repeats_the_last_load(node: Node) -> None:
    """Two samples a moment apart would measure noise."""
    await node.cut(await node.gpu(), "1g.10gb", 0, 1)
    await node.only_slice()
    await apart()
    measured = (await node.only_slice()).utilization
    node.gpus.run("util", "--device", (await node.only_slice()).uuid, "--graphics", "1")
    assert (await node.only_slice()).utilization == measured
    assert measured.graphics == 0


async def test_memory_and_processes_are_the_slices_own(node: Node) -> None:
    gpu = await node.gpu()
    await node.cut(gpu, "1g.10gb", 0, 1)
    await node.cut(gpu, "1g.10gb", 1, 1)
    busy, idle = (await node.telemetry.look()).slices
    node.gpus.attach(busy.uuid, memory_mib=512)

    after = {one.uuid: one for one in (await node.telemetry.look()).slices}
    assert (after[busy.uuid].processes, after[idle.uuid].processes) == (1, 0)
    assert used(after[busy.uuid]) - used(busy) == 512 << 20
    assert used(after[idle.uuid]) == used(idle)


async def test_a_destroyed_slice_is_gone_at_the_next_look(node: Node) -> None:
    gpu = await node.gpu()
    await node.cut(gpu, "1g.10gb", 0, 1)
    await node.cut(gpu, "3g.40gb", 4, 4)
    assert len((await node.telemetry.look()).slices) == 2

    await node.remove(gpu, "1g.10gb", 0, 1)
    assert [one.profile for one in (await node.telemetry.look()).slices] == ["3g.40gb"]


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_slice_made_anew_is_not_measured_against_the_old_one(tmp_path: Path, fresh: bool) -> None:
    """The driver gives the same instance id again, and with some drivers the same MIG UUID: nothing tells the two apart but
    that their samples do not belong together."""
    async with simulated_node(tmp_path, "H100-80GB-SXM:1", fresh_uuids=fresh) as node:
        gpu = await node.gpu()
        await node.cut(gpu, "1g.10gb", 0, 1)
        before = await node.only_slice()
        node.gpus.run("util", "--device", before.uuid, "--graphics", "1")
        await apart()
        assert (await node.only_slice()).utilization.graphics == pytest.approx(1, abs=0.5)

        await node.remove(gpu, "1g.10gb", 0, 1)
        await node.cut(gpu, "1g.10gb", 0, 1)
        await apart()
        after = await node.only_slice()
        assert (after.gpu_instance, after.uuid == before.uuid) == (before.gpu_instance, not fresh)
        assert after.utilization == NOTHING

        await apart()
        assert (await node.only_slice()).utilization.graphics == 0


async def test_ampere_has_memory_but_no_load(two_kinds: Node) -> None:
    """Absent, not zero."""
    for index in (0, 1):
        await two_kinds.cut(await two_kinds.gpu(index), "1g.10gb", 0, 1)
    await two_kinds.telemetry.look()
    await apart()

    ampere, hopper = (await two_kinds.telemetry.look()).slices
    assert ampere.utilization == NOTHING
    assert ampere.memory_used_bytes is not None
    assert hopper.utilization.graphics == 0


async def test_a_lost_gpu_takes_only_its_own_slices_away(two_kinds: Node) -> None:
    lost, other = await two_kinds.gpu(0), await two_kinds.gpu(1)
    await two_kinds.cut(lost, "1g.10gb", 0, 1)
    await two_kinds.cut(other, "1g.10gb", 0, 1)
    two_kinds.gpus.run("lost", "--gpu", lost.uuid)

    snapshot = await two_kinds.telemetry.look()
    assert [one.gpu for one in snapshot.slices] == [other.uuid]
    assert list(snapshot.unreadable) == [0]


async def test_a_gpu_that_does_not_answer_is_left_alone_until_it_does(two_kinds: Node) -> None:
    """The others are sampled meanwhile, and no second call is sent after the first."""
    await two_kinds.cut(await two_kinds.gpu(1), "1g.10gb", 0, 1)
    two_kinds.gpus.fault("nvmlDeviceGetMaxMigDeviceCount", "--count", "1", "--hang")

    first = await two_kinds.telemetry.look()
    assert (list(first.unreadable), [one.gpu_index for one in first.slices]) == ([0], [1])
    second = await two_kinds.telemetry.look()
    assert second.unreadable == {0: "a call to the driver has not come back"}

    two_kinds.gpus.clear_faults()
    for _ in range(60):
        await apart()
        if not (await two_kinds.telemetry.look()).unreadable:
            return
    pytest.fail("the GPU answers again, and was not asked")


async def test_a_paused_sampler_asks_the_driver_nothing(node: Node) -> None:
    """While the driver is replaced, an open session would hold it."""
    await node.cut(await node.gpu(), "1g.10gb", 0, 1)
    await node.only_slice()
    await node.telemetry.pause()
    await node.hardware.release()
    calls = node.gpus.run("counters")

    paused = await node.telemetry.look()
    assert (paused.paused, paused.slices, node.gpus.run("counters")) == (True, (), calls)

    node.telemetry.resume()
    await apart()
    assert (await node.only_slice()).utilization == NOTHING
    await apart()
    assert (await node.only_slice()).utilization.graphics == 0


async def test_a_driver_that_is_not_there_is_said_and_waited_for(node: Node, tmp_path: Path) -> None:
    await node.cut(await node.gpu(), "1g.10gb", 0, 1)
    await node.hardware.release()
    hidden = (tmp_path / "simgpu.state").rename(tmp_path / "hidden")
    assert "Driver Not Loaded" in (await node.telemetry.look()).error

    hidden.rename(tmp_path / "simgpu.state")
    assert (await node.only_slice()).profile == "1g.10gb"


@pytest.mark.parametrize(("period_seconds", "woken"), [(0.05, False), (3600.0, True)])
async def test_the_sampler_looks_each_period_and_when_woken(node: Node, period_seconds: float, woken: bool) -> None:
    published: asyncio.Queue[TelemetrySnapshot] = asyncio.Queue()
    telemetry = Telemetry(node.hardware, period_seconds, time.time, published.put_nowait)
    running = asyncio.create_task(telemetry.run())
    try:
        async with asyncio.timeout(5):
            await published.get()
            if woken:
                telemetry.wake()
            await published.get()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_looks_out_of_turn_put_off_no_look_that_is_due(node: Node) -> None:
    """A change of layout wakes the sampler again and again; the load after it shall not be late by as many periods."""
    published: asyncio.Queue[TelemetrySnapshot] = asyncio.Queue()
    telemetry = Telemetry(node.hardware, 0.5, time.time, published.put_nowait)
    running = asyncio.create_task(telemetry.run())
    try:
        async with asyncio.timeout(30):
            for _ in range(8):
                await published.get()
                telemetry.wake()
            await published.get()
        async with asyncio.timeout(3.0):
            await published.get()
    finally:
        running.cancel()
        await asyncio.wait([running])


def used(one: SliceSample) -> int:
    assert one.memory_used_bytes is not None
    return one.memory_used_bytes
