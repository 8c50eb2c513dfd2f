"""The door to certificates: a server's, taken up again when it is renewed."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from agent.model.errors import BadInputError

log = logging.getLogger("warmslice.tls")

Stamp = tuple[tuple[int, int], ...]


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a listener: TLS 1.2 or later, with the certificate of now. Each new connection looks whether the files are others; ones
    that cannot be used are logged, and the certificate before stays. BadInputError where they cannot be used at the start."""
    files = _Files(certificate, key)
    stamp = files.stamp()
    first = files.load()
    keeper = _Keeper(files, first, stamp)
    # Called for every connection, with a name or without.
    first.sni_callback = keeper.choose
    return first


@dataclass(frozen=True, slots=True)
class _Files:
    certificate: Path
    key: Path

    def load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for name, file in (("tls_certificate_file", self.certificate), ("tls_key_file", self.key)):
            try:
                file.read_bytes()
            except OSError as error:
                raise BadInputError(f"{name}: {file} cannot be read: {error.strerror}") from error
        try:
            # An empty password: a key that has one is a mistake, not a question to whoever sits at a terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            why = "they do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else _reason(error)
            raise BadInputError(
                f"tls_certificate_file {self.certificate} and tls_key_file {self.key} cannot be used: {why}; "
                "give a certificate chain and its key without a password, both as PEM"
            ) from error
        return context

    def stamp(self) -> Stamp | None:
        """Of both files; None while one is not there."""
        try:
            found = [file.stat() for file in (self.certificate, self.key)]
        except OSError:
            return None
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "they are no PEM").replace("_", " ").lower()


class _Keeper:
    def __init__(self, files: _Files, context: ssl.SSLContext, stamp: Stamp | None) -> None:
        self._files = files
        self._context = context
        self._stamp = stamp

    def choose(self, connection: ssl.SSLSocket | ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        stamp = self._files.stamp()
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp
            self._renew()
        connection.context = self._context

    def _renew(self) -> None:
        try:
            self._context = self._files.load()
        except BadInputError as error:
            log.error("tls.not-renewed", extra={"error": str(error)})
        else:
            log.info("tls.renewed")
