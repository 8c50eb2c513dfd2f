"""Requests on resources: from HTTP to a verb of the ``Api`` and back."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from dataclasses import dataclass, replace
from typing import Any, cast

from aiohttp import web

from hack.devcluster import eviction, kinds, managed_fields, protobuf_bodies
from hack.devcluster.access.gate import Gate
from hack.devcluster.access.tokens import answer_token_request
from hack.devcluster.access.users import Caller
from hack.devcluster.api import Api, DeleteOptions
from hack.devcluster.errors import ApiError, bad_request, expired, unsupported_media_type
from hack.devcluster.faults import Fault
from hack.devcluster.managed_fields import Application
from hack.devcluster.objects import Object, clone, dig, name_of
from hack.devcluster.patch import APPLY
from hack.devcluster.representation import Form, accepted_form, many, one
from hack.devcluster.request_log import LoggedRequest
from hack.devcluster.selectors import Selection, parse_selection
from hack.devcluster.targets import Target, parse_target, verb_of
from hack.devcluster.watch import WatchRequest, watch_lines

# What the server's middlewares know of a request, for the one that streams.
LOGGED = web.RequestKey("logged", LoggedRequest)
FAULT = web.RequestKey("fault", Fault)
CALLER = web.RequestKey("caller", Caller)

# As long as the real server's longest watch when the client names no limit.
DEFAULT_WATCH_S = 3600.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request with its path and query understood."""

    request: web.Request
    target: Target
    form: Form

    @property
    def dry_run(self) -> bool:
        asked = self.request.query.get("dryRun", "")
        if asked not in ("", "All"):
            raise bad_request(f'dryRun: Unsupported value: "{asked}": supported values: "All"')
        return asked == "All"

    @property
    def caller(self) -> Caller:
        return self.request[CALLER]

    @property
    def selection(self) -> Selection:
        query = self.request.query
        return parse_selection(self.target.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))

    @property
    def include(self) -> str:
        return self.request.query.get("includeObject", "Metadata")

    def shape(self, obj: Object) -> Object:
        return one(self.form, self.target.kind, obj, self.include)


def _as_named(ask: Ask, verb: str) -> Target:
    """For authorization a collection of which a field selector leaves one name counts as that object."""
    if verb not in ("list", "watch", "deletecollection"):
        return ask.target
    with contextlib.suppress(ApiError):  # whoever may not ask is not told what is wrong with the question
        return replace(ask.target, name=ask.selection.only_name)
    return ask.target


