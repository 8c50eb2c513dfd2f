"""What the API server fills into a workload that leaves it out, as ``apps/v1`` defaults of 1.34 do (from memory of them).

Pod templates are left as they came: what they leave out is filled in at their pods.
"""

from __future__ import annotations

from typing import Any

from hack.devcluster import kinds
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, clone

_REVISIONS = {"revisionHistoryLimit": 10}
_SURGE: Object = {"maxUnavailable": "25%", "maxSurge": "25%"}
_DEFAULTS: dict[Kind, Object] = {
    kinds.REPLICASETS: {"replicas": 1},
    kinds.DEPLOYMENTS: {"replicas": 1, "progressDeadlineSeconds": 600, **_REVISIONS},
    kinds.DAEMONSETS: _REVISIONS,
    kinds.STATEFULSETS: {"replicas": 1, "podManagementPolicy": "OrderedReady", **_REVISIONS},
}
# Field that says how a template is rolled out, and its defaults where that is RollingUpdate.
_ROLLOUTS: dict[Kind, tuple[str, Object]] = {
    kinds.DEPLOYMENTS: ("strategy", _SURGE),
    kinds.DAEMONSETS: ("updateStrategy", {"maxUnavailable": 1, "maxSurge": 0}),
    kinds.STATEFULSETS: ("updateStrategy", {"partition": 0}),
}


def with_workload_defaults(kind: Kind, obj: Object) -> Object:
    """A copy of the outer layers; what is given stays."""
    if kind not in _DEFAULTS:
        return obj
    spec: dict[str, Any] = {**clone(_DEFAULTS[kind]), **(obj.get("spec") or {})}
    if kind in _ROLLOUTS:
        field, defaults = _ROLLOUTS[kind]
        spec[field] = _rollout(spec.get(field) or {}, defaults)
    return {**obj, "spec": spec}


def _rollout(given: Object, defaults: Object) -> Object:
    rollout = {"type": "RollingUpdate", **given}
    if rollout["type"] == "RollingUpdate":
        rollout["rollingUpdate"] = {**defaults, **(given.get("rollingUpdate") or {})}
    return rollout
