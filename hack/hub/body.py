"""Sends a file, or the range of it that was asked for, with the fault that was planned for this request."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from hack.hub.content import ServedFile
from hack.hub.counters import Counters
from hack.hub.faults import CUT_BODY, Fault, FaultKind
from hack.hub.limits import Pace

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes with one answer besides the file: the fault planned for it, and the rates it has to keep to."""

    fault: Fault | None
    paces: Sequence[Pace]
    counters: Counters

    def suffers(self, *kinds: FaultKind) -> bool:
        return self.fault is not None and self.fault.kind in kinds


async def send_file(
    request: web.Request, file: ServedFile, headers: dict[str, str], delivery: Delivery
) -> web.StreamResponse:
    """200 or 206 (or 304, 416) with strong ETag, If-Range and Content-Range as RFC 9110 has them.

    Of several ranges in one request none is honoured: the whole comes, which RFC 9110 allows.
    """
    size = file.size_bytes
    if delivery.suffers(FaultKind.NEW_ETAG):
        headers = {**headers, "ETag": f'"{"0" * 32}"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    start, end, status = _range_asked(request, size, headers["ETag"], delivery)
    if status == 416:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    response = web.StreamResponse(status=status, headers={**headers, "Accept-Ranges": "bytes"})
    if status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        await _Body(request, response, delivery).send(file.source, start, end)
    return response


def _range_asked(request: web.Request, size: int, etag: str, delivery: Delivery) -> tuple[int, int, int]:
    """First byte, byte after the last, and the status that goes with them."""
    asked = _RANGE.match(request.headers.get("Range", ""))
    stale = request.headers.get("If-Range", etag) != etag
    if asked is None or asked[0] == "bytes=-" or stale or delivery.suffers(FaultKind.IGNORE_RANGES):
        return 0, size, 200
    if not asked[1]:
        start, end = max(0, size - int(asked[2])), size
    else:
        start, end = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
    if delivery.suffers(FaultKind.WRONG_RANGE):
        start, end = start + 1, min(end + 1, size)
    return (start, end, 206) if start < end else (0, 0, 416)


class _Body:
    """One body on its way, counting what left and failing where the fault says."""

    def __init__(self, request: web.Request, response: web.StreamResponse, delivery: Delivery) -> None:
        self._request = request
        self._response = response
        self._delivery = delivery
        self._paces = list(delivery.paces)
        if delivery.fault is not None and delivery.suffers(FaultKind.SLOW):
            self._paces.append(Pace(delivery.fault.bytes_per_second))
        self._chunk_bytes = min([_CHUNK_BYTES, *(pace.chunk_bytes for pace in self._paces)])
        self._sent = 0

    async def send(self, source: Path, start: int, end: int) -> None:
        with source.open("rb") as stream:
            stream.seek(start)
            while start + self._sent < end:
                chunk = stream.read(self._next_chunk_bytes(end - start - self._sent))
                if not chunk:
                    await self._interrupt()
                    return
                await self._write(chunk)

    def _next_chunk_bytes(self, left: int) -> int:
        """0 where the fault cuts the body off."""
        fault = self._delivery.fault
        if fault is not None and fault.kind in CUT_BODY:
            return min(self._chunk_bytes, left, fault.after_bytes - self._sent)
        return min(self._chunk_bytes, left)

    async def _write(self, chunk: bytes) -> None:
        if self._delivery.suffers(FaultKind.WRONG_BYTES) and self._sent == 0:
            chunk = bytes([chunk[0] ^ 0xFF]) + chunk[1:]
        for pace in self._paces:
            await pace.wait_for(len(chunk))
        await self._response.write(chunk)
        self._sent += len(chunk)
        self._delivery.counters.sent(self._request, len(chunk))

    async def _interrupt(self) -> None:
        if self._delivery.suffers(FaultKind.STALL):
            await silence(self._request)
        elif self._delivery.suffers(FaultKind.RESET):
            reset(self._request)
        elif self._request.transport is not None:
            self._request.transport.close()


async def silence(request: web.Request) -> None:
    """Nothing more until the client goes."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.05)


def reset(request: web.Request) -> None:
    """Linger of zero: the kernel sends RST instead of FIN and drops what is still in its buffer."""
    if request.transport is None:
        return
    handle: socket.socket = request.transport.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