class Resources:
    def __init__(self, api: Api, gate: Gate, bookmark_interval_s: float) -> None:
        self._api = api
        self._gate = gate
        self._watching: set[asyncio.Transport] = set()
        self._bookmark_interval_s = bookmark_interval_s

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Raises ApiError for every refusal."""
        target = parse_target(request.path)
        verb = verb_of(request.method, target, request.query)
        request[CALLER] = self._gate.caller(request)
        ask = Ask(request, target, accepted_form(request.headers.get("Accept", "")))
        self._gate.check(request[CALLER].user, verb, _as_named(ask, verb))
        match verb:
            case "get":
                return _json(ask.shape(self._api.get(target.kind, target.namespace, target.name)))
            case "list":
                return self._list(ask)
            case "watch":
                return await self._watch(ask)
            case "create":
                return await self._create(ask)
            case "update":
                return await self._update(ask)
            case "patch":
                return await self._patch(ask)
            case "delete":
                return await self._delete(ask)
            case _:
                return await self._delete_collection(ask)

    def _list(self, ask: Ask) -> web.Response:
        query = ask.request.query
        revision = self._api.store.revision
        if _number(query.get("resourceVersion", "")) > revision:
            raise _too_large_revision(query["resourceVersion"], revision)
        listing = self._api.list_page(
            ask.target.kind,
            ask.target.namespace,
            ask.selection,
            _number(query.get("limit", "")),
            self._continued_after(query.get("continue", "")),
        )
        metadata: Object = {"resourceVersion": str(listing.revision)}
        if listing.next_key is not None:
            metadata["continue"] = _token(listing.revision, listing.next_key)
            metadata["remainingItemCount"] = listing.remaining
        return _json(many(ask.form, ask.target.kind, listing.items, metadata, ask.include))

    def _continued_after(self, token: str) -> tuple[str, str] | None:
        if not token:
            return None
        try:
            revision, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except (ValueError, binascii.Error) as error:
            raise bad_request("continue key is not valid") from error
        if revision < self._api.store.oldest_watchable_revision():
            raise expired("The provided continue parameter is too old to display a consistent list result.")
        return namespace, name

    async def _watch(self, ask: Ask) -> web.StreamResponse:
        query = ask.request.query
        asked = query.get("resourceVersion", "")
        fields = query.get("fieldSelector", "")
        if ask.target.name:
            fields = ",".join(filter(None, [fields, f"metadata.name={ask.target.name}"]))
        watch = WatchRequest(
            ask.target.kind,
            ask.target.namespace,
            parse_selection(ask.target.kind, query.get("labelSelector", ""), fields),
            None if asked in ("", "0") else _number(asked),
            float(query.get("timeoutSeconds") or DEFAULT_WATCH_S),
            query.get("allowWatchBookmarks") in ("1", "true"),
            self._bookmark_interval_s,
            query.get("sendInitialEvents") == "true",
        )
        return await self._stream(ask, watch)

    def break_watches(self) -> None:
        """Cut the connections of all open watches."""
        for transport in list(self._watching):
            transport.abort()

    async def _stream(self, ask: Ask, watch: WatchRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(ask.request)
        entry, fault = ask.request[LOGGED], ask.request.get(FAULT)
        entry.status = response.status
        transport = cast(asyncio.Transport, ask.request.transport)
        self._watching.add(transport)
        try:
            lines = 0
            async for line in watch_lines(self._api, watch, ask.shape):
                if fault is not None and lines == fault.after_lines:
                    await _strike(response, transport, fault, line)
                    return response
                lines += 1
                entry.bytes_sent += len(line)
                await response.write(line)
        except ConnectionResetError:
            pass
        finally:
            self._watching.discard(transport)
        return response

    async def _create(self, ask: Ask) -> web.Response:
        body = await _body(ask.request)
        target = ask.target
        if target.kind.create_only:
            return _json(self._gate.reviews.answer(target.kind, body, ask.caller.user), 201)
        match target.subresource:
            case "token":
                signer = self._gate.authenticator.signer
                return _json(answer_token_request(self._api, signer, target.namespace, target.name, body), 201)
            case "eviction":
                return self._evict(ask, body)
            case "binding":
                node = str(dig(body, "target.name", ""))
                self._api.bind(target.namespace, target.name, node, dry_run=ask.dry_run)
                return _json(_success(201), 201)
            case _:
                created = self._api.create(target.kind, target.namespace, body, dry_run=ask.dry_run, by=ask.caller)
                return _json(ask.shape(created), 201)

    def _evict(self, ask: Ask, body: Object) -> web.Response:
        if (body.get("apiVersion"), body.get("kind")) != ("policy/v1", "Eviction"):
            raise bad_request("the body must be a policy/v1 Eviction")
        if name_of(body) not in ("", ask.target.name):
            raise bad_request("name in URL does not match name in Eviction object")
        options = body.get("deleteOptions") or {}
        dry_run = ask.dry_run or options.get("dryRun") == ["All"]
        chosen = DeleteOptions.from_body(options)
        eviction.evict(self._api, ask.target.namespace, ask.target.name, chosen, dry_run=dry_run, by=ask.caller)
        return _json(_success(201), 201)

    async def _update(self, ask: Ask) -> web.Response:
        target = ask.target
        body = await _body(ask.request)
        updated = self._api.update(
            target.kind, target.namespace, target.name, body,
            subresource=target.subresource, dry_run=ask.dry_run, by=ask.caller,
        )  # fmt: skip
        return _json(ask.shape(updated))

    async def _patch(self, ask: Ask) -> web.Response:
        target = ask.target
        if ask.request.content_type == APPLY:
            return await self._apply(ask)
        patched = self._api.patch(
            target.kind,
            target.namespace,
            target.name,
            ask.request.content_type,
            _parsed(await ask.request.read()),
            subresource=target.subresource,
            dry_run=ask.dry_run,
            by=ask.caller,
        )
        return _json(ask.shape(patched))

    async def _apply(self, ask: Ask) -> web.Response:
        target, query = ask.target, ask.request.query
        wanted = managed_fields.parsed_apply(await ask.request.read())
        if not isinstance(wanted, dict) or "apiVersion" not in wanted or "kind" not in wanted:
            raise bad_request("the body of an apply patch must be an object with apiVersion and kind")
        force = query.get("force") in ("1", "true")
        application = Application(wanted, query.get("fieldManager", ""), force, target.subresource)
        applied, created = self._api.apply(
            target.kind, target.namespace, target.name, application, dry_run=ask.dry_run, by=ask.caller
        )
        return _json(ask.shape(applied), 201 if created else 200)

    async def _delete(self, ask: Ask) -> web.Response:
        target = ask.target
        options = await self._delete_options(ask)
        done = self._api.delete(target.kind, target.namespace, target.name, options, dry_run=ask.dry_run, by=ask.caller)
        if target.kind is kinds.PODS or not done.gone:
            return _json(ask.shape(done.object))
        return _json(_success(200, {"name": target.name, "kind": target.kind.plural, "uid": _uid(done.object)}))

    async def _delete_collection(self, ask: Ask) -> web.Response:
        options = await self._delete_options(ask)
        chosen = self._api.all(ask.target.kind, ask.target.namespace, ask.selection)
        for obj in chosen:
            namespace = str(dig(obj, "metadata.namespace", ""))
            self._api.delete(ask.target.kind, namespace, name_of(obj), options, dry_run=ask.dry_run, by=ask.caller)
        metadata = {"resourceVersion": str(self._api.store.revision)}
        return _json(many(ask.form, ask.target.kind, chosen, metadata, ask.include))

    async def _delete_options(self, ask: Ask) -> DeleteOptions:
        body = await _body(ask.request) if ask.request.can_read_body else {}
        asked = ask.request.query.get("gracePeriodSeconds")
        if asked is not None:
            body = clone(body) | {"gracePeriodSeconds": _number(asked)}
        return DeleteOptions.from_body(body)


async def _strike(response: web.StreamResponse, transport: asyncio.Transport, fault: Fault, line: bytes) -> None:
    """What a fault does in the middle of a watch, instead of its next line."""
    if fault.stall_after_lines is not None:
        await asyncio.Event().wait()
    if fault.error_after_lines is not None:
        event = {"type": "ERROR", "object": ApiError(fault.code or 410, "injected fault").status()}
        await response.write(json.dumps(event).encode() + b"\n")
        return
    await response.write(line[: len(line) // 2])
    transport.abort()


def _json(body: Object, status: int = 200) -> web.Response:
    return web.json_response(body, status=status)


def _success(code: int, details: Object | None = None) -> Object:
    body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return body | ({"details": details} if details else {"code": code})


def _uid(obj: Object) -> str:
    return str(dig(obj, "metadata.uid", ""))


async def _body(request: web.Request) -> Object:
    raw = await request.read()
    if request.content_type == protobuf_bodies.MEDIA_TYPE:
        return protobuf_bodies.decode(raw)
    if request.content_type not in ("application/json", "application/octet-stream"):
        raise unsupported_media_type(request.content_type, ["application/json", protobuf_bodies.MEDIA_TYPE])
    body = _parsed(raw) if raw else {}
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    return body


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error


def _number(text: str) -> int:
    if not text:
        return 0
    if not text.isdigit():
        raise bad_request(f"invalid number: {text}")
    return int(text)


def _token(revision: int, after: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps([revision, *after]).encode()).decode()


def _too_large_revision(asked: str, current: int) -> ApiError:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return ApiError(504, text, reason="Timeout", details={"causes": [cause], "retryAfterSeconds": 1})
