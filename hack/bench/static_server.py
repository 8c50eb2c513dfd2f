"""Serves the files of a folder with ranges, as fast as the kernel sends them (sendfile on a thread for each connection).

    python -m hack.bench.static_server FOLDER [--connection-rate BYTES_PER_SECOND]

Prints its address. The last part of a path is the file's name; everything before it and the query are passed over. A rate holds
for each connection, as of an object store that gives each so much and no more.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import socketserver
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
_SLICES_PER_SECOND = 50


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    rate: ClassVar[float | None]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        asked = self._answer()
        if asked is None:
            return
        path, start, end = asked
        with path.open("rb") as file:
            self.wfile.flush()
            began, sent = time.monotonic(), 0
            while start + sent < end:
                most = end - start - sent if self.rate is None else int(self.rate / _SLICES_PER_SECOND) + 1
                count = os.sendfile(
                    self.connection.fileno(), file.fileno(), start + sent, min(most, end - start - sent)
                )
                if not count:
                    return
                sent += count
                if self.rate is not None:
                    time.sleep(max(0.0, began + sent / self.rate - time.monotonic()))

    def _answer(self) -> tuple[Path, int, int] | None:
        """The headers; the file with the bytes that go after them."""
        path = self.folder / unquote(urlsplit(self.path).path).rpartition("/")[2]
        if not path.is_file():
            self.send_error(404)
            return None
        size = path.stat().st_size
        asked = _RANGE.match(self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.name}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        return path, start, end

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it would be measured too."""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up when they have what they want."""

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--connection-rate", type=float)
    options = parser.parse_args()
    _Files.folder, _Files.rate = options.folder, options.connection_rate
    with _Server(("127.0.0.1", 0), _Files) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
