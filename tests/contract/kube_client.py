"""Raw requests to an API server, for contract tests."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.kube_config import load_kube_config

from hack.devcluster.objects import Object

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    body: Object
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Kube:
    """Raw requests, so that nothing between the test and the wire can hide what the server does. ``authority`` is the PEM that
    vouches for it."""

    url: str
    session: aiohttp.ClientSession
    token: str = ""
    authority: str = ""

    def as_holder_of(self, token: str) -> Kube:
        """The same server, asked by somebody else."""
        return Kube(self.url, self.session, token, self.authority)

    @property
    def _identity(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def call(
        self, method: str, path: str, body: Any = None, media_type: str = "application/json", **query: str
    ) -> Answer:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": media_type} if data is not None else {}
        headers |= self._identity
        async with self.session.request(method, self.url + path, data=data, headers=headers, params=query) as response:
            return Answer(response.status, await response.json(), response.headers)

    async def made(self, path: str, obj: Object) -> Object:
        answer = await self.call("POST", path, obj)
        assert answer.code == 201, answer.body
        return answer.body

    async def watched(self, path: str, **query: str) -> list[Object]:
        """The events of a watch that ends by its own timeout."""
        query = {"watch": "1", "timeoutSeconds": "1", **query}
        async with self.session.get(self.url + path, params=query, headers=self._identity) as response:
            assert response.status == 200
            return [json.loads(line) async for line in response.content]

    async def first_events(self, count: int, path: str, **query: str) -> list[Object]:
        """Of a watch that is broken off as soon as it has told so much."""
        query = {"watch": "1", "timeoutSeconds": "10", **query}
        async with self.session.get(self.url + path, params=query, headers=self._identity) as response:
            return [json.loads(await response.content.readline()) for _ in range(count)]


@asynccontextmanager
async def real_cluster() -> AsyncIterator[tuple[Kube, Kube]]:
    """The cluster that KUBECONFIG names: as the user there, and as nobody, for those who bring a token. Skips the test
    without."""
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG names no cluster")
    async with connected(os.environ["KUBECONFIG"]) as both:
        yield both


@asynccontextmanager
async def connected(kubeconfig: str) -> AsyncIterator[tuple[Kube, Kube]]:
    """A cluster, as the user of that file and as nobody. Two sessions, since a client certificate would go before any token."""
    chosen = Configuration()
    await load_kube_config(kubeconfig, client_configuration=chosen)
    authority = await asyncio.to_thread(Path(chosen.ssl_ca_cert).read_text) if chosen.ssl_ca_cert else ""
    anonymous, known = (ssl.create_default_context(cafile=chosen.ssl_ca_cert) for _ in range(2))
    if chosen.cert_file:
        known.load_cert_chain(chosen.cert_file, chosen.key_file)
    token = await chosen.get_api_key_with_prefix("BearerToken")
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=known)) as ours,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=anonymous)) as anybodys,
    ):
        user = Kube(chosen.host, ours, (token or "").partition(" ")[2], authority)
        yield user, Kube(chosen.host, anybodys, authority=authority)
