"""What happens to a node that is silent, cordoned, not ready or gone, and to the pods on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hack.devcluster import kinds
from hack.devcluster.api import Api, DeleteOptions
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.objects import (
    Object,
    clone,
    conditions_of,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
    now,
    parse_time,
    with_condition,
)
from hack.devcluster.scheduling import is_tolerated_by

UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"

_LEASES = "kube-node-lease"


@dataclass(slots=True)
class SilentNodes:
    """A node whose lease was not renewed for the grace period is Unknown. The change of the lease is what counts, by
    our own clock, never the time written in it. A node that never had a lease is not judged: no kubelet looks after
    it (a choice, for nodes made by hand)."""

    grace_s: float
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    def sync(self, api: Api) -> None:
        for node in api.all(kinds.NODES):
            lease = api.find(kinds.LEASES, _LEASES, name_of(node))
            if lease is not None and self._is_silent(name_of(node), lease):
                _mark_unknown(api, node)

    def _is_silent(self, name: str, lease: Object) -> bool:
        renewed, clock = str(dig(lease, "spec.renewTime")), time.monotonic()
        if self._seen.get(name, ("", 0.0))[0] != renewed:
            self._seen[name] = (renewed, clock)
        return clock - self._seen[name][1] > self.grace_s


def _mark_unknown(api: Api, node: Object) -> None:
    """Every condition of the kubelet's; its next status update sets them right. The node's pods are not ready."""

    def silent(current: Object) -> Object:
        changed = clone(current)
        for condition in conditions_of(changed):
            unknown = {**condition, "status": "Unknown", "reason": "NodeStatusUnknown"}
            unknown["message"] = "Kubelet stopped posting node status."
            changed["status"]["conditions"] = with_condition(conditions_of(changed), unknown)
        return changed

    if all(c["status"] == "Unknown" for c in conditions_of(node)):
        return
    api.change(kinds.NODES, "", name_of(node), silent, subresource="status")
    for pod in _pods_on(api, name_of(node)):
        if not is_finished(pod):
            _set_pod_condition(api, pod, {"type": "Ready", "status": "False", "reason": "NodeNotReady"})


def sync_taints(api: Api) -> None:
    """A cordoned node carries a taint besides ``spec.unschedulable``; one that is not ready or silent carries two,
    against new pods and against those that are there."""
    for node in api.all(kinds.NODES):
        ready = next((c["status"] for c in conditions_of(node) if c["type"] == "Ready"), "True")
        _keep_taint(api, node, UNSCHEDULABLE, "NoSchedule", bool(dig(node, "spec.unschedulable")))
        for key, wanted in ((NOT_READY, ready == "False"), (UNREACHABLE, ready == "Unknown")):
            _keep_taint(api, node, key, "NoSchedule", wanted)
            _keep_taint(api, node, key, "NoExecute", wanted)


def _keep_taint(api: Api, node: Object, key: str, effect: str, wanted: bool) -> None:
    def is_it(taint: Object) -> bool:
        return bool(taint.get("key") == key and taint.get("effect") == effect)

    def tainted(current: Object) -> Object:
        changed = clone(current)
        taints: list[Object] = dig(changed, "spec.taints") or []
        if any(map(is_it, taints)) == wanted:
            return changed
        new: Object = {"key": key, "effect": effect, "timeAdded": now()}
        kept = [taint for taint in taints if not is_it(taint)]
        changed.setdefault("spec", {})["taints"] = [*kept, *([new] if wanted else [])]
        return changed

    if any(map(is_it, dig(node, "spec.taints") or [])) != wanted:
        api.change(kinds.NODES, "", name_of(node), tainted)


def sync_taint_evictions(api: Api) -> None:
    """Pods leave a node with a ``NoExecute`` taint: at once, or when their ``tolerationSeconds`` are over. No budget
    is asked."""
    for node in api.all(kinds.NODES):
        hard = [taint for taint in dig(node, "spec.taints") or [] if taint["effect"] == "NoExecute"]
        for pod in _pods_on(api, name_of(node)) if hard else ():
            if not is_deleting(pod) and any(_must_leave(pod, taint) for taint in hard):
                condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
                _set_pod_condition(api, pod, condition)
                api.delete(kinds.PODS, namespace_of(pod), name_of(pod))


def _must_leave(pod: Object, taint: Object) -> bool:
    tolerating = [t for t in dig(pod, "spec.tolerations") or [] if is_tolerated_by(t, taint)]
    if not tolerating:
        return True
    limits = [int(t["tolerationSeconds"]) for t in tolerating if t.get("tolerationSeconds") is not None]
    if not limits:
        return False
    since = parse_time(taint.get("timeAdded") or now())
    return datetime.now(UTC) >= since + timedelta(seconds=max(min(limits), 0))


@dataclass(slots=True)
class PodGarbage:
    """Pods bound to a node that has been gone for the quarantine: marked Failed, then removed without grace."""

    quarantine_s: float
    _missing_since: dict[str, float] = field(default_factory=dict)

    def sync(self, api: Api) -> None:
        present = {name_of(node) for node in api.all(kinds.NODES)}
        bound = {str(dig(pod, "spec.nodeName")) for pod in api.all(kinds.PODS) if dig(pod, "spec.nodeName")}
        clock, missing = time.monotonic(), bound - present
        self._missing_since = {name: self._missing_since.get(name, clock) for name in missing}
        for name in missing:
            if clock - self._missing_since[name] >= self.quarantine_s:
                for pod in _pods_on(api, name):
                    _collect(api, pod)


def _collect(api: Api, pod: Object) -> None:
    if not is_finished(pod):
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
        condition["message"] = "PodGC: node no longer exists"
        _set_pod_condition(api, pod, condition, phase="Failed")
    api.delete(kinds.PODS, namespace_of(pod), name_of(pod), DeleteOptions(grace_seconds=0))


def _set_pod_condition(api: Api, pod: Object, condition: Object, phase: str = "") -> None:
    def marked(current: Object) -> Object:
        changed = clone(current)
        changed["status"]["conditions"] = with_condition(conditions_of(current), condition)
        if phase:
            changed["status"]["phase"] = phase
        return changed

    api.change(kinds.PODS, namespace_of(pod), name_of(pod), marked, subresource="status")


def _pods_on(api: Api, node: str) -> Iterator[Object]:
    return (pod for pod in api.all(kinds.PODS) if dig(pod, "spec.nodeName") == node)


def lifecycle_controllers(timings: Timings) -> list[Controller]:
    silent, garbage = SilentNodes(timings.node_grace_s), PodGarbage(timings.pod_gc_quarantine_s)
    return [
        Controller("node-lifecycle", (kinds.NODES, kinds.LEASES), silent.sync, min(5.0, timings.node_grace_s / 4)),
        Controller("taints", (kinds.NODES,), sync_taints),
        Controller("taint-eviction", (kinds.NODES, kinds.PODS), sync_taint_evictions, 1.0),
        Controller("pod-gc", (kinds.NODES, kinds.PODS), garbage.sync, min(20.0, timings.pod_gc_quarantine_s / 2)),
    ]
