"""The page's settings on the agent as a process: token, certificate, and the page of each container."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from tests.e2e.agent_node import DEADLINE_SECONDS, AgentProcess, agent_node
from tests.e2e.page_scenes import started


@pytest.mark.parametrize("setting", ["page-token-file", "tls"])
def test_a_file_that_cannot_be_used_is_named_before_anything_runs(tmp_path: Path, setting: str) -> None:
    missing = tmp_path / "missing"
    flags = {
        "page-token-file": [f"--page-token-file={missing}"],
        "tls": [f"--tls-certificate-file={missing}", f"--tls-key-file={missing}"],
    }[setting]
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(_KUBECONFIG)
    command = [sys.executable, "-m", "agent", "run", "--node-name=n", f"--kubeconfig={kubeconfig}", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert f"{missing}" in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_with_token_and_certificate_the_page_is_for_who_has_the_token(tmp_path: Path) -> None:
    """And the token is in no line of the log."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    certificate, key, token = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "token"
    certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    token.write_text("a-secret-of-the-page\n")
    trust = aiohttp.TCPConnector(ssl=_trusting(authority))
    async with agent_node(tmp_path) as node, aiohttp.ClientSession(connector=trust) as session:
        await node.start(page_token_file=token, tls_certificate_file=certificate, tls_key_file=key)
        url = f"https://{await started(node)}"
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        for path in ("/", "/api/v1/status", "/metrics"):
            async with session.get(url + path) as answer:
                assert answer.status == 401
            headers = {"Authorization": "Bearer a-secret-of-the-page"}
            async with session.get(url + path, headers=headers) as answer:
                assert answer.status == 200
        assert await node.stop() == 0
        assert "a-secret" not in (tmp_path / "agent.log").read_text()


async def test_each_container_serves_its_part_and_a_killed_one_is_said_and_comes_back(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node, aiohttp.ClientSession() as session:
        (tmp_path / "cache").mkdir()
        cache = AgentProcess(node.cluster.kubeconfig(), node.gpus, node.kubelet, tmp_path / "cache")
        catalog = tmp_path / "catalog.yaml"
        catalog.write_text("models: []\n")
        flags = {"catalog_file": catalog, "cache_directory": tmp_path / "hub", "status_socket": tmp_path / "cache.sock"}
        await node.start()
        url = f"http://{await started(node)}/api/v1/status"

        async def until(state: str) -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (await _status(session, url))["containers"][1]["state"] != state:
                    await asyncio.sleep(0.1)

        try:
            await until("away")
            await cache.start("cache", **flags)
            await until("answers")
            own = await _status(session, f"http://{await started(cache)}/api/v1/status")
            assert [one["state"] for one in own["containers"]] == ["elsewhere", "here"]
            assert own["partition"] is None
            await cache.kill()
            await until("away")
            assert (await _status(session, url))["partition"] is not None
            await cache.start("cache", **flags)
            await until("answers")
        finally:
            await cache.kill()


async def _status(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url) as answer:
        found: dict[str, Any] = json.loads(await answer.text())
        return found


def _trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: nobody
clusters: [{name: nobody, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]
users: [{name: nobody, user: {}}]
"""
