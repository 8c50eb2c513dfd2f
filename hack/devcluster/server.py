"""The API over HTTP on the loopback interface (aiohttp), in TLS where it is given a context for that."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from hack.devcluster import discovery
from hack.devcluster.access.gate import Gate
from hack.devcluster.api import Api
from hack.devcluster.dev_routes import add_dev_routes
from hack.devcluster.errors import ApiError, unknown_path
from hack.devcluster.faults import Fault, Faults
from hack.devcluster.request_log import LOG_LENGTH, USER, LoggedRequest, RequestLog
from hack.devcluster.resources import FAULT, LOGGED, Resources
from hack.devcluster.targets import parse_target, verb_of
from hack.joined import serve_joined
from hack.serving import Listener, bound

BODY_LIMIT = 3 * 1024 * 1024
asyncio.sslproto.SSLProtocol.max_size = 32 * 1024
"""asyncio would hold 256 KB for each connection, and here are thousands."""
BOOKMARK_INTERVAL_S = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_DEV_PREFIX = "/_dev/"


class ApiServer:
    """Serves one ``Api`` on ``127.0.0.1``; ``url`` is known after ``start``."""

    def __init__(
        self,
        api: Api,
        *,
        port: int = 0,
        bookmark_interval_s: float = BOOKMARK_INTERVAL_S,
        tls: ssl.SSLContext | None = None,
        log_length: int = LOG_LENGTH,
    ) -> None:
        self.api = api
        self.gate = Gate(api)
        self.log = RequestLog(log_length)
        self.faults = Faults()
        self._port = port
        self._tls = tls
        self._resources = Resources(api, self.gate, bookmark_interval_s)
        self._away_until = 0.0
        self._runner: web.AppRunner | None = None
        self._joined: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def start(self) -> None:
        steps = [self._logged, self._faulty, _errors_as_status, self._known]
        app = web.Application(middlewares=steps, client_max_size=BODY_LIMIT)
        app.router.add_get("/version", _version)
        for path in ("/healthz", "/livez", "/readyz"):
            app.router.add_get(path, _healthy)
        for path in ("/api", "/apis"):
            app.router.add_get(path, _groups)
        app.router.add_get("/openapi/v3", _openapi_index)
        app.router.add_get("/openapi/v3/{path:.+}", _openapi_document)
        app.router.add_get("/apis/{group}", _group)
        for path in ("/api/{version}", "/apis/{group}/{version}"):
            app.router.add_get(path, _resource_list)
        add_dev_routes(app, self.api, self.log, self.faults, self.restart)
        app.router.add_route("*", "/{path:.*}", self._resources.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await Listener(self._runner, bound(self._port), self._tls).start()
        self._port = int(self._runner.addresses[0][1])

    async def serve_joined(self, path: Path) -> None:
        """The same for who joins many connections in one, at a Unix socket: see hack.joined."""
        assert self._runner is not None
        assert self._runner.server is not None
        self._joined = await serve_joined(path, self._runner.server)

    def restart(self, forgets: bool = True, away_s: float = 0.0, in_order: bool = False) -> None:
        """As clients see one: open watches break off, or end ``in_order`` as a server's that is told to stop, no connection is
        taken for ``away_s``, and (with ``forgets``) nobody remembers what changed before. Objects stay."""
        if forgets:
            self.api.store.compact()
        self._away_until = asyncio.get_running_loop().time() + away_s
        if in_order:
            self.api.store.close()
        else:
            self._resources.break_watches()

    async def stop(self) -> None:
        """Open watches end cleanly, as they do when a real API server goes down."""
        self.api.store.close()
        if self._joined is not None:
            self._joined.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _logged(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(_DEV_PREFIX):
            return await handler(request)
        if asyncio.get_running_loop().time() < self._away_until:
            # Nobody is there to write it down.
            return _cut(request)
        agent = request.headers.get("User-Agent", "")
        entry = self.log.begin(request.method, _verb(request), request.path, request.query_string, agent)
        entry.object = _object(request)
        entry.bytes_received = request.content_length or 0
        request[LOGGED] = entry
        try:
            response = await handler(request)
            _note_answer(entry, response)
            return response
        finally:
            entry.finish()

    @web.middleware
    async def _known(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Authentication for all but the development routes; authorization here only for what is no resource."""
        if request.path.startswith(_DEV_PREFIX):
            return await handler(request)
        request[USER] = user = self.gate.authenticate(request)
        request[LOGGED].user = user.name
        if _is_no_resource(request.path):
            self.gate.check_path(user, request.method.lower(), request.path)
        return await handler(request)

    @web.middleware
    async def _faulty(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = None
        if not request.path.startswith(_DEV_PREFIX):
            fault = self.faults.striking(request.method, request.path_qs, request.headers.get("User-Agent", ""))
        if fault is None:
            return await handler(request)
        await asyncio.sleep(fault.delay_s)
        if fault.stall:
            await asyncio.Event().wait()
        if fault.reset:
            return _cut(request)
        if fault.code and fault.after_lines is None:
            return _fault_answer(fault)
        request[FAULT] = fault
        return await handler(request)


def _verb(request: web.Request) -> str:
    try:
        return verb_of(request.method, parse_target(request.path), request.query)
    except ApiError:
        return request.method.lower()


def _object(request: web.Request) -> str:
    try:
        target = parse_target(request.path)
    except ApiError:
        return ""
    return "/".join(filter(None, (target.namespace, target.kind.plural, target.name, target.subresource)))


def _is_no_resource(path: str) -> bool:
    try:
        parse_target(path)
    except ApiError:
        return True
    return False


def _note_answer(entry: LoggedRequest, response: web.StreamResponse) -> None:
    entry.status = response.status
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        entry.bytes_sent = len(response.body)


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _fault_answer(fault: Fault) -> web.Response:
    headers = {"Content-Type": fault.content_type}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    details = {"retryAfterSeconds": fault.retry_after} if fault.retry_after is not None else {}
    status = ApiError(fault.code, "injected fault", details=details).status()
    return web.Response(status=fault.code, headers=headers, text=fault.body or json.dumps(status))


@web.middleware
async def _errors_as_status(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        headers = {"Retry-After": str(error.retry_after_seconds)} if error.retry_after_seconds else {}
        return web.json_response(error.status(), status=error.code, headers=headers)


async def _version(_: web.Request) -> web.Response:
    return web.json_response(discovery.version())


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _groups(request: web.Request) -> web.Response:
    core = request.path == "/api"
    accept = request.headers.get("Accept", "")
    if discovery.AGGREGATED in accept:
        headers = {"Content-Type": discovery.AGGREGATED}
        return web.Response(text=json.dumps(discovery.aggregated(core)), headers=headers)
    return web.json_response(discovery.api_versions() if core else discovery.group_list())


async def _group(request: web.Request) -> web.Response:
    found = discovery.group(request.match_info["group"])
    if found is None:
        raise unknown_path()
    return web.json_response(found)


async def _resource_list(request: web.Request) -> web.Response:
    listed = discovery.resource_list(request.match_info.get("group", ""), request.match_info["version"])
    if listed is None:
        raise unknown_path()
    return web.json_response(listed)


async def _openapi_index(_: web.Request) -> web.Response:
    return web.json_response(discovery.openapi_index())


async def _openapi_document(request: web.Request) -> web.Response:
    document = await asyncio.to_thread(discovery.openapi_document, request.match_info["path"])
    if document is None:
        raise unknown_path()
    return web.json_response(document)
