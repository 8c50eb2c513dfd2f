"""Required pod affinity and anti-affinity: which nodes other pods attract a pod to, or keep it from.

Preferred pod affinity and ``namespaceSelector`` are not looked at: nothing here asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hack.devcluster.objects import Object, dig, labels_of, name_of, namespace_of
from hack.devcluster.selectors import matches_label_selector

AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def affinity_reason(pod: Object, node: Object, nodes: Mapping[str, Object], bound: Sequence[Object]) -> str:
    """Why the pods ``bound`` to the ``nodes`` (by name) keep the pod from this node; empty when they do not."""
    if not all(_is_attracted(pod, term, node, nodes, bound) for term in _terms(pod, "podAffinity")):
        return AFFINITY
    if any(_is_near(term, pod, node, nodes, bound) for term in _terms(pod, "podAntiAffinity")):
        return ANTI_AFFINITY
    for other in bound:
        for term in _terms(other, "podAntiAffinity"):
            if _selects(term, other, pod) and _same_domain(term, node, nodes.get(_node_of(other))):
                return EXISTING_ANTI_AFFINITY
    return ""


def _is_attracted(
    pod: Object, term: Object, node: Object, nodes: Mapping[str, Object], bound: Sequence[Object]
) -> bool:
    """The first pod of a group that attracts itself may go to any node of the topology."""
    if _is_near(term, pod, node, nodes, bound):
        return True
    first = not any(_selects(term, pod, other) for other in bound)
    return first and _selects(term, pod, pod) and term["topologyKey"] in labels_of(node)


def _is_near(term: Object, owner: Object, node: Object, nodes: Mapping[str, Object], bound: Iterable[Object]) -> bool:
    return any(_selects(term, owner, other) and _same_domain(term, node, nodes.get(_node_of(other))) for other in bound)


def _selects(term: Object, owner: Object, other: Object) -> bool:
    """Without namespaces a term means that of the pod it belongs to."""
    return namespace_of(other) in (term.get("namespaces") or [namespace_of(owner)]) and matches_label_selector(
        term.get("labelSelector"), labels_of(other)
    )


def _same_domain(term: Object, node: Object, other: Object | None) -> bool:
    if other is None:
        return False
    if name_of(node) == name_of(other):
        return term["topologyKey"] in labels_of(node) or term["topologyKey"] == "kubernetes.io/hostname"
    domain = labels_of(node).get(term["topologyKey"])
    return domain is not None and domain == labels_of(other).get(term["topologyKey"])


def _terms(pod: Object, side: str) -> list[Object]:
    return dig(pod, f"spec.affinity.{side}.{_REQUIRED}") or []


def _node_of(pod: Object) -> str:
    return str(dig(pod, "spec.nodeName", ""))
