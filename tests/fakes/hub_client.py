"""Plain HTTP questions to a hub, one connection each, and what came back."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> Any:
        return json.loads(self.body)


def _ask(method: str, url: str, headers: Mapping[str, str], body: bytes | None, source: str, seconds: float) -> Answer:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=seconds, source_address=(source, 0) if source else None)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body=body, headers=dict(headers))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


async def ask(method: str, url: str, *, source: str = "", **headers: str) -> Answer:
    """``source`` is the address to ask from. Raises OSError and http.client.HTTPException."""
    return await asyncio.to_thread(_ask, method, url, {"Accept-Encoding": "identity", **headers}, None, source, 10.0)


async def ask_briefly(method: str, url: str) -> Answer:
    """As one who has no patience. Raises TimeoutError where a third of a second brings nothing new."""
    return await asyncio.to_thread(_ask, method, url, {}, None, "", 0.3)


async def ask_along(method: str, url: str, *, source: str = "", **headers: str) -> Answer:
    """Along redirects."""
    answer = await ask(method, url, source=source, **headers)
    while answer.status in {301, 302, 303, 307, 308}:
        url = urljoin(url, answer.headers["location"])
        answer = await ask(method, url, source=source, **headers)
    return answer


async def tell(url: str, document: Mapping[str, Any]) -> Answer:
    """POST JSON."""
    body = json.dumps(document).encode()
    return await asyncio.to_thread(_ask, "POST", url, {"Content-Type": "application/json"}, body, "", 10.0)
