"""One LIST and WATCH, kept up for ever: the objects of one selector as they are now.

The client library's own watch has no back-off, repeats a 410 with the same version and yields garbage as events, so this
is ours: list from the cache, watch with bookmarks, list again on 410, drop partial lines, full-jitter back-off.

# Note [No herd]
# An API server that restarts breaks the watches of a whole fleet off in one moment, and has forgotten what they have seen. So
# a watch that breaks is opened again from the version seen last, at a random time, and only one whose past is forgotten
# lists again, at another random time. Kube.jitter_seconds says within how many seconds; what fails then again waits longer each
# time. The first list of a process waits for nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.adapters.kube import JSON, METADATA, METADATA_LIST, ExpiredError, Kube, Object, TooLongError
from agent.model.errors import AgentError, GoneError, RefusedError, RetryError

log = logging.getLogger("warmslice.watch")

_BACKOFF_CAP_SECONDS = 60.0
_MOST_DOUBLINGS = 10
RESYNC_SECONDS = 600.0
_SPREAD = 0.5, 1.5
"""Of the time until the next list: those that began together would list together for an hour."""
_IN_TIME_SECONDS = 5.0
_FIRST_LIST_SECONDS = 1.0
"""Of back-off, before anything is known."""
_MOST_REOPENED = 3
"""So many failures in a row to open a watch from a version put it in doubt."""
_PAGE = "500"
_PAGE_OF_WHOLE = "50"
"""Of whole objects, which may have more than a megabyte each."""
_REFUSED_SECONDS = 60.0
_SURE = 5
"""So many failures in a row, a minute or two, say that a kind is not there any more."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Of many objects: those with such labels, of them their metadata (with ``whole`` all of them), and of that what ``keep``
    keeps."""

    labels: str
    keep: Callable[[Object], Object]
    whole: bool = False


class Watch:
    """The objects of one path and selector, by UID. ``changed`` is called after each change; it carries no news.

    Lists come from the API server's cache, which may be behind; with ``consistent`` they are the newest there is, for the few
    objects on which more rests. Of ``metadata`` they come in pages: nobody holds ten thousand nodes as they are sent. An
    ``optional`` kind that this API server does not have, or does not show us, is an empty one; it is asked for now and then.
    """

    def __init__(
        self,
        kube: Kube,
        path: str,
        field_selector: str,
        changed: Callable[[], None],
        consistent: bool = False,
        metadata: Metadata | None = None,
        optional: bool = False,
    ) -> None:
        self._optional = optional
        self._kube = kube
        self._path = path
        self._selector = field_selector
        self._changed = changed
        self._consistent = consistent
        self._metadata = metadata
        self._objects: dict[str, Object] = {}
        self._version = ""
        self._failures = 0
        self.synced = False

    @property
    def objects(self) -> tuple[Object, ...]:
        """What is known now; empty before the first list."""
        return tuple(self._objects.values())

    def put(self, item: Object) -> None:
        """Take an object that the API server answered with, unless a newer one is known, or that it was deleted since."""
        uid = item["metadata"]["uid"]
        known = self._objects.get(uid)
        if not _is_older(_version(item), _version(known) if known is not None else self._version):
            self._objects[uid] = item

    def forget(self) -> None:
        """Take it that nothing is there: the API server said so."""
        self._objects = {}

    async def run(self) -> None:
        """List and watch until cancelled. See Note [No herd]."""
        while True:
            try:
                if not self._version:
                    await self._list()
                if await self._follow():
                    await asyncio.sleep(random.uniform(0, self._kube.jitter_seconds))
                self._version = ""
            except (GoneError, RefusedError) as error:
                # What was to be seen before is not gone for an answer of a moment.
                if self._optional and (not self._objects or self._failures >= _SURE):
                    gone = isinstance(error, GoneError)
                    await self._be_empty(error, RESYNC_SECONDS if gone else _REFUSED_SECONDS)
                else:
                    await self._back_off(error)
            except (_UnreadableError, TooLongError, ExpiredError) as error:
                # The same would come again.
                self._version = ""
                await self._back_off(error)
            except AgentError as error:
                await self._back_off(error)
            except (KeyError, TypeError, AttributeError) as error:
                self._version = ""
                await self._back_off(RetryError(f"watch {self._path}: not what an API server says ({error!r})"))

    async def _be_empty(self, error: AgentError, seconds: float) -> None:
        log.debug("watch.none", extra={"path": self._path, "error": str(error)})
        self._objects = {}
        self._version = ""
        self.synced = True
        self._changed()
        await asyncio.sleep(seconds * random.uniform(*_SPREAD))

    async def _list(self) -> None:
        if self._metadata is not None:
            listed = await self._listed_in_pages(self._metadata)
        else:
            query = {} if self._consistent else {"resourceVersion": "0"}
            listed = await self._kube.get(self._path, **query, **self._selectors())
        # Taken as it is, even where it is older than a write of ours: versions fall when etcd is restored, and a stale
        # one is refused at the next write.
        self._objects = {item["metadata"]["uid"]: item for item in listed.get("items") or []}
        self._version = listed["metadata"]["resourceVersion"]
        self.synced = True
        self._failures = 0
        self._changed()

    async def _listed_in_pages(self, metadata: Metadata) -> Object:
        """The newest there is: a list from the API server's cache has no pages."""
        items: list[Object] = []
        query = {"limit": _PAGE_OF_WHOLE if metadata.whole else _PAGE, **self._selectors()}
        while True:
            page = await self._kube.metadata(self._path, JSON if metadata.whole else METADATA_LIST, **query)
            items += [metadata.keep(item) for item in page.get("items") or []]
            if not page["metadata"].get("continue"):
                return {"metadata": page["metadata"], "items": items}
            query["continue"] = page["metadata"]["continue"]

    def _selectors(self) -> dict[str, str]:
        chosen = {"fieldSelector": self._selector, "labelSelector": self._metadata.labels if self._metadata else ""}
        return {name: selector for name, selector in chosen.items() if selector}

    async def _follow(self) -> bool:
        """Watch from the version seen last, again and again; False when the resync is due, True when its past is forgotten."""
        deadline = asyncio.get_running_loop().time() + RESYNC_SECONDS * random.uniform(*_SPREAD)
        # A server counts whole seconds: for less than one, no watch is opened.
        while (rest := deadline - asyncio.get_running_loop().time()) >= 1:
            query = {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": self._version,
                "timeoutSeconds": str(int(rest)),
                **self._selectors(),
            }
            accept = JSON if self._metadata is None or self._metadata.whole else METADATA
            async with self._kube.stream(self._path, query, accept) as lines:
                async for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    if not self._take(_parsed(line)):
                        return True
            # It ends with its time. One that ends earlier, though in order, ended for all that watch: a server goes down.
            early = deadline - asyncio.get_running_loop().time() > _IN_TIME_SECONDS
            await asyncio.sleep(random.uniform(0, self._kube.jitter_seconds) if early else random.uniform(0.1, 1.0))
        return False

    def _take(self, event: Mapping[str, Any]) -> bool:
        """One event; False when a new list is needed."""
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            if item.get("code") == 410:
                return False
            raise _UnreadableError(f"watch {self._path}: {item.get('message', 'error event')}")
        metadata = item.get("metadata") or {}
        self._version = metadata.get("resourceVersion", self._version)
        self._failures = 0
        if kind == "BOOKMARK":
            return True
        uid = metadata["uid"]
        if kind == "DELETED":
            self._objects.pop(uid, None)
        elif uid not in self._objects or not _is_older(_version(item), _version(self._objects[uid])):
            self._objects[uid] = item if self._metadata is None else self._metadata.keep(item)
        self._changed()
        return True

    async def _back_off(self, error: AgentError) -> None:
        self._failures += 1
        if self._failures >= _MOST_REOPENED:
            self._version = ""
        first = self._kube.jitter_seconds if self.synced else _FIRST_LIST_SECONDS
        longest = max(_BACKOFF_CAP_SECONDS, first)
        wait = random.uniform(0, min(longest, first * 2 ** min(self._failures - 1, _MOST_DOUBLINGS)))
        if isinstance(error, RetryError) and error.after_seconds:
            wait += min(error.after_seconds, _BACKOFF_CAP_SECONDS)
        log.warning("watch.failed", extra={"path": self._path, "error": str(error), "wait_seconds": round(wait, 1)})
        await asyncio.sleep(wait)


class _UnreadableError(RetryError):
    """What came is no event."""


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise _UnreadableError("the watch sent a line that is not JSON") from error
    if not isinstance(event, dict):
        raise _UnreadableError("the watch sent a line that is no event")
    return event


def _version(item: Object) -> str:
    return str(item["metadata"].get("resourceVersion", ""))


def _is_older(version: str, than: str) -> bool:
    """Whether it surely is. Versions of one kind compare as numbers."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
