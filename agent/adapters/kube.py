"""The door to the API server: configuration and credentials by kubernetes.aio, requests as raw dictionaries."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from agent.adapters import clock
from agent.adapters.kubernetes_aio import (
    Configuration,
    RESTClientObject,
    load_incluster_config,
    load_kube_config,
)
from agent.model.errors import (
    AgentError,
    BadInputError,
    BudgetError,
    ConflictError,
    GoneError,
    RefusedError,
    RetryError,
)
from agent.model.node import PodRef
from agent.model.wait import wait_asked

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
_PAGE = "500"
"""Items of a page, as kubectl asks for them."""
JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_MOST_SAID = 200
JITTER_SECONDS = 10.0
_SILENT_SECONDS = 150.0
"""Bookmarks come about once a minute, so two and a half silent periods mean a dead peer."""


class ExpiredError(RetryError):
    """The version that was asked for is forgotten."""


class TooLongError(RetryError):
    """A watch sent an event that is longer than the reader takes."""


class Kube:
    """One connection pool to one API server. A watch that is silent for so long is broken off, and within ``jitter_seconds``
    one that broke is opened again."""

    def __init__(
        self,
        configuration: Configuration,
        silent_seconds: float = _SILENT_SECONDS,
        jitter_seconds: float = JITTER_SECONDS,
    ) -> None:
        self.jitter_seconds = jitter_seconds
        self._configuration = configuration
        self._rest = RESTClientObject(configuration)
        self._watch_timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silent_seconds)

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None,
        silent_seconds: float = _SILENT_SECONDS,
        jitter_seconds: float = JITTER_SECONDS,
    ) -> Kube:
        """From a kubeconfig file, else $KUBECONFIG, else the service account of the pod. BadInputError without any."""
        configuration = Configuration()
        # API traffic must not go through an HTTPS_PROXY that is meant for the hub.
        configuration.client_session_kwargs = {"trust_env": False}
        _check_there(kubeconfig)
        try:
            if kubeconfig or os.environ.get("KUBECONFIG"):
                await load_kube_config(kubeconfig, configuration)
            else:
                load_incluster_config(configuration)
        except Exception as error:
            why = " ".join(str(error).split())
            raise BadInputError(
                f"no way to reach an API server, neither by a kubeconfig (--kubeconfig, KUBECONFIG) nor as a pod: {why}"
            ) from error
        return cls(configuration, silent_seconds, jitter_seconds)

    async def close(self) -> None:
        """Close every connection."""
        await self._rest.close()

    async def get(self, path: str, **query: str) -> Object:
        """GET one object or list."""
        return await self._request("GET", path, query=query)

    async def pages(self, path: str, **query: str) -> AsyncIterator[Object]:
        """The items of a list, fetched page by page; RetryError where the list has aged away between two pages."""
        after: dict[str, str] = {}
        while True:
            page = await self.get(path, limit=_PAGE, **after, **query)
            for item in page.get("items") or []:
                yield item
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            after = {"continue": token}

    async def metadata(self, path: str, accept: str = METADATA, **query: str) -> Object:
        """GET of one object or list the metadata alone."""
        return await self._request("GET", path, query=query, accept=accept)

    async def create(self, path: str, body: Object) -> Object:
        """POST one object to its list; ConflictError where there is one of that name."""
        return await self._request("POST", path, body)

    async def patch(self, path: str, patch: Object) -> Object:
        """Merge-patch; with ``metadata.resourceVersion`` in it a stale one is a ConflictError. Returns the object."""
        return await self._request("PATCH", path, patch, content_type=MERGE_PATCH)

    async def delete(self, path: str, preconditions: Object) -> None:
        """DELETE one object; one that is gone is done. ConflictError where the preconditions do not hold."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        try:
            await self._request("DELETE", path, options)
        except GoneError:
            return

    async def patch_node(self, name: str, patch: Object) -> Object:
        """Merge-patch the node; with ``metadata.resourceVersion`` in it a stale one is a ConflictError. Returns the node."""
        return await self.patch(node_path(name), patch)

    async def budgets(self) -> list[Object]:
        """Every PodDisruptionBudget of the cluster, from the API server's cache."""
        listed = await self.get("/apis/policy/v1/poddisruptionbudgets", resourceVersion="0")
        return list(listed.get("items", []))

    async def evict(self, pod: PodRef) -> None:
        """Ask for the eviction of exactly this pod. A pod that is gone is done; BudgetError while a budget forbids it."""
        path = f"{_pod_path(pod)}/eviction"
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        try:
            await self._request("POST", path, body)
        except (GoneError, ConflictError):
            return

    async def delete_pod(self, pod: PodRef) -> None:
        """Delete exactly this pod; one that is gone, or is another by now, is done."""
        try:
            await self.delete(_pod_path(pod), {"uid": pod.uid})
        except ConflictError:
            return

    async def events_of(self, namespace: str, uid: str) -> list[Object]:
        """What was said of one object."""
        chosen = f"involvedObject.uid={uid}"
        listed = await self.get(f"/api/v1/namespaces/{quote(namespace, safe='')}/events", fieldSelector=chosen)
        return list(listed.get("items", []))

    async def create_event(self, namespace: str, event: Object) -> None:
        """Write a core/v1 Event; what happens to an Event changes nothing else, so the caller may ignore errors."""
        await self._request("POST", f"/api/v1/namespaces/{namespace}/events", event)

    async def patch_event(self, namespace: str, name: str, patch: Object) -> None:
        """Merge-patch an Event; GoneError where it is not there any more."""
        path = f"/api/v1/namespaces/{namespace}/events/{quote(name, safe='')}"
        await self._request("PATCH", path, patch, content_type=MERGE_PATCH)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], accept: str = JSON
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open a watch; RetryError when it cannot be opened or is not JSON."""
        try:
            async with self._session().get(
                self._url(path),
                params=dict(query),
                headers=await self._headers(accept),
                timeout=self._watch_timeout,
            ) as response:
                if response.status != 200 or "json" not in response.content_type:
                    text = await response.text(errors="replace")
                    raise _error("GET", path, response.status, text, response.headers)
                yield response.content
        except HttpProcessingError as error:
            # An event longer than the reader takes: the next list has it as it is then.
            raise TooLongError(f"watch {path}: {str(error)[:_MOST_SAID]}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RetryError(f"watch {path}: {error or type(error).__name__}") from error

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Object:
        headers = await self._headers(accept)
        headers["Content-Type"] = content_type
        try:
            async with self._session().request(
                method,
                self._url(path),
                params=dict(query or {}),
                data=None if body is None else json.dumps(body),
                headers=headers,
                timeout=_TIMEOUT,
            ) as response:
                text = await response.text(errors="replace")
                if response.status >= 400 or "json" not in response.content_type:
                    raise _error(method, path, response.status, text, response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RetryError(f"{method} {path}: {error or type(error).__name__}") from error
        try:
            parsed: Object = json.loads(text)
        except ValueError as error:
            raise RetryError(f"{method} {path}: the answer is not JSON") from error
        return parsed

    def _session(self) -> aiohttp.ClientSession:
        if self._rest.pool_manager is None:
            self._rest.pool_manager = self._rest._create_pool_manager()
        session: aiohttp.ClientSession = self._rest.pool_manager
        return session

    def _url(self, path: str) -> str:
        return f"{self._configuration.host}{path}"

    async def _headers(self, accept: str) -> dict[str, str]:
        """Accept, user agent and credentials; a token file is read again when its minute is over."""
        headers = {"Accept": accept, "User-Agent": "warmslice"}
        try:
            bearer = (await self._configuration.auth_settings()).get("BearerToken")
        except Exception as error:
            raise RetryError(f"no credentials for the API server: {error}") from error
        if bearer is not None:
            headers[bearer["key"]] = bearer["value"]
        return headers


def _check_there(kubeconfig: str | None) -> None:
    """The library only warns, and then names a key that it misses."""
    if kubeconfig and not Path(kubeconfig).is_file():
        raise BadInputError(f"kubeconfig {kubeconfig}: there is no such file")


def node_path(name: str) -> str:
    """The node's path."""
    return f"/api/v1/nodes/{quote(name, safe='')}"


def _pod_path(pod: PodRef) -> str:
    return f"/api/v1/namespaces/{quote(pod.namespace, safe='')}/pods/{quote(pod.name, safe='')}"


def _error(method: str, path: str, status: int, text: str, headers: Mapping[str, str]) -> AgentError:
    """Our error for a Status body; what is not one (an HTML page of a proxy) is a passing fault."""
    try:
        body = json.loads(text)
        message = str(body.get("message", ""))
        causes = {c.get("reason"): c.get("message", "") for c in (body.get("details") or {}).get("causes") or []}
    except (ValueError, AttributeError):
        message, causes = "", {}
    what = f"{method} {path}: HTTP {status} {message or text[:200]}".strip()
    match status:
        case 404:
            return GoneError(what)
        case 409:
            return ConflictError(what)
        case 410:
            return ExpiredError(what)
        case 429 if "DisruptionBudget" in causes:
            return BudgetError(f"{message} {causes['DisruptionBudget']}".strip())
        case 403 if "being terminated" in message:
            return RetryError(what)
        case 400 | 403 | 405 | 415 | 422:
            return RefusedError(what)
        case _:
            return RetryError(what, wait_asked(headers, clock.now()))
