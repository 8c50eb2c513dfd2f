"""Role-based access control: whether any role bound to a user holds a rule for what they ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hack.devcluster import kinds
from hack.devcluster.access.users import MASTERS, NODES, User
from hack.devcluster.api import Api
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import Object, clone, dig, namespace_of

_RBAC_GROUP = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked. ``resource`` is the plural, with its subresource (``pods/eviction``); ``path`` is set instead for
    what is no resource."""

    verb: str
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


@dataclass(slots=True)
class Authorizer:
    """``enforced`` False allows everything, as ``--authorization-mode=AlwaysAllow``."""

    api: Api
    enforced: bool = False

    def check(self, user: User, asked: Attributes) -> None:
        """Raises ApiError 403."""
        if not self.allows(user, asked):
            raise _forbidden(user, asked)

    def allows(self, user: User, asked: Attributes) -> bool:
        return not self.enforced or any(covers(rule, asked) for rule in self.rules_of(user, asked.namespace))

    def rules_of(self, user: User, namespace: str) -> Iterator[Object]:
        """The policy rules that hold for this user in this namespace ('' : for the whole cluster only)."""
        if MASTERS in user.groups:
            yield {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
            yield {"nonResourceURLs": ["*"], "verbs": ["*"]}
        for binding in self.api.all(kinds.CLUSTER_ROLE_BINDINGS):
            if _names(binding, user):
                yield from self._rules(binding)
        if namespace:
            for binding in self.api.all(kinds.ROLE_BINDINGS, namespace):
                if _names(binding, user):
                    yield from self._rules(binding)

    def _rules(self, binding: Object) -> list[Object]:
        """A binding to a role that is not there gives nothing."""
        reference = binding["roleRef"]
        cluster_wide = reference.get("kind") == "ClusterRole"
        kind = kinds.CLUSTER_ROLES if cluster_wide else kinds.ROLES
        role = self.api.find(kind, "" if cluster_wide else namespace_of(binding), str(reference.get("name", "")))
        return list((role or {}).get("rules") or [])


def covers(rule: Object, asked: Attributes) -> bool:
    """Whether one policy rule allows it. A rule with resourceNames covers no request without a name."""
    if not _any_of(rule.get("verbs"), asked.verb):
        return False
    if asked.path:
        return any(_path_matches(pattern, asked.path) for pattern in rule.get("nonResourceURLs") or [])
    names = rule.get("resourceNames") or []
    return (
        _any_of(rule.get("apiGroups"), asked.group)
        and _resource_matches(rule.get("resources") or [], asked.resource)
        and (not names or asked.name in names)
    )


def _any_of(listed: list[str] | None, wanted: str) -> bool:
    return bool(listed) and ("*" in (listed or []) or wanted in (listed or []))


def _resource_matches(listed: list[str], resource: str) -> bool:
    """``pods`` does not cover ``pods/eviction``; ``*/eviction`` covers it for every resource."""
    _, _, subresource = resource.partition("/")
    return "*" in listed or resource in listed or bool(subresource and f"*/{subresource}" in listed)


def _path_matches(pattern: str, path: str) -> bool:
    return path == pattern or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def _names(binding: Object, user: User) -> bool:
    return any(_is(subject, namespace_of(binding), user) for subject in binding.get("subjects") or [])


def _is(subject: Object, home: str, user: User) -> bool:
    name = str(subject.get("name", ""))
    match subject.get("kind"):
        case "User":
            return name == user.name
        case "Group":
            return name in user.groups
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject.get('namespace') or home}:{name}"
        case _:
            return False


def _forbidden(user: User, asked: Attributes) -> ApiError:
    if asked.path:
        text = f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
        return ApiError(403, text, details={})
    resource, _, _ = asked.resource.partition("/")
    qualified = f"{resource}.{asked.group}" if asked.group else resource
    named = f' "{asked.name}"' if asked.name else ""
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    text = (
        f'{qualified}{named} is forbidden: User "{user.name}" cannot {asked.verb} resource "{asked.resource}" '
        f'in API group "{asked.group}" {where}'
    )
    details: Object = {"kind": resource} | ({"name": asked.name} if asked.name else {})
    return ApiError(403, text, details=details | ({"group": asked.group} if asked.group else {}))


def _role(name: str, *rules: Object) -> Object:
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    return {"metadata": {"name": name, "labels": labels}, "rules": list(rules)}


def _resource_rule(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


_LOOK = ("get", "list", "watch")
_CHANGE = ("create", "update", "patch", "delete")
_HEALTH = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_DISCOVERY = [*_HEALTH, "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]
_FIRST_ROLES: tuple[tuple[Object, tuple[str, ...]], ...] = (
    (
        _role("cluster-admin", _resource_rule(["*"], ["*"], ["*"]), {"nonResourceURLs": ["*"], "verbs": ["*"]}),
        (MASTERS,),
    ),
    (
        _role(
            "system:basic-user",
            _resource_rule(
                ["authorization.k8s.io"], ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], ["create"]
            ),
            _resource_rule(["authentication.k8s.io"], ["selfsubjectreviews"], ["create"]),
        ),
        ("system:authenticated",),
    ),
    # In a real cluster this role is bound to nobody: the Node authorizer gives the same, for each kubelet's own node.
    # What a DRA driver writes it writes there as its own account; here the driver is a part of the kubelet.
    (
        _role(
            "system:node",
            _resource_rule([""], ["nodes"], [*_LOOK, "create", "update", "patch"]),
            _resource_rule([""], ["nodes/status", "pods/status"], ["update", "patch"]),
            _resource_rule([""], ["pods"], [*_LOOK, "create", "delete"]),
            _resource_rule([""], ["configmaps"], ["get"]),
            _resource_rule([""], ["events"], ["create", "update", "patch"]),
            _resource_rule([""], ["serviceaccounts/token"], ["create"]),
            _resource_rule(["coordination.k8s.io"], ["leases"], ["create", "delete", "get", "update", "patch"]),
            _resource_rule(["resource.k8s.io"], ["resourceclaims"], ["get"]),
            _resource_rule(["resource.k8s.io"], ["resourceslices"], [*_LOOK, *_CHANGE, "deletecollection"]),
            # A real kubelet may get claims and delete collections of slices. The rest is what NVIDIA's DRA driver may do,
            # whose stand-in asks with its kubelet's token.
            _resource_rule(["resource.k8s.io"], ["resourceclaims"], ["get"]),
            _resource_rule(
                ["resource.k8s.io"],
                ["resourceslices"],
                ["create", "delete", "deletecollection", "get", "list", "update", "watch"],
            ),
        ),
        (NODES,),
    ),
    (_role("system:discovery", {"nonResourceURLs": _DISCOVERY, "verbs": ["get"]}), ("system:authenticated",)),
    (
        _role("system:public-info-viewer", {"nonResourceURLs": _HEALTH, "verbs": ["get"]}),
        ("system:authenticated", "system:unauthenticated"),
    ),
)


def create_first_roles(api: Api) -> None:
    """The part of a real cluster's own roles that users without any other binding live on."""
    for role, groups in _FIRST_ROLES:
        api.create(kinds.CLUSTER_ROLES, "", clone(role))
        name = dig(role, "metadata.name")
        subjects = [{"apiGroup": _RBAC_GROUP, "kind": "Group", "name": group} for group in groups]
        reference = {"apiGroup": _RBAC_GROUP, "kind": "ClusterRole", "name": name}
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": subjects}
        api.create(kinds.CLUSTER_ROLE_BINDINGS, "", binding)
