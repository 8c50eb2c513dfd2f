"""The eviction subresource: a delete that asks the disruption budgets first."""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.access.users import INTERNAL, Caller
from hack.devcluster.admission.request import AdmissionRequest
from hack.devcluster.api import Api, DeleteOptions
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import (
    Object,
    clone,
    dig,
    is_deleting,
    is_finished,
    is_ready,
    labels_of,
    name_of,
    now,
    phase_of,
    with_condition,
)
from hack.devcluster.selectors import matches_label_selector


def evict(
    api: Api, namespace: str, name: str, options: DeleteOptions, *, dry_run: bool = False, by: Caller = INTERNAL
) -> None:
    """Policies see the eviction, and not the delete that the server makes of it. Raises 404, 409 (another uid), 429 (the
    budget is spent) or 500 (more than one budget)."""
    pod = api.get(kinds.PODS, namespace, name)
    body: Object = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    body["deleteOptions"] = {"preconditions": {"uid": options.uid}} if options.uid else {}
    api.admit(AdmissionRequest("CREATE", kinds.PODS, "eviction", namespace, name, body, None, by.user, dry_run))
    api.delete(kinds.PODS, namespace, name, options, dry_run=True)  # its preconditions, before anything is written
    if not _needs_no_budget(pod):
        budgets = budgets_of(api, pod)
        if len(budgets) > 1:
            text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise ApiError(500, text, reason="")
        for budget in budgets:
            if not _may_go_without_asking(pod, budget):
                _spend(api, budget, name, dry_run=dry_run)
    if not dry_run:
        api.change(kinds.PODS, namespace, name, _marked_as_disrupted, subresource="status")
    api.delete(kinds.PODS, namespace, name, options, dry_run=dry_run)


def budgets_of(api: Api, pod: Object) -> list[Object]:
    in_namespace = api.all(kinds.BUDGETS, str(dig(pod, "metadata.namespace")))
    labels = labels_of(pod)
    return [b for b in in_namespace if matches_label_selector(dig(b, "spec.selector"), labels)]


def _needs_no_budget(pod: Object) -> bool:
    return is_finished(pod) or phase_of(pod) == "Pending" or is_deleting(pod)


def _may_go_without_asking(pod: Object, budget: Object) -> bool:
    """A pod that is not ready serves nobody; by default it may go while enough others are healthy."""
    if is_ready(pod):
        return False
    if dig(budget, "spec.unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    desired = int(dig(budget, "status.desiredHealthy", 0))
    return int(dig(budget, "status.currentHealthy", 0)) >= desired > 0


def _spend(api: Api, budget: Object, pod_name: str, *, dry_run: bool) -> None:
    name, status = name_of(budget), budget.get("status") or {}
    if int(status.get("observedGeneration", 0)) < int(dig(budget, "metadata.generation", 0)):
        raise _refused(f"The disruption budget {name} is still being processed by the server.", retry_after=10)
    if int(status.get("disruptionsAllowed", 0)) <= 0:
        needs, has = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
        raise _refused(f"The disruption budget {name} needs {needs} healthy pods and has {has} currently")

    def spent(current: Object) -> Object:
        changed = clone(current)
        changed["status"]["disruptionsAllowed"] -= 1
        changed["status"].setdefault("disruptedPods", {})[pod_name] = now()
        return changed

    namespace = str(dig(budget, "metadata.namespace"))
    api.change(kinds.BUDGETS, namespace, name, spent, subresource="status", dry_run=dry_run)


def _refused(why: str, retry_after: int = 0) -> ApiError:
    details: Object = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    if retry_after:
        details["retryAfterSeconds"] = retry_after
    return ApiError(429, "Cannot evict pod as it would violate the pod's disruption budget.", details=details)


def _marked_as_disrupted(pod: Object) -> Object:
    marked = clone(pod)
    reason = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    reason["message"] = "Eviction API: evicting"
    marked["status"]["conditions"] = with_condition(dig(marked, "status.conditions") or [], reason)
    return marked
