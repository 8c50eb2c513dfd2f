"""The objects and their history: one counter of revisions for the whole cluster, as etcd has it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, name_of, namespace_of, shared_with

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]
Key = tuple[str, str]
Place = tuple[str, str]
"""A shelf, and the name of what is on it; empty for all of it."""

HISTORY_LENGTH = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """One step of one object. ``object`` is the state after it (for DELETED: the last state, with the new revision)."""

    revision: int
    type: ChangeType
    storage: str
    object: Object
    previous: Object | None


Concerns = Callable[[Change], bool]


def _every(_: Change) -> bool:
    return True


def _places(change: Change) -> tuple[Place, Place]:
    """Where it is looked for: its shelf, and its object there."""
    return (change.storage, ""), (change.storage, name_of(change.object))


class Subscription:
    """Every change of its shelves after a revision that concerns it, in order; ends when the store closes. ``places`` are
    where these can be."""

    def __init__(self, after: int, backlog: list[Change], concerns: Concerns, places: frozenset[Place]) -> None:
        self.places = places
        self._after = after
        self._concerns = concerns
        self._changes = deque(backlog)
        self._news = asyncio.Event()
        self._open = True

    def publish(self, change: Change) -> None:
        """A subscription after a revision that is not reached yet stays silent until it is."""
        if change.revision > self._after and self._concerns(change):
            self._changes.append(change)
            self._news.set()

    def close(self) -> None:
        self._open = False
        self._news.set()

    async def next(self) -> Change | None:
        """The next change; None once closed and read to the end."""
        await self._wait()
        return self._changes.popleft() if self._changes else None

    async def next_batch(self) -> list[Change]:
        """At least one change and all that came with it; empty once closed and read to the end."""
        await self._wait()
        batch = list(self._changes)
        self._changes.clear()
        return batch

    async def _wait(self) -> None:
        while not self._changes and self._open:
            self._news.clear()
            await self._news.wait()


class Store:
    """In memory. An object handed out is shared: copy it before changing it."""

    def __init__(self) -> None:
        self.revision = 0
        self._shelves: dict[str, dict[Key, Object]] = {}
        self._history: deque[Change] = deque()
        # The same once more, for each shelf and for each object on it.
        self._past: dict[Place, deque[Change]] = {}
        self._compacted = 0
        self._subscriptions: dict[Place, set[Subscription]] = {}

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._shelf(kind.storage).get((namespace, name))

    def all(self, kind: Kind, namespace: str = "", name: str = "") -> Iterator[Object]:
        """In (namespace, name) order; the empty namespace means all of them, the empty name any."""
        shelf = self._shelf(kind.storage)
        if name and (namespace or not kind.namespaced):
            found = shelf.get((namespace, name))
            yield from () if found is None else (found,)
            return
        for (where, called), obj in sorted(shelf.items(), key=lambda item: item[0]):
            if (not namespace or where == namespace) and (not name or called == name):
                yield obj

    def put(self, kind: Kind, obj: Object) -> Object:
        """Add or replace; the stored one carries the new revision. ``obj`` is the store's from now on."""
        key = (namespace_of(obj), name_of(obj))
        shelf = self._shelf(kind.storage)
        previous = shelf.get(key)
        stored = self._stamped(shared_with(previous, obj) if previous else obj)
        shelf[key] = stored
        self._publish(kind, "MODIFIED" if previous else "ADDED", stored, previous)
        return stored

    def remove(self, kind: Kind, obj: Object) -> Object:
        previous = self._shelf(kind.storage).pop((namespace_of(obj), name_of(obj)))
        last = self._stamped(obj)
        self._publish(kind, "DELETED", last, previous)
        return last

    def oldest_watchable_revision(self) -> int:
        return self._compacted

    def compact(self) -> None:
        """Forget the history, as etcd does after a while: watches from before now get 410."""
        self._history.clear()
        self._past.clear()
        self._compacted = self.revision

    def subscribe(
        self, *kinds: Kind, after: int | None = None, concerns: Concerns = _every, name: str = ""
    ) -> Subscription:
        """Changes of these kinds after this revision, the past ones first. None means from now on. Of thousands of
        watches only those that a change ``concerns`` are woken by it; those of another ``name`` are not even asked."""
        since = self.revision if after is None else after
        places = frozenset((kind.storage, name) for kind in kinds)
        past = sorted((change for place in places for change in self._since(place, since)), key=lambda c: c.revision)
        subscription = Subscription(since, [change for change in past if concerns(change)], concerns, places)
        for place in subscription.places:
            self._subscriptions.setdefault(place, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        for place in subscription.places:
            self._subscriptions[place].discard(subscription)
            if not self._subscriptions[place]:
                del self._subscriptions[place]

    def close(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.close()

    def _since(self, place: Place, revision: int) -> Iterator[Change]:
        """From the newest on, so that a watch from now on looks at nothing."""
        return takewhile(lambda change: change.revision > revision, reversed(self._past.get(place, ())))

    def _shelf(self, storage: str) -> dict[Key, Object]:
        return self._shelves.setdefault(storage, {})

    def _stamped(self, obj: Object) -> Object:
        self.revision += 1
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.revision)}}

    def _publish(self, kind: Kind, change_type: ChangeType, obj: Object, previous: Object | None) -> None:
        change = Change(self.revision, change_type, kind.storage, obj, previous)
        if len(self._history) == HISTORY_LENGTH:
            self._forget_oldest()
        self._history.append(change)
        for place in _places(change):
            self._past.setdefault(place, deque()).append(change)
            for subscription in self._subscriptions.get(place, ()):
                subscription.publish(change)

    def _forget_oldest(self) -> None:
        oldest = self._history.popleft()
        self._compacted = oldest.revision
        for place in _places(oldest):
            self._past[place].popleft()
            if not self._past[place]:
                del self._past[place]
