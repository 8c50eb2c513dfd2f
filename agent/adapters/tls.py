"""The server's certificate, read again when it is renewed."""

from __future__ import annotations

import logging
import os
import ssl

from agent.model.errors import BadInputError

log = logging.getLogger("warmslice.tls")


class ServerTls:
    """``context`` is for the server; what ``refresh`` reads holds for connections that come later."""

    def __init__(self, certificate_file: str, key_file: str) -> None:
        """BadInputError for files that cannot be read, or do not belong together."""
        self._files = certificate_file, key_file
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            raise BadInputError(self._words(error)) from error
        self._loaded = self._times()

    def refresh(self) -> None:
        """Read the files again if they have changed; those that cannot be used leave the old ones in force."""
        now = self._times()
        if now == self._loaded:
            return
        self._loaded = now
        try:
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            log.error("tls.not-renewed", extra={"error": self._words(error)})
        else:
            log.info("tls.renewed")

    def _times(self) -> tuple[float, ...]:
        return tuple(os.stat(file).st_mtime if os.path.exists(file) else 0.0 for file in self._files)

    def _words(self, error: Exception) -> str:
        certificate, key = self._files
        return (
            f"settings: tls_certificate_file {certificate!r} and tls_key_file {key!r} cannot be used: {error}; they must be a "
            "certificate chain and its key in PEM, without a password"
        )
