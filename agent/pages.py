"""Opens the doors of the pages: the server, its certificate, who may read, and the other container's part of the status."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from agent.adapters import clock
from agent.adapters.files import token_reader
from agent.adapters.peer import Peer, told_to_peer
from agent.adapters.tls import ServerTls
from agent.model.errors import BadInputError
from agent.model.overview import Overview, Part
from agent.report.access import token_needed
from agent.report.exposition import application, serving
from agent.report.health import Heartbeats, Readiness
from agent.report.live import Live
from agent.report.metrics import Metrics
from agent.report.overview import overview_of
from agent.report.viewing import NodeView
from agent.settings import Settings

log = logging.getLogger("warmslice.pages")


class Pages:
    """What one process serves: that of the container ``partition`` shows both, and asks the other for its part while somebody
    looks; that of the container ``cache`` shows its own. BadInputError for a certificate or a token that cannot be read."""

    def __init__(self, settings: Settings, version: str, metrics: Metrics, beats: Heartbeats, ready: Readiness) -> None:
        self._settings = settings
        self._version = version
        self._metrics = metrics
        self._beats = beats
        self._ready = ready
        self._token = token_reader(settings.page_token_file, None)
        self._peer = Peer(settings.status_socket, clock.now)
        self._tls: ServerTls | None = None
        if settings.tls_certificate_file is not None and settings.tls_key_file is not None:
            self._tls = ServerTls(settings.tls_certificate_file, settings.tls_key_file)
        if settings.page_token_file is not None and self._token(None) is None:
            raise BadInputError(
                f"settings: page_token_file {settings.page_token_file!r} cannot be read, or is empty; it must hold the token"
            )

    @asynccontextmanager
    async def served(self, view: NodeView) -> AsyncIterator[str]:
        """Serve until the block ends; yields the address bound."""
        settings = self._settings
        listen = settings.cache_listen if settings.role == "cache" else settings.partition_listen
        access = [token_needed(lambda: self._token(None))] if settings.page_token_file is not None else []
        app = application(self._metrics.rendered, self._beats.overdue, self._ready.lacking, access)

        async def look() -> Overview:
            return overview_of(settings.node_name, clock.now(), self._version, view.part(), await self._other())

        Live(look).add_to(app)
        async with AsyncExitStack() as stack:
            if settings.role == "cache" and settings.status_socket:
                await self._tell_peer(stack, view)
            yield await stack.enter_async_context(
                serving(app, listen, self._tls.context if self._tls is not None else None)
            )

    def refresh(self) -> None:
        """Read the certificate again if it was renewed."""
        if self._tls is not None:
            self._tls.refresh()

    async def _other(self) -> Part | None:
        match self._settings.role:
            case "all":
                return None
            case "partition":
                return await self._peer.part()
            case "cache":
                return Part(missing="the page of that container has it, this is the one of the container cache")

    async def _tell_peer(self, stack: AsyncExitStack, view: NodeView) -> None:
        """Models are more than their being shown."""
        try:
            await stack.enter_async_context(told_to_peer(self._settings.status_socket, view.part))
        except OSError as error:
            path = self._settings.status_socket
            log.warning("status.no-socket", extra={"path": path, "error": error.strerror or str(error)})
