"""What a client asks before it asks for anything: version, groups, resources, and the schema's outline."""

from __future__ import annotations

from hack.devcluster import openapi
from hack.devcluster.kinds import ALL_KINDS, Kind, groups, version_of
from hack.devcluster.objects import Object

KUBERNETES_VERSION = "1.34"
GIT_VERSION = "v1.34.0+devcluster"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_STATUS_VERBS = ("get", "patch", "update")


def version() -> Object:
    major, minor = KUBERNETES_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2025-08-27T00:00:00Z",
        "goVersion": "go1.24",
        "compiler": "gc",
        "platform": "linux/amd64",
    }


def api_versions() -> Object:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list() -> Object:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(group) for group in groups()]}


def group(name: str) -> Object | None:
    """``APIGroup``; None for one that is not served."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name)} if name in groups() else None


def resource_list(group: str, version: str) -> Object | None:
    """``APIResourceList`` of one group version; None for one that is not served."""
    served = _kinds_of(group, version)
    if not served:
        return None
    resources = [resource for kind in served for resource in _resources(kind)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": served[0].api_version,
        "resources": resources,
    }


def aggregated(core: bool) -> Object:
    """Everything in one answer: the core group at /api, the named ones at /apis."""
    items = [_aggregated_group(group) for group in ([""] if core else groups())]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def openapi_index() -> Object:
    paths = {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in _group_paths()}
    return {"paths": paths}


def openapi_document(path: str) -> Object | None:
    """Enough of OpenAPI v3 that kubectl leaves validation to the server, and the schemas."""
    served = _group_paths().get(path)
    if served is None:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "devcluster", "version": GIT_VERSION},
        "paths": {_object_path(kind): {"patch": _patch_operation(kind)} for kind in served},
        "components": openapi.components(tuple(served)),
    }


def _kinds_of(group: str, version: str) -> list[Kind]:
    return [kind for kind in ALL_KINDS if (kind.group, kind.version) == (group, version)]


def _group(group: str) -> Object:
    version = version_of(group)
    served = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _resources(kind: Kind) -> list[Object]:
    main: Object = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.name,
        "verbs": _verbs(kind),
        "shortNames": list(kind.short_names),
        "categories": list(kind.categories),
    }
    return [main, *(_subresource(kind, name) for name in kind.subresources)]


def _verbs(kind: Kind) -> list[str]:
    return ["create"] if kind.create_only else list(_VERBS)


def _subresource(kind: Kind, name: str) -> Object:
    entry: Object = {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced}
    match name:
        case "eviction":
            return entry | {"kind": "Eviction", "group": "policy", "version": "v1", "verbs": ["create"]}
        case "token":
            token = {"kind": "TokenRequest", "group": "authentication.k8s.io", "version": "v1", "verbs": ["create"]}
            return entry | token
        case "binding":
            return entry | {"kind": "Binding", "verbs": ["create"]}
        case _:
            return entry | {"kind": kind.name, "verbs": list(_STATUS_VERBS)}


def _aggregated_group(group: str) -> Object:
    version = version_of(group)
    resources = [_aggregated_resource(kind) for kind in _kinds_of(group, version)]
    versions = [{"version": version, "freshness": "Current", "resources": resources}]
    metadata: Object = {"creationTimestamp": None} | ({"name": group} if group else {})
    return {"metadata": metadata, "versions": versions}


def _aggregated_resource(kind: Kind) -> Object:
    entry: Object = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.name},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": _verbs(kind),
        "shortNames": list(kind.short_names),
        "categories": list(kind.categories),
    }
    if kind.subresources:
        entry["subresources"] = [_aggregated_subresource(kind, name) for name in kind.subresources]
    return entry


def _aggregated_subresource(kind: Kind, name: str) -> Object:
    flat = _subresource(kind, name)
    response = {
        "group": flat.get("group", kind.group),
        "version": flat.get("version", kind.version),
        "kind": flat["kind"],
    }
    return {"subresource": name, "responseKind": response, "verbs": flat["verbs"]}


def _group_paths() -> dict[str, list[Kind]]:
    return {"api/v1": _kinds_of("", "v1")} | {
        f"apis/{group}/{version_of(group)}": _kinds_of(group, version_of(group)) for group in groups()
    }


def _object_path(kind: Kind) -> str:
    root = f"/apis/{kind.api_version}" if kind.group else "/api/v1"
    where = "/namespaces/{namespace}" if kind.namespaced else ""
    return f"{root}{where}/{kind.plural}/{{name}}"


def _patch_operation(kind: Kind) -> Object:
    query = [
        {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        for name in ("dryRun", "fieldManager", "fieldValidation")
    ]
    return {
        "operationId": f"patch{kind.name}",
        "parameters": query,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.name},
    }
