"""The agent's door to NVML on the simulated driver: which GPU is which, and calls that never come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.adapters.nvml import Hardware
from agent.model.errors import RetryError
from agent.model.mig import Placement, Shape
from tests.fakes.simgpu import H100, SimulatedGpus


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SimulatedGpus]:
    simulated = SimulatedGpus.create(tmp_path, f"{H100}:3", mig=True)
    simulated.load_into_this_process()
    yield simulated
    simulated.clear_faults()


def _unknown(gpus: tuple[object, ...]) -> list[str]:
    return [getattr(gpu, "unknown", "") for gpu in gpus]


async def _trouble(hardware: Hardware) -> str:
    """What a read says of the first GPU, or why there is none to be had."""
    try:
        return (await hardware.read())[0].unknown
    except RetryError as error:
        return str(error)


async def test_a_lost_gpu_is_not_taken_for_the_one_that_has_its_index_now(node: SimulatedGpus) -> None:
    """The next session does not list it, and all behind it move up; a session of ours ends with each reset."""
    hardware = Hardware()
    before = [gpu.uuid for gpu in await hardware.read()]
    node.run("lost", "--gpu", before[0])
    assert _unknown(await hardware.read()) == ["reading GPU 0: GPU is lost", "", ""]
    await hardware.release()
    gpus = {gpu.uuid: gpu for gpu in await hardware.read()}
    assert sorted(gpus) == sorted(before)
    assert [gpus[uuid].unknown for uuid in before] == ["the driver does not list it any more", "", ""]
    await hardware.create(before[1], Placement(4, 4), Shape("3g.40gb"))
    [changed] = [gpu for gpu in await hardware.read() if gpu.uuid == before[1]]
    assert list(map(str, changed.layout)) == ["3g.40gb@4:4"]
    await hardware.release()


async def test_of_a_gpu_that_was_never_read_nothing_is_known_but_its_place(node: SimulatedGpus) -> None:
    lost, *others = node.gpu_uuids()
    node.fault("nvmlDeviceGetHandleByIndex_v2", "--count", "1", "--code", "GPU_IS_LOST")
    hardware = Hardware()
    gpus = await hardware.read()
    assert [gpu.uuid for gpu in gpus] == ["GPU-unknown-0", *others]
    assert gpus[0].unknown
    assert [gpu.uuid for gpu in await hardware.read()] == [lost, *others]
    await hardware.release()


@pytest.mark.parametrize(
    ("function", "unknown"),
    [
        ("nvmlDeviceGetMigDeviceHandleByIndex", "the driver lists instances and MIG devices that do not agree"),
        (
            "nvmlGpuInstanceGetComputeInstanceProfileInfoV",
            "the driver lists instances and MIG devices that do not agree",
        ),
        ("nvmlGpuInstanceGetComputeInstances", "Not Supported"),
        ("nvmlDeviceGetGpuInstances", "Not Supported"),
    ],
)
async def test_a_driver_that_hides_an_instance_is_not_believed(
    node: SimulatedGpus, function: str, unknown: str
) -> None:
    """A slice without its UUID has no holder that the kubelet could name; one that is not listed looks free."""
    hardware = Hardware()
    gpu = (await hardware.read())[0]
    await hardware.create(gpu.uuid, Placement(0, 4), Shape("3g.40gb"))
    seen = (await hardware.read())[0]
    node.fault(function, "--code", "NOT_SUPPORTED")
    odd = (await hardware.read())[0]
    assert unknown in odd.unknown
    node.clear_faults()
    assert (await hardware.read())[0] == seen
    await hardware.release()


@pytest.mark.parametrize(
    ("function", "about"),
    [("nvmlInitWithFlags", "the driver"), ("nvmlDeviceGetCount_v2", "the driver"), ("nvmlDeviceGetName", "GPU-")],
)
async def test_a_call_that_never_comes_back_holds_one_thread_and_no_more(
    node: SimulatedGpus, function: str, about: str
) -> None:
    before = threading.active_count()
    node.fault(function, "--hang", "--count", "1")
    hardware = Hardware(read_seconds=0.2)
    for _ in range(20):
        assert about in await _trouble(hardware)
    assert threading.active_count() - before <= 2
    assert [one.startswith(about) for one in hardware.hanging()] == [True]
    node.clear_faults()
    async with asyncio.timeout(5):
        while hardware.hanging():
            await asyncio.sleep(0.01)
    assert _unknown(await hardware.read()) == ["", "", ""]
    await hardware.release()


async def test_what_waits_behind_a_call_that_hangs_is_asked_again_and_not_left_behind(node: SimulatedGpus) -> None:
    hardware = Hardware(read_seconds=0.2)
    await hardware.read()
    node.fault("nvmlDeviceGetName", "--hang", "--count", "1")
    reading = asyncio.create_task(hardware.read())
    while not node.faults()[0]["seen"]:
        await asyncio.sleep(0.005)
    with pytest.raises(RetryError, match="something else: the driver did not answer"):
        await hardware.on_reader("something else", lambda: 1)
    assert (await reading)[0].unknown
    assert await hardware.on_reader("something else", lambda: 2) == 2
    node.clear_faults()
    await hardware.release()


async def test_a_caller_cancelled_in_the_moment_of_the_answer_ends(node: SimulatedGpus) -> None:
    """Else what asks again and again, as telemetry does, would never end, and the agent with it."""
    hardware = Hardware()
    later = threading.Event()
    asking = asyncio.create_task(hardware.on_reader("the first", lambda: "answer"))
    behind = asyncio.create_task(hardware.on_reader("the next", later.set))
    await asyncio.sleep(0)
    assert later.wait(
        5
    )  # one thread asks in turn: the first answer is there, and its caller has not had its turn since
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await behind
    await hardware.release()
