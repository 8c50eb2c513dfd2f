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
    """``admin_token`` is the developer's own. ``without_token`` is who asks without any (None: nobody may); kubectl and
    client-go send no token over plain HTTP, so ADMIN stands for them what the old insecure port was."""

    api: Api
    signer: Signer = field(default_factory=Signer)
    admin_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    without_token: User | None = ANONYMOUS

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
        if secrets.compare_digest(token.encode(), self.admin_token.encode()):
            return ADMIN
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
