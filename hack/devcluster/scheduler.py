"""Binds pending pods to nodes, oldest first; says in an event and a condition why one stays pending."""

from __future__ import annotations

from collections import Counter

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.objects import (
    Object,
    clone,
    conditions_of,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
    now_micro,
    random_suffix,
    uid_of,
    with_condition,
)
from hack.devcluster.scheduling import reasons_against

SCHEDULER = "default-scheduler"


def sync_pending_pods(api: Api) -> None:
    nodes = api.all(kinds.NODES)
    for pod in sorted(filter(_is_waiting, api.all(kinds.PODS)), key=_age_order):
        reasons: Counter[str] = Counter()
        for node in nodes:
            against = reasons_against(pod, node, _pods_on(api, node))
            if not against:
                _bind(api, pod, node)
                break
            reasons.update(against)
        else:
            _say_unschedulable(api, pod, len(nodes), reasons)


def _is_waiting(pod: Object) -> bool:
    return (
        not dig(pod, "spec.nodeName")
        and not is_deleting(pod)
        and not is_finished(pod)
        and dig(pod, "spec.schedulerName") == SCHEDULER
        and not dig(pod, "spec.schedulingGates")
    )


def _age_order(pod: Object) -> tuple[str, str]:
    return str(dig(pod, "metadata.creationTimestamp")), name_of(pod)


def _pods_on(api: Api, node: Object) -> list[Object]:
    """Pods that take something of the node; one that is ending does until it is gone."""
    here = (pod for pod in api.all(kinds.PODS) if dig(pod, "spec.nodeName") == name_of(node))
    return [pod for pod in here if not is_finished(pod)]


def _bind(api: Api, pod: Object, node: Object) -> None:
    namespace, name = namespace_of(pod), name_of(pod)
    api.bind(namespace, name, name_of(node))
    message = f"Successfully assigned {namespace}/{name} to {name_of(node)}"
    _record(api, pod, "Normal", "Scheduled", "Binding", message)


def _say_unschedulable(api: Api, pod: Object, node_count: int, reasons: Counter[str]) -> None:
    """Once per change of the message; the pod is tried again at every change of the cluster."""
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    message = f"0/{node_count} nodes are available: {counted}." if node_count else "no nodes available to schedule pods"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    said = next((c for c in conditions_of(pod) if c["type"] == "PodScheduled"), {})
    if said.get("message") == message:
        return

    def marked(current: Object) -> Object:
        changed = clone(current)
        changed["status"]["conditions"] = with_condition(conditions_of(current), condition)
        return changed

    api.change(kinds.PODS, namespace_of(pod), name_of(pod), marked, subresource="status")
    _record(api, pod, "Warning", "FailedScheduling", "Scheduling", message)


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


SCHEDULER_CONTROLLER = Controller("scheduler", (kinds.PODS, kinds.NODES), sync_pending_pods)
