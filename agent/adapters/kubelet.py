"""The door to the kubelet's PodResources: which pod has which device (gRPC over a Unix socket, v1.PodResourcesLister)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, StreamTerminatedError

from agent.adapters import podresources_pb2 as messages
from agent.model.errors import RetryError
from agent.model.node import DRA_DRIVER, DeviceOwner

_SECONDS = 5.0


class PodResources:
    """One kubelet. A new connection each time: the socket is re-created when the kubelet restarts."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def owners(self) -> tuple[DeviceOwner, ...]:
        """Every container that has nvidia.com devices, and every claim of a container. RetryError when the kubelet does not
        answer: then nobody is free."""
        channel = Channel(path=self._socket)
        method: UnaryUnaryMethod[messages.ListPodResourcesRequest, messages.ListPodResourcesResponse] = (
            UnaryUnaryMethod(
                channel,
                "/v1.PodResourcesLister/List",
                messages.ListPodResourcesRequest,
                messages.ListPodResourcesResponse,
            )
        )
        try:
            answer = await method(messages.ListPodResourcesRequest(), timeout=_SECONDS)
        except (GRPCError, StreamTerminatedError, OSError, TimeoutError) as error:
            raise RetryError(f"PodResources at {self._socket}: {error or type(error).__name__}") from error
        finally:
            channel.close()
        return tuple(
            owner
            for pod in answer.pod_resources
            for container in pod.containers
            for owner in (*_by_plugin(pod, container), *_by_claim(pod, container))
        )


def _by_plugin(pod: messages.PodResources, container: messages.ContainerResources) -> Iterator[DeviceOwner]:
    for devices in container.devices:
        if devices.resource_name.startswith("nvidia.com/"):
            yield DeviceOwner(pod.namespace, pod.name, container.name, devices.resource_name, tuple(devices.device_ids))


def _by_claim(pod: messages.PodResources, container: messages.ContainerResources) -> Iterator[DeviceOwner]:
    for resource in container.dynamic_resources:
        for driver in sorted({one.driver_name for one in resource.claim_resources}):
            named = tuple(
                f"{one.pool_name}/{one.device_name}"
                for one in resource.claim_resources
                if one.driver_name == driver == DRA_DRIVER
            )
            yield DeviceOwner(pod.namespace, pod.name, container.name, driver, claim=resource.claim_name, claimed=named)


class KubeletIfAny:
    """The kubelet of a host that may have none.

    The folder of the socket tells: a kubelet makes it once, and the socket in it anew at each start. So a kubelet that is
    just away is not taken for none. Without a kubelet no pod holds anything.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def owners(self) -> tuple[DeviceOwner, ...]:
        """See PodResources.owners."""
        if not self._socket or not Path(self._socket).parent.is_dir():
            return ()
        return await PodResources(self._socket).owners()
