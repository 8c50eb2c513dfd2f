"""Binds pending pods to nodes, most important first; makes room for one by pushing less important ones aside; says in an
event and a condition why one stays pending."""

from __future__ import annotations

from collections.abc import Callable

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.claim_binding import ClaimsMissing, deallocate, demand_of, reserve
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.dra.allocator import AllocationError
from hack.devcluster.dra.demand import Demand
from hack.devcluster.objects import (
    Object,
    clone,
    conditions_of,
    dig,
    is_deleting,
    is_finished,
    labels_of,
    name_of,
    namespace_of,
    now_micro,
    random_suffix,
    uid_of,
    with_condition,
)
from hack.devcluster.placing import Cluster, Preemption, priority_of
from hack.devcluster.selectors import matches_label_selector

SCHEDULER = "default-scheduler"


def sync_pending_pods(api: Api) -> None:
    """Room that a victim leaves is taken by the pod it was made for at the sync that its going brings."""
    for pod in sorted(filter(_is_waiting, api.all(kinds.PODS)), key=_turn):
        _schedule(api, pod)


def _schedule(api: Api, pod: Object) -> None:
    try:
        demand = demand_of(api, pod)
    except ClaimsMissing:
        return
    cluster = _cluster(api, demand)
    try:
        node = cluster.best_node(pod)
    except AllocationError as error:
        _say_not_scheduled(api, pod, "SchedulerError", f'running "DynamicResources" filter plugin: {error}')
        return
    if node is not None:
        if demand is not None:
            reserve(api, demand, node)
        _bind(api, pod, node)
        return
    _stay_pending(api, pod, cluster)


def _stay_pending(api: Api, pod: Object, cluster: Cluster) -> None:
    preemption = None if _may_not_preempt(cluster, pod) else cluster.preemption(pod, _guard(api))
    _say_not_scheduled(api, pod, "Unschedulable", cluster.explain(pod), preemption)
    if (stuck := cluster.stuck_claim()) is not None:
        deallocate(api, stuck)
    if preemption is not None:
        _push_aside(api, pod, preemption)


def _may_not_preempt(cluster: Cluster, pod: Object) -> bool:
    return dig(pod, "spec.preemptionPolicy") == "Never" or cluster.waits_for_victims(pod)


def _guard(api: Api) -> Callable[[Object], bool]:
    """Preemption prefers victims that no exhausted budget covers, but a budget cannot forbid it."""
    spent = [budget for budget in api.all(kinds.BUDGETS) if int(dig(budget, "status.disruptionsAllowed", 0)) <= 0]

    def is_guarded(pod: Object) -> bool:
        return any(
            namespace_of(budget) == namespace_of(pod)
            and matches_label_selector(dig(budget, "spec.selector"), labels_of(pod))
            for budget in spent
        )

    return is_guarded


def _push_aside(api: Api, pod: Object, preemption: Preemption) -> None:
    for victim in preemption.victims:
        if is_deleting(victim):
            continue
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
        condition["message"] = f"{SCHEDULER}: preempting to accommodate a higher priority pod"
        _set_status(api, victim, condition, nominated="")
        message = f"Preempted by pod {uid_of(pod)} on node {preemption.node}"
        _record(api, victim, "Normal", "Preempted", "Preempting", message)
        api.delete(kinds.PODS, namespace_of(victim), name_of(victim))


def _is_waiting(pod: Object) -> bool:
    return (
        not dig(pod, "spec.nodeName")
        and not is_deleting(pod)
        and not is_finished(pod)
        and dig(pod, "spec.schedulerName") == SCHEDULER
        and not dig(pod, "spec.schedulingGates")
    )


def _turn(pod: Object) -> tuple[int, str, str]:
    return -priority_of(pod), str(dig(pod, "metadata.creationTimestamp")), name_of(pod)


def _cluster(api: Api, demand: Demand | None) -> Cluster:
    pods = [pod for pod in api.all(kinds.PODS) if not is_finished(pod)]
    return Cluster(
        nodes=list(api.all(kinds.NODES)),
        bound=[pod for pod in pods if dig(pod, "spec.nodeName")],
        nominated=[pod for pod in pods if not dig(pod, "spec.nodeName") and dig(pod, "status.nominatedNodeName")],
        demand=demand,
    )


def _bind(api: Api, pod: Object, node: Object) -> None:
    namespace, name = namespace_of(pod), name_of(pod)
    api.bind(namespace, name, name_of(node))
    message = f"Successfully assigned {namespace}/{name} to {name_of(node)}"
    _record(api, pod, "Normal", "Scheduled", "Binding", message)


def _say_not_scheduled(api: Api, pod: Object, reason: str, message: str, preemption: Preemption | None = None) -> None:
    """Once per change of the message; the pod is tried again at every change of the cluster."""
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    said = next((c for c in conditions_of(pod) if c["type"] == "PodScheduled"), {})
    if said.get("message") == message and preemption is None:
        return
    promised = preemption.node if preemption is not None else str(dig(pod, "status.nominatedNodeName", ""))
    _set_status(api, pod, condition, nominated=promised)
    _record(api, pod, "Warning", "FailedScheduling", "Scheduling", message)


def _set_status(api: Api, pod: Object, condition: Object, *, nominated: str) -> None:
    def marked(current: Object) -> Object:
        changed = clone(current)
        changed["status"]["conditions"] = with_condition(conditions_of(current), condition)
        if nominated:
            changed["status"]["nominatedNodeName"] = nominated
        return changed

    api.change(kinds.PODS, namespace_of(pod), name_of(pod), marked, subresource="status")


def _record(api: Api, pod: Object, kind: str, reason: str, action: str, note: str) -> None:
    event: Object = {
        "metadata": {"name": f"{name_of(pod)}.{random_suffix(16)}"},
        "eventTime": now_micro(),
        "type": kind,
        "reason": reason,
        "action": action,
        "note": note[:1024],
        "reportingController": SCHEDULER,
        "reportingInstance": SCHEDULER,
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": name_of(pod),
            "namespace": namespace_of(pod),
            "uid": uid_of(pod),
        },
    }
    api.create(kinds.NEW_EVENTS, namespace_of(pod), event)


SCHEDULER_CONTROLLER = Controller(
    "scheduler",
    (kinds.PODS, kinds.NODES, kinds.BUDGETS, kinds.RESOURCE_CLAIMS, kinds.RESOURCE_SLICES, kinds.DEVICE_CLASSES),
    sync_pending_pods,
)
