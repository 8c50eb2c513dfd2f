"""A small HTTP client for the kubelet: requests that raise, and an endless list-and-watch."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import aiohttp

from hack.devcluster.access.certificates import client_context
from hack.devcluster.errors import ApiError
from hack.devcluster.kubeconfig import Access
from hack.devcluster.objects import Object

log = logging.getLogger(__name__)

_RETRY_S = 0.5
_WATCH_S = 600


class Client:
    """``async with`` it. Every call raises ApiError for a refusal and aiohttp.ClientError when nobody answers."""

    def __init__(self, access: Access, user_agent: str) -> None:
        self._server = access.server
        self._trust = client_context(access.authority)
        self._headers = {"User-Agent": user_agent, "Authorization": f"Bearer {access.token}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(ssl=self._trust))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        return await self.request("GET", path, query=query)

    async def post(self, path: str, body: Object) -> Object:
        return await self.request("POST", path, body)

    async def put(self, path: str, body: Object) -> Object:
        return await self.request("PUT", path, body)

    async def patch(self, path: str, body: Any, kind: str = "strategic-merge-patch") -> Object:
        """``kind``: strategic-merge-patch, merge-patch or json-patch."""
        return await self.request("PATCH", path, body, media_type=f"application/{kind}+json")

    async def delete(self, path: str, options: Object | None = None) -> Object:
        return await self.request("DELETE", path, options)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        media_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": media_type}
        async with self._open().request(
            method, self._server + path, data=data, headers=headers, params=query or {}
        ) as response:
            answer: Object = await response.json()
            if response.status >= 400:
                raise _error(answer, response.status)
            return answer

    async def list_and_watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[tuple[str, Any]]:
        """Without end: ("LIST", the objects) whenever the truth is known whole, then each change by its type. Comes back by
        itself after an error."""
        while True:
            try:
                listing = await self.get(path, query)
                yield "LIST", listing["items"]
                revision = listing["metadata"]["resourceVersion"]
                async for change in self._watch(path, query, revision):
                    yield change
            except (aiohttp.ClientError, ApiError, TimeoutError) as error:
                log.warning("watch.interrupted", extra={"path": path, "error": str(error)})
                await asyncio.sleep(_RETRY_S)

    async def _watch(self, path: str, query: Mapping[str, str], revision: str) -> AsyncIterator[tuple[str, Object]]:
        asked = {**query, "watch": "1", "resourceVersion": revision, "timeoutSeconds": str(_WATCH_S)}
        no_limit = aiohttp.ClientTimeout(total=None)
        async with self._open().get(self._server + path, params=asked, timeout=no_limit) as response:
            response.raise_for_status()
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error(event["object"], int(event["object"].get("code", 500)))
                yield event["type"], event["object"]

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is used outside of its `async with`")
        return self._session


def _error(status: Object, code: int) -> ApiError:
    return ApiError(
        code,
        str(status.get("message", "")),
        reason=str(status.get("reason", "")),
        details=status.get("details") or {},
    )
