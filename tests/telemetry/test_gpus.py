"""What the sampler sees of whole GPUs and of their health, on the real pynvml over simulated GPUs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.model.errors import AgentError
from agent.model.mig import NAMELESS, Placement, Shape
from agent.model.telemetry import GpuSample, Utilization, Xid
from tests.telemetry.node import PERIOD_SECONDS, Node, simulated_node
from tests.telemetry.test_telemetry import apart

NOTHING = Utilization()


@pytest_asyncio.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Node]:
    """An A100 and an H100 whose MIG mode is off."""
    async with simulated_node(tmp_path, "A100-80GB:1", "H100-80GB-SXM:1", mig=False) as node:
        yield node


async def gpus_of(node: Node) -> tuple[GpuSample, ...]:
    return (await node.telemetry.look()).gpus


async def test_a_whole_gpu_has_memory_processes_and_load(whole: Node) -> None:
    """On Hopper by GPM, on Ampere as the driver's rates have it, which know of no multiprocessors."""
    ampere, hopper = await gpus_of(whole)
    for gpu in (ampere, hopper):
        whole.gpus.run("util", "--device", gpu.uuid, "--graphics", "0.5", "--sm", "0.4")
        whole.gpus.attach(gpu.uuid, memory_mib=512)
    await apart()
    await gpus_of(whole)
    await apart()

    after = await gpus_of(whole)
    assert [gpu.mig for gpu in after] == [False, False]
    assert [gpu.processes for gpu in after] == [1, 1]
    assert [gpu.utilization.graphics for gpu in after] == [pytest.approx(0.5, abs=0.02)] * 2
    assert after[0].utilization.sm is None
    assert after[1].utilization.sm == pytest.approx(0.4, abs=0.02)
    for before, now in zip((ampere, hopper), after, strict=True):
        assert now.memory_used_bytes is not None
        assert before.memory_used_bytes is not None
        assert now.memory_used_bytes - before.memory_used_bytes == 512 << 20


async def test_health_is_told_of_every_gpu(two_kinds: Node) -> None:
    for gpu in await gpus_of(two_kinds):
        assert gpu.temperature_celsius is not None
        assert 0 < gpu.temperature_celsius < 120
        assert gpu.power_watts is not None
        assert 0 < gpu.power_watts < 1000
        assert (gpu.ecc_corrected, gpu.ecc_uncorrected) == (0, 0)


async def test_a_gpu_that_is_cut_leaves_what_is_measured_to_its_slices(node: Node) -> None:
    (gpu,) = await gpus_of(node)
    assert gpu.mig is True
    assert (gpu.memory_used_bytes, gpu.processes, gpu.utilization, gpu.active_seconds) == (None, None, NOTHING, None)


async def test_load_times_time_is_counted(node: Node) -> None:
    gpu = await node.gpu()
    await node.cut(gpu, "1g.10gb", 0, 1)
    one = await node.only_slice()
    assert one.active_seconds is None
    node.gpus.run("util", "--device", one.uuid, "--graphics", "0.5")
    await apart()
    first, began = (await node.only_slice()).active_seconds, time.monotonic()
    await asyncio.sleep(0.4)  # GPM measures real time
    second = (await node.only_slice()).active_seconds
    assert first is not None
    assert second is not None
    assert second - first == pytest.approx((time.monotonic() - began) / 2, abs=0.1)


async def test_shares_are_memory_slices_and_compute_instances_part_them(node: Node) -> None:
    gpu = await node.gpu()
    await node.cut(gpu, "1g.10gb", 6, 1)
    await node.cut(gpu, "2g.20gb", 4, 2)
    await node.hardware.create(gpu.uuid, Placement(0, 4), Shape("3g.40gb", (2, 1)))
    shares = [one.gpu_share for one in (await node.telemetry.look()).slices]
    assert sorted(share for share in shares if share is not None) == pytest.approx([1 / 8, 4 / 8 / 3, 2 / 8, 8 / 8 / 3])


async def test_a_lost_gpu_stays_in_sight(two_kinds: Node) -> None:
    before, other = await gpus_of(two_kinds)
    two_kinds.gpus.run("lost", "--gpu", before.uuid)
    lost, still = await gpus_of(two_kinds)
    assert (lost.uuid, lost.index, lost.model, lost.mig) == (before.uuid, 0, before.model, True)
    assert "lost" in lost.down.lower()
    assert (lost.temperature_celsius, lost.power_watts) == (None, None)
    assert (still.uuid, still.down) == (other.uuid, "")


async def test_a_gpu_that_was_lost_before_anybody_asked_has_no_name(two_kinds: Node) -> None:
    two_kinds.gpus.run("lost", "--gpu", (await two_kinds.gpu(0)).uuid)
    lost, _ = await gpus_of(two_kinds)
    assert (lost.uuid, lost.index, bool(lost.down)) == (f"{NAMELESS}0", 0, True)


