"""Routes of the development server's own, under ``/_dev/``: what was asked, and faults to come.

* ``GET /_dev/requests?since=N&verb=``: the request log; ``DELETE`` clears it. ``GET /_dev/requests/last``: its last number;
  ``GET /_dev/requests/open?since=N``: how many that were begun since then are open.
* ``POST /_dev/faults``: add a fault (fields of ``faults.Fault``); ``GET`` lists, ``DELETE`` clears.
* ``POST /_dev/restart?forgets=true&away_s=0&in_order=false``: break every watch off, or end it in order, take no connection
  for a while, and forget the history, as a restart that loses the watch cache.
* ``POST /_dev/compact``: forget the history, so that watches from before get 410.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from aiohttp import web

from hack.devcluster.api import Api
from hack.devcluster.errors import bad_request
from hack.devcluster.faults import Fault, Faults
from hack.devcluster.request_log import RequestLog


def add_dev_routes(
    app: web.Application, api: Api, log: RequestLog, faults: Faults, restart: Callable[[bool, float, bool], None]
) -> None:
    async def show_requests(request: web.Request) -> web.Response:
        return web.json_response(log.to_json(int(request.query.get("since", "0")), request.query.get("verb", "")))

    async def show_last(_: web.Request) -> web.Response:
        return web.json_response({"number": log.last})

    async def show_open(request: web.Request) -> web.Response:
        newer = log.since(int(request.query.get("since", "0")))
        return web.json_response({"number": sum(entry.duration_s is None for entry in newer)})

    async def clear_requests(_: web.Request) -> web.Response:
        log.clear()
        return web.Response(status=204)

    async def add_fault(request: web.Request) -> web.Response:
        try:
            fault = Fault.from_json(await request.json())
        except (TypeError, json.JSONDecodeError) as error:
            raise bad_request(str(error)) from error
        faults.add(fault)
        return web.json_response(fault.to_json(), status=201)

    async def show_faults(_: web.Request) -> web.Response:
        return web.json_response([fault.to_json() for fault in faults.all()])

    async def clear_faults(_: web.Request) -> web.Response:
        faults.clear()
        return web.Response(status=204)

    async def compact(_: web.Request) -> web.Response:
        api.store.compact()
        return web.Response(status=204)

    async def begin_again(request: web.Request) -> web.Response:
        words = request.query
        restart(
            words.get("forgets", "true") == "true", float(words.get("away_s", "0")), words.get("in_order") == "true"
        )
        return web.Response(status=204)

    app.router.add_post("/_dev/restart", begin_again)
    app.router.add_get("/_dev/requests", show_requests)
    app.router.add_get("/_dev/requests/last", show_last)
    app.router.add_get("/_dev/requests/open", show_open)
    app.router.add_delete("/_dev/requests", clear_requests)
    app.router.add_post("/_dev/faults", add_fault)
    app.router.add_get("/_dev/faults", show_faults)
    app.router.add_delete("/_dev/faults", clear_faults)
    app.router.add_post("/_dev/compact", compact)
