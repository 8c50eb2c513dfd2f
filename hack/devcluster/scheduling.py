"""Whether a pod fits a node, as pure functions: cordon, taints, selectors and resources.

The reasons are worded, and asked in the order of, the default plugins of the 1.34 scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from hack.devcluster.objects import Object, dig, labels_of, name_of
from hack.devcluster.quantities import parse_quantity
from hack.devcluster.selectors import matches_expression

Amounts = dict[str, Decimal]


def lasting_reason_against(pod: Object, node: Object) -> str:
    """Why the pod cannot go to the node whoever leaves it; empty where nothing stands in the way for good."""
    if dig(node, "spec.unschedulable") and not tolerates(pod, _UNSCHEDULABLE):
        return "node(s) were unschedulable"
    if taint := untolerated_taint(pod, node):
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if not matches_node_selection(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


def shortages(pod: Object, node: Object, others: Iterable[Object]) -> list[str]:
    """What the node where ``others`` are bound has too little of: it could be had if enough of them left."""
    free = _free(node, others)
    asked = requests_of(pod) | {"pods": Decimal(1)}
    return [
        "Too many pods" if resource == "pods" else f"Insufficient {resource}"
        for resource, amount in sorted(asked.items())
        if amount and amount > free.get(resource, Decimal(0))
    ]


_UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def requests_of(pod: Object) -> Amounts:
    """What the pod asks for: its containers together, or its largest init container where that is more."""
    total: Amounts = {}
    for container in dig(pod, "spec.containers") or []:
        for resource, amount in _requests(container).items():
            total[resource] = total.get(resource, Decimal(0)) + amount
    for container in dig(pod, "spec.initContainers") or []:
        for resource, amount in _requests(container).items():
            total[resource] = max(total.get(resource, Decimal(0)), amount)
    return total


def _requests(container: Object) -> Amounts:
    asked: Mapping[str, str] = dig(container, "resources.requests") or {}
    return {resource: parse_quantity(amount) for resource, amount in asked.items()}


def _free(node: Object, others: Iterable[Object]) -> Amounts:
    allocatable: Mapping[str, str] = dig(node, "status.allocatable") or {}
    free = {resource: parse_quantity(amount) for resource, amount in allocatable.items()}
    for other in others:
        for resource, amount in (requests_of(other) | {"pods": Decimal(1)}).items():
            free[resource] = free.get(resource, Decimal(0)) - amount
    return free


def matches_node_selection(pod: Object, node: Object) -> bool:
    """``spec.nodeSelector`` and the required node affinity."""
    labels = labels_of(node)
    selector: Mapping[str, str] = dig(pod, "spec.nodeSelector") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    terms = dig(pod, path)
    return terms is None or matches_node_terms(terms, node)


def matches_node_terms(terms: Iterable[Object], node: Object) -> bool:
    """A ``core/v1`` NodeSelector: any of its terms."""
    return any(_matches_term(term, node) for term in terms)


def _matches_term(term: Object, node: Object) -> bool:
    """A term that names nothing matches no node."""
    labels, fields = labels_of(node), {"metadata.name": name_of(node)}
    if not term.get("matchExpressions") and not term.get("matchFields"):
        return False
    return all(_matches_node_expression(e, labels) for e in term.get("matchExpressions") or []) and all(
        matches_expression(e, fields) for e in term.get("matchFields") or []
    )


def _matches_node_expression(expression: Object, labels: Mapping[str, str]) -> bool:
    """Node selectors know ``Gt`` and ``Lt`` besides the operators of label selectors."""
    if expression["operator"] not in ("Gt", "Lt"):
        return matches_expression(expression, labels)
    try:
        here, bound = int(labels[expression["key"]]), int(expression["values"][0])
    except (KeyError, ValueError):
        return False
    return here > bound if expression["operator"] == "Gt" else here < bound


def preference(pod: Object, node: Object) -> tuple[int, int]:
    """How well a node suits that is possible anyway, more is better: the weights of the preferred node affinity,
    then the fewest ``PreferNoSchedule`` taints. The real scheduler weighs more than these, usage above all."""
    path = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"
    wishes: list[Object] = dig(pod, path) or []
    weight = sum(int(wish["weight"]) for wish in wishes if _matches_term(wish["preference"], node))
    soft = [t for t in dig(node, "spec.taints") or [] if t["effect"] == "PreferNoSchedule" and not tolerates(pod, t)]
    return weight, -len(soft)


def untolerated_taint(pod: Object, node: Object) -> Object | None:
    taints: list[Object] = dig(node, "spec.taints") or []
    hard = (taint for taint in taints if taint["effect"] in ("NoSchedule", "NoExecute"))
    return next((taint for taint in hard if not tolerates(pod, taint)), None)


def tolerates(pod: Object, taint: Object) -> bool:
    return any(is_tolerated_by(t, taint) for t in dig(pod, "spec.tolerations") or [])


def is_tolerated_by(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    exists = toleration.get("operator") == "Exists"
    if not toleration.get("key"):
        return exists
    if toleration["key"] != taint["key"]:
        return False
    return exists or toleration.get("value", "") == taint.get("value", "")
