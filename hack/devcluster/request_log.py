"""Every request that the API server saw, for tests that count calls and bytes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass
from itertools import takewhile

from aiohttp import web

from hack.devcluster.access.users import User
from hack.devcluster.objects import Object

# Who asks, from the middleware that found it out.
USER = web.RequestKey("user", User)

LOG_LENGTH = 20_000


@dataclass(slots=True)
class LoggedRequest:
    """One request. ``user`` is empty where nobody was let in; ``object`` is ``namespace/resource/name/subresource`` as
    far as the path names them. ``status`` is 0 and ``bytes_sent`` grows while a watch is open; ``duration_s`` is None
    until its end."""

    number: int
    at: float
    method: str
    verb: str
    path: str
    query: str
    user_agent: str
    user: str = ""
    object: str = ""
    status: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    duration_s: float | None = None

    def finish(self) -> None:
        self.duration_s = time.time() - self.at


class RequestLog:
    def __init__(self, length: int = LOG_LENGTH) -> None:
        self._requests: deque[LoggedRequest] = deque(maxlen=length)
        self._count = 0

    def begin(self, method: str, verb: str, path: str, query: str, user_agent: str) -> LoggedRequest:
        self._count += 1
        entry = LoggedRequest(self._count, time.time(), method, verb, path, query, user_agent)
        self._requests.append(entry)
        return entry

    def since(self, number: int = 0) -> list[LoggedRequest]:
        newer = list(takewhile(lambda entry: entry.number > number, reversed(self._requests)))
        return newer[::-1]

    def clear(self) -> None:
        self._requests.clear()

    @property
    def last(self) -> int:
        """The number of the last request."""
        return self._count

    def to_json(self, since: int = 0, verb: str = "") -> list[Object]:
        """Of that verb, or all."""
        return [asdict(entry) for entry in self.since(since) if verb in ("", entry.verb)]
