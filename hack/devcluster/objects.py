"""Kubernetes objects as the plain dictionaries they are on the wire, and how to read them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def clone(obj: Object) -> Object:
    """A copy that shares nothing with the original; stored objects are never changed in place."""
    copied: Object = _copied(obj)
    return copied


def _copied(value: Any) -> Any:
    """What JSON can hold; several times faster than ``copy.deepcopy``."""
    if type(value) is dict:
        return {key: _copied(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_copied(inner) for inner in value]
    return value


def shared_with(old: Any, new: Any) -> Any:
    """``new``, with every part that equals the one in ``old`` replaced by it: versions of an object share memory."""
    if type(old) is not type(new):
        return new
    if old == new:
        return old
    if type(new) is dict:
        return {key: shared_with(old.get(key), value) for key, value in new.items()}
    return new


def dig(obj: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """The value at a dotted path (``spec.nodeName``), or the default where any part is absent."""
    here: Any = obj
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return default
        here = here[part]
    return here


def name_of(obj: Object) -> str:
    return str(dig(obj, "metadata.name", ""))


def namespace_of(obj: Object) -> str:
    return str(dig(obj, "metadata.namespace", ""))


def uid_of(obj: Object) -> str:
    return str(dig(obj, "metadata.uid", ""))


def labels_of(obj: Object) -> dict[str, str]:
    return dict(dig(obj, "metadata.labels") or {})


def annotations_of(obj: Object) -> dict[str, str]:
    return dict(dig(obj, "metadata.annotations") or {})


def is_deleting(obj: Object) -> bool:
    return dig(obj, "metadata.deletionTimestamp") is not None


def phase_of(pod: Object) -> str:
    return str(dig(pod, "status.phase", "Pending"))


def is_finished(pod: Object) -> bool:
    """Whether the pod's containers have ended for good; such a pod holds nothing."""
    return phase_of(pod) in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions_of(pod))


def conditions_of(obj: Object) -> list[Object]:
    return list(dig(obj, "status.conditions") or [])


def controller_of(obj: Object) -> Object | None:
    """The owner reference with ``controller: true``, if there is one."""
    owners = dig(obj, "metadata.ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def owner_reference(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def containers_of(pod: Object) -> Iterator[Object]:
    yield from dig(pod, "spec.initContainers") or []
    yield from dig(pod, "spec.containers") or []


def with_condition(conditions: list[Object], wanted: Object) -> list[Object]:
    """The conditions with this one put in by type; its transition time stays when the status did not change."""
    before = next((c for c in conditions if c.get("type") == wanted["type"]), None)
    if before is None:
        return [*conditions, {"lastTransitionTime": now(), **wanted}]
    changed = before.get("status") != wanted["status"]
    since = now() if changed else before.get("lastTransitionTime", now())
    merged = {**wanted, "lastTransitionTime": since}
    return [merged if c is before else c for c in conditions]


def now() -> str:
    """``metav1.Time``: seconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    """``metav1.MicroTime``: exactly six digits after the second, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def random_suffix(length: int = 5) -> str:
    """As the API server makes them: no vowels, no digits that look like letters."""
    return "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(length))
