"""ResourceQuota: what a namespace may hold of objects and of what its pods ask for.

Counted from the objects themselves at every create, so nothing can be left over. Served are ``pods``, ``count/...``,
the plain names of object counts (``configmaps``, ``services``...), and sums over pods that are not finished: ``cpu``,
``memory``, ``requests.*`` and ``limits.*``. Of scopes those of priority classes and of deadlines are served; a quota with
another one counts every pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from hack.devcluster import kinds
from hack.devcluster.admission.request import AdmissionRequest
from hack.devcluster.errors import forbidden
from hack.devcluster.kinds import ALL_KINDS, Kind
from hack.devcluster.objects import Object, containers_of, dig, is_finished, name_of, namespace_of
from hack.devcluster.quantities import parse_quantity
from hack.devcluster.store import Store

_COUNTED = ("pods", "services", "secrets", "configmaps", "resourcequotas")
_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def admit_within_quotas(store: Store, request: AdmissionRequest) -> None:
    """Raises ApiError 403 for an object that would go beyond one of its namespace's quotas."""
    if request.operation != "CREATE" or request.subresource or request.object is None:
        return
    for quota in store.all(kinds.QUOTAS, request.namespace):
        if request.namespace:
            _check(store, quota, request, request.object)


def _check(store: Store, quota: Object, request: AdmissionRequest, obj: Object) -> None:
    if not _covers(quota, obj):
        return
    hard = dig(quota, "spec.hard") or {}
    asked = {name: amount for name in hard if (amount := amount_of(name, request.kind, obj)) is not None}
    unspoken = [name for name, amount in asked.items() if name not in _objects(hard) and amount == 0 and _must(name)]
    if unspoken:
        wanted = ",".join(sorted(unspoken))
        why = f"failed quota: {name_of(quota)}: must specify {wanted} for: {_first_container(obj)}"
        raise forbidden(request.kind, request.name, why)
    used = _used(store, quota, request.namespace)
    over = sorted(name for name, amount in asked.items() if used[name] + amount > parse_quantity(hard[name]) and amount)
    if over:
        said = {
            "requested": {name: asked[name] for name in over},
            "used": {name: used[name] for name in over},
            "limited": {name: parse_quantity(hard[name]) for name in over},
        }
        words = ", ".join(f"{what}: {_listed(amounts)}" for what, amounts in said.items())
        raise forbidden(request.kind, request.name, f"exceeded quota: {name_of(quota)}, {words}")


def _covers(quota: Object, obj: Object) -> bool:
    """Whether all its scopes are the object's."""
    expressions = [{"scopeName": name, "operator": "Exists"} for name in dig(quota, "spec.scopes") or ()]
    expressions += dig(quota, "spec.scopeSelector.matchExpressions") or ()
    return all(_is_in_scope(one, obj) for one in expressions)


def _is_in_scope(expression: Object, obj: Object) -> bool:
    if expression["scopeName"] in ("Terminating", "NotTerminating"):
        return bool((dig(obj, "spec.activeDeadlineSeconds") is None) == (expression["scopeName"] == "NotTerminating"))
    if expression["scopeName"] != "PriorityClass":
        return True
    named, values = dig(obj, "spec.priorityClassName") or "", expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return bool(named in values)
        case "NotIn":
            return bool(named not in values)
        case "DoesNotExist":
            return not named
    return bool(named)


def _used(store: Store, quota: Object, namespace: str) -> dict[str, Decimal]:
    """What the namespace holds now of each name that the quota limits."""
    hard = dig(quota, "spec.hard") or {}
    used = dict.fromkeys(hard, Decimal(0))
    for kind in ALL_KINDS:
        names = [name for name in hard if _concerns(name, kind)]
        for obj in store.all(kind, namespace) if names else ():
            for name in names if _covers(quota, obj) else ():
                used[name] += amount_of(name, kind, obj) or 0
    return used


def status_of(store: Store, quota: Object) -> Object:
    """The status a quota should show."""
    used = _used(store, quota, namespace_of(quota))
    return {"hard": dig(quota, "spec.hard") or {}, "used": {name: _plain(amount) for name, amount in used.items()}}


def amount_of(name: str, kind: Kind, obj: Object) -> Decimal | None:
    """How much this object takes of it; None where it does not count at all."""
    if not _concerns(name, kind):
        return None
    if kind is not kinds.PODS or name.startswith("count/"):
        return Decimal(1)
    if is_finished(obj):
        return Decimal(0)
    if name == "pods":
        return Decimal(1)
    part, _, resource = name.partition(".") if name.startswith(("requests.", "limits.")) else ("requests", "", name)
    amounts = [dig(container, f"resources.{part}") or {} for container in containers_of(obj)]
    return sum((parse_quantity(found[resource]) for found in amounts if resource in found), Decimal(0))


def _concerns(name: str, kind: Kind) -> bool:
    if not kind.namespaced or kind.create_only:
        return False
    if name.startswith("count/"):
        return name == f"count/{kind.plural}" + (f".{kind.group}" if kind.group else "")
    if name in _COUNTED:
        return not kind.group and name == kind.plural
    return kind is kinds.PODS


def _objects(hard: Mapping[str, str]) -> list[str]:
    return [name for name in hard if name in _COUNTED or name.startswith("count/")]


def _must(name: str) -> bool:
    """Only the compute resources must be spoken of by every pod; extended ones need not be asked for."""
    return name.removeprefix("requests.").removeprefix("limits.") in _COMPUTE


def _first_container(pod: Object) -> str:
    return next((str(container.get("name")) for container in containers_of(pod)), "")


def _listed(amounts: Mapping[str, Decimal]) -> str:
    return ",".join(f"{name}={_plain(amount)}" for name, amount in amounts.items())


def _plain(amount: Decimal) -> str:
    return str(int(amount)) if amount == amount.to_integral_value() else f"{int(amount * 1000)}m"
