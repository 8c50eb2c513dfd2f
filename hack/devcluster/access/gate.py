"""The way into the server: every request gets a user, and is allowed or not before anything else happens."""

from __future__ import annotations

from aiohttp import web

from hack.devcluster.access.authentication import Authenticator
from hack.devcluster.access.rbac import Attributes, Authorizer
from hack.devcluster.access.reviews import Reviews
from hack.devcluster.access.users import AUTHENTICATED, Caller, User
from hack.devcluster.api import Api
from hack.devcluster.request_log import USER
from hack.devcluster.targets import Target


class Gate:
    def __init__(self, api: Api) -> None:
        self.authenticator = Authenticator(api)
        self.authorizer = Authorizer(api)
        self.reviews = Reviews(self.authenticator, self.authorizer)

    def caller(self, request: web.Request) -> Caller:
        """``fieldManager``, or else the first word of the user agent, is the name that managedFields keep."""
        agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
        return Caller(request[USER], request.query.get("fieldManager") or agent)

    def authenticate(self, request: web.Request) -> User:
        """With impersonation (``kubectl --as``). Raises ApiError 401, and 403 for who may not impersonate."""
        user = self.authenticator.user_of(request.headers.get("Authorization", ""))
        wanted = request.headers.get("Impersonate-User", "")
        if not wanted:
            return user
        self.authorizer.check(user, Attributes("impersonate", resource="users", name=wanted))
        groups = request.headers.getall("Impersonate-Group", [])
        if wanted.startswith("system:serviceaccount:") and not groups:
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{wanted.split(':')[2]}"]
        return User(wanted, (*groups, AUTHENTICATED))

    def check(self, user: User, verb: str, target: Target) -> None:
        """Raises ApiError 403."""
        resource = f"{target.kind.plural}/{target.subresource}" if target.subresource else target.kind.plural
        namespace = target.name if target.kind.plural == "namespaces" and target.name else target.namespace
        self.authorizer.check(user, Attributes(verb, target.kind.group, resource, namespace, target.name))

    def check_path(self, user: User, verb: str, path: str) -> None:
        """For what is no resource. Raises ApiError 403."""
        self.authorizer.check(user, Attributes(verb, path=path))
