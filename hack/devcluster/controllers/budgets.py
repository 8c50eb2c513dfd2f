"""How many pods each PodDisruptionBudget lets go now."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.objects import (
    Object,
    clone,
    controller_of,
    dig,
    is_deleting,
    is_finished,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    parse_time,
)
from hack.devcluster.selectors import matches_label_selector

# An eviction that was granted counts against the budget until its pod begins to go, but no longer than this.
_GRANT_LASTS = timedelta(minutes=2)

_SCALED = {kind.name: kind for kind in (kinds.REPLICASETS, kinds.STATEFULSETS)}


def sync_budgets(api: Api) -> None:
    for budget in api.all(kinds.BUDGETS):
        _sync_budget(api, budget)


def _sync_budget(api: Api, budget: Object) -> None:
    pods = [
        pod
        for pod in api.all(kinds.PODS, namespace_of(budget))
        if matches_label_selector(dig(budget, "spec.selector"), labels_of(pod)) and not is_finished(pod)
    ]
    granted = _open_grants(budget, pods)
    healthy = sum(is_ready(pod) and not is_deleting(pod) and name_of(pod) not in granted for pod in pods)
    expected, desired = _expected_and_desired(api, budget, pods)
    status: Object = {
        "expectedPods": expected,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": max(healthy - desired, 0) if expected else 0,
        "observedGeneration": int(dig(budget, "metadata.generation", 1)),
    }
    if granted:
        status["disruptedPods"] = granted

    def updated(current: Object) -> Object:
        return {**clone(current), "status": status}

    api.change(kinds.BUDGETS, namespace_of(budget), name_of(budget), updated, subresource="status")


def _open_grants(budget: Object, pods: list[Object]) -> dict[str, str]:
    staying = {name_of(pod) for pod in pods if not is_deleting(pod)}
    grants: dict[str, str] = dig(budget, "status.disruptedPods") or {}
    oldest = datetime.now(UTC) - _GRANT_LASTS
    return {name: at for name, at in grants.items() if name in staying and parse_time(at) > oldest}


def _expected_and_desired(api: Api, budget: Object, pods: list[Object]) -> tuple[int, int]:
    """A plain ``minAvailable`` counts the pods that there are; a share or ``maxUnavailable`` counts what their
    controllers want, and pods without a controller then allow nothing."""
    minimum, most_gone = dig(budget, "spec.minAvailable"), dig(budget, "spec.maxUnavailable")
    if isinstance(minimum, int):
        return len(pods), minimum
    expected = _wanted_by_controllers(api, pods)
    if expected is None:
        return len(pods), len(pods)
    if minimum is not None:
        return expected, _share(minimum, expected)
    return expected, max(expected - _share(1 if most_gone is None else most_gone, expected), 0)


def _share(amount: int | str, whole: int) -> int:
    if isinstance(amount, int):
        return amount
    return math.ceil(whole * int(amount.rstrip("%")) / 100)


def _wanted_by_controllers(api: Api, pods: list[Object]) -> int | None:
    wanted: dict[str, int] = {}
    for pod in pods:
        owner = controller_of(pod)
        if owner is None or owner["kind"] not in _SCALED:
            return None
        workload = api.find(_SCALED[owner["kind"]], namespace_of(pod), owner["name"])
        if workload is None:
            return None
        wanted[owner["uid"]] = int(dig(workload, "spec.replicas", 1))
    return sum(wanted.values())


BUDGET_CONTROLLER = Controller("disruption", (kinds.BUDGETS, kinds.PODS, *_SCALED.values()), sync_budgets)
