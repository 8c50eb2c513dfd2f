"""What the agent's service account has to be allowed, as data: `manifests/base/rbac.yaml` and the component `prewarm` grant
it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.model.demand_map import NAME as DEMAND
from agent.model.workload import WORKLOADS

EVENTS_NAMESPACE = "default"
"""Events about nodes live there."""


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb on one resource (``pods/eviction`` with its subresource); an empty ``namespace`` is the whole cluster. With a
    ``name`` on that object alone."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {kind}{f' {self.name}' if self.name else ''}{where}"


def base_rights(namespace: str) -> tuple[Right, ...]:
    """Of an agent in that namespace."""
    return (
        *_each("", "nodes", ("get", "list", "watch", "patch")),
        *_each("", "pods", ("list", "watch", "delete")),
        *_each("", "pods/eviction", ("create",)),
        *_each("policy", "poddisruptionbudgets", ("list",)),
        *_each("resource.k8s.io", "resourceslices", ("list", "watch")),
        *_each("resource.k8s.io", "resourceclaims", ("get",)),
        *_each("", "events", ("create", "patch"), EVENTS_NAMESPACE),
        *_each("coordination.k8s.io", "leases", ("get", "list", "watch", "create", "patch", "delete"), namespace),
    )


def prewarm_rights(namespace: str) -> tuple[Right, ...]:
    """What is needed beside where workloads say which models to fetch."""
    kinds = (_each(kind.group, kind.plural, ("list", "watch")) for kind in WORKLOADS)
    return (
        *(right for rights in kinds for right in rights),
        *_each("", "events", ("list", "create", "patch")),
        *_each("", "configmaps", ("list", "watch", "patch"), namespace, DEMAND),
        *_each("", "configmaps", ("create",), namespace),
    )


def _each(group: str, resource: str, verbs: Iterable[str], namespace: str = "", name: str = "") -> Iterator[Right]:
    return (Right(group, resource, verb, namespace, name) for verb in verbs)
