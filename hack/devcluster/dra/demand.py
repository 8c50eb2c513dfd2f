"""What one pod's claims ask of each node, and what is written when one is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hack.devcluster.dra.allocator import Allocator, Pick, asks_of
from hack.devcluster.dra.claims import allocation_of, can_be_reserved, consumers_of, devices_in, is_reserved_for
from hack.devcluster.dra.pools import pools_of
from hack.devcluster.objects import Object, dig, name_of, uid_of
from hack.devcluster.scheduling import matches_node_terms

CANNOT_ALLOCATE = "cannot allocate all claims"
NOT_HERE = "resourceclaim not available on the node"


@dataclass(slots=True)
class Demand:
    """Made anew for each attempt to place the pod. ``claims``: the pod's, in its order; ``everyone``: all there are."""

    pod: Object
    claims: Sequence[Object]
    everyone: Sequence[Object]
    slices: Sequence[Object]
    classes: Mapping[str, Object]
    _found: dict[str, list[Pick] | None] = field(default_factory=dict)

    def problem(self) -> str:
        """Why no node is worth a look; '' where one may do."""
        for claim in self.claims:
            if allocation_of(claim) and not can_be_reserved(claim) and not is_reserved_for(claim, self.pod):
                return "resourceclaim in use"
            if allocation_of(claim):
                continue
            for request in dig(claim, "spec.devices.requests") or []:
                try:
                    asks_of(claim, request, self.classes)
                except KeyError as missing:
                    return f"request {request['name']}: device class {missing.args[0]} does not exist"
        return ""

    def reason_against(self, node: Object) -> str:
        """'' for a node that will do. Raises AllocationError."""
        if self._unallocated() and self._picks(node) is None:
            return CANNOT_ALLOCATE
        return NOT_HERE if any(not is_available_on(claim, node) for claim in self.claims) else ""

    def allocations(self, node: Object) -> dict[str, Object]:
        """Claim uid to what is to stand in its ``status.allocation``, for those that have none yet."""
        picks = self._picks(node) or []
        return {
            uid_of(claim): _allocation(claim, [pick for pick in picks if pick.ask.claim is claim], node)
            for claim in self._unallocated()
        }

    def stuck_claim(self, nodes: Sequence[Object]) -> Object | None:
        """An allocated claim that keeps the pod from a node though nobody else uses it."""
        for claim in self.claims:
            others = [consumer for consumer in consumers_of(claim) if consumer["uid"] != uid_of(self.pod)]
            if not others and any(not is_available_on(claim, node) for node in nodes):
                return claim
        return None

    def _unallocated(self) -> list[Object]:
        return [claim for claim in self.claims if not allocation_of(claim)]

    def _picks(self, node: Object) -> list[Pick] | None:
        if name_of(node) not in self._found:
            taken = {device for claim in self.everyone for device in devices_in(claim)}
            allocator = Allocator(pools_of(self.slices, node), self.classes, taken)
            self._found[name_of(node)] = allocator.allocate(self._unallocated())
        return self._found[name_of(node)]


def is_available_on(claim: Object, node: Object) -> bool:
    """An unallocated claim is bound to no node."""
    terms = dig(claim, "status.allocation.nodeSelector.nodeSelectorTerms")
    return terms is None or matches_node_terms(terms, node)


def _allocation(claim: Object, picks: Sequence[Pick], node: Object) -> Object:
    results = [
        {"request": pick.ask.name, "driver": pick.device.id.driver, "pool": pick.device.id.pool,
         "device": pick.device.id.name} | ({"adminAccess": True} if pick.ask.is_admin else {})
        for pick in picks
    ]  # fmt: skip
    allocation: Object = {"devices": {"results": results}}
    if config := _config(claim, picks):
        allocation["devices"]["config"] = config
    if terms := _node_terms(picks, node):
        allocation["nodeSelector"] = {"nodeSelectorTerms": terms}
    return allocation


def _config(claim: Object, picks: Sequence[Pick]) -> list[Object]:
    """The classes' before the claim's own, which overrides them."""
    classes = {pick.ask.name: pick.ask.device_class for pick in picks}
    from_classes = [
        {"source": "FromClass", "requests": [name], **entry}
        for name, device_class in classes.items()
        for entry in dig(device_class, "spec.config") or []
    ]
    return from_classes + [{"source": "FromClaim", **entry} for entry in dig(claim, "spec.devices.config") or []]


def _node_terms(picks: Sequence[Pick], node: Object) -> list[Object]:
    """Where the devices can be used: on their node, on the nodes that their slices select, or anywhere (no terms)."""
    specs = [pick.device.slice_spec for pick in picks]
    if any(spec.get("nodeName") for spec in specs):
        return [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name_of(node)]}]}]
    selected = [term for spec in specs for term in dig(spec, "nodeSelector.nodeSelectorTerms") or []]
    expressions = [each for term in selected for each in term.get("matchExpressions") or []]
    return [{"matchExpressions": expressions}] if expressions else []
