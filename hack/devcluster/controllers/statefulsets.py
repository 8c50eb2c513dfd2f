"""StatefulSets: pods with lasting names, made in order and taken away in reverse. Volume claims are left out."""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.controllers.workloads import (
    REVISION_LABEL,
    owned_pods,
    pod_from_template,
    template_hash,
    write_status,
)
from hack.devcluster.objects import Object, dig, is_deleting, is_finished, is_ready, labels_of, name_of, namespace_of


def sync_statefulsets(api: Api) -> None:
    for statefulset in api.all(kinds.STATEFULSETS):
        if not is_deleting(statefulset):
            _step(api, statefulset)
            write_status(api, kinds.STATEFULSETS, statefulset, _counts(api, statefulset))


def _step(api: Api, statefulset: Object) -> None:
    """One pod at a time, and the next only when all before it are ready, unless the policy is ``Parallel``."""
    pods = {name_of(pod): pod for pod in owned_pods(api, statefulset)}
    wanted = [f"{name_of(statefulset)}-{number}" for number in range(int(dig(statefulset, "spec.replicas", 1)))]
    in_turn = dig(statefulset, "spec.podManagementPolicy", "OrderedReady") != "Parallel"
    for name in wanted:
        pod = pods.get(name)
        if pod is None:
            api.create(kinds.PODS, namespace_of(statefulset), _pod(statefulset, name))
        elif is_finished(pod) and not is_deleting(pod):
            api.delete(kinds.PODS, namespace_of(pod), name)
        if in_turn and (pod is None or not is_ready(pod) or is_deleting(pod)):
            return
    surplus = sorted((name for name in pods if name not in wanted), key=_ordinal, reverse=True)
    for name in surplus:
        if not is_deleting(pods[name]):
            api.delete(kinds.PODS, namespace_of(statefulset), name)
        if in_turn:
            return
    _roll_out(api, statefulset, [pods[name] for name in reversed(wanted) if name in pods])


def _roll_out(api: Api, statefulset: Object, pods: list[Object]) -> None:
    """From the highest ordinal down, each when those above it are ready again."""
    if dig(statefulset, "spec.updateStrategy.type", "RollingUpdate") != "RollingUpdate":
        return
    for pod in pods:
        if is_deleting(pod):
            return
        if labels_of(pod).get(REVISION_LABEL) != template_hash(statefulset):
            api.delete(kinds.PODS, namespace_of(pod), name_of(pod))
            return
        if not is_ready(pod):
            return


def _pod(statefulset: Object, name: str) -> Object:
    pod = pod_from_template(statefulset)
    del pod["metadata"]["generateName"]
    pod["metadata"]["name"] = name
    own = {
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(_ordinal(name)),
        REVISION_LABEL: template_hash(statefulset),
    }
    pod["metadata"]["labels"] = {**pod["metadata"]["labels"], **own}
    pod["spec"] |= {"hostname": name, "subdomain": dig(statefulset, "spec.serviceName", "")}
    return pod


def _ordinal(name: str) -> int:
    return int(name.rpartition("-")[2])


def _counts(api: Api, statefulset: Object) -> dict[str, int]:
    pods = [pod for pod in owned_pods(api, statefulset) if not is_deleting(pod)]
    updated = [pod for pod in pods if labels_of(pod).get(REVISION_LABEL) == template_hash(statefulset)]
    ready = sum(map(is_ready, pods))
    return {
        "replicas": len(pods),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "currentReplicas": len(pods),
        "updatedReplicas": len(updated),
    }


STATEFULSET_CONTROLLER = Controller("statefulset", (kinds.STATEFULSETS, kinds.PODS), sync_statefulsets)
