"""Who may see: without the token only the kubelet's questions are answered."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict

_OPEN = frozenset({"/healthz", "/readyz"})


def with_token(read: Callable[[], str | None]) -> Middleware:
    """``read`` gives the token of now; while it gives None, nobody is let in. A browser asks for a password: that is the token,
    and the name does not matter."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _OPEN or _is_let_in(request.headers.get("Authorization", ""), read()):
            return await handler(request)
        headers = CIMultiDict([("WWW-Authenticate", 'Basic realm="warmslice", charset="UTF-8"')])
        headers.add("WWW-Authenticate", 'Bearer realm="warmslice"')
        return web.Response(status=401, text="this page asks for its token\n", headers=headers)

    return guarded


def _is_let_in(authorization: str, token: str | None) -> bool:
    given = _given(authorization)
    # Compared in constant time: how long it takes tells nothing of the token.
    return bool(token) and given is not None and hmac.compare_digest(given, (token or "").encode())


def _given(authorization: str) -> bytes | None:
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip().encode("utf-8", "surrogateescape")
        case "basic":
            try:
                return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return None
        case _:
            return None
