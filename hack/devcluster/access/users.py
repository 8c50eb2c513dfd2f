"""Who asks, as the API server knows them once they are authenticated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hack.devcluster.objects import Object

NODE_NAME = "authentication.kubernetes.io/node-name"
NODE_UID = "authentication.kubernetes.io/node-uid"
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"

AUTHENTICATED = "system:authenticated"
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class User:
    """``extra`` carries what a token claims beside the name: the node and the pod it is bound to."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> Object:
        """``authentication/v1`` UserInfo."""
        body: Object = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            body["uid"] = self.uid
        if self.extra:
            body["extra"] = {key: list(values) for key, values in self.extra.items()}
        return body


NODES = "system:nodes"
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
ADMIN = User("kubernetes-admin", (MASTERS, AUTHENTICATED))
CONTROL_PLANE = User("system:kube-controller-manager", (MASTERS, AUTHENTICATED))


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is, and under which name (``fieldManager``) the fields it writes are owned."""

    user: User
    manager: str


INTERNAL = Caller(CONTROL_PLANE, "kube-controller-manager")


def kubelet(node: str) -> User:
    return User(f"system:node:{node}", (NODES, AUTHENTICATED))


def service_account(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"
