"""A change of mode through the agent's own door: the driver's second result, and what nvidia-smi resets."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agent.adapters import command
from agent.adapters.nvml import Hardware
from agent.adapters.nvml.peers import joined_with
from agent.execute.mig import Gpus
from agent.model.errors import HardwareError, InUseError, RebootError
from tests.fakes.simgpu import H100, SimulatedGpus

A100 = "A100-SXM4-40GB"
CLIENT = "import sys, pynvml; pynvml.nvmlInit(); print('open', flush=True); sys.stdin.read()"


class Door:
    """``gpus`` as the agent has them. ``client`` is another program with the driver open, which lets go when we do."""

    def __init__(self, node: SimulatedGpus, another_client: bool) -> None:
        self.node = node
        self.hardware = Hardware()
        self.gpus = Gpus(self.hardware, self._release, command.reset_gpus)
        self.uuids = node.gpu_uuids()
        self._client = _client(node) if another_client else None

    async def _release(self) -> None:
        await self.hardware.release()
        self.end_client()

    def end_client(self) -> None:
        if self._client is not None:
            self._client.communicate("")
            self._client = None

    def resets(self) -> list[str]:
        return [entry["gpu"] for entry in self.node.log() if entry["function"] == "nvidia-smi --gpu-reset"]

    def modes(self) -> list[tuple[int, int]]:
        return [(gpu["mode"]["current"], gpu["mode"]["pending"]) for gpu in self.node.show()["gpus"]]


def _client(node: SimulatedGpus) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        env={**os.environ, **node.env()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "open\n"
    return started


Open = Callable[..., Awaitable[Door]]


@pytest.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Opens boards outside MIG, with words for ``simgpu`` to furnish them."""
    opened: list[Door] = []

    async def open_door(*boards: str, another_client: bool = False, nvswitch: str = "none", guest: str = "") -> Door:
        node = SimulatedGpus.create(tmp_path, *boards)
        node.load_into_this_process()
        monkeypatch.setenv("PATH", f"{node.paths.nvidia_smi.parent}{os.pathsep}{os.environ['PATH']}")
        node.run("nvswitch", nvswitch)
        for uuid in node.gpu_uuids() if guest else []:
            node.run("virtualization", "--gpu", uuid, "--kind", guest)
        opened.append(Door(node, another_client))
        return opened[-1]

    yield open_door
    for one in opened:
        one.end_client()
        await one.hardware.release()


@pytest.mark.parametrize("kind", ["passthrough", "vm"])
async def test_a_guest_is_told_to_reboot_and_no_reset_is_tried(door: Open, kind: str) -> None:
    """RESET_REQUIRED, and the NOT_SUPPORTED of some other machines."""
    opened = await door(A100, guest=kind)
    with pytest.raises(RebootError, match="is pending until this machine reboots"):
        await opened.gpus.set_mode(opened.uuids[0], True, {})
    assert opened.modes() == [(0, 1)]
    assert [entry["function"] for entry in opened.node.log()] == ["nvmlDeviceSetMigMode"]
    await opened.gpus.set_mode(opened.uuids[0], False, {})
    assert opened.modes() == [(0, 0)]
    with pytest.raises(RebootError):
        await opened.gpus.set_mode(opened.uuids[0], True, {})
    opened.node.run("reboot")
    await opened.gpus.set_mode(opened.uuids[0], True, {})
    assert opened.modes() == [(1, 1)]


async def test_on_later_generations_a_guest_switches_at_once(door: Open) -> None:
    opened = await door(H100, guest="passthrough")
    await opened.gpus.set_mode(opened.uuids[0], True, {})
    assert opened.modes() == [(1, 1)]


async def test_where_a_client_was_in_the_way_that_gpu_alone_is_reset(door: Open) -> None:
    opened = await door(f"{A100}:2", another_client=True, nvswitch="managed")
    await opened.gpus.set_mode(opened.uuids[0], True, {})
    assert opened.resets() == [opened.uuids[0]]
    assert opened.modes() == [(1, 1), (0, 0)]


async def test_who_holds_the_gpu_is_waited_for(door: Open) -> None:
    opened = await door(A100)
    opened.node.attach(opened.uuids[0])
    with pytest.raises(InUseError):
        await opened.gpus.set_mode(opened.uuids[0], True, {})
    assert opened.resets() == []


async def test_a_driver_that_shows_the_mode_neither_in_force_nor_pending_is_not_believed(door: Open) -> None:
    """Here somebody calls it off between the request and the look at what came of it."""
    opened = await door(A100, guest="passthrough")
    opened.node.fault("nvmlDeviceGetMigMode", "--hang", "--count", "1")
    asked = asyncio.create_task(opened.gpus.set_mode(opened.uuids[0], True, {}))
    while not opened.node.log():
        await asyncio.sleep(0.01)
    opened.node.nvidia_smi("-i", "0", "-mig", "0")
    opened.node.clear_faults()
    with pytest.raises(HardwareError, match="shows no such mode pending"):
        await asked


async def test_peers_are_reset_together_where_the_board_requires_it_and_all_are_free(door: Open) -> None:
    opened = await door(f"{A100}:3", "A30", another_client=True, nvswitch="unmanaged")
    first, second, third, _ = opened.uuids
    await opened.gpus.set_mode(second, True, {first: "", third: ""})
    assert sorted(opened.resets()) == sorted([first, second, third])
    assert opened.modes() == [(0, 0), (1, 1), (0, 0), (0, 0)]


@pytest.mark.parametrize("others", [("GPU 0 has default/holder", ""), ("", None)], ids=["held", "unknown"])
async def test_no_peer_is_reset_that_is_not_known_to_be_free(door: Open, others: tuple[str | None, ...]) -> None:
    opened = await door(f"{A100}:3", another_client=True, nvswitch="unmanaged")
    first, second, third = opened.uuids
    known = {uuid: who for uuid, who in zip((first, third), others, strict=True) if who is not None}
    with pytest.raises(HardwareError, match="only together with the GPUs that NVSwitch joins") as refused:
        await opened.gpus.set_mode(second, True, known)
    assert ("default/holder" in str(refused.value)) == (others[0] != "")
    assert opened.resets() == []


async def test_a_reset_that_is_not_available_leaves_the_mode_to_a_reboot(door: Open) -> None:
    """No NVSwitch joins it with others, so there is nobody to reset with it."""
    opened = await door(f"{A100}:2", another_client=True)
    opened.node.fault("nvmlDeviceGetNvLinkRemoteDeviceType", "--code", "NOT_SUPPORTED")
    opened.node.run("nvswitch", "unmanaged")
    with pytest.raises(RebootError, match="exit code 3"):
        await opened.gpus.set_mode(opened.uuids[0], True, {opened.uuids[1]: ""})
    assert opened.resets() == []


async def test_peers_are_those_of_its_model_on_a_board_with_switches(door: Open) -> None:
    opened = await door(f"{A100}:3", "A30", nvswitch="managed")
    first, second, third, card = opened.uuids

    async def peers(uuid: str) -> tuple[str, ...]:
        return await opened.hardware.on_reader("peers", lambda: joined_with(uuid))

    assert set(await peers(first)) == {second, third}
    assert await peers(card) == ()
    await opened.gpus.set_mode(first, True, {})  # its links are down now, and say nothing
    assert set(await peers(first)) == {second, third}
    assert first in await peers(second)
    opened.node.run("lost", "--gpu", third)
    assert await peers(first) == (second,)
    opened.node.run("nvswitch", "none")
    assert await peers(first) == ()
