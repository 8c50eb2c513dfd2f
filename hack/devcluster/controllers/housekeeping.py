"""Namespaces that empty themselves, and objects whose owner is gone."""

from __future__ import annotations

from collections.abc import Sequence

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import (
    Object,
    clone,
    controller_of,
    is_deleting,
    name_of,
    namespace_of,
    uid_of,
)

_WORKLOADS = (kinds.DAEMONSETS, kinds.REPLICASETS, kinds.DEPLOYMENTS, kinds.STATEFULSETS, kinds.JOBS)

# What goes with its owner, and what can be the owner of each. Pods of a node (mirror pods) are no business of ours.
_OWNED = {
    kinds.REPLICASETS: _WORKLOADS,
    kinds.PODS: _WORKLOADS,
    kinds.RESOURCE_CLAIMS: (kinds.PODS,),
    kinds.RESOURCE_SLICES: (kinds.NODES,),
}


def sync_namespaces(api: Api) -> None:
    for namespace in api.all(kinds.NAMESPACES):
        if is_deleting(namespace):
            _empty(api, name_of(namespace))
        elif api.find(kinds.SERVICE_ACCOUNTS, name_of(namespace), "default") is None:
            api.create(kinds.SERVICE_ACCOUNTS, name_of(namespace), {"metadata": {"name": "default"}})


def _empty(api: Api, namespace: str) -> None:
    """Delete what is in it; the namespace itself goes when nothing is left (pods take their grace period)."""
    left = 0
    for kind in kinds.ALL_KINDS:
        if not kind.namespaced or kind is kinds.NEW_EVENTS:
            continue
        for obj in api.all(kind, namespace):
            if is_deleting(obj) or not api.delete(kind, namespace, name_of(obj)).gone:
                left += 1
    if not left:
        api.change(kinds.NAMESPACES, "", namespace, lambda current: {**clone(current), "spec": {}})


def sync_orphans(api: Api) -> None:
    for kind, owners in _OWNED.items():
        for obj in api.all(kind):
            if not is_deleting(obj) and _lost_its_owner(api, obj, owners):
                api.delete(kind, namespace_of(obj), name_of(obj))


def _lost_its_owner(api: Api, obj: Object, owners: Sequence[Kind]) -> bool:
    reference = controller_of(obj)
    kind = next((kind for kind in owners if reference is not None and kind.name == reference["kind"]), None)
    if reference is None or kind is None:
        return False
    owner = api.find(kind, namespace_of(obj), reference["name"])
    return owner is None or uid_of(owner) != reference["uid"]


_NAMESPACED = tuple(kind for kind in kinds.ALL_KINDS if kind.namespaced)

HOUSEKEEPING_CONTROLLERS = (
    Controller("namespaces", (kinds.NAMESPACES, *_NAMESPACED), sync_namespaces),
    Controller("orphans", tuple({*_OWNED, *_WORKLOADS, kinds.NODES}), sync_orphans),
)
