"""PriorityClasses: what a pod's class makes of its priority, and which classes there may be.

As the admission plugin ``Priority`` and the validation of ``scheduling.k8s.io/v1`` do it in 1.34 (from memory of them).
"""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.admission.request import AdmissionRequest
from hack.devcluster.errors import forbidden, invalid
from hack.devcluster.objects import Object, clone, dig, name_of
from hack.devcluster.store import Store

PREEMPTS = "PreemptLowerPriority"
_HIGHEST_OF_USERS = 1_000_000_000
_SYSTEM_PREFIX = "system-"
_SYSTEM = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def first_priority_classes() -> list[Object]:
    """Those of every cluster."""
    return [{"metadata": {"name": name}, "value": value} for name, value in _SYSTEM.items()]


def with_priority(store: Store, pod: Object) -> Object:
    """The pod with what its class says: its own, else the cluster's default, else none, which is priority 0. Raises
    ApiError 403 for a class that is not there, and for a pod that names another priority by itself."""
    chosen = _class_of(store, pod)
    given = pod.get("spec") or {}
    value, policy = int(chosen.get("value", 0)), str(chosen.get("preemptionPolicy", PREEMPTS))
    if given.get("priority", value) != value:
        raise forbidden(kinds.PODS, name_of(pod), _not_by_itself("integer value of priority", given["priority"], value))
    if given.get("preemptionPolicy", policy) != policy:
        what = "string value of PreemptionPolicy"
        raise forbidden(kinds.PODS, name_of(pod), _not_by_itself(what, given["preemptionPolicy"], policy))
    filled = clone(pod)
    filled["spec"] |= {"priority": value, "preemptionPolicy": policy}
    if name_of(chosen):
        filled["spec"]["priorityClassName"] = name_of(chosen)
    return filled


def _class_of(store: Store, pod: Object) -> Object:
    """Empty where there is none. Of several defaults the lowest counts."""
    if name := dig(pod, "spec.priorityClassName"):
        found = store.get(kinds.PRIORITY_CLASSES, "", name)
        if found is None:
            raise forbidden(kinds.PODS, name_of(pod), f"no PriorityClass with name {name} was found")
        return found
    return min(_defaults(store), key=lambda each: int(each["value"]), default={})


def _defaults(store: Store) -> list[Object]:
    return [each for each in store.all(kinds.PRIORITY_CLASSES) if each.get("globalDefault")]


def _not_by_itself(what: str, given: object, computed: object) -> str:
    return (
        f"the {what} ({given}) must not be provided in pod spec; "
        f"priority admission controller computed {computed} from the given PriorityClass name"
    )


def admit_priority_class(store: Store, request: AdmissionRequest) -> None:
    """Raises ApiError 403 for a second default, 422 for a class that may not be."""
    new = request.object
    if request.kind is not kinds.PRIORITY_CLASSES or new is None:
        return
    causes = _causes(new) if request.old is None else _changed(request.old, new)
    if causes:
        raise invalid(kinds.PRIORITY_CLASSES, request.name, causes)
    others = [name_of(each) for each in _defaults(store) if name_of(each) != request.name]
    if new.get("globalDefault") and others:
        why = f"PriorityClass {others[0]} is already marked as default. Only one default can exist"
        raise forbidden(kinds.PRIORITY_CLASSES, request.name, why)


def _causes(new: Object) -> list[tuple[str, str]]:
    name, value = name_of(new), int(new.get("value", 0))
    if name.startswith(_SYSTEM_PREFIX):
        if _SYSTEM.get(name) == value and not new.get("globalDefault"):
            return []
        why = "Forbidden: priority class names with 'system-' prefix are reserved for system use only"
        return [("metadata.name", why)]
    if value > _HIGHEST_OF_USERS:
        why = f"Forbidden: maximum allowed value of a user defined priority is {_HIGHEST_OF_USERS}"
        return [("value", why)]
    return []


def _changed(old: Object, new: Object) -> list[tuple[str, str]]:
    fixed = ("value", "preemptionPolicy")
    return [
        (field, "Forbidden: may not be changed in an update") for field in fixed if old.get(field) != new.get(field)
    ]
