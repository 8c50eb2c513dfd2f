"""DaemonSets and ReplicaSets: their pods appear, go, come back and, with DaemonSets, follow the template."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.back_off import BackOff
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.errors import ApiError
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import (
    Object,
    clone,
    conditions_of,
    controller_of,
    dig,
    is_deleting,
    is_finished,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    now,
    owner_reference,
    parse_time,
    phase_of,
    uid_of,
)
from hack.devcluster.scheduling import matches_node_selection, untolerated_taint

REVISION_LABEL = "controller-revision-hash"

# What the real controller adds to every pod of a DaemonSet: it comes back on a cordoned or struggling node.
_DAEMON_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": effect}
    for key, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
]


class DaemonSets:
    """One pod per node that fits. A pod that failed is replaced, later each time in a row: 1 s doubling to 15 min."""

    def __init__(self, backoff: BackOff) -> None:
        self._backoff = backoff

    def sync(self, api: Api) -> None:
        nodes = api.all(kinds.NODES)
        for daemonset in api.all(kinds.DAEMONSETS):
            if not is_deleting(daemonset):
                self._sync_one(api, daemonset, nodes)

    def _sync_one(self, api: Api, daemonset: Object, nodes: list[Object]) -> None:
        by_node: dict[str, list[Object]] = {}
        for pod in owned_pods(api, daemonset):
            by_node.setdefault(_node_meant(pod), []).append(pod)
        wanted = {name_of(node) for node in nodes if _runs_on(daemonset, node)}
        for node_name, pods in by_node.items():
            for pod in pods:
                if not is_deleting(pod) and (node_name not in wanted or self._may_be_replaced(daemonset, pod)):
                    api.delete(kinds.PODS, namespace_of(pod), name_of(pod))
        for node_name in sorted(wanted - by_node.keys()):
            api.create(kinds.PODS, namespace_of(daemonset), _daemon_pod(daemonset, node_name))
        _roll_out(api, daemonset, len(wanted))
        write_status(api, kinds.DAEMONSETS, daemonset, _daemonset_counts(api, daemonset, len(wanted)))

    def _may_be_replaced(self, daemonset: Object, pod: Object) -> bool:
        return is_finished(pod) and self._backoff.is_over(f"{uid_of(daemonset)}/{_node_meant(pod)}", uid_of(pod))


def _roll_out(api: Api, daemonset: Object, wanted: int) -> None:
    """Pods of an older template go, while no more than ``maxUnavailable`` (1) are away; under ``OnDelete`` none go."""
    if dig(daemonset, "spec.updateStrategy.type", "RollingUpdate") != "RollingUpdate":
        return
    pods = [pod for pod in owned_pods(api, daemonset) if not is_deleting(pod) and not is_finished(pod)]
    available = sum(is_ready(pod) for pod in pods)
    room = _most_unavailable(daemonset, wanted) - (wanted - available)
    old = [pod for pod in pods if _revision_of(pod) != template_hash(daemonset)]
    for pod in sorted(old, key=is_ready):
        if is_ready(pod):
            if room <= 0:
                return
            room -= 1
        api.delete(kinds.PODS, namespace_of(pod), name_of(pod))


def _most_unavailable(daemonset: Object, wanted: int) -> int:
    asked = dig(daemonset, "spec.updateStrategy.rollingUpdate.maxUnavailable", 1)
    return asked if isinstance(asked, int) else math.ceil(wanted * int(asked.rstrip("%")) / 100)


def _revision_of(pod: Object) -> str:
    return labels_of(pod).get(REVISION_LABEL, "")


def _daemonset_counts(api: Api, daemonset: Object, wanted: int) -> dict[str, int]:
    pods = [pod for pod in owned_pods(api, daemonset) if not is_deleting(pod)]
    ready = sum(is_ready(pod) for pod in pods)
    return {
        "desiredNumberScheduled": wanted,
        "currentNumberScheduled": len(pods),
        "updatedNumberScheduled": sum(_revision_of(pod) == template_hash(daemonset) for pod in pods),
        "numberReady": ready,
        "numberAvailable": ready,
        "numberUnavailable": max(wanted - ready, 0),
        "numberMisscheduled": 0,
    }


def _runs_on(daemonset: Object, node: Object) -> bool:
    template = _daemon_pod(daemonset, name_of(node))
    return matches_node_selection(template, node) and untolerated_taint(template, node) is None


def _daemon_pod(daemonset: Object, node_name: str) -> Object:
    pod = pod_from_template(daemonset)
    pod["metadata"]["labels"] = {**pod["metadata"]["labels"], REVISION_LABEL: template_hash(daemonset)}
    spec = pod["spec"]
    spec["tolerations"] = [*(spec.get("tolerations") or []), *_DAEMON_TOLERATIONS]
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node_name]}]}
    required = dig(spec, "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
    terms = [{**term, **here} for term in required or [{}]]
    spec["affinity"] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    }
    return pod


def _node_meant(pod: Object) -> str:
    """The node that a daemon pod was made for, bound to it yet or not."""
    if bound := dig(pod, "spec.nodeName"):
        return str(bound)
    path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    for term in dig(pod, path) or []:
        for expression in term.get("matchFields") or []:
            return str(expression["values"][0])
    return ""


class ReplicaSets:
    """As many pods as wanted. The real controller replaces a pod that a kubelet rejected at once, and so can leave
    thousands of Failed pods behind within minutes; here, as a choice, each further one waits longer: 1 s doubling to
    15 min, as DaemonSets do it, so that such a loop stays small enough to look at."""

    def __init__(self, backoff: BackOff) -> None:
        self._backoff = backoff

    def sync(self, api: Api) -> None:
        for replicaset in api.all(kinds.REPLICASETS):
            if not is_deleting(replicaset):
                self._sync_one(api, replicaset)

    def _sync_one(self, api: Api, replicaset: Object) -> None:
        pods = owned_pods(api, replicaset)
        active = [pod for pod in pods if not is_finished(pod) and not is_deleting(pod)]
        missing = int(dig(replicaset, "spec.replicas", 1)) - len(active)
        refusal = ""
        if missing > 0 and self._may_replace(replicaset, pods):
            refusal = _create_pods(api, replicaset, missing)
        for pod in _least_needed_first(active)[: max(-missing, 0)]:
            api.delete(kinds.PODS, namespace_of(pod), name_of(pod))
        write_status(api, kinds.REPLICASETS, replicaset, _replicaset_status(replicaset, active, refusal))

    def _may_replace(self, replicaset: Object, pods: list[Object]) -> bool:
        rejected = [pod for pod in pods if phase_of(pod) == "Failed"]
        if not rejected:
            return True
        return self._backoff.is_over(uid_of(replicaset), ",".join(sorted(map(uid_of, rejected))))


def _create_pods(api: Api, replicaset: Object, missing: int) -> str:
    """Why one was refused, by a quota for example; the others are not tried then."""
    try:
        for _ in range(missing):
            api.create(kinds.PODS, namespace_of(replicaset), pod_from_template(replicaset))
    except ApiError as error:
        return error.message
    return ""


def _replicaset_status(replicaset: Object, active: list[Object], refusal: str) -> Object:
    for_s = int(dig(replicaset, "spec.minReadySeconds", 0))
    status: Object = {
        "replicas": len(active),
        "readyReplicas": sum(is_ready(pod) for pod in active),
        "availableReplicas": sum(is_available(pod, for_s) for pod in active),
    }
    if refusal:
        status["conditions"] = conditions_of(replicaset) or [_failed_create(refusal)]
    return status


def _failed_create(refusal: str) -> Object:
    """Said once: each refusal names another pod, and news of it would be a reason to try again at once."""
    failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": refusal}
    return failed | {"lastTransitionTime": now()}


def is_available(pod: Object, for_s: int) -> bool:
    """Whether it has been ready for so long (``minReadySeconds``)."""
    ready = next((c for c in conditions_of(pod) if c["type"] == "Ready" and c["status"] == "True"), None)
    if ready is None or not for_s:
        return ready is not None
    return parse_time(ready["lastTransitionTime"]) + timedelta(seconds=for_s) <= datetime.now(UTC)


def _least_needed_first(pods: list[Object]) -> list[Object]:
    return sorted(pods, key=lambda pod: (bool(dig(pod, "spec.nodeName")), is_ready(pod)))


def template_hash(workload: Object) -> str:
    text = json.dumps(dig(workload, "spec.template") or {}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def owned_pods(api: Api, owner: Object) -> list[Object]:
    return [pod for pod in api.all(kinds.PODS, namespace_of(owner)) if is_owned_by(pod, owner)]


def is_owned_by(obj: Object, owner: Object) -> bool:
    reference = controller_of(obj)
    return reference is not None and reference.get("uid") == uid_of(owner)


def pod_from_template(owner: Object) -> Object:
    template = clone(dig(owner, "spec.template") or {})
    metadata: Object = {
        "generateName": f"{name_of(owner)}-",
        "labels": dig(template, "metadata.labels") or {},
        "annotations": dig(template, "metadata.annotations") or {},
        "ownerReferences": [owner_reference(owner)],
    }
    return {"metadata": metadata, "spec": template.get("spec") or {}}


def write_status(api: Api, kind: Kind, obj: Object, counts: Mapping[str, Any]) -> None:
    def updated(current: Object) -> Object:
        generation = int(dig(obj, "metadata.generation", 1))
        return {**clone(current), "status": {**counts, "observedGeneration": generation}}

    api.change(kind, namespace_of(obj), name_of(obj), updated, subresource="status")


def workload_controllers(timings: Timings) -> list[Controller]:
    daemonsets = DaemonSets(BackOff(timings.first_retry_s, timings.longest_retry_s))
    replicasets = ReplicaSets(BackOff(timings.first_retry_s, timings.longest_retry_s))
    tick = timings.first_retry_s / 2
    return [
        Controller("daemonset", (kinds.DAEMONSETS, kinds.PODS, kinds.NODES), daemonsets.sync, tick),
        Controller("replicaset", (kinds.REPLICASETS, kinds.PODS), replicasets.sync, tick),
    ]
