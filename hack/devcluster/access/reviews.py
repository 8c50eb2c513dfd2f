"""Questions about access, answered and not stored (``kubectl auth can-i``, ``kubectl auth whoami``)."""

from __future__ import annotations

from dataclasses import dataclass

from hack.devcluster import kinds
from hack.devcluster.access.authentication import Authenticator
from hack.devcluster.access.rbac import Attributes, Authorizer
from hack.devcluster.access.tokens import BadTokenError
from hack.devcluster.access.users import User
from hack.devcluster.errors import bad_request
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object

_EVERYTHING: list[Object] = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]


@dataclass(frozen=True, slots=True)
class Reviews:
    authenticator: Authenticator
    authorizer: Authorizer

    def answer(self, kind: Kind, review: Object, user: User) -> Object:
        """The review with its status. Raises ApiError 400 for one that asks nothing."""
        spec = review.get("spec") or {}
        shown = {"metadata": {}, **review, "kind": kind.name, "apiVersion": kind.api_version}
        return {**shown, "spec": spec, "status": self._status(kind, spec, user)}

    def _status(self, kind: Kind, spec: Object, user: User) -> Object:
        if kind is kinds.ACCESS_REVIEWS:
            return self._may(user, spec)
        if kind is kinds.SUBJECT_REVIEWS:
            return self._may(_subject(spec), spec)
        if kind is kinds.RULES_REVIEWS:
            return self._rules(user, str(spec.get("namespace", "")))
        if kind is kinds.TOKEN_REVIEWS:
            return self._token(str(spec.get("token", "")))
        return {"userInfo": user.to_json()}

    def _may(self, user: User, spec: Object) -> Object:
        allowed = self.authorizer.allows(user, _attributes(spec))
        return {"allowed": allowed} | ({} if allowed else {"reason": ""})

    def _rules(self, user: User, namespace: str) -> Object:
        if not namespace:
            raise bad_request("no namespace on request")
        rules = list(self.authorizer.rules_of(user, namespace)) if self.authorizer.enforced else _EVERYTHING
        return {
            "resourceRules": [rule for rule in rules if "nonResourceURLs" not in rule],
            "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule],
            "incomplete": False,
        }

    def _token(self, token: str) -> Object:
        try:
            user = self.authenticator.user_of_token(token)
        except BadTokenError as error:
            return {"user": {}, "error": str(error)}
        return {"authenticated": True, "user": user.to_json()}


def _subject(spec: Object) -> User:
    extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
    return User(str(spec.get("user", "")), tuple(spec.get("groups") or ()), str(spec.get("uid", "")), extra)


def _attributes(spec: Object) -> Attributes:
    if asked := spec.get("resourceAttributes"):
        resource, subresource = str(asked.get("resource", "")), asked.get("subresource")
        return Attributes(
            str(asked.get("verb", "")),
            str(asked.get("group", "")),
            f"{resource}/{subresource}" if subresource else resource,
            str(asked.get("namespace", "")),
            str(asked.get("name", "")),
        )
    if asked := spec.get("nonResourceAttributes"):
        return Attributes(str(asked.get("verb", "")), path=str(asked.get("path", "")))
    raise bad_request("exactly one of resourceAttributes or nonResourceAttributes must be specified")
