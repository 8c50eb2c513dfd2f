"""The scheduler's reads and writes of ResourceClaims: what a pod asks for, and that it got it."""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.api import Api, Edit
from hack.devcluster.dra import claims as pod_claims
from hack.devcluster.dra.demand import Demand
from hack.devcluster.objects import Object, clone, name_of, namespace_of, uid_of


class ClaimsMissing(Exception):  # noqa: N818  a state, not a fault
    """A claim of the pod is not there (yet) or on its way out: the pod is not looked at, and nothing is said of it."""


def demand_of(api: Api, pod: Object) -> Demand | None:
    """None for a pod without claims. Raises ClaimsMissing."""
    entries = pod_claims.entries_of(pod)
    if not entries:
        return None
    everyone = api.all(kinds.RESOURCE_CLAIMS)
    by_name = {name_of(claim): claim for claim in everyone if namespace_of(claim) == namespace_of(pod)}
    claims: list[Object] = []
    for entry in entries:
        claim = by_name.get(pod_claims.claim_name(pod, entry))
        if claim is None or not pod_claims.is_usable(claim, pod, entry):
            raise ClaimsMissing
        claims.append(claim)
    classes = {name_of(each): each for each in api.all(kinds.DEVICE_CLASSES)}
    return Demand(pod, claims, everyone, api.all(kinds.RESOURCE_SLICES), classes)


def reserve(api: Api, demand: Demand, node: Object) -> None:
    """The finalizer before the allocation: an allocated claim cannot vanish."""
    allocations = demand.allocations(node)
    for claim in demand.claims:
        allocation = allocations.get(uid_of(claim))
        if allocation is not None:
            _change(api, claim, _guarded)
        _change(api, claim, _granting(allocation, demand.pod), "status")


def deallocate(api: Api, claim: Object) -> None:
    """The finalizer stays for the next allocation; the claim's controller takes it away from a claim that is to go."""
    _change(api, claim, lambda current: pod_claims.with_status(current, allocation=None, reservedFor=None), "status")


def _guarded(claim: Object) -> Object:
    guarded = clone(claim)
    finalizers = guarded["metadata"].setdefault("finalizers", [])
    if pod_claims.FINALIZER not in finalizers:
        finalizers.append(pod_claims.FINALIZER)
    return guarded


def _granting(allocation: Object | None, pod: Object) -> Edit:
    def granted(claim: Object) -> Object:
        allocated = pod_claims.with_status(claim, allocation=allocation) if allocation is not None else claim
        return pod_claims.reserved(allocated, pod)

    return granted


def _change(api: Api, claim: Object, edit: Edit, subresource: str = "") -> None:
    api.change(kinds.RESOURCE_CLAIMS, namespace_of(claim), name_of(claim), edit, subresource=subresource)
