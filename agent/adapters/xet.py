"""The one door to hf_xet, which brings a file's bytes in order out of the hub's chunk store. Only the fetching process uses it.

# Note [Xet in little memory]
# By default the library buffers gigabytes and waits for minutes. Here it has some tens of megabytes for all files together, and a
# stream that brings nothing for as long as a connection may be silent is ended: the rest then comes by ranges.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, Full, Queue
from typing import Any

import hf_xet

from agent.model.cache import FetchFaultError

_CHUNKS_AHEAD = 2
_LOOK_SECONDS = 0.5
_BUFFER_BYTES = 32_000_000
_CONFIGURATION = {
    "reconstruction.download_buffer_size": _BUFFER_BYTES,
    "reconstruction.download_buffer_perfile_size": _BUFFER_BYTES // 4,
    "reconstruction.download_buffer_limit": 2 * _BUFFER_BYTES,
    "reconstruction.min_prefetch_buffer": _BUFFER_BYTES // 2,
    "reconstruction.min_reconstruction_fetch_size": _BUFFER_BYTES // 2,
    "reconstruction.max_reconstruction_fetch_size": _BUFFER_BYTES,
    "telemetry.enabled": False,
    "log.dest": "/dev/null",
}


class XetStore:
    """The store that the hub names for one commit. ``token_url`` is asked for its address and a token for reading, with
    ``headers``. Usable from several threads."""

    def __init__(self, token_url: str, headers: Mapping[str, str], silence_seconds: float) -> None:
        self._token_url = token_url
        self._headers = dict(headers)
        self._silence_seconds = silence_seconds
        self._lock = threading.Lock()
        self._group: Any = None

    def stream(self, name: str, size_bytes: int, start: int, end: int) -> Iterator[bytes]:
        """The bytes ``start`` to ``end`` of the file that the store knows as ``name``, in order. Raises FetchFaultError."""
        pump = _Pump(lambda: self._opened().download_stream(hf_xet.XetFileInfo(name, size_bytes), start=start, end=end))
        received = 0
        try:
            while (chunk := pump.next(self._silence_seconds)) is not None:
                received += len(chunk)
                yield chunk
        finally:
            pump.abandon()
        if received < end - start:
            raise FetchFaultError("xet", f"the Xet store ended after {received} of {end - start} bytes")

    def _opened(self) -> Any:
        with self._lock:
            if self._group is None:
                session = hf_xet.XetSession(config=hf_xet.XetConfig().with_config(_CONFIGURATION))
                self._group = session.new_download_stream_group(
                    token_refresh_url=self._token_url, token_refresh_headers=self._headers
                )
            return self._group


class _Pump:
    """Takes chunks from a stream on a thread of its own: a call into the library cannot be ended from outside."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        self._opened = opened
        self._chunks: Queue[bytes | FetchFaultError | None] = Queue(_CHUNKS_AHEAD)
        self._abandoned = False
        threading.Thread(target=self._run, name="xet", daemon=True).start()

    def next(self, silence_seconds: float) -> bytes | None:
        """None at the end. Raises FetchFaultError, also where nothing came for so long."""
        try:
            chunk = self._chunks.get(timeout=silence_seconds)
        except Empty as error:
            raise FetchFaultError("xet", "the Xet store fell silent") from error
        if isinstance(chunk, FetchFaultError):
            raise chunk
        return chunk

    def abandon(self) -> None:
        """Nobody takes anything more."""
        self._abandoned = True

    def _run(self) -> None:
        last: FetchFaultError | None = None
        try:
            for chunk in self._opened():
                if not self._put(chunk):
                    return
        except Exception as error:
            # Whatever it is: the bytes are to be had by ranges as well. Its words may quote an address, so only its kind.
            last = FetchFaultError("xet", f"the Xet store cannot be read ({type(error).__name__})")
        self._put(last)

    def _put(self, chunk: bytes | FetchFaultError | None) -> bool:
        while not self._abandoned:
            try:
                self._chunks.put(chunk, timeout=_LOOK_SECONDS)
            except Full:
                continue
            return True
        return False
