"""Objects as the rows that ``kubectl get`` prints (``meta.k8s.io/v1`` Table)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hack.devcluster.kinds import Kind
from hack.devcluster.objects import (
    Object,
    conditions_of,
    dig,
    is_deleting,
    labels_of,
    name_of,
    parse_time,
    phase_of,
)

MEDIA_TYPE = "application/json;as=Table;v=v1;g=meta.k8s.io"

Cell = Callable[[Object], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """``wide``: shown only with ``-o wide``."""

    name: str
    cell: Cell
    type: str = "string"
    wide: bool = False


def table(kind: Kind, objects: Sequence[Object], metadata: Object, include: str = "Metadata") -> Object:
    """``include`` says what each row carries of its object: Metadata, Object or None."""
    columns = _columns(kind)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [_definition(column) for column in columns],
        "rows": [_row(columns, obj, include) for obj in objects],
    }


def _columns(kind: Kind) -> list[Column]:
    """The wide ones last, as kubectl expects them."""
    own = _COLUMNS.get((kind.group, kind.plural), ())
    if kind.name == "Event":
        return [*own, Column("Name", name_of, wide=True)]
    columns = [Column("Name", name_of), *own, Column("Age", _age)]
    return [c for c in columns if not c.wide] + [c for c in columns if c.wide]


def _definition(column: Column) -> Object:
    return {
        "name": column.name,
        "type": column.type,
        "format": "name" if column.name == "Name" else "",
        "description": column.name,
        "priority": int(column.wide),
    }


def _row(columns: Sequence[Column], obj: Object, include: str) -> Object:
    row: Object = {"cells": [column.cell(obj) for column in columns]}
    if include == "Object":
        row["object"] = obj
    elif include == "Metadata":
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": obj["metadata"],
        }
    return row


def _age(obj: Object) -> str:
    return _since(dig(obj, "metadata.creationTimestamp"))


def _since(moment: str | None) -> str:
    """As kubectl shortens it: 45s, 5m20s, 40m, 3h10m, 2d5h, 12d."""
    if not moment:
        return "<unknown>"
    seconds = max(int((datetime.now(UTC) - parse_time(moment)).total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d"


def _node_status(node: Object) -> str:
    ready = next((c for c in conditions_of(node) if c["type"] == "Ready"), {"status": "Unknown"})
    words = {"True": "Ready", "False": "NotReady"}.get(ready["status"], "Unknown")
    return words + (",SchedulingDisabled" if dig(node, "spec.unschedulable") else "")


def _roles(node: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = sorted(key.removeprefix(prefix) for key in labels_of(node) if key.startswith(prefix))
    return ",".join(roles) or "<none>"


def _address(kind: str) -> Cell:
    def cell(node: Object) -> str:
        found = (a["address"] for a in dig(node, "status.addresses") or [] if a["type"] == kind)
        return next(found, "<none>")

    return cell


def _text(path: str, absent: str = "<none>") -> Cell:
    return lambda obj: str(dig(obj, path) or absent)


def _number(path: str) -> Cell:
    return lambda obj: int(dig(obj, path) or 0)


def _pod_readiness(pod: Object) -> str:
    statuses = dig(pod, "status.containerStatuses") or []
    return f"{sum(bool(s.get('ready')) for s in statuses)}/{len(dig(pod, 'spec.containers') or [])}"


def _pod_status(pod: Object) -> str:
    if is_deleting(pod):
        return "Terminating"
    if reason := dig(pod, "status.reason"):
        return str(reason)
    for status in dig(pod, "status.containerStatuses") or []:
        for state in ("waiting", "terminated"):
            if reason := dig(status, f"state.{state}.reason"):
                return str(reason)
    return phase_of(pod)


def _restarts(pod: Object) -> int:
    return sum(int(s.get("restartCount", 0)) for s in dig(pod, "status.containerStatuses") or [])


def _event_time(event: Object) -> str:
    return _since(event.get("lastTimestamp") or event.get("eventTime") or dig(event, "metadata.creationTimestamp"))


def _event_object(event: Object) -> str:
    about = event.get("involvedObject") or event.get("regarding") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _ready_pods(pod_set: Object) -> str:
    return f"{dig(pod_set, 'status.readyReplicas', 0)}/{dig(pod_set, 'spec.replicas', 0)}"


def _claim_state(claim: Object) -> str:
    deleted, allocated = is_deleting(claim), bool(dig(claim, "status.allocation"))
    held = ["allocated", *(["reserved"] if dig(claim, "status.reservedFor") else [])] if allocated else []
    return ",".join(["deleted"] * deleted + held) or "pending"


_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "nodes"): (
        Column("Status", _node_status),
        Column("Roles", _roles),
        Column("Version", _text("status.nodeInfo.kubeletVersion", "")),
        Column("Internal-IP", _address("InternalIP"), wide=True),
        Column("External-IP", _address("ExternalIP"), wide=True),
        Column("OS-Image", _text("status.nodeInfo.osImage", "<unknown>"), wide=True),
        Column("Kernel-Version", _text("status.nodeInfo.kernelVersion", "<unknown>"), wide=True),
        Column("Container-Runtime", _text("status.nodeInfo.containerRuntimeVersion", "<unknown>"), wide=True),
    ),
    ("", "pods"): (
        Column("Ready", _pod_readiness),
        Column("Status", _pod_status),
        Column("Restarts", _restarts),
        Column("IP", _text("status.podIP"), wide=True),
        Column("Node", _text("spec.nodeName"), wide=True),
        Column("Nominated Node", _text("status.nominatedNodeName"), wide=True),
        Column("Readiness Gates", _text("spec.readinessGates"), wide=True),
    ),
    ("", "events"): (
        Column("Last Seen", _event_time),
        Column("Type", _text("type", "")),
        Column("Reason", _text("reason", "")),
        Column("Object", _event_object),
        Column("Message", lambda e: str(e.get("message") or e.get("note") or "").strip()),
        Column("Count", lambda e: int(e.get("count") or e.get("deprecatedCount") or 1), "integer", wide=True),
    ),
    ("", "namespaces"): (Column("Status", _text("status.phase", "")),),
    ("", "configmaps"): (Column("Data", lambda o: len(o.get("data") or {}), "integer"),),
    ("", "secrets"): (
        Column("Type", _text("type", "")),
        Column("Data", lambda o: len(o.get("data") or {}), "integer"),
    ),
    ("coordination.k8s.io", "leases"): (Column("Holder", _text("spec.holderIdentity", "")),),
    ("policy", "poddisruptionbudgets"): (
        Column("Min Available", _text("spec.minAvailable", "N/A")),
        Column("Max Unavailable", _text("spec.maxUnavailable", "N/A")),
        Column("Allowed Disruptions", _number("status.disruptionsAllowed"), "integer"),
    ),
    ("resource.k8s.io", "resourceslices"): (
        Column("Node", _text("spec.nodeName", "<unset>")),
        Column("Driver", _text("spec.driver", "")),
        Column("Pool", _text("spec.pool.name", "")),
    ),
    ("resource.k8s.io", "resourceclaims"): (Column("State", _claim_state),),
    ("apps", "daemonsets"): (
        Column("Desired", _number("status.desiredNumberScheduled"), "integer"),
        Column("Current", _number("status.currentNumberScheduled"), "integer"),
        Column("Ready", _number("status.numberReady"), "integer"),
        Column("Up-To-Date", _number("status.updatedNumberScheduled"), "integer"),
        Column("Available", _number("status.numberAvailable"), "integer"),
    ),
    ("apps", "deployments"): (
        Column("Ready", _ready_pods),
        Column("Up-To-Date", _number("status.updatedReplicas"), "integer"),
        Column("Available", _number("status.availableReplicas"), "integer"),
    ),
    ("apps", "replicasets"): (
        Column("Desired", _number("spec.replicas"), "integer"),
        Column("Current", _number("status.replicas"), "integer"),
        Column("Ready", _number("status.readyReplicas"), "integer"),
    ),
}
_COLUMNS["events.k8s.io", "events"] = _COLUMNS["", "events"]
