"""The door to a dcgm-exporter: its page, over HTTP.

Who answers is not ours, and may be anything: an answer has a time and a size that it may take, and leads nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import cache

import aiohttp

from agent.model.errors import RetryError

_MOST_BYTES = 8 << 20
_HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity", "User-Agent": "warmslice"}


class DcgmExporter:
    """``where`` gives the address to ask now, or None where there is none; it may raise RetryError."""

    def __init__(self, where: Callable[[], str | None], limit_seconds: float) -> None:
        self._where = where
        self._limit_seconds = limit_seconds

    async def read(self) -> bytes | None:
        """The answer, below 8 MiB; None where nobody is to be asked. RetryError, at the latest when the limit is over."""
        url = self._where()
        if url is None:
            return None
        try:
            async with asyncio.timeout(self._limit_seconds):
                return await _get(url)
        except TimeoutError as error:
            raise RetryError(f"the dcgm-exporter at {url} did not answer within {self._limit_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise RetryError(f"the dcgm-exporter at {url} cannot be asked: {said}") from error


@cache
def _authorities() -> ssl.SSLContext:
    """Those of this machine, read for who is asked over https and for nobody else: see lean_http."""
    return ssl.create_default_context()


async def _get(url: str) -> bytes:
    """Not unpacked: a small answer would become a large one."""
    trust = _authorities() if url.startswith("https:") else True
    async with (
        aiohttp.ClientSession(headers=_HEADERS, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(url, allow_redirects=False, ssl=trust) as answer,
    ):
        if answer.status != 200:
            raise RetryError(f"the dcgm-exporter at {url} answered {answer.status}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RetryError(f"the dcgm-exporter at {url} packed its answer, which was not asked for")
        body = bytearray()
        async for part in answer.content.iter_any():
            body += part
            if len(body) > _MOST_BYTES:
                raise RetryError(f"the dcgm-exporter at {url} answered more than {_MOST_BYTES >> 20} MiB")
        return bytes(body)
