"""The way to one origin: a connection to it, or to the proxy that the environment names for it."""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from agent.model.cache import FetchEndedError


@dataclass(frozen=True, slots=True)
class Route:
    """``whole_url``: the proxy wants to be told the whole address. ``headers`` are for the proxy."""

    connection: http.client.HTTPConnection
    whole_url: bool
    headers: Mapping[str, str]

    def get(self, parts: SplitResult, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Ask for what ``parts`` addresses; raises OSError and http.client.HTTPException."""
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if self.whole_url:
            target = f"{parts.scheme}://{parts.netloc}{target}"
        self.connection.request("GET", target, headers={**headers, **self.headers})
        return self.connection.getresponse()


def route_to(parts: SplitResult, silence_seconds: float) -> Route:
    """``http_proxy``, ``https_proxy`` and ``no_proxy`` hold, as they do for the hub's library."""
    if parts.hostname is None or parts.scheme not in {"http", "https"}:
        raise FetchEndedError("hub-answer", f"the hub sent us to {parts.scheme}://{parts.hostname or ''}")
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    if proxy is None:
        return Route(_connection(parts, silence_seconds), False, {})
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    authorization = _authorization(through)
    if parts.scheme == "http":
        return Route(_connection(through, silence_seconds), True, authorization)
    if through.hostname is None:
        raise FetchEndedError("proxy", "https_proxy names no host")
    tunnel = http.client.HTTPSConnection(through.hostname, through.port, timeout=silence_seconds, context=_trust())
    port = parts.port or http.client.HTTPS_PORT
    tunnel.set_tunnel(parts.hostname, port, headers={"Host": f"{parts.hostname}:{port}", **authorization})
    return Route(tunnel, False, {})


@cache
def _trust() -> ssl.SSLContext:
    """One for all threads: reading the certificates takes tens of milliseconds."""
    return ssl.create_default_context()


def _connection(parts: SplitResult, silence_seconds: float) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=silence_seconds, context=_trust())
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=silence_seconds)


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    plain = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(plain.encode()).decode()}
