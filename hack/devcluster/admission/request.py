"""A write as admission sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hack.devcluster.access.users import User
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object

Operation = Literal["CREATE", "UPDATE", "DELETE"]


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """``old`` is None on CREATE, ``object`` on DELETE. With a subresource that has a body of its own (an eviction)
    ``object`` is that body."""

    operation: Operation
    kind: Kind
    subresource: str
    namespace: str
    name: str
    object: Object | None
    old: Object | None
    user: User
    dry_run: bool

    @property
    def resource(self) -> str:
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    def to_json(self) -> Object:
        """The variable ``request`` of an expression."""
        kind = {"group": self.kind.group, "version": self.kind.version, "kind": self.kind.name}
        resource = {"group": self.kind.group, "version": self.kind.version, "resource": self.kind.plural}
        return {
            "kind": kind,
            "resource": resource,
            "subResource": self.subresource,
            "requestKind": kind,
            "requestResource": resource,
            "requestSubResource": self.subresource,
            "name": self.name,
            "namespace": self.namespace,
            "operation": self.operation,
            "userInfo": {"uid": "", "extra": {}} | self.user.to_json(),
            "dryRun": self.dry_run,
        }


Admit = Callable[[AdmissionRequest], None]
