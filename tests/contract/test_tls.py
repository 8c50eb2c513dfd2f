"""TLS of what the agent serves, by real handshakes: right, wrong, and renewed certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from agent.adapters.tls import server_context
from agent.model.errors import BadInputError
from agent.report.exposition import serving


class Files:
    """A certificate and its key, as a Secret is mounted."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "tls.crt"
        self.key = folder / "tls.key"

    def issue(self, authority: trustme.CA) -> None:
        """Another certificate in their place, each file replaced whole."""
        made = authority.issue_cert("localhost", "127.0.0.1")
        for file, text in (
            (self.certificate, b"".join(pem.bytes() for pem in made.cert_chain_pems)),
            (self.key, made.private_key_pem.bytes()),
        ):
            draft = file.with_suffix(".new")
            draft.write_bytes(text)
            draft.replace(file)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def answers(address: str, authority: trustme.CA) -> bool:
    """Whether who trusts that authority, in a connection of its own, gets an answer."""
    connector = aiohttp.TCPConnector(ssl=trusting(authority), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with session.get(f"https://{address}/") as answer:
                return answer.status == 404
        except aiohttp.ClientConnectorCertificateError:
            return False


async def test_a_renewed_certificate_is_taken_up_without_a_restart(files: Files) -> None:
    """By address too, where a client sends no name: so do the kubelet's probes."""
    first, second = trustme.CA(), trustme.CA()
    files.issue(first)
    async with serving(web.Application(), "127.0.0.1:0", server_context(files.certificate, files.key)) as address:
        named = f"localhost:{address.rpartition(':')[2]}"
        assert (await answers(address, first), await answers(address, second)) == (True, False)
        files.issue(second)
        for where in (address, named):
            assert (await answers(where, first), await answers(where, second)) == (False, True)
        files.certificate.write_text("half of a cert")
        assert await answers(address, second)
        files.key.unlink()
        assert await answers(address, second)


async def test_old_versions_of_tls_are_refused(files: Files) -> None:
    authority = trustme.CA()
    files.issue(authority)
    assert server_context(files.certificate, files.key).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_file_that_cannot_be_read_is_named(files: Files) -> None:
    with pytest.raises(BadInputError, match=r"tls_certificate_file: .*tls.crt cannot be read: No such file"):
        server_context(files.certificate, files.key)
    files.issue(trustme.CA())
    files.key.unlink()
    with pytest.raises(BadInputError, match=r"tls_key_file: .*tls.key cannot be read: No such file"):
        server_context(files.certificate, files.key)


def test_a_key_of_another_certificate_is_named(files: Files, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Files(tmp_path / "other")
    files.issue(trustme.CA())
    other.issue(trustme.CA())
    with pytest.raises(BadInputError, match="do not belong together; give a certificate chain and its key"):
        server_context(files.certificate, other.key)


@pytest.mark.parametrize("text", ["", "no PEM at all"])
def test_what_is_no_certificate_is_named(files: Files, text: str) -> None:
    files.issue(trustme.CA())
    files.certificate.write_text(text)
    with pytest.raises(BadInputError, match=r"tls\.crt and tls_key_file .* cannot be used: \w"):
        server_context(files.certificate, files.key)
