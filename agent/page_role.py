"""The status page's part of the composition root: what it is made of, who may see it, how the two containers meet."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

from aiohttp import web

from agent import VERSION
from agent.adapters import clock
from agent.adapters.files import token_reader
from agent.adapters.status_socket import CacheContainer, telling
from agent.adapters.tls import server_context
from agent.model.errors import BadInputError
from agent.model.node import Node
from agent.model.overview import Away, Share
from agent.report.access import with_token
from agent.report.latest import Latest
from agent.report.looking import Ask, Looking
from agent.report.overview import Home
from agent.report.web import add_page
from agent.settings import Settings


class PageRole:
    """``latest`` is to be told everything."""

    def __init__(
        self, settings: Settings, node: Callable[[], Node | None], lacking: Callable[[], tuple[str, ...]]
    ) -> None:
        self._settings = settings
        self.latest = Latest(node, lacking, clock.now)
        home = Home(settings.node_name, VERSION, settings.role, settings.gate_seconds)
        self._looking = Looking(self.latest, home, _ask(settings), time.monotonic)

    def add_to(self, app: web.Application) -> None:
        """The routes, and who is let in. BadInputError for a token that cannot be read."""
        if self._settings.page_token_file is not None:
            app.middlewares.append(with_token(_token(self._settings.page_token_file)))
        add_page(app, self._looking)

    def tls(self) -> ssl.SSLContext | None:
        """None for plain HTTP. BadInputError for a certificate that cannot be used."""
        settings = self._settings
        if settings.tls_certificate_file is None or settings.tls_key_file is None:
            return None
        return server_context(Path(settings.tls_certificate_file), Path(settings.tls_key_file))

    def telling(self) -> AbstractAsyncContextManager[None]:
        """The cache container tells its part as long as the block runs."""
        settings = self._settings
        if settings.role != "cache" or not settings.status_socket:
            return nullcontext()
        return telling(Path(settings.status_socket), self._looking.share)


def _ask(settings: Settings) -> Ask:
    if settings.role == "partition" and settings.status_socket:
        return CacheContainer(Path(settings.status_socket), clock.now, time.monotonic).ask
    return _nobody


async def _nobody() -> Share | Away | None:
    return None


def _token(file: str) -> Callable[[], str | None]:
    """Read anew at each request, so that a renewed one counts at once."""
    read = token_reader(file, None)
    if read(None) is None:
        raise BadInputError(
            f"page_token_file: {file} is empty or cannot be read; give a file with the token as its text"
        )
    return lambda: read(None)
