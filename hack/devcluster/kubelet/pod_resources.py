"""The PodResources API: gRPC ``v1.PodResourcesLister`` on a Unix socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpclib
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from agent.adapters import podresources_pb2 as messages
from hack.devcluster.kubelet.claims import ClaimManager, PreparedClaim, PreparedDevice
from hack.devcluster.kubelet.devices import Assignment, DeviceManager
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import Object, dig, is_finished, name_of, namespace_of, uid_of

_SERVICE = "/v1.PodResourcesLister/"

ActivePods = Callable[[], list[Object]]


class PodResourcesLister:
    """``pods`` gives the pods bound here; finished ones are left out, as kubelets since 1.34 do, unless the settings
    ask for an older one. A call beyond the rate is refused with RESOURCE_EXHAUSTED."""

    def __init__(
        self, devices: DeviceManager, claims: ClaimManager, pods: ActivePods, settings: KubeletSettings
    ) -> None:
        self._devices = devices
        self._claims = claims
        self._pods = pods
        self._settings = settings
        self._tokens = float(settings.pod_resources_burst)
        self._filled_at = time.monotonic()

    def _take_a_token(self) -> None:
        now, settings = time.monotonic(), self._settings
        gained = (now - self._filled_at) * settings.pod_resources_per_s
        self._tokens, self._filled_at = min(self._tokens + gained, float(settings.pod_resources_burst)), now
        if self._tokens < 1:
            raise grpclib.GRPCError(grpclib.Status.RESOURCE_EXHAUSTED, "rejected by rate limit")
        self._tokens -= 1

    def _is_shown(self, pod: Object) -> bool:
        return self._settings.lists_finished_pods or not is_finished(pod)

    async def list(self, stream: Stream[messages.ListPodResourcesRequest, messages.ListPodResourcesResponse]) -> None:
        await stream.recv_message()
        self._take_a_token()
        shown = [self._shown(pod) for pod in self._pods() if self._is_shown(pod)]
        await stream.send_message(messages.ListPodResourcesResponse(pod_resources=shown))

    async def get_allocatable_resources(
        self, stream: Stream[messages.AllocatableResourcesRequest, messages.AllocatableResourcesResponse]
    ) -> None:
        await stream.recv_message()
        self._take_a_token()
        devices = [
            messages.ContainerDevices(resource_name=resource, device_ids=[device])
            for resource, ids in self._devices.devices().items()
            for device in ids
        ]
        await stream.send_message(messages.AllocatableResourcesResponse(devices=devices))

    async def get(self, stream: Stream[messages.GetPodResourcesRequest, messages.GetPodResourcesResponse]) -> None:
        request = await stream.recv_message()
        if not self._settings.has_get:
            why = "unknown method Get for service v1.PodResourcesLister"
            raise grpclib.GRPCError(grpclib.Status.UNIMPLEMENTED, why)
        self._take_a_token()
        wanted = (request.pod_namespace, request.pod_name) if request is not None else ("", "")
        for pod in self._pods():
            if (namespace_of(pod), name_of(pod)) == wanted and not is_finished(pod):
                await stream.send_message(messages.GetPodResourcesResponse(pod_resources=self._shown(pod)))
                return
        text = f"pod {wanted[1]} in namespace {wanted[0]} not found"
        raise grpclib.GRPCError(grpclib.Status.UNKNOWN, text)

    def _shown(self, pod: Object) -> messages.PodResources:
        held = self._devices.assignment(uid_of(pod))
        containers = [
            _container(container["name"], held, self._claims.used_by(pod, container))
            for container in dig(pod, "spec.containers") or []
        ]
        return messages.PodResources(name=name_of(pod), namespace=namespace_of(pod), containers=containers)

    def __mapping__(self) -> Mapping[str, Handler]:
        calls: tuple[tuple[str, Any, type[Any], type[Any]], ...] = (
            ("List", self.list, messages.ListPodResourcesRequest, messages.ListPodResourcesResponse),
            (
                "GetAllocatableResources",
                self.get_allocatable_resources,
                messages.AllocatableResourcesRequest,
                messages.AllocatableResourcesResponse,
            ),
            ("Get", self.get, messages.GetPodResourcesRequest, messages.GetPodResourcesResponse),
        )
        return {
            _SERVICE + name: Handler(call, Cardinality.UNARY_UNARY, request, reply)
            for name, call, request, reply in calls
        }


def _container(
    name: str, held: Assignment | None, used: Iterable[tuple[PreparedClaim, Sequence[PreparedDevice]]]
) -> messages.ContainerResources:
    """One entry per device, as the real kubelet lists them."""
    resources = held.containers.get(name, {}) if held is not None else {}
    devices = [
        messages.ContainerDevices(resource_name=resource, device_ids=[device])
        for resource, ids in resources.items()
        for device in ids
    ]
    dynamic = [_dynamic(claim, prepared) for claim, prepared in used]
    return messages.ContainerResources(name=name, devices=devices, dynamic_resources=dynamic)


def _dynamic(claim: PreparedClaim, devices: Sequence[PreparedDevice]) -> messages.DynamicResource:
    """Nowhere does it say which MIG UUID: that is an attribute of the device in its ResourceSlice."""
    resources = [
        messages.ClaimResource(
            cdi_devices=[messages.CDIDevice(name=name) for name in device.cdi],
            driver_name=device.driver,
            pool_name=device.pool,
            device_name=device.name,
        )
        for device in devices
    ]
    return messages.DynamicResource(claim_name=claim.name, claim_namespace=claim.namespace, claim_resources=resources)


async def serve_pod_resources(lister: PodResourcesLister, socket: Path) -> Server:
    """The caller makes the folder beforehand and closes the server afterwards."""
    server = Server([lister])
    await server.start(path=str(socket))
    return server
