"""Many connections over one: for fleets of simulated nodes, which have more of them than a process may have files open.

A frame is a connection's number, what it is, how many bytes follow, and these. Bytes of a connection that its reader has ended
are dropped. There is no TLS, and nobody is slowed down: what is written is kept until it is gone.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

_HEAD = struct.Struct("!IBI")


class _Frame(IntEnum):
    OPEN = 0
    BYTES = 1
    END = 2


class Joint(asyncio.Protocol):
    """One side of the connection that carries the others; ``accept`` makes the protocol of one that the other side opens."""

    def __init__(self, accept: Callable[[], asyncio.Protocol] | None = None) -> None:
        self._accept = accept
        self._ends: dict[int, _End] = {}
        self._numbers = itertools.count(1)
        self._unread = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        at = 0
        while len(self._unread) - at >= _HEAD.size:
            number, what, length = _HEAD.unpack_from(self._unread, at)
            begin, end = at + _HEAD.size, at + _HEAD.size + length
            if len(self._unread) < end:
                break
            self._take(number, what, bytes(self._unread[begin:end]))
            at = end
        del self._unread[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        for end in list(self._ends.values()):
            end.lose(exc)

    def open(self, protocol: asyncio.Protocol) -> None:
        """A new connection."""
        number = next(self._numbers)
        self.send(number, _Frame.OPEN)
        self._join(number, protocol)

    def close(self) -> None:
        """All of them end."""
        self._transport.abort()

    def send(self, number: int, what: _Frame, data: bytes = b"") -> None:
        """One frame."""
        if not self._transport.is_closing():
            self._transport.write(_HEAD.pack(number, what, len(data)) + data)

    def forget(self, number: int) -> None:
        """Frames of that connection are dropped from now on."""
        self._ends.pop(number, None)

    def _join(self, number: int, protocol: asyncio.Protocol) -> None:
        self._ends[number] = _End(self, number, protocol)
        protocol.connection_made(self._ends[number])

    def _take(self, number: int, what: int, data: bytes) -> None:
        if what == _Frame.OPEN and self._accept is not None:
            self._join(number, self._accept())
        elif number in self._ends:
            self._ends[number].take(data if what == _Frame.BYTES else b"")


class _End(asyncio.Transport):
    """A side of one connection."""

    def __init__(self, joint: Joint, number: int, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", number)})
        self._joint = joint
        self._number = number
        self._protocol = protocol
        self._waiting: list[bytes] | None = None
        self._is_closing = False

    def take(self, data: bytes) -> None:
        """What came; b"" is the end."""
        if self._waiting is not None:
            self._waiting.append(data)
        elif data:
            self._protocol.data_received(data)
        elif not self._is_closing:
            self._protocol.eof_received()
            self.close()

    def lose(self, error: Exception | None) -> None:
        """It is closed; who reads hears of it in the next turn of the loop."""
        if not self._is_closing:
            self._is_closing = True
            self._joint.forget(self._number)
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._is_closing:
            self._joint.send(self._number, _Frame.BYTES, bytes(data))

    def close(self) -> None:
        if not self._is_closing:
            self._joint.send(self._number, _Frame.END)
        self.lose(None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._waiting is None and not self._is_closing

    def pause_reading(self) -> None:
        self._waiting = [] if self._waiting is None else self._waiting

    def resume_reading(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for data in waiting:
            self.take(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return 0


class JoinedConnector(aiohttp.BaseConnector):
    """Every connection of a client session, to whatever URL, is one of a joint."""

    def __init__(self, joint: Joint) -> None:
        super().__init__(limit=0)
        self._joint = joint

    async def _create_connection(self, *_: ClientRequest | list[Trace] | ClientTimeout) -> ResponseHandler:
        made: ResponseHandler = self._factory()
        self._joint.open(made)
        return made


async def joint_to(path: Path) -> Joint:
    """The client's side; a Unix socket is there."""
    _, joint = await asyncio.get_running_loop().create_unix_connection(Joint, str(path))
    return joint


async def serve_joined(path: Path, accept: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Each client that connects to this Unix socket joins as many connections in it as it likes."""
    return await asyncio.get_running_loop().create_unix_server(lambda: Joint(accept), str(path))