async def test_without_a_driver_every_known_gpu_is_down(two_kinds: Node, tmp_path: Path) -> None:
    known = [gpu.uuid for gpu in await gpus_of(two_kinds)]
    await two_kinds.hardware.release()
    hidden = (tmp_path / "simgpu.state").rename(tmp_path / "hidden")
    down = await gpus_of(two_kinds)
    assert [gpu.uuid for gpu in down if "Driver Not Loaded" in gpu.down] == known
    hidden.rename(tmp_path / "simgpu.state")
    assert [gpu.down for gpu in await gpus_of(two_kinds)] == ["", ""]


async def test_xids_are_counted_by_gpu_instance_and_number(node: Node) -> None:
    gpu = await node.gpu()
    await node.cut(gpu, "1g.10gb", 0, 1)
    one = await node.only_slice()
    for device, number in ((one.uuid, 43), (one.uuid, 43), (gpu.uuid, 79)):
        node.gpus.run("xid", "--device", device, "--xid", str(number))
    found = (await node.telemetry.look()).xids
    assert found == {Xid(gpu.uuid, 0, one.gpu_instance, 43): 2, Xid(gpu.uuid, 0, None, 79): 1}
    assert (await node.telemetry.look()).xids == found


async def test_what_was_counted_of_an_instance_goes_with_it(node: Node) -> None:
    """Its id is given again."""
    gpu = await node.gpu()
    await node.cut(gpu, "1g.10gb", 0, 1)
    one = await node.only_slice()
    for device, number in ((one.uuid, 43), (gpu.uuid, 63)):
        node.gpus.run("xid", "--device", device, "--xid", str(number))
    assert len((await node.telemetry.look()).xids) == 2
    await node.remove(gpu, "1g.10gb", 0, 1)
    assert list((await node.telemetry.look()).xids) == [Xid(gpu.uuid, 0, None, 63)]


async def test_an_error_of_a_gpu_that_falls_off_the_bus_is_heard(two_kinds: Node) -> None:
    """Nothing can be asked of it any more, not even which it is."""
    gpu = (await gpus_of(two_kinds))[0]
    two_kinds.gpus.run("xid", "--device", gpu.uuid, "--xid", "79")
    two_kinds.gpus.run("lost", "--gpu", gpu.uuid)
    assert (await two_kinds.telemetry.look()).xids == {Xid(gpu.uuid, 0, None, 79): 1}


async def test_a_gpu_that_is_lost_makes_nobody_deaf_to_the_others(two_kinds: Node) -> None:
    """A driver ends the wait for all of a set when one of its GPUs is lost."""
    lost, other = await gpus_of(two_kinds)
    two_kinds.gpus.run("xid", "--device", lost.uuid, "--xid", "79")
    two_kinds.gpus.run("lost", "--gpu", lost.uuid)
    await two_kinds.telemetry.look()
    await two_kinds.telemetry.look()
    two_kinds.gpus.run("xid", "--device", other.uuid, "--xid", "63")
    snapshot = await two_kinds.telemetry.look()
    assert snapshot.xids == {Xid(lost.uuid, 0, None, 79): 1, Xid(other.uuid, 1, None, 63): 1}
    assert [gpu.last_xid for gpu in snapshot.gpus] == [79, 63]


async def test_where_xids_cannot_be_heard_none_is_claimed_to_be_absent(node: Node) -> None:
    node.gpus.run("fault", "add", "--function", "nvmlEventSetCreate", "--count", "0", "--code", "NO_PERMISSION")
    assert [gpu.last_xid for gpu in await gpus_of(node)] == [None]
    node.gpus.clear_faults()
    assert [gpu.last_xid for gpu in await gpus_of(node)] == [0]


@pytest.mark.parametrize("function", ["nvmlDeviceGetMigMode", "nvmlDeviceGetName", "nvmlEventSetWait_v2"])
async def test_a_driver_that_is_busy_ends_no_sampler(node: Node, function: str) -> None:
    await gpus_of(node)
    node.gpus.run("fault", "add", "--function", function, "--count", "1", "--code", "IN_USE")
    await gpus_of(node)
    assert [gpu.down for gpu in await gpus_of(node)] == [""]


async def test_while_the_driver_is_replaced_no_session_is_opened_for_letting_go(node: Node) -> None:
    """Each pass of the partition loop releases; each opening would keep the driver loaded for a moment."""
    await node.cut(await node.gpu(), "1g.10gb", 0, 1)
    await node.telemetry.look()
    for _ in range(3):
        await node.telemetry.pause()
        await node.hardware.release()
        await node.telemetry.look()
    calls = node.gpus.run("counters")
    await node.telemetry.pause()
    await node.hardware.release()
    assert node.gpus.run("counters") == calls
    assert json.loads(calls)["nvmlShutdown"] == 1


