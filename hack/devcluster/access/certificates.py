"""The cluster's own certificate authority, made anew at every start."""

from __future__ import annotations

import ssl

import trustme

# What clients may call the server: its address, and its names inside a cluster.
_SERVER_NAMES = ("127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


class Authority:
    """``pem`` is its certificate, for clients; the key never leaves this object."""

    def __init__(self) -> None:
        self._authority = trustme.CA(organization_name="devcluster")
        self.pem = self._authority.cert_pem.bytes().decode()

    def server_context(self) -> ssl.SSLContext:
        """For a server on the loopback interface, with a certificate of its own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*_SERVER_NAMES).configure_cert(context)
        return context


def client_context(pem: str) -> ssl.SSLContext:
    """Trusts this authority and nobody else."""
    return ssl.create_default_context(cadata=pem)
