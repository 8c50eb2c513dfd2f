"""The device plugin for simulated GPUs, as a kubelet sees it: over its real API, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from hack.dev_device_plugin import deviceplugin_pb2 as messages
from tests.fakes.simgpu import SimulatedGpus

_SECONDS = 20.0


class Kubelet:
    """The registration half of one; as a real one it removes all sockets when it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registered: dict[str, messages.RegisterRequest] = {}

    async def register(self, stream: Stream[messages.RegisterRequest, messages.Empty]) -> None:
        request = await stream.recv_message()
        assert request is not None
        self.registered[request.resource_name] = request
        await stream.send_message(messages.Empty())

    def __mapping__(self) -> dict[str, Handler]:
        kind = Cardinality.UNARY_UNARY
        return {
            "/v1beta1.Registration/Register": Handler(self.register, kind, messages.RegisterRequest, messages.Empty)
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        for name in os.listdir(self.folder):
            (self.folder / name).unlink()
        self.registered.clear()
        server = Server([self])
        await server.start(path=str(self.folder / "kubelet.sock"))
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()
            (self.folder / "kubelet.sock").unlink(missing_ok=True)

    async def knows(self, *resources: str) -> None:
        async with asyncio.timeout(_SECONDS):
            while set(self.registered) != set(resources):
                await asyncio.sleep(0.05)

    async def ask(self, resource: str, call: str, request: Any, answer: Any) -> Any:
        channel = Channel(path=str(self.folder / self.registered[resource].endpoint))
        try:
            return await UnaryUnaryMethod[Any, Any](channel, f"/v1beta1.DevicePlugin/{call}", type(request), answer)(
                request
            )
        finally:
            channel.close()

    async def devices(self, resource: str) -> list[str]:
        """The first list; the stream stays open after it."""
        channel = Channel(path=str(self.folder / self.registered[resource].endpoint))
        method: UnaryStreamMethod[messages.Empty, messages.ListAndWatchResponse] = UnaryStreamMethod(
            channel, "/v1beta1.DevicePlugin/ListAndWatch", messages.Empty, messages.ListAndWatchResponse
        )
        try:
            async with method.open() as stream, asyncio.timeout(_SECONDS):
                await stream.send_message(messages.Empty(), end=True)
                answer = await stream.recv_message()
                assert answer is not None
                await stream.cancel()
            return [device.ID for device in answer.devices if device.health == "Healthy"]
        finally:
            channel.close()


@asynccontextmanager
async def plugin(gpus: SimulatedGpus, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "hack.dev_device_plugin", "--folder", str(folder)]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **gpus.env()}, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_SECONDS):
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()


async def test_whole_gpus_and_slices_are_resources_of_their_own_and_devices_are_uuids(tmp_path: Path) -> None:
    folder = _plugins(tmp_path)
    simgpu = SimulatedGpus.create(tmp_path, "H100-80GB-SXM:2")
    cut(simgpu)
    kubelet = Kubelet(folder)
    async with kubelet.running(), plugin(simgpu, folder):
        await kubelet.knows("nvidia.com/gpu", "nvidia.com/mig-3g.40gb", "nvidia.com/mig-1g.10gb")
        assert {request.version for request in kubelet.registered.values()} == {"v1beta1"}
        (whole,) = await kubelet.devices("nvidia.com/gpu")
        small = await kubelet.devices("nvidia.com/mig-1g.10gb")
        assert whole.startswith("GPU-")
        assert len(small) == 2
        assert all(device.startswith("MIG-") for device in small)
        request = messages.AllocateRequest(container_requests=[messages.ContainerAllocateRequest(devices_ids=small)])
        answer = await kubelet.ask("nvidia.com/mig-1g.10gb", "Allocate", request, messages.AllocateResponse)
        assert answer.container_responses[0].envs["NVIDIA_VISIBLE_DEVICES"] == ",".join(small)
        options = await kubelet.ask(
            "nvidia.com/gpu", "GetDevicePluginOptions", messages.Empty(), messages.DevicePluginOptions
        )
        assert options == messages.DevicePluginOptions()
    assert os.listdir(folder) == []


async def test_a_kubelet_that_starts_anew_hears_of_them_again_and_new_slices_only_after_a_start(tmp_path: Path) -> None:
    folder = _plugins(tmp_path)
    simgpu = SimulatedGpus.create(tmp_path, "H100-80GB-SXM")
    kubelet = Kubelet(folder)
    async with plugin(simgpu, folder):
        async with kubelet.running():
            await kubelet.knows("nvidia.com/gpu")
        cut(simgpu)
        async with kubelet.running():
            await kubelet.knows("nvidia.com/gpu")
    async with kubelet.running(), plugin(simgpu, folder):
        await kubelet.knows("nvidia.com/mig-3g.40gb", "nvidia.com/mig-1g.10gb")


def cut(gpus: SimulatedGpus) -> None:
    """As an administrator would, by hand."""
    for arguments in (("-i", "0", "-mig", "1"), ("mig", "-i", "0", "-cgi", "3g.40gb,1g.10gb,1g.10gb", "-C")):
        done = gpus.nvidia_smi(*arguments)
        assert done.returncode == 0, done.stdout


def _plugins(folder: Path) -> Path:
    made = folder / "plugins"
    made.mkdir()
    return made
