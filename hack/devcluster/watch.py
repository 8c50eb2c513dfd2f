"""The watch stream: one JSON object a line, from a revision on, as one selection sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from hack.devcluster.api import Api
from hack.devcluster.errors import ApiError
from hack.devcluster.event_views import shown_as
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, clone, namespace_of
from hack.devcluster.selectors import Selection
from hack.devcluster.store import Change, ChangeType, Subscription

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """``revision`` None: begin with the present objects as ADDED. ``timeout_s`` ends the stream cleanly."""

    kind: Kind
    namespace: str
    selection: Selection
    revision: int | None
    timeout_s: float
    bookmarks: bool
    bookmark_interval_s: float
    initial_events_end: bool = False


Shape = Callable[[Object], Object]


async def watch_lines(api: Api, request: WatchRequest, shape: Shape) -> AsyncIterator[bytes]:
    """``shape`` gives each object the form the client asked for (a Table, or itself)."""
    if request.revision is not None:
        try:
            api.check_watchable(request.revision)
        except ApiError as error:
            yield _line("ERROR", error.status())
            return
    concerns = partial(_concerns, request)
    subscription = api.store.subscribe(
        request.kind, after=request.revision, concerns=concerns, name=request.selection.only_name
    )
    try:
        if request.revision is None:
            for obj in api.all(request.kind, request.namespace, request.selection):
                yield _line("ADDED", shape(obj))
            if request.initial_events_end:
                yield _bookmark(api, request, {INITIAL_EVENTS_END: "true"})
        async for line in _changes(api, request, subscription, shape):
            yield line
    finally:
        api.store.unsubscribe(subscription)


async def _changes(api: Api, request: WatchRequest, subscription: Subscription, shape: Shape) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop().time
    ends = clock() + request.timeout_s
    next_bookmark = clock() + request.bookmark_interval_s
    while (left := ends - clock()) > 0:
        quiet = min(left, next_bookmark - clock()) if request.bookmarks else left
        try:
            async with asyncio.timeout(max(quiet, 0)):
                change = await subscription.next()
        except TimeoutError:
            if request.bookmarks and clock() >= next_bookmark:
                yield _bookmark(api, request, {})
                next_bookmark = clock() + request.bookmark_interval_s
            continue
        if change is None:
            return
        seen = _as_seen(request, change)
        if seen is not None:
            event, obj = seen
            yield _line(event, shape(obj))


def _concerns(request: WatchRequest, change: Change) -> bool:
    if request.namespace and namespace_of(change.object) != request.namespace:
        return False
    states = (change.object,) if change.previous is None else (change.object, change.previous)
    return any(request.selection.matches(shown_as(request.kind, state)) for state in states)


def _as_seen(request: WatchRequest, change: Change) -> tuple[ChangeType, Object] | None:
    """Entering the selection is ADDED, leaving it is DELETED, whatever happened to the object itself."""
    if request.namespace and namespace_of(change.object) != request.namespace:
        return None
    shown = shown_as(request.kind, change.object)
    selected_now = change.type != "DELETED" and request.selection.matches(shown)
    before = change.previous
    selected_before = before is not None and request.selection.matches(shown_as(request.kind, before))
    if selected_now:
        return ("MODIFIED" if selected_before else "ADDED"), shown
    if selected_before:
        return "DELETED", _last_seen(request, change)
    return None


def _last_seen(request: WatchRequest, change: Change) -> Object:
    """The state that was still selected, with the revision at which it left."""
    if change.type == "DELETED" or change.previous is None:
        return shown_as(request.kind, change.object)
    last = clone(change.previous)
    last["metadata"]["resourceVersion"] = str(change.revision)
    return shown_as(request.kind, last)


def _bookmark(api: Api, request: WatchRequest, annotations: dict[str, str]) -> bytes:
    metadata: Object = {"resourceVersion": str(api.store.revision)}
    if annotations:
        metadata["annotations"] = annotations
    body = {"kind": request.kind.name, "apiVersion": request.kind.api_version, "metadata": metadata}
    return _line("BOOKMARK", body)


def _line(event: str, obj: Object) -> bytes:
    return json.dumps({"type": event, "object": obj}, separators=(",", ":")).encode() + b"\n"
