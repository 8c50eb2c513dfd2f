"""The hub itself: its API on one origin, the store that large files are redirected to on a second one.

Answers as huggingface_hub 2.4 asks: model info of a revision, recursive tree in pages, paths-info, whoami, and
resolve with X-Repo-Commit, ETag, and for LFS files a redirect with X-Linked-Etag and X-Linked-Size to a signed URL.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote

from aiohttp import web

from hack.hub.body import send_file
from hack.hub.content import Access, ServedFile, ServedModel
from hack.hub.faults import Counters, Fault, FaultKind, Faults

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_FAULT = web.RequestKey("fault", object)


def refusal(status: int, code: str | None, message: str) -> web.Response:
    """An error as the hub words it: code and sentence in headers, the sentence again in the body."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)


@dataclass(slots=True)
class Hub:
    """A running hub. ``tokens`` maps a token to the gated and private repositories it opens."""

    models: dict[str, ServedModel]
    tokens: dict[str, frozenset[str]] = field(default_factory=dict)
    page_entries: int = 1000
    signed_url_seconds: float = 3600.0
    port: int = 0
    faults: Faults = field(default_factory=Faults)
    counters: Counters = field(default_factory=Counters)
    url: str = ""
    cdn_url: str = ""
    _runners: list[web.AppRunner] = field(default_factory=list)
    _signing_key: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    async def __aenter__(self) -> Self:
        self.cdn_url = await self._listen(self._cdn_routes(), "cdn", 0)
        self.url = await self._listen(self._hub_routes(), "hub", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def add(self, model: ServedModel) -> None:
        """Publish a model, or a new commit of one."""
        self.models[model.repository] = model

    async def _listen(self, routes: Sequence[web.RouteDef], origin: str, port: int) -> str:
        app = web.Application(middlewares=[self._witness(origin)])
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    def _witness(self, origin: str) -> Any:
        """Counts a request and applies the fault planned for it."""

        @web.middleware
        async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if request.path.startswith("/_dev/"):
                return await handler(request)
            line = f"{request.method} {origin}{unquote(request.path_qs)}"
            self.counters.requests[f"{request.method} {origin}"] += 1
            self.counters.request_lines.append(line)
            self.counters.authorized_cdn_requests += origin == "cdn" and "Authorization" in request.headers
            fault = self.faults.take(line)
            if fault is not None and fault.kind is FaultKind.STATUS:
                return _status_fault(fault)
            request[_FAULT] = fault
            return await handler(request)

        return middleware

    def _hub_routes(self) -> list[web.RouteDef]:
        model = "/{org}/{name}"
        return [
            web.get("/api/whoami-v2", self._whoami),
            web.get("/api/models" + model, self._model_info),
            web.get("/api/models" + model + "/revision/{revision}", self._model_info),
            web.get("/api/models" + model + "/tree/{revision}", self._tree),
            web.post("/api/models" + model + "/paths-info/{revision}", self._paths_info),
            web.get(model + "/resolve/{revision}/{path:.+}", self._resolve),  # aiohttp adds HEAD
            web.post("/_dev/faults", self._plan_fault),
            web.delete("/_dev/faults", self._clear_faults),
            web.get("/_dev/counters", self._show_counters),
        ]

    def _cdn_routes(self) -> list[web.RouteDef]:
        return [web.get("/repos/{org}/{name}/{etag}", self._blob)]

    # -- API ----------------------------------------------------------------------------------------------------

    async def _whoami(self, request: web.Request) -> web.Response:
        if _token(request) in self.tokens:
            return web.json_response({"type": "user", "name": "developer", "auth": {"type": "access_token"}})
        return refusal(401, None, "Invalid username or password.")

    async def _model_info(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        siblings = [{"rfilename": path} for path in found.files]
        return web.json_response(
            {
                "_id": found.commit[:24],
                "id": found.repository,
                "modelId": found.repository,
                "sha": found.commit,
                "private": found.access is Access.PRIVATE,
                "gated": "manual" if found.access is Access.GATED else False,
                "disabled": False,
                "tags": [],
                "siblings": siblings,
            }
        )

    async def _tree(self, request: web.Request) -> web.Response:
        """Files in path order; the cursor is the index of the page's first entry."""
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        first = int(request.query.get("cursor", "0"))
        entries = [{**file.tree_entry(), "path": path} for path, file in sorted(found.files.items())]
        page = entries[first : first + self.page_entries]
        headers = {}
        if first + self.page_entries < len(entries):
            following = request.url.update_query(cursor=str(first + self.page_entries))
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(page, headers=headers)

    async def _paths_info(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        body = await request.text()
        asked = json.loads(body)["paths"] if request.content_type == "application/json" else parse_qs(body)["paths"]
        return web.json_response([{**found.files[p].tree_entry(), "path": p} for p in asked if p in found.files])

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        found = self._find(request, content=True)
        if isinstance(found, web.Response):
            return found
        file = found.files.get(request.match_info["path"])
        if file is None:
            response = refusal(404, "EntryNotFound", "Entry not found")
            response.headers["X-Repo-Commit"] = found.commit
            return response
        headers = {"X-Repo-Commit": found.commit, "ETag": f'"{file.etag}"'}
        if file.sha256 is None:
            return await self._send(request, file, headers)
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size_bytes)}
        return web.Response(status=302, headers={**headers, "Location": self._signed_url(found, file)})

    def _find(self, request: web.Request, *, content: bool = False) -> ServedModel | web.Response:
        """The model at the revision asked for, or the hub's refusal; ``content`` asks for the files themselves."""
        repository = f"{request.match_info['org']}/{request.match_info['name']}"
        token = _token(request)
        if token is not None and token not in self.tokens:
            return refusal(401, None, "Invalid credentials in Authorization header")
        model = self.models.get(repository)
        granted = token is not None and repository in self.tokens[token]
        if model is None or (model.access is Access.PRIVATE and not granted):
            # Without a token a missing and a private model look the same: 401.
            status, message = (401, "Invalid username or password.") if token is None else (404, "Repository not found")
            return refusal(status, "RepoNotFound", message)
        if content and model.access is Access.GATED and not granted:
            how = "Please log in." if token is None else "Visit its page to ask for access."
            message = f"Access to model {repository} is restricted. {how}"
            return refusal(401 if token is None else 403, "GatedRepo", message)
        revision = request.match_info.get("revision", "main")
        if revision not in {"main", model.commit}:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return model

    # -- content ------------------------------------------------------------------------------------------------

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        repository = f"{request.match_info['org']}/{request.match_info['name']}"
        etag = request.match_info["etag"]
        expires = request.query.get("Expires", "")
        genuine = hmac.compare_digest(request.query.get("Signature", ""), self._signature(repository, etag, expires))
        if not genuine or float(expires) < time.time():
            return web.Response(status=403, text="Request has expired")
        model = self.models.get(repository)
        file = model.file_with_etag(etag) if model is not None else None
        if file is None:
            return web.Response(status=404)
        # The store has an ETag of its own making, as object stores do.
        own_etag = hashlib.md5(etag.encode(), usedforsecurity=False).hexdigest()
        return await self._send(request, file, {"ETag": f'"{own_etag}"'})

    async def _send(self, request: web.Request, file: ServedFile, headers: dict[str, str]) -> web.StreamResponse:
        fault = request[_FAULT]
        assert fault is None or isinstance(fault, Fault)
        return await send_file(request, file, headers, fault, self.counters)

    def _signed_url(self, model: ServedModel, file: ServedFile) -> str:
        expires = str(time.time() + self.signed_url_seconds)
        name = quote(f'inline; filename="{file.path}"')
        signature = self._signature(model.repository, file.etag, expires)
        query = f"response-content-disposition={name}&Expires={expires}&Signature={signature}"
        return f"{self.cdn_url}/repos/{model.repository}/{file.etag}?{query}"

    def _signature(self, repository: str, etag: str, expires: str) -> str:
        return hmac.new(self._signing_key, f"{repository} {etag} {expires}".encode(), "sha256").hexdigest()

    # -- development --------------------------------------------------------------------------------------------

    async def _plan_fault(self, request: web.Request) -> web.Response:
        self.faults.planned.append(Fault.from_json(await request.json()))
        return web.json_response({"planned": len(self.faults.planned)})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({"planned": 0})

    async def _show_counters(self, _: web.Request) -> web.Response:
        return web.json_response(self.counters.to_json())


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" and token else None


def _status_fault(fault: Fault) -> web.Response:
    headers = {} if fault.retry_after_seconds is None else {"Retry-After": str(fault.retry_after_seconds)}
    return web.Response(status=fault.status, headers=headers)
