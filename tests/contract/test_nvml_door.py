"""The agent's door to NVML, on drivers that tell less than the newest."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pynvml
import pytest

from agent.adapters.nvml import Hardware
from agent.model.mig import Gpu
from tests.fakes.simgpu import H100, SimulatedGpus

A100 = "A100-SXM4-40GB"
on = pytest.mark.parametrize


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Callable[[str, int], Awaitable[tuple[SimulatedGpus, Hardware]]]]:
    """Opens a board outside MIG under a driver."""
    opened: list[Hardware] = []

    async def open_door(board: str, driver: int) -> tuple[SimulatedGpus, Hardware]:
        node = SimulatedGpus.create(tmp_path, board, driver=driver)
        node.load_into_this_process()
        opened.append(Hardware())
        return node, opened[-1]

    yield open_door
    for hardware in opened:
        await hardware.release()


async def only(hardware: Hardware) -> Gpu:
    [gpu] = await hardware.read()
    return gpu


Open = Callable[[str, int], Awaitable[tuple[SimulatedGpus, Hardware]]]


@on("board", [A100, H100])
async def test_a_driver_that_lists_no_profiles_without_mig_leaves_them_unknown(door: Open, board: str) -> None:
    _, hardware = await door(board, 535)
    off = await only(hardware)
    assert (off.mig_enabled, off.profiles, off.profiles_unknown) == (False, (), True)
    assert await hardware.set_mode(off.uuid, enabled=True) == "now"
    listed = await only(hardware)
    assert (len(listed.profiles), listed.profiles_unknown) == (7, False)


@on("driver", [550, 570, 580])
async def test_newer_drivers_leave_none_unknown(door: Open, driver: int) -> None:
    _, hardware = await door(H100, driver)
    off = await only(hardware)
    assert (off.mig_enabled, len(off.profiles), off.profiles_unknown) == (False, 7, False)


async def test_names_follow_from_memory_where_the_driver_has_none(door: Open) -> None:
    _, hardware = await door(H100, 535)
    await hardware.set_mode((await only(hardware)).uuid, enabled=True)
    names = {profile.name for profile in (await only(hardware)).profiles}
    assert names == {"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"}


async def test_what_was_listed_once_stays_known_without_mig(door: Open) -> None:
    """Also over a session that was closed, as for a reset."""
    _, hardware = await door(H100, 535)
    uuid = (await only(hardware)).uuid
    await hardware.set_mode(uuid, enabled=True)
    listed = (await only(hardware)).profiles
    await hardware.set_mode(uuid, enabled=False)
    await hardware.release()
    off = await only(hardware)
    assert (off.mig_enabled, off.profiles, off.profiles_unknown) == (False, listed, False)


async def test_another_driver_may_tell_otherwise(door: Open) -> None:
    """H100's smallest slice has 9.62 GiB under 550 and 9.75 under 570."""
    node, hardware = await door(H100, 550)
    before = (await only(hardware)).profile("1g.10gb")
    await hardware.release()
    node.run("init", "--gpu", H100, "--driver", "570")
    after = (await only(hardware)).profile("1g.10gb")
    assert before is not None
    assert after is not None
    assert (before.memory_mib, after.memory_mib) == (9856, 9984)


async def test_a_gpu_that_may_not_be_looked_into_takes_no_other_with_it(door: Open) -> None:
    node, hardware = await door(f"{H100}:2", 580)
    node.fault("nvmlDeviceGetComputeRunningProcesses_v3", "--code", "NO_PERMISSION", "--count", "1")
    barred, other = await hardware.read()
    assert "Insufficient Permissions" in barred.unknown
    assert not other.unknown


async def test_a_session_opened_from_several_threads_is_one_session(door: Open) -> None:
    """NVML counts openings: else one closing would leave a session behind that bars a reset."""
    node, hardware = await door(f"{H100}:2", 580)
    first, second = await hardware.read()
    await hardware.release()
    node.fault("nvmlInitWithFlags", "--delay-ms", "100")
    await asyncio.gather(
        hardware.set_mode(first.uuid, enabled=True), hardware.set_mode(second.uuid, enabled=True), hardware.read()
    )
    await hardware.release()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
