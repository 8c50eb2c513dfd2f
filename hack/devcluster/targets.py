"""From the path and method of a request to the resource and verb it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hack.devcluster.errors import method_not_allowed, unknown_path
from hack.devcluster.kinds import NAMESPACES, Kind, find_kind


@dataclass(frozen=True, slots=True)
class Target:
    """What a resource path names; an empty ``name`` means the collection."""

    kind: Kind
    namespace: str
    name: str
    subresource: str


def parse_target(path: str) -> Target:
    """Raises ApiError 404 for a path that names nothing served."""
    parts = [part for part in path.split("/") if part]
    match parts:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            raise unknown_path()
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and not _is_namespace_subresource(rest):
        namespace, rest = rest[1], rest[2:]
    kind = find_kind(group, version, rest[0]) if rest else None
    if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
        raise unknown_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if kind.namespaced and name and not namespace:
        raise unknown_path()
    if subresource and subresource not in (*kind.subresources, *(("finalize",) if kind is NAMESPACES else ())):
        raise unknown_path()
    return Target(kind, namespace, name, subresource)


def _is_namespace_subresource(rest: list[str]) -> bool:
    return len(rest) == 3 and rest[2] in ("status", "finalize")


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    """The API verb, as in RBAC rules and audit logs. Raises ApiError 405."""
    if target.subresource in ("eviction", "binding", "token") or target.kind.create_only:
        if method != "POST":
            raise method_not_allowed()
        return "create"
    verbs = (
        {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
        if target.name
        else {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
    )
    verb = verbs.get(method)
    nowhere = verb == "create" and target.kind.namespaced and not target.namespace
    if verb is None or nowhere or (target.subresource and verb == "delete"):
        raise method_not_allowed()
    if verb == "list" and query.get("watch") in ("1", "true"):
        return "watch"
    return verb
