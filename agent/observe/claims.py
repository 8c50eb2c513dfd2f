"""Dynamic Resource Allocation as the agent needs it: which slices NVIDIA's driver offers, and which pods have some by a claim.

# Note [Who has a slice by a claim]
# The kubelet lists the devices of claims (``dynamicResources``) under the names that their driver gave them, and the driver's
# ResourceSlices turn these names into UUIDs. Of a claim that the kubelet does not list, because it is an older one or has yet
# to admit the pod, the ResourceClaim tells: the scheduler has written its devices there before the pod was bound, and they
# stay as long as the pod does, so each is read once. A device whose name nobody can turn into a UUID may be any slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from agent.model.errors import AgentError, GoneError
from agent.model.node import DRA_DRIVER, DeviceOwner, Offers, Pod

Object = Mapping[str, Any]
_DEVICES = ("gpu", "mig")


class Dra(Protocol):
    """The API server's side of Dynamic Resource Allocation."""

    async def slices(self) -> tuple[Object, ...] | None:
        """ResourceSlices of this node; None while they are not known."""

    def rest(self) -> None:
        """Nobody needs them."""

    async def claim(self, namespace: str, name: str) -> Object:
        """A ResourceClaim. GoneError."""


class Claims:
    """Asks for ResourceSlices only where NVIDIA's driver, or a pod with claims, is on the node. See Note [Who has a slice by a
    claim]."""

    def __init__(self, dra: Dra) -> None:
        self._dra = dra
        self._claimed: dict[tuple[str, str], tuple[str, ...]] = {}

    async def offers(self, pods: Iterable[Pod]) -> Offers | None:
        """What is offered; None where nobody needs to know, and while it is not known."""
        if not any(pod.dra_driver or pod.claims for pod in pods):
            self._dra.rest()
            return None
        slices = await self._dra.slices()
        return None if slices is None else offers_of(slices)

    async def owners(
        self, told: tuple[DeviceOwner, ...], pods: Iterable[Pod], offers: Offers | None
    ) -> tuple[DeviceOwner, ...]:
        """The kubelet's owners, with those that it does not tell of, and devices by UUID as far as they are offered."""
        listed = {(owner.namespace, owner.name, owner.claim) for owner in told}
        found = list(told)
        here: dict[tuple[str, str], tuple[str, ...]] = {}
        for pod in pods:
            for claim in sorted(pod.claims) if not pod.finished else ():
                if (pod.ref.namespace, pod.ref.name, claim) in listed:
                    continue
                key = (pod.ref.uid, claim)
                claimed = self._claimed[key] if key in self._claimed else await self._read(pod, claim)
                if claimed is not None:
                    here[key] = claimed
                if claimed is None or claimed:
                    who = pod.ref.namespace, pod.ref.name
                    found.append(DeviceOwner(*who, "", DRA_DRIVER, claim=claim, claimed=claimed or ()))
        self._claimed = here
        return tuple(_looked_up(owner, offers) for owner in found)

    async def _read(self, pod: Pod, claim: str) -> tuple[str, ...] | None:
        """What the pod has by it of this driver; None while that is not known."""
        try:
            status = (await self._dra.claim(pod.ref.namespace, claim)).get("status") or {}
        except GoneError:
            return () if pod.terminating else None
        except AgentError:
            return None
        if not any(user.get("uid") == pod.ref.uid for user in status.get("reservedFor") or []):
            return None
        results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or []
        return tuple(f"{one['pool']}/{one['device']}" for one in results if one.get("driver") == DRA_DRIVER)


def offers_of(slices: Iterable[Object]) -> Offers:
    """ResourceSlices of one node, in any version of the API that is served today."""
    pools: dict[str, list[Object]] = {}
    for item in slices:
        if item["spec"].get("driver") == DRA_DRIVER:
            pools.setdefault(item["spec"]["pool"]["name"], []).append(item["spec"])
    devices: dict[str, str] = {}
    whole = True
    for pool, specs in pools.items():
        newest = max(_generation(spec) for spec in specs)
        current = [spec for spec in specs if _generation(spec) == newest]
        whole &= len(current) == current[0]["pool"].get("resourceSliceCount", 1)
        for device in (device for spec in current for device in spec.get("devices") or []):
            kind, uuid = (_attribute(device, name) for name in ("type", "uuid"))
            if kind in _DEVICES:
                devices[f"{pool}/{device['name']}"] = uuid
    return Offers(devices, whole)


def _generation(spec: Object) -> int:
    return int(spec["pool"].get("generation") or 0)


def _attribute(device: Object, name: str) -> str:
    """An attribute's name may be written with the driver's; before v1beta2 they are one floor down."""
    attributes = (device.get("basic") or device).get("attributes") or {}
    value = attributes.get(name) or attributes.get(f"{DRA_DRIVER}/{name}") or {}
    return str(value.get("string", ""))


def _looked_up(owner: DeviceOwner, offers: Offers | None) -> DeviceOwner:
    known = offers.devices if offers is not None else {}
    uuids = tuple(uuid for name in owner.claimed if (uuid := known.get(name)))
    left = tuple(name for name in owner.claimed if not known.get(name))
    return replace(owner, devices=(*owner.devices, *uuids), claimed=left)