async def test_what_a_session_gave_goes_with_it_whoever_closes_it(node: Node) -> None:
    """A driver that counts no GPUs has the session closed by whoever asked."""
    await node.cut(await node.gpu(), "1g.10gb", 0, 1)
    await node.telemetry.look()
    node.gpus.run("fault", "add", "--function", "nvmlDeviceGetCount_v2", "--count", "1", "--code", "UNKNOWN")
    with pytest.raises(AgentError):
        await node.hardware.read()
    calls = json.loads(node.gpus.run("counters"))
    assert calls["nvmlEventSetFree"] == calls["nvmlEventSetCreate"]
    assert calls.get("nvmlGpmSampleFree", 0) == calls["nvmlGpmSampleAlloc"]


async def test_a_sample_that_failed_is_measured_against_nothing(node: Node) -> None:
    await node.cut(await node.gpu(), "1g.10gb", 0, 1)
    node.gpus.run("fault", "add", "--function", "nvmlGpmMigSampleGet", "--count", "1", "--code", "UNKNOWN")
    one = await node.only_slice()
    node.gpus.run("util", "--device", one.uuid, "--graphics", "1")
    await apart()
    assert (await node.only_slice()).utilization == NOTHING
    await apart()
    after = await node.only_slice()
    assert after.utilization.graphics == pytest.approx(1, abs=0.02)
    assert after.active_seconds is not None
    assert after.active_seconds < 5


async def test_what_was_heard_is_told_while_nobody_asks_the_driver(node: Node, tmp_path: Path) -> None:
    """A count that went and came again would look like a new error."""
    gpu = await node.gpu()
    await node.telemetry.look()
    node.gpus.run("xid", "--device", gpu.uuid, "--xid", "79")
    heard = (await node.telemetry.look()).xids
    assert heard == {Xid(gpu.uuid, 0, None, 79): 1}
    await node.telemetry.pause()
    await node.hardware.release()
    assert (await node.telemetry.look()).xids == heard

    hidden = (tmp_path / "simgpu.state").rename(tmp_path / "hidden")
    node.telemetry.resume()
    without = await node.telemetry.look()
    assert (bool(without.error), without.xids) == (True, heard)
    hidden.rename(tmp_path / "simgpu.state")


async def test_who_listens_lets_go_of_it_for_a_driver_upgrade_and_listens_again(node: Node) -> None:
    gpu = await node.gpu()
    await node.telemetry.look()
    await node.telemetry.pause()
    await node.hardware.release()
    node.gpus.run("xid", "--device", gpu.uuid, "--xid", "31")
    node.telemetry.resume()
    assert (await node.telemetry.look()).xids == {}
    node.gpus.run("xid", "--device", gpu.uuid, "--xid", "43")
    assert list((await node.telemetry.look()).xids) == [Xid(gpu.uuid, 0, None, 43)]


async def test_what_we_destroy_and_make_anew_between_two_looks_is_not_measured_against_itself(node: Node) -> None:
    """Same place, same profile, same ids, same MIG UUID, and counters that go on: only our own hand tells the two apart."""
    gpu = await node.gpu()
    await node.cut(gpu, "1g.10gb", 0, 1)
    node.gpus.run("util", "--device", (await node.only_slice()).uuid, "--graphics", "1")
    await apart()
    before = await node.only_slice()
    assert before.active_seconds is not None

    await node.remove(gpu, "1g.10gb", 0, 1)
    await node.cut(gpu, "1g.10gb", 0, 1)
    node.gpus.run("pass", "3600")
    await asyncio.sleep(PERIOD_SECONDS)
    after = await node.only_slice()
    assert (after.uuid, after.gpu_instance) == (before.uuid, before.gpu_instance)
    assert (after.utilization, after.active_seconds) == (NOTHING, None)


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetPciInfo_v3",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmSampleGet",
        "nvmlGpmMigSampleGet",
        "nvmlGpmMetricsGet",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetAttributes_v2",
        "nvmlEventSetCreate",
        "nvmlDeviceRegisterEvents",
        "nvmlEventSetWait_v2",
    ],
)
@pytest.mark.parametrize("code", ["NO_PERMISSION", "UNKNOWN"])
async def test_one_question_that_is_not_answered_makes_no_gpu_look_lost(
    tmp_path: Path, function: str, code: str
) -> None:
    """Rights, guests and drivers differ; a GPU that is called lost wakes somebody up."""
    async with simulated_node(tmp_path, "H100-80GB-SXM:1", "A100-80GB:1") as node:
        await node.cut(await node.gpu(0), "1g.10gb", 0, 1)
        node.gpus.run("fault", "add", "--function", function, "--count", "0", "--code", code)
        for _ in range(2):
            snapshot = await node.telemetry.look()
            assert [gpu.down for gpu in snapshot.gpus] == ["", ""]
            assert len(snapshot.slices) == 1
            await apart()
