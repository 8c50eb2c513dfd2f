"""The kubelet's side of a device plugin: a server for each resource, registered, and again whenever the kubelet starts anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Server, Stream

from hack.dev_device_plugin import deviceplugin_pb2 as messages

log = logging.getLogger(__name__)

_VERSION = "v1beta1"
_LOOK_SECONDS = 1.0
_SERVICE = f"/{_VERSION}.DevicePlugin"


class _Resource:
    """One resource with its devices, as the kubelet asks for them."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = devices

    async def options(self, stream: Stream[messages.Empty, messages.DevicePluginOptions]) -> None:
        await stream.recv_message()
        await stream.send_message(messages.DevicePluginOptions())

    async def list_and_watch(self, stream: Stream[messages.Empty, messages.ListAndWatchResponse]) -> None:
        """All at once; then nothing changes until this process ends."""
        await stream.recv_message()
        devices = [messages.Device(ID=device, health="Healthy") for device in self._devices]
        await stream.send_message(messages.ListAndWatchResponse(devices=devices))
        await asyncio.Event().wait()

    async def allocate(self, stream: Stream[messages.AllocateRequest, messages.AllocateResponse]) -> None:
        request = await stream.recv_message()
        assert request is not None
        answers = [
            messages.ContainerAllocateResponse(envs={"NVIDIA_VISIBLE_DEVICES": ",".join(one.devices_ids)})
            for one in request.container_requests
        ]
        await stream.send_message(messages.AllocateResponse(container_responses=answers))

    def __mapping__(self) -> dict[str, Handler]:
        empty, one, many = messages.Empty, Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        return {
            f"{_SERVICE}/GetDevicePluginOptions": Handler(self.options, one, empty, messages.DevicePluginOptions),
            f"{_SERVICE}/ListAndWatch": Handler(self.list_and_watch, many, empty, messages.ListAndWatchResponse),
            f"{_SERVICE}/Allocate": Handler(self.allocate, one, messages.AllocateRequest, messages.AllocateResponse),
        }


async def advertise(folder: Path, resources: Mapping[str, Sequence[str]], stopping: asyncio.Event) -> None:
    """Until told to stop. ``folder``: the kubelet's, with its ``kubelet.sock``; one that starts removes all that is in there."""
    while not stopping.is_set():
        kubelet = await _kubelet(folder, stopping)
        if kubelet is not None:
            await _advertise_to(folder, kubelet, resources, stopping)


async def _kubelet(folder: Path, stopping: asyncio.Event) -> tuple[int, int] | None:
    """Which one it is, once there is one; None where there is no need any more."""
    while not stopping.is_set():
        if (found := _socket_of(folder)) is not None:
            return found
        await _pause(stopping)
    return None


async def _advertise_to(
    folder: Path, kubelet: tuple[int, int], resources: Mapping[str, Sequence[str]], stopping: asyncio.Event
) -> None:
    servers = [await _served(folder / _socket(name), devices) for name, devices in resources.items()]
    try:
        for name, devices in resources.items():
            await _register(folder, name)
            log.info("%d of %s", len(devices), name)
        while not stopping.is_set() and _socket_of(folder) == kubelet:
            await _pause(stopping)
    except (OSError, GRPCError, StreamTerminatedError, TimeoutError) as error:
        log.warning("the kubelet does not answer: %s", error or type(error).__name__)
        await _pause(stopping)
    finally:
        for server in servers:
            server.close()
        for server in servers:
            await server.wait_closed()
        for name in resources:
            (folder / _socket(name)).unlink(missing_ok=True)


def _socket(resource: str) -> str:
    return f"simulated-{resource.rpartition('/')[2]}.sock"


def _socket_of(folder: Path) -> tuple[int, int] | None:
    """Which socket the kubelet has made: a file system gives a number again at once, but not with the same time."""
    try:
        made = (folder / "kubelet.sock").stat()
    except FileNotFoundError:
        return None
    return made.st_ino, made.st_ctime_ns


async def _served(socket: Path, devices: Sequence[str]) -> Server:
    """Over what a predecessor has left there, which asyncio removes."""
    server = Server([_Resource(devices)])
    await server.start(path=str(socket))
    return server


async def _register(folder: Path, resource: str) -> None:
    channel = Channel(path=str(folder / "kubelet.sock"))
    method: UnaryUnaryMethod[messages.RegisterRequest, messages.Empty] = UnaryUnaryMethod(
        channel, f"/{_VERSION}.Registration/Register", messages.RegisterRequest, messages.Empty
    )
    request = messages.RegisterRequest(version=_VERSION, endpoint=_socket(resource), resource_name=resource)
    try:
        await method(request, timeout=10.0)
    finally:
        channel.close()


async def _pause(stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            await stopping.wait()
    except TimeoutError:
        return
