"""From a bearer token to a user, or to 401."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from hack.devcluster import kinds
from hack.devcluster.access.tokens import ISSUER, BadTokenError, Signer
from hack.devcluster.access.users import (
    ADMIN,
    ANONYMOUS,
    AUTHENTICATED,
    NODE_NAME,
    NODE_UID,
    POD_NAME,
    POD_UID,
    User,
)
from hack.devcluster.api import Api
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import Object, dig, is_deleting, uid_of


@dataclass(slots=True)
class Authenticator:
    """``admin_token`` is the developer's own. ``without_token`` is who asks without any (None: nobody may)."""

    api: Api
    signer: Signer = field(default_factory=Signer)
    without_token: User | None = ANONYMOUS
    admin_token: str = field(init=False)
    _given: dict[str, User] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.admin_token = self.give_token(ADMIN)

    def give_token(self, user: User) -> str:
        """A new one, good for as long as this server runs, as from a real server's ``--token-auth-file``."""
        token = secrets.token_urlsafe(24)
        self._given[token] = user
        return token

    def user_of(self, authorization: str) -> User:
        """``authorization`` is the header. Raises ApiError 401."""
        scheme, _, token = authorization.partition(" ")
        if not authorization:
            if self.without_token is None:
                raise unauthorized()
            return self.without_token
        if scheme.lower() != "bearer":
            raise unauthorized()
        try:
            return self.user_of_token(token.strip())
        except BadTokenError as error:
            raise unauthorized() from error

    def user_of_token(self, token: str) -> User:
        """Raises BadTokenError, also where what the token is bound to is gone."""
        if token in self._given:
            return self._given[token]
        claims = self.signer.claims_of(token)
        if ISSUER not in claims.get("aud", []):
            raise BadTokenError("the token is for another audience")
        bound: Object = claims["kubernetes.io"]
        namespace = bound["namespace"]
        self._check_alive(kinds.SERVICE_ACCOUNTS, namespace, bound["serviceaccount"])
        if "pod" in bound:
            self._check_alive(kinds.PODS, namespace, bound["pod"])
        if "node" in bound:
            self._check_alive(kinds.NODES, "", bound["node"])
        if "secret" in bound:
            self._check_alive(kinds.SECRETS, namespace, bound["secret"])
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return User(claims["sub"], groups, bound["serviceaccount"]["uid"], _extra(claims))

    def _check_alive(self, kind: kinds.Kind, namespace: str, reference: Object) -> None:
        """At once; a real server's caches let such a token live for some seconds more."""
        obj = self.api.find(kind, namespace, reference["name"])
        gone = obj is None or uid_of(obj) != reference["uid"]
        if gone or (kind is not kinds.PODS and obj is not None and is_deleting(obj)):
            raise BadTokenError(f"{kind.singular} {reference['name']} has been deleted")


def _extra(claims: Object) -> dict[str, tuple[str, ...]]:
    bound = claims["kubernetes.io"]
    said = {
        "authentication.kubernetes.io/credential-id": f"JTI={claims['jti']}",
        NODE_NAME: dig(bound, "node.name"),
        NODE_UID: dig(bound, "node.uid"),
        POD_NAME: dig(bound, "pod.name"),
        POD_UID: dig(bound, "pod.uid"),
    }
    return {key: (value,) for key, value in said.items() if value}


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized")
