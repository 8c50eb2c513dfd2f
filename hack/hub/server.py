"""The hub itself: its API on one origin, the store that large files are redirected to on a second one.

Answers as huggingface_hub 2.4 asks: model info of a revision, trees in pages, paths-info, refs, commits, whoami, Xet read
tokens, and resolve with X-Repo-Commit, ETag, and for LFS files a redirect with X-Linked-Etag and X-Linked-Size to a signed
URL. As a mirror it redirects nowhere and gives every file an ETag of its own making.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote

from aiohttp import web

from hack.hub import listing
from hack.hub.access import find_commit, refusal, repository_of, token_of
from hack.hub.body import Delivery, reset, send_file, silence
from hack.hub.content import ServedFile, ServedModel
from hack.hub.counters import Counters
from hack.hub.dev_routes import dev_routes
from hack.hub.faults import Fault, FaultKind, Faults
from hack.hub.limits import RateLimits, Throttle
from hack.hub.repository import Commit, Repository
from hack.hub.xet import XetStore
from hack.serving import Listener, bound

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_FAULT = web.RequestKey("fault", object)
_RATE_LIMIT_HEADERS = web.RequestKey("rate_limit_headers", dict)


@dataclass(slots=True)
class Hub:
    """A running hub. ``models`` is what each ``main`` is at; ``tokens`` maps a token to the gated and private
    repositories it opens."""

    models: dict[str, ServedModel]
    tokens: dict[str, frozenset[str]] = field(default_factory=dict)
    page_entries: int = 1000
    signed_url_seconds: float = 3600.0
    port: int = 0
    mirror: bool = False
    xet: XetStore | None = None
    faults: Faults = field(default_factory=Faults)
    counters: Counters = field(default_factory=Counters)
    rate_limits: RateLimits = field(default_factory=RateLimits)
    throttle: Throttle = field(default_factory=Throttle)
    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = ""
    cdn_url: str = ""
    returns: int = 0
    _ports: dict[str, int] = field(default_factory=dict)
    _runners: list[web.AppRunner] = field(default_factory=list)
    _absence: asyncio.Task[None] | None = None
    _signing_key: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def __post_init__(self) -> None:
        for model in list(self.models.values()):
            self.add(model)

    async def __aenter__(self) -> Self:
        self._ports = {"cdn": 0, "hub": self.port}
        await self._listen({origin: bound(port) for origin, port in self._ports.items()})
        self.url, self.cdn_url = (f"http://127.0.0.1:{self._ports[origin]}" for origin in ("hub", "cdn"))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._absence is not None:
            self._absence.cancel()
            await asyncio.wait([self._absence])
        await self._hang_up()

    def leave(self, seconds: float) -> None:
        """Cut every connection and refuse new ones for so long; then be back at the same ports. Does not wait."""
        self._absence = asyncio.create_task(self._be_away(seconds))

    def add(self, model: ServedModel, branch: str = "main", title: str = "Upload folder") -> None:
        """Publish a model, or move a branch of one to a new commit."""
        self.repositories.setdefault(model.repository, Repository()).commit(model, branch, title)
        if branch == "main":
            self.models[model.repository] = model

    def tag(self, repository: str, name: str, revision: str) -> str:
        """Returns the commit. Raises KeyError where there is no such repository or revision."""
        return self.repositories[repository].name(self.repositories[repository].tags, name, revision)

    def open_pull_request(self, repository: str, number: int, revision: str) -> str:
        """As ``tag``."""
        return self.repositories[repository].name(self.repositories[repository].pull_requests, str(number), revision)

    async def _listen(self, sockets: Mapping[str, socket.socket]) -> None:
        for origin, listening in sockets.items():
            app = web.Application(middlewares=[self._witness(origin)])
            app.on_response_prepare.append(_say_what_is_left)
            app.add_routes(self._hub_routes() if origin == "hub" else self._cdn_routes())
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            self._runners.append(runner)
            self._ports[origin] = int(listening.getsockname()[1])
            await Listener(runner, listening).start()

    async def _hang_up(self) -> None:
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()

    async def _be_away(self, seconds: float) -> None:
        """Meanwhile the ports are bound, so that nobody else gets them, and nobody listens there."""
        await self._hang_up()
        with ExitStack() as kept:
            sockets = {origin: kept.enter_context(bound(port)) for origin, port in self._ports.items()}
            await asyncio.sleep(seconds)
            kept.pop_all()
        await self._listen(sockets)
        self.returns += 1

    def _witness(self, origin: str) -> Any:
        """Counts a request, holds the caller to its quota, and applies the fault planned for the request."""

        @web.middleware
        async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if request.path.startswith("/_dev/"):
                return await handler(request)
            line = f"{request.method} {origin}{unquote(request.path_qs)}"
            self.counters.request(request, origin, line)
            if origin == "hub" and not self._spend(request):
                return refusal(
                    429, None, "We had to rate limit you, you hit the quota of requests per 5 minutes period."
                )
            fault = self.faults.take(line)
            request[_FAULT] = fault
            return await _instead_of_an_answer(request, fault) or await handler(request)

        return middleware

    def _spend(self, request: web.Request) -> bool:
        kind = "api" if request.path.startswith("/api/") else "resolvers"
        within, headers = self.rate_limits.spend(token_of(request) or request.remote or "", kind)
        request[_RATE_LIMIT_HEADERS] = headers
        return within

    def _hub_routes(self) -> list[web.RouteDef]:
        model = "/{org}/{name}"
        api = "/api/models" + model
        return [
            web.get("/api/whoami-v2", self._whoami),
            web.get(api, self._model_info),
            web.get(api + "/revision/{revision}", self._model_info),
            web.get(api + "/tree/{revision}", self._tree),
            web.get(api + "/tree/{revision}/{path:.*}", self._tree),
            web.post(api + "/paths-info/{revision}", self._paths_info),
            web.get(api + "/refs", self._refs),
            web.get(api + "/commits/{revision}", self._commits),
            web.get(api + "/xet-read-token/{revision}", self._xet_read_token),
            web.get(model + "/resolve/{revision}/{path:.+}", self._resolve),  # aiohttp adds HEAD
            web.get(model + "/raw/{revision}/{path:.+}", self._raw),
            *dev_routes(self),
        ]

    def _cdn_routes(self) -> list[web.RouteDef]:
        return [web.get("/repos/{org}/{name}/{etag}", self._blob)]

    # -- API ----------------------------------------------------------------------------------------------------

    async def _whoami(self, request: web.Request) -> web.Response:
        if token_of(request) not in self.tokens:
            return refusal(401, None, "Invalid username or password.")
        token = {"displayName": "development", "role": "read"}
        auth = {"type": "access_token", "accessToken": token}
        return web.json_response({"type": "user", "name": "developer", "orgs": [], "auth": auth})

    async def _model_info(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        return web.json_response(listing.model_info(found, blobs=_flag(request, "blobs")))

    async def _tree(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        below = request.match_info.get("path", "").strip("/")
        entries = listing.tree(found, below, recursive=_flag(request, "recursive"))
        if entries is None:
            return _no_entry(found)
        if not _flag(request, "expand"):
            return listing.page_of(request, entries, self.page_entries)
        repository = self.repositories[found.model.repository]
        few = listing.expanded_page_entries(self.page_entries)
        return listing.page_of(request, entries, few, lambda e: listing.with_last_commits(repository, found, e))

    async def _paths_info(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        body = await request.text()
        form = request.content_type != "application/json"
        asked = parse_qs(body) if form else json.loads(body)
        entries = listing.entries_of(found, asked.get("paths", []))
        expand = asked.get("expand", False)
        if expand is True or (form and expand and expand[0].lower() == "true"):
            entries = listing.with_last_commits(self.repositories[found.model.repository], found, entries)
        return web.json_response(entries)

    async def _refs(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        repository = self.repositories[found.model.repository]
        return web.json_response(listing.refs(repository, pull_requests=_flag(request, "include_prs")))

    async def _commits(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if isinstance(found, web.Response):
            return found
        history = self.repositories[found.model.repository].history(found)
        formatted = "formatted" in request.query.getall("expand[]", [])
        return listing.page_of(request, listing.commits(history, formatted=formatted), self.page_entries)

    async def _xet_read_token(self, request: web.Request) -> web.Response:
        found = self._find(request, content=True)
        if isinstance(found, web.Response):
            return found
        if self.xet is None:
            return refusal(404, None, "Repository is not Xet enabled")
        headers, document = self.xet.connection()
        return web.json_response(document, headers=headers)

    # -- content ------------------------------------------------------------------------------------------------

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        found = self._find(request, content=True)
        if isinstance(found, web.Response):
            return found
        file = found.model.files.get(request.match_info["path"])
        if file is None:
            return _no_entry(found)
        headers = {"X-Repo-Commit": found.id, "ETag": f'"{file.etag}"'}
        if self.mirror:
            return await self._send(request, file, {**headers, "ETag": f'"{_etag_of_another_make(file.etag)}"'})
        if file.sha256 is None:
            return await self._send(request, file, headers)
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size_bytes)}
        headers |= self._xet_headers(request, found, file)
        return web.Response(status=302, headers={**headers, "Location": self._signed_url(request, found.model, file)})

    async def _raw(self, request: web.Request) -> web.Response:
        """What git has of a file: of one in LFS, its pointer."""
        found = self._find(request, content=True)
        if isinstance(found, web.Response):
            return found
        file = found.model.files.get(request.match_info["path"])
        if file is None:
            return _no_entry(found)
        return web.Response(body=file.in_git(), headers={"X-Repo-Commit": found.id, "ETag": f'"{file.git_oid}"'})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        name, etag = repository_of(request), request.match_info["etag"]
        expires = request.query.get("Expires", "")
        genuine = hmac.compare_digest(request.query.get("Signature", ""), self._signature(name, etag, expires))
        if not genuine or float(expires) < time.time():
            return web.Response(status=403, text="Request has expired")
        model = self.repositories[name].file_holder(etag)
        file = model.file_with_etag(etag) if model is not None else None
        if file is None:
            return web.Response(status=404)
        return await self._send(request, file, {"ETag": f'"{_etag_of_another_make(etag)}"'})

    async def _send(self, request: web.Request, file: ServedFile, headers: dict[str, str]) -> web.StreamResponse:
        paces = self.throttle.paces(request.remote or "")
        return await send_file(request, file, headers, Delivery(_fault_of(request), paces, self.counters))

    def _find(self, request: web.Request, *, content: bool = False) -> Commit | web.Response:
        return find_commit(request, self.repositories, self.tokens, content=content)

    def _xet_headers(self, request: web.Request, commit: Commit, file: ServedFile) -> dict[str, str]:
        if self.xet is None or file.xet_hash is None:
            return {}
        route = f"{request.url.origin()}/api/models/{commit.model.repository}/xet-read-token/{commit.id}"
        return {"X-Xet-Hash": file.xet_hash, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}

    def _signed_url(self, request: web.Request, model: ServedModel, file: ServedFile) -> str:
        fault = _fault_of(request)
        ended = fault is not None and fault.kind is FaultKind.EXPIRED_URL
        expires = str(time.time() + (-1.0 if ended else self.signed_url_seconds))
        name = quote(f'inline; filename="{file.path}"')
        signature = self._signature(model.repository, file.etag, expires)
        query = f"response-content-disposition={name}&Expires={expires}&Signature={signature}"
        return f"{self.cdn_url}/repos/{model.repository}/{file.etag}?{query}"

    def _signature(self, repository: str, etag: str, expires: str) -> str:
        return hmac.new(self._signing_key, f"{repository} {etag} {expires}".encode(), "sha256").hexdigest()


def _fault_of(request: web.Request) -> Fault | None:
    fault = request[_FAULT]
    assert fault is None or isinstance(fault, Fault)
    return fault


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in {"true", "1"}


def _no_entry(commit: Commit) -> web.Response:
    response = refusal(404, "EntryNotFound", "Entry not found")
    response.headers["X-Repo-Commit"] = commit.id
    return response


def _etag_of_another_make(etag: str) -> str:
    """Object stores and mirrors name content in their own way."""
    return hashlib.md5(etag.encode(), usedforsecurity=False).hexdigest()


async def _say_what_is_left(request: web.Request, response: web.StreamResponse) -> None:
    if "RateLimit" not in response.headers:
        response.headers.update(request.get(_RATE_LIMIT_HEADERS, {}))


async def _instead_of_an_answer(request: web.Request, fault: Fault | None) -> web.Response | None:
    """What the fault answers in place of the hub; None where the fault is none, or one of a body."""
    if fault is None:
        return None
    match fault.kind:
        case FaultKind.STATUS:
            return _status_fault(fault)
        case FaultKind.REDIRECT:
            return web.Response(status=302, headers={"Location": fault.location or str(request.url)})
        case FaultKind.NO_ANSWER:
            await silence(request)
            return web.Response(status=503)
        case FaultKind.HANG_UP:
            reset(request)
            return web.Response(status=503)
        case _:
            return None


def _status_fault(fault: Fault) -> web.Response:
    headers = {} if fault.retry_after_seconds is None else {"Retry-After": str(fault.retry_after_seconds)}
    if fault.rate_limit_seconds is not None:
        headers["RateLimit"] = f'"requests";r=0;t={fault.rate_limit_seconds}'
    text = "<html><body>The server is busy.</body></html>" if fault.html else ""
    return web.Response(status=fault.status, headers=headers, text=text, content_type="text/html" if text else None)
