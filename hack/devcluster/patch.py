"""The three ways to patch an object: merge (RFC 7386), JSON patch (RFC 6902) and strategic merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hack.devcluster.errors import bad_request, unprocessable, unsupported_media_type
from hack.devcluster.objects import Object, clone

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
MEDIA_TYPES = (JSON, MERGE, STRATEGIC, APPLY)

# Lists that strategic merge joins element by element, with the field that tells elements apart. Every other list is
# replaced whole. `taints` and `tolerations` are missing on purpose: the real types mark them atomic.
_LIST_KEYS = {
    "conditions": "type",
    "addresses": "type",
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "env": "name",
    "imagePullSecrets": "name",
    "ownerReferences": "uid",
    "reservedFor": "uid",
    "resourceClaims": "name",
    "resourceClaimStatuses": "name",
    "hostAliases": "ip",
    "podIPs": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_SETS = frozenset({"finalizers", "podCIDRs"})


def list_key(field: str, items: list[Any]) -> str:
    """The field that tells the elements of a list apart; '' for a list that is one value, or whose items lack it."""
    key = _LIST_KEYS.get(field) or (_ports_key(field, items) if all(isinstance(i, dict) for i in items) else "")
    return key if all(isinstance(item, dict) and key in item for item in items) else ""


def list_key_of(field: str) -> str:
    """What is said of a list of this name without seeing its items."""
    return _LIST_KEYS.get(field, "")


def is_set(field: str) -> bool:
    """Whether a list of this name is a set of plain values."""
    return field in _SETS


def apply_patch(media_type: str, obj: Object, patch: Any) -> Object:
    """A new object. Raises ApiError 400 (not a patch), 415 (unknown type) or 422 (does not apply)."""
    appliers: dict[str, Callable[[Object, Any], Any]] = {MERGE: merge, JSON: json_patch, STRATEGIC: strategic_merge}
    apply = appliers.get(media_type)
    if apply is None:
        raise unsupported_media_type(media_type, MEDIA_TYPES)
    if isinstance(patch, list) != (media_type == JSON):
        raise bad_request("error decoding patch: the body is not of the form that its content type says")
    patched = apply(clone(obj), patch)
    if not isinstance(patched, dict):
        raise unprocessable("the patched object is no longer an object")
    return patched


def merge(obj: Any, patch: Any) -> Any:
    """RFC 7386: null deletes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic_merge(obj: Any, patch: Object) -> Object:
    """Kubernetes' own: like merge, but the lists above merge by key, and directives begin with ``$``."""
    result = dict(obj) if isinstance(obj, dict) else {}
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            result[field] = [item for item in result.get(field) or [] if item not in value]
        elif key == "$retainKeys":
            result = {kept: result[kept] for kept in result if kept in value}
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = strategic_merge(result.get(key), value)
        elif isinstance(value, list):
            result[key] = _merge_list(key, result.get(key) or [], value)
        else:
            result[key] = value
    return result


def _merge_list(field: str, old: list[Any], patch: list[Any]) -> list[Any]:
    if field in _SETS:
        return [*old, *(item for item in patch if item not in old)]
    key = _LIST_KEYS.get(field) or _ports_key(field, [*old, *patch])
    if not key:
        return [_without_directives(item) for item in patch]
    if any(isinstance(item, dict) and item == {"$patch": "replace"} for item in patch):
        return [item for item in patch if item != {"$patch": "replace"}]
    result = list(old)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        _merge_item(result, key, item)
    return result


def _ports_key(field: str, items: list[Any]) -> str:
    """A container's ports go by ``containerPort``, a service's by ``port``."""
    if field != "ports":
        return ""
    return "containerPort" if any("containerPort" in item for item in items) else "port"


def _merge_item(result: list[Any], key: str, item: Object) -> None:
    position = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
    if item.get("$patch") == "delete":
        if position is not None:
            del result[position]
    elif position is None:
        result.append(strategic_merge({}, item))
    else:
        result[position] = strategic_merge(result[position], item)


def _without_directives(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    return {key: value for key, value in item.items() if not key.startswith("$")}


def json_patch(obj: Object, operations: list[Any]) -> Any:
    """RFC 6902. Any operation that fails makes the whole patch fail with 422."""
    document: Any = obj
    for operation in operations:
        if not isinstance(operation, dict) or "op" not in operation or "path" not in operation:
            raise bad_request("error decoding patch: an operation needs op and path")
        document = _apply_operation(document, operation)
    return document


def _apply_operation(document: Any, operation: Object) -> Any:
    path = _pointer(operation["path"])
    match operation["op"]:
        case "test":
            if _lookup(document, path) != operation.get("value"):
                raise unprocessable(f"testing value {operation['path']} failed: test failed")
            return document
        case "add":
            return _add(document, path, operation.get("value"))
        case "remove":
            _remove(document, path)
            return document
        case "replace":
            _lookup(document, path)
            return _put(document, path, operation.get("value"))
        case "move":
            source = _pointer(operation.get("from", ""))
            value = _lookup(document, source)
            _remove(document, source)
            return _add(document, path, value)
        case "copy":
            return _add(document, path, clone(_lookup(document, _pointer(operation.get("from", "")))))
        case other:
            raise unprocessable(f"unexpected kind: {other}")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise unprocessable(f"path {text!r} does not begin with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _lookup(document: Any, path: list[str]) -> Any:
    here = document
    for part in path:
        if isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        else:
            raise unprocessable(f"path /{'/'.join(path)} is missing: missing value")
    return here


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _lookup(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(_list_position(parent, path[-1]), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise unprocessable(f"add operation does not apply: /{'/'.join(path)}")
    return document


def _list_position(parent: list[Any], part: str) -> int:
    if part == "-":
        return len(parent)
    if part.isdigit() and int(part) <= len(parent):
        return int(part)
    raise unprocessable(f"invalid array index: {part}")


def _put(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _lookup(document, path[:-1])
    parent[int(path[-1]) if isinstance(parent, list) else path[-1]] = value
    return document


def _remove(document: Any, path: list[str]) -> None:
    _lookup(document, path)
    parent = _lookup(document, path[:-1])
    del parent[int(path[-1]) if isinstance(parent, list) else path[-1]]
