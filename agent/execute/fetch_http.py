"""Ranged reads over plain HTTP connections that a thread keeps open, one thread per `Connections`.

# Note [Where bytes come from]
# The hub answers for a file itself or sends us on, mostly to a signed address of another host. The address found is
# shared by all ranges of the file until it fails. The token goes to the hub's own origin only. A store may have ETags
# of its own, so an ETag is compared with what the same address said before, never with the listing: what the bytes
# must be is settled by hashing them (agent.execute.fetch_blob).
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from agent.adapters import clock
from agent.execute.fetch_route import Route, route_to
from agent.model.cache import FailureKind, FetchEndedError, FetchFaultError
from agent.model.wait import wait_asked

_UNREAD_BYTES = 64 * 1024  # of a body that nobody wants
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")


class Sink(Protocol):
    """Where bytes go, in order."""

    def room(self) -> memoryview:
        """Where the next ones go; not empty."""
        ...

    def took(self, count: int) -> None:
        """So many were put there."""
        ...


@dataclass(slots=True)
class Source:
    """Where one file comes from. See Note [Where bytes come from]."""

    url: str
    headers: Mapping[str, str]
    size_bytes: int
    address: str | None = None  # where the hub sent us
    etag: str | None = None  # strong one of that address
    ranges_ignored: bool = False
    lock: Lock = field(default_factory=Lock)

    def forget_address(self) -> None:
        with self.lock:
            self.address = self.etag = None


class Connections:
    """Keep-alive connections by origin. Not for several threads."""

    def __init__(self, silence_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self._open: dict[tuple[str, str], Route] = {}

    def close(self) -> None:
        for route in self._open.values():
            route.connection.close()
        self._open.clear()

    def read(self, source: Source, start: int, end: int, sink: Sink) -> bool:
        """Put the bytes ``start`` to ``end`` into ``sink`` in order; True.

        False, with nothing received, where the server ignores ranges and the bytes asked for are not the whole file.
        What ``sink`` raises passes through.
        """
        if source.url.startswith("file:"):
            _read_file(source, start, end, sink)
            return True
        with self._closed_on_error():
            response = self._located(source, f"bytes={start}-{end - 1}" if end > start else None)
            if not _is_what_was_asked(response, source, start, end):
                self.close()  # the body is on its way; only closing stops it
                return False
            self._receive(response, end - start, sink)
        return True

    def _receive(self, response: http.client.HTTPResponse, expected: int, sink: Sink) -> None:
        received = 0
        while received < expected:
            room = sink.room()[: expected - received]
            with _network_faults():
                count = response.readinto(room)
            if not count:
                raise FetchFaultError("truncated", f"the body ended after {received} of {expected} bytes")
            sink.took(count)
            received += count
        self._drain(response, 0)  # the end mark, after which the connection can be used again

    def _drain(self, response: http.client.HTTPResponse, most_bytes: int) -> None:
        """Read to the end, so that the connection can be used again; what is longer than that is not waited for."""
        with _network_faults():
            response.read(most_bytes)
            if response.read(1):
                self.close()

    def _located(self, source: Source, byte_range: str | None) -> http.client.HTTPResponse:
        """A 200 or 206 for the range, along redirects."""
        url = source.address or source.url
        for _ in range(_MOST_REDIRECTS):
            response = self._request(url, _headers(source, url, byte_range))
            if response.status in {200, 206}:
                _remember(source, url, response)
                return response
            self._drain(response, _UNREAD_BYTES)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                raise _refusal_or_fault(source, url, response)
            url = urljoin(url, target)
        raise FetchFaultError("redirects", "the hub sends us round in circles")

    def _request(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        with _network_faults():
            reused = (parts.scheme, parts.netloc) in self._open
            route = self._route(parts)
            try:
                return route.get(parts, headers)
            except (http.client.BadStatusLine, ConnectionError):
                if not reused:
                    raise
            route.connection.close()  # the server had closed it while it was idle; http.client opens it anew
            return route.get(parts, headers)

    def _route(self, parts: SplitResult) -> Route:
        origin = (parts.scheme, parts.netloc)
        if origin not in self._open:
            self._open[origin] = route_to(parts, self._silence_seconds)
        return self._open[origin]

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def _read_file(source: Source, start: int, end: int, sink: Sink) -> None:
    """From a cache that is mounted; what was read does not stay in the page cache."""
    try:
        with open(unquote(urlsplit(source.url).path), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != source.size_bytes:
                raise FetchFaultError("size", f"the shared cache has {size} bytes, it lists {source.size_bytes}")
            file.seek(start)
            position = start
            while position < end:
                count = file.readinto(sink.room()[: end - position])
                if not count:
                    raise FetchFaultError("truncated", f"the file ended after {position} of {end} bytes")
                sink.took(count)
                position += count
            os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
    except FileNotFoundError as error:
        message = "the shared cache lacks a file that it lists: fill it again with all that is wanted"
        raise FetchEndedError("missing", message, FailureKind.REFUSED) from error
    except OSError as error:
        raise FetchFaultError("unreachable", f"the shared cache cannot be read: {error.strerror}") from error


@contextmanager
def _network_faults() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise FetchFaultError("stalled", "the connection fell silent") from error
    except ConnectionRefusedError as error:
        raise FetchFaultError("unreachable", f"the server takes no connection: {error.strerror}") from error
    except ConnectionError as error:
        raise FetchFaultError("reset", f"the connection broke: {error}") from error
    except http.client.HTTPException as error:
        # By its kind only: some quote the address, and a signed one is as good as a token.
        raise FetchFaultError("unreachable", f"the server cannot be read ({type(error).__name__})") from error
    except OSError as error:
        raise FetchFaultError("unreachable", f"the server cannot be read: {error!r}") from error


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _headers(source: Source, url: str, byte_range: str | None) -> dict[str, str]:
    at_the_hub = _origin(url) == _origin(source.url)
    headers = {n: value for n, value in source.headers.items() if at_the_hub or n.lower() == "user-agent"}
    headers["Accept-Encoding"] = "identity"
    if byte_range is not None:
        headers["Range"] = byte_range
        if source.etag is not None and url == source.address:
            headers["If-Range"] = source.etag
    return headers


def _remember(source: Source, url: str, response: http.client.HTTPResponse) -> None:
    """Keep the address that answered; another ETag than before means that its content changed."""
    etag = response.headers.get("ETag")
    strong = etag if etag is not None and etag.startswith('"') else None
    with source.lock:
        if source.address == url and source.etag is not None and strong != source.etag:
            source.etag = strong
            raise FetchFaultError("changed", "the file changed on the server while it was read")
        source.address, source.etag = url, strong


def _is_what_was_asked(response: http.client.HTTPResponse, source: Source, start: int, end: int) -> bool:
    """False where it is the whole file instead of the range; another range or another size is a fault."""
    if response.status == 206:
        content_range = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if content_range is None or tuple(map(int, content_range.groups())) != (start, end - 1, source.size_bytes):
            raise FetchFaultError("range", "the server sent another range than was asked for")
        return True
    length = response.headers.get("Content-Length")
    if length is not None and int(length) != source.size_bytes:
        raise FetchFaultError("size", f"the server has {length} bytes, the hub lists {source.size_bytes}")
    return start == 0 and end == source.size_bytes


def _refusal_or_fault(
    source: Source, url: str, response: http.client.HTTPResponse
) -> FetchEndedError | FetchFaultError:
    status = response.status
    after = wait_asked(response.headers, clock.now())
    sent_on = url != source.url
    if sent_on:
        source.forget_address()  # a signed address ends some day: ask the hub for the next one
    if status == 429:
        return FetchFaultError("throttled", "the server asks to slow down (429)", after_seconds=after)
    if status == 408 or status >= 500:
        return FetchFaultError("unavailable", f"the server is not available ({status})", after_seconds=after)
    if sent_on:
        return FetchFaultError("expired", f"the address that the hub sent us to answers {status}")
    if response.headers.get("X-Error-Code") == "GatedRepo":
        message = "the model is gated: ask for access on its page and give a token of that account"
        return FetchEndedError("gated", message, FailureKind.REFUSED)
    if status in {401, 403}:
        message = f"the hub refused the file ({status}): give a token that may read this model"
        return FetchEndedError("token", message, FailureKind.REFUSED)
    return FetchEndedError("hub-answer", f"the hub answered {status} for a file that it lists")
