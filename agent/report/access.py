"""Who may read the pages: with a token set, whoever gives it. The kubelet's probes have none."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

log = logging.getLogger("warmslice.access")

_OPEN = frozenset({"/healthz", "/readyz"})


def token_needed(token: Callable[[], str | None]) -> Middleware:
    """``token`` is read anew for each request, None where it cannot be read: then nobody may. A browser asks for a password: any
    user name, and the token."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _OPEN:
            return await handler(request)
        wanted = token()
        if wanted is None:
            log.error("token.unreadable")
        elif hmac.compare_digest(_given(request).encode(), wanted.encode()):
            return await handler(request)
        raise web.HTTPUnauthorized(
            text="this page needs the token of the setting page_token_file, as bearer or as password\n",
            headers={"WWW-Authenticate": 'Basic realm="warmslice", charset="UTF-8"'},
        )

    return check


def _given(request: web.Request) -> str:
    """The token that the request brings; empty where it brings none."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return ""
        case _:
            return ""
