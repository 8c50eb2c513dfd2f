"""The API server's objects as our nouns. Reads only; what an object lacks is empty, never an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from agent.model import labels
from agent.model.node import Budget, Node, Pod, PodRef, Requirement, Taint

Object = Mapping[str, Any]

_WHOLE = re.compile(r"[0-9]{1,9}")


def node_of(item: Object) -> Node:
    """A v1 Node."""
    metadata, status = item["metadata"], item.get("status") or {}
    return Node(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        labels=dict(metadata.get("labels") or {}),
        # An empty record is none: that is how somebody takes it away by hand.
        annotations={
            key: text for key, text in (metadata.get("annotations") or {}).items() if text or key != labels.OPERATION
        },
        unschedulable=bool((item.get("spec") or {}).get("unschedulable")),
        allocatable=_gpus(status.get("allocatable")),
        capacity=_gpus(status.get("capacity")),
        boot_id=(status.get("nodeInfo") or {}).get("bootID", ""),
        os_image=(status.get("nodeInfo") or {}).get("osImage", ""),
        taints=tuple(
            Taint(one.get("key", ""), one.get("effect", ""), dict(one))
            for one in (item.get("spec") or {}).get("taints") or []
        ),
    )


def pod_of(item: Object) -> Pod:
    """A v1 Pod."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    annotations = dict(metadata.get("annotations") or {})
    owner: Object = next((o for o in metadata.get("ownerReferences") or [] if o.get("controller")), {})
    volumes = spec.get("volumes") or []
    return Pod(
        ref=PodRef(metadata["namespace"], metadata["name"], metadata["uid"]),
        phase=status.get("phase", "Pending"),
        terminating=metadata.get("deletionTimestamp") is not None,
        owner_kind=owner.get("kind", ""),
        owner_name=owner.get("name", ""),
        labels=dict(metadata.get("labels") or {}),
        annotations=annotations,
        gpus=_requests(_all_containers(spec)),
        priority=spec.get("priority") or 0,
        mirror="kubernetes.io/config.mirror" in annotations,
        disk_scratch=any("emptyDir" in v and (v["emptyDir"] or {}).get("medium") != "Memory" for v in volumes),
        reason=status.get("reason") or "",
        reported=_reported(metadata, status),
        gates={c["name"]: gates for c in spec.get("containers") or [] if (gates := _gates(c))},
        claims=_claims(spec, status),
        dra_driver=owner.get("kind") == "DaemonSet" and is_dra_driver(metadata, spec),
    )


def budget_of(item: Object) -> Budget:
    """A policy/v1 PodDisruptionBudget."""
    selector = (item.get("spec") or {}).get("selector")
    return Budget(
        namespace=item["metadata"]["namespace"],
        name=item["metadata"]["name"],
        selector=None if selector is None else tuple(_requirements(selector)),
        disruptions_allowed=(item.get("status") or {}).get("disruptionsAllowed", 0),
    )


def _requirements(selector: Object) -> Iterable[Requirement]:
    for key, value in (selector.get("matchLabels") or {}).items():
        yield Requirement(key, "In", frozenset({value}))
    for expression in selector.get("matchExpressions") or []:
        yield Requirement(expression["key"], expression["operator"], frozenset(expression.get("values") or []))


def _gpus(resources: Object | None) -> dict[str, int]:
    """Extended resources are whole numbers, so no quantity suffix has to be understood."""
    return {
        name: int(quantity)
        for name, quantity in (resources or {}).items()
        if name.startswith("nvidia.com/") and _WHOLE.fullmatch(str(quantity))
    }


def _requests(containers: Iterable[Object]) -> dict[str, int]:
    total: dict[str, int] = {}
    for container in containers:
        resources = container.get("resources") or {}
        for name, count in {**_gpus(resources.get("limits")), **_gpus(resources.get("requests"))}.items():
            if count:
                total[name] = total.get(name, 0) + count
    return total


def _gates(container: Object) -> frozenset[str]:
    text = next((e.get("value") or "" for e in container.get("env") or [] if e.get("name") == "FEATURE_GATES"), "")
    pairs = (pair.partition("=") for pair in text.split(","))
    return frozenset(name.strip() for name, _, value in pairs if value.strip().lower() == "true")


def _claims(spec: Object, status: Object) -> frozenset[str]:
    """By name, those of a template and that of an extended resource included. One that no container uses gives no device."""
    used = {c["name"] for one in _all_containers(spec) for c in (one.get("resources") or {}).get("claims") or []}
    made = {s["name"]: s.get("resourceClaimName") for s in status.get("resourceClaimStatuses") or []}
    names = {
        entry.get("resourceClaimName") or made.get(entry["name"])
        for entry in spec.get("resourceClaims") or []
        if entry["name"] in used
    }
    names.add((status.get("extendedResourceClaimStatus") or {}).get("resourceClaimName"))
    return frozenset(name for name in names if name)


def _all_containers(spec: Object) -> list[Object]:
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]


def is_dra_driver(metadata: Object, spec: Object) -> bool:
    """By the labels of its Helm chart (read in November 2026), of which the first part is the chart's name. Its other container,
    for compute domains, offers no GPU."""
    labels = metadata.get("labels") or {}
    component = any(key.endswith("-component") and value == "kubelet-plugin" for key, value in labels.items())
    return component and any(c.get("name") == "gpus" for c in spec.get("containers") or [])


def _reported(metadata: Object, status: Object) -> float | None:
    """The latest of what says when the kubelet told of this pod. One that it fails keeps its start time and loses its
    conditions; then only the record of its write is new."""
    times = [metadata.get("creationTimestamp"), status.get("startTime")]
    times += [condition.get("lastTransitionTime") for condition in status.get("conditions") or []]
    times += [
        entry.get("time")
        for entry in metadata.get("managedFields") or []
        if (entry.get("manager"), entry.get("subresource")) == ("kubelet", "status")
    ]
    return max((seconds for time in times if (seconds := _seconds(time)) is not None), default=None)


def _seconds(timestamp: str | None) -> float | None:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None
