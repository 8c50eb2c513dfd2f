"""``/_dev``: what a test or a demonstration in another process asks of the hub itself. All bodies are JSON.

POST   /_dev/faults    a fault, see hack.hub.faults.Fault           DELETE: none any more; GET: how often each struck
POST   /_dev/commits   {"repository", "folder", "branch"?, "title"?, "access"?}: move a branch to what a folder holds
POST   /_dev/tags      {"repository", "tag", "revision"}
POST   /_dev/pulls     {"repository", "number", "revision"}
POST   /_dev/tokens    {"token", "repositories"}                    DELETE /_dev/tokens/TOKEN: revoked
POST   /_dev/settings  {"signed_url_seconds"?, "page_entries"?, "mirror"?, "connection_bytes_per_second"?,
                        "address_bytes_per_second"?, "quotas"?, "window_seconds"?}
POST   /_dev/absence   {"seconds"}: connections are cut and refused for so long
GET    /_dev/counters                                               DELETE: from zero again
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from hack.hub.content import Access, read_model
from hack.hub.faults import Fault
from hack.hub.oddities import ODDITIES

if TYPE_CHECKING:
    from hack.hub.server import Hub

_OF_HUB = frozenset({"signed_url_seconds", "page_entries", "mirror"})
_OF_THROTTLE = frozenset({"connection_bytes_per_second", "address_bytes_per_second"})
_OF_RATE_LIMITS = frozenset({"quotas", "window_seconds", "retry_after"})


def dev_routes(hub: Hub) -> list[web.RouteDef]:
    def changes(act: Callable[[Hub, dict[str, Any]], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            try:
                return web.json_response(act(hub, await request.json()))
            except (KeyError, ValueError, TypeError, OSError, re.error) as error:
                return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

        return handler

    async def strikes(_: web.Request) -> web.Response:
        return web.json_response([fault.struck for fault in hub.faults.planned])

    async def no_faults(_: web.Request) -> web.Response:
        hub.faults.clear()
        return web.json_response({"planned": 0})

    async def revoke(request: web.Request) -> web.Response:
        hub.tokens.pop(request.match_info["token"], None)
        return web.json_response({"tokens": len(hub.tokens)})

    async def counters(_: web.Request) -> web.Response:
        return web.json_response({**hub.counters.to_json(), "returns": hub.returns})

    async def from_zero(_: web.Request) -> web.Response:
        hub.counters.reset()
        return web.json_response(hub.counters.to_json())

    return [
        web.post("/_dev/faults", changes(_plan_fault)),
        web.get("/_dev/faults", strikes),
        web.delete("/_dev/faults", no_faults),
        web.post("/_dev/commits", changes(_commit)),
        web.post("/_dev/oddities", changes(_serve_oddity)),
        web.post("/_dev/tags", changes(_tag)),
        web.post("/_dev/pulls", changes(_pull_request)),
        web.post("/_dev/tokens", changes(_grant)),
        web.delete("/_dev/tokens/{token}", revoke),
        web.post("/_dev/settings", changes(_set)),
        web.post("/_dev/absence", changes(_leave)),
        web.get("/_dev/counters", counters),
        web.delete("/_dev/counters", from_zero),
    ]


def _plan_fault(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    hub.faults.planned.append(Fault.from_json(asked))
    return {"planned": len(hub.faults.planned)}


def _commit(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    folder = Path(asked["folder"])
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    put = hub.xet.put if hub.xet is not None else None
    model = read_model(asked["repository"], folder, Access(asked.get("access", "public")), put)
    hub.add(model, asked.get("branch", "main"), asked.get("title", "Upload folder"))
    return {"commit": model.commit}


def _serve_oddity(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    model = ODDITIES[asked["kind"]](asked["repository"], Path(asked["folder"]))
    hub.add(model)
    return {"commit": model.commit}


def _tag(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    return {"commit": hub.tag(asked["repository"], asked["tag"], asked["revision"])}


def _pull_request(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    return {"commit": hub.open_pull_request(asked["repository"], int(asked["number"]), asked["revision"])}


def _grant(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    hub.tokens[asked["token"]] = frozenset(asked["repositories"])
    return {"tokens": len(hub.tokens)}


def _leave(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    hub.leave(float(asked["seconds"]))
    return asked


def _set(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(asked) - _OF_HUB - _OF_THROTTLE - _OF_RATE_LIMITS)
    if unknown:
        raise ValueError(f"no such setting: {json.dumps(unknown)}")
    for name, value in asked.items():
        owner = hub if name in _OF_HUB else hub.throttle if name in _OF_THROTTLE else hub.rate_limits
        setattr(owner, name, value)
    return asked
