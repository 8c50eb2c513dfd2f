"""What a pod and its ResourceClaims have to do with each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hack.devcluster.dra.pools import DeviceId
from hack.devcluster.dra.rules import MOST_CONSUMERS
from hack.devcluster.objects import Object, clone, controller_of, dig, name_of, uid_of

# On a claim while it is allocated.
FINALIZER = "resource.kubernetes.io/delete-protection"
# On a claim made from a template: the name of the entry in the pod's ``spec.resourceClaims``.
POD_CLAIM_NAME = "resource.kubernetes.io/pod-claim-name"


def entries_of(pod: Object) -> list[Object]:
    return list(dig(pod, "spec.resourceClaims") or [])


def claim_name(pod: Object, entry: Object) -> str:
    """'' while the claim that a template is to give has not been made."""
    if entry.get("resourceClaimName"):
        return str(entry["resourceClaimName"])
    made = {each["name"]: each for each in dig(pod, "status.resourceClaimStatuses") or []}
    return str(made.get(entry["name"], {}).get("resourceClaimName", ""))


def is_made_for(claim: Object, pod: Object) -> bool:
    owner = controller_of(claim)
    return owner is not None and owner["uid"] == uid_of(pod)


def is_usable(claim: Object | None, pod: Object, entry: Object) -> bool:
    """Whether the pod may be placed with the claim: it is there, stays, and is the pod's own if made for one."""
    if claim is None or dig(claim, "metadata.deletionTimestamp"):
        return False
    return bool(entry.get("resourceClaimName")) or is_made_for(claim, pod)


def allocation_of(claim: Object) -> Object | None:
    found: Object | None = dig(claim, "status.allocation")
    return found


def consumers_of(claim: Object) -> list[Object]:
    return list(dig(claim, "status.reservedFor") or [])


def is_reserved_for(claim: Object, pod: Object) -> bool:
    return any(consumer["uid"] == uid_of(pod) for consumer in consumers_of(claim))


def can_be_reserved(claim: Object) -> bool:
    return len(consumers_of(claim)) < MOST_CONSUMERS


def reserved(claim: Object, pod: Object) -> Object:
    """The claim with the pod among its consumers."""
    if is_reserved_for(claim, pod):
        return claim
    consumer = {"resource": "pods", "name": name_of(pod), "uid": uid_of(pod)}
    return with_status(claim, reservedFor=[*consumers_of(claim), consumer])


def with_status(claim: Object, **fields: Any) -> Object:
    """None takes a field away."""
    changed = clone(claim)
    status = {**(changed.get("status") or {}), **fields}
    changed["status"] = {field: value for field, value in status.items() if value is not None}
    return changed


def devices_in(claim: Object) -> Iterator[DeviceId]:
    """What is allocated to the claim and not to be had by another; an administrator's access takes nothing away."""
    for result in dig(claim, "status.allocation.devices.results") or []:
        if not result.get("adminAccess"):
            yield DeviceId.of_result(result)
