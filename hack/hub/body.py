"""Sends a file, or the range of it that was asked for, with the fault that was planned for this request."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from pathlib import Path

from aiohttp import web

from hack.hub.content import ServedFile
from hack.hub.faults import Counters, Fault, FaultKind

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


async def send_file(
    request: web.Request, file: ServedFile, headers: dict[str, str], fault: Fault | None, counters: Counters
) -> web.StreamResponse:
    """200 or 206 (or 416) with strong ETag, If-Range and Content-Range as RFC 9110 has them."""
    size = file.size_bytes
    start, end, status = _range_asked(request, size, headers["ETag"], fault)
    if status == 416:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    response = web.StreamResponse(status=status, headers={**headers, "Accept-Ranges": "bytes"})
    if status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        await _Body(request, response, fault, counters).send(file.source, start, end)
    return response


def _range_asked(request: web.Request, size: int, etag: str, fault: Fault | None) -> tuple[int, int, int]:
    """First byte, byte after the last, and the status that goes with them."""
    asked = _RANGE.match(request.headers.get("Range", ""))
    stale = request.headers.get("If-Range", etag) != etag
    if asked is None or stale or (fault is not None and fault.kind is FaultKind.IGNORE_RANGES):
        return 0, size, 200
    start = int(asked[1])
    end = min(int(asked[2]) + 1, size) if asked[2] else size
    return (start, end, 206) if start < end else (0, 0, 416)


class _Body:
    """One body on its way, counting what left and failing where the fault says."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, fault: Fault | None, counters: Counters
    ) -> None:
        self._request = request
        self._response = response
        self._fault = fault
        self._counters = counters
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
        if self._fault is not None and self._fault.kind in {FaultKind.TRUNCATE, FaultKind.RESET, FaultKind.STALL}:
            return min(_CHUNK_BYTES, left, self._fault.after_bytes - self._sent)
        return min(_CHUNK_BYTES, left)

    async def _write(self, chunk: bytes) -> None:
        if self._fault is not None and self._fault.kind is FaultKind.WRONG_BYTES and self._sent == 0:
            chunk = bytes([chunk[0] ^ 0xFF]) + chunk[1:]
        if self._fault is not None and self._fault.kind is FaultKind.SLOW:
            await asyncio.sleep(len(chunk) / self._fault.bytes_per_second)
        await self._response.write(chunk)
        self._sent += len(chunk)
        self._counters.body_bytes += len(chunk)

    async def _interrupt(self) -> None:
        assert self._fault is not None
        transport = self._request.transport
        if transport is None:
            return
        if self._fault.kind is FaultKind.STALL:
            while not transport.is_closing():  # noqa: ASYNC110 - nothing tells when the peer goes
                await asyncio.sleep(0.05)
            return
        if self._fault.kind is FaultKind.RESET:
            # Linger of zero: the kernel sends RST instead of FIN and drops what is still in its buffer.
            handle: socket.socket = transport.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
            return
        transport.close()
