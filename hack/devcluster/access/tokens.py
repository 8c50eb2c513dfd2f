"""Service-account tokens: JSON Web Tokens, signed by a secret of this server's life.

The claims are those of a real bound token. The signature is HS256, where a real cluster signs with RS256: nobody
but this server checks it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from hack.devcluster import kinds
from hack.devcluster.access.users import service_account
from hack.devcluster.api import Api
from hack.devcluster.errors import bad_request, conflict, invalid, not_found
from hack.devcluster.objects import Object, dig, name_of, uid_of

ISSUER = "https://kubernetes.default.svc.cluster.local"
DEFAULT_LIFE_S = 3600
SHORTEST_LIFE_S = 600
LONGEST_LIFE_S = 1 << 32


class BadTokenError(Exception):
    """Not made by this server, spoilt, or past its time."""


class Signer:
    """Signs and reads tokens; another server's tokens are bad here."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def sign(self, claims: Object) -> str:
        head = _encoded({"alg": "HS256", "typ": "JWT"})
        body = f"{head}.{_encoded(claims)}"
        return f"{body}.{self._signature(body)}"

    def claims_of(self, token: str) -> Object:
        """Raises BadTokenError."""
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(body).encode(), signature.encode()):
            raise BadTokenError("the signature is not ours")
        try:
            claims: Object = json.loads(_decoded(body.split(".")[1]))
        except (IndexError, ValueError, binascii.Error) as error:
            raise BadTokenError("the token cannot be read") from error
        if float(claims.get("exp", 0)) < time.time():
            raise BadTokenError("the token has expired")
        return claims

    def _signature(self, body: str) -> str:
        return _text(hmac.digest(self._secret, body.encode(), hashlib.sha256))


def answer_token_request(api: Api, signer: Signer, namespace: str, name: str, request: Object) -> Object:
    """The TokenRequest with its token. Raises 404 for an account, pod or node that is not there, 409 for another uid."""
    account = api.get(kinds.SERVICE_ACCOUNTS, namespace, name)
    spec = request.get("spec") or {}
    life = int(spec.get("expirationSeconds") or DEFAULT_LIFE_S)
    if not SHORTEST_LIFE_S <= life <= LONGEST_LIFE_S:
        why = f"Invalid value: {life}: may not specify a duration less than 10 minutes"
        raise invalid(kinds.SERVICE_ACCOUNTS, name, [("spec.expirationSeconds", why)])
    now = int(time.time())
    own: Object = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid_of(account)}}
    claims: Object = {
        "aud": spec.get("audiences") or [ISSUER],
        "exp": now + life,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "jti": str(uuid.uuid4()),
        "sub": service_account(namespace, name),
        "kubernetes.io": own | _bound_to(api, namespace, name, spec.get("boundObjectRef")),
    }
    expires = datetime.fromtimestamp(now + life, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"audiences": claims["aud"], "expirationSeconds": life, "boundObjectRef": spec.get("boundObjectRef")},
        "status": {"token": signer.sign(claims), "expirationTimestamp": expires},
    }


def _bound_to(api: Api, namespace: str, account: str, reference: Object | None) -> Object:
    """A token for a pod names the pod's node, too."""
    if not reference:
        return {}
    match reference.get("kind"):
        case "Pod":
            pod = _present(api, kinds.PODS, namespace, reference)
            if dig(pod, "spec.serviceAccountName") != account:
                raise bad_request(f"cannot bind token for serviceaccount {account!r} to pod running with another one")
            node = api.find(kinds.NODES, "", str(dig(pod, "spec.nodeName", "")))
            return {"pod": _reference(pod)} | ({"node": _reference(node)} if node else {})
        case "Node":
            return {"node": _reference(_present(api, kinds.NODES, "", reference))}
        case "Secret":
            return {"secret": _reference(_present(api, kinds.SECRETS, namespace, reference))}
        case other:
            raise bad_request(f"cannot bind token to object of type {other}")


def _present(api: Api, kind: kinds.Kind, namespace: str, reference: Object) -> Object:
    name = str(reference.get("name", ""))
    obj = api.find(kind, namespace, name)
    if obj is None:
        raise not_found(kind, name)
    if reference.get("uid") not in (None, "", uid_of(obj)):
        raise conflict(kind, name, f"the UID in the bound object reference ({reference['uid']}) does not match")
    return obj


def _reference(obj: Object) -> Object:
    return {"name": name_of(obj), "uid": uid_of(obj)}


def _encoded(value: Any) -> str:
    return _text(json.dumps(value, separators=(",", ":")).encode())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
