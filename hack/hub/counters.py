"""What was asked and sent since the start (or the last reset), in all and by client."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web


@dataclass(slots=True)
class Served:
    """Requests answered and body bytes sent, headers not counted."""

    requests: int = 0
    body_bytes: int = 0


@dataclass(slots=True)
class Counters:
    """``requests`` by ``METHOD origin``; ``by_client`` by ``address User-Agent``; ``peers``: addresses and ports, by origin."""

    requests: Counter[str] = field(default_factory=Counter)
    request_lines: list[str] = field(default_factory=list)
    body_bytes: int = 0
    authorized_cdn_requests: int = 0
    by_client: dict[str, Served] = field(default_factory=dict)
    peers: dict[str, set[Any]] = field(default_factory=dict)

    def request(self, request: web.Request, origin: str, line: str) -> None:
        self.requests[f"{request.method} {origin}"] += 1
        self.request_lines.append(line)
        self.authorized_cdn_requests += origin == "cdn" and "Authorization" in request.headers
        self._client(request).requests += 1
        if request.transport is not None:
            self.peers.setdefault(origin, set()).add(request.transport.get_extra_info("peername"))

    def sent(self, request: web.Request, count: int) -> None:
        self.body_bytes += count
        self._client(request).body_bytes += count

    def _client(self, request: web.Request) -> Served:
        name = f"{request.remote} {request.headers.get('User-Agent', '')}"
        return self.by_client.setdefault(name, Served())

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": dict(self.requests),
            "body_bytes": self.body_bytes,
            "authorized_cdn_requests": self.authorized_cdn_requests,
            "connections": {origin: len(peers) for origin, peers in self.peers.items()},
            "by_client": {name: asdict(served) for name, served in self.by_client.items()},
        }

    def reset(self) -> None:
        self.requests.clear()
        self.request_lines.clear()
        self.body_bytes = 0
        self.authorized_cdn_requests = 0
        self.by_client.clear()
        self.peers.clear()
