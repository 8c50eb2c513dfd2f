"""The status page of a node whose two containers run apart, as two processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.e2e.agent_node import AgentNode, AgentProcess, agent_node

CATALOG = "models: [{repository: org/never, name: never}]\n"


@asynccontextmanager
async def two_containers(folder: Path) -> AsyncIterator[tuple[AgentNode, AgentProcess, dict[str, Any]]]:
    """The partition role runs, the cache role is ready to start; and the flags of the latter."""
    own = folder / "cache-container"
    own.mkdir()
    (own / "catalog.yaml").write_text(CATALOG)
    socket = folder / "cache.sock"
    async with agent_node(folder, "H100-80GB-SXM") as node:
        other = AgentProcess(node.cluster.kubeconfig(), node.gpus, node.kubelet, own)
        flags = {
            "catalog_file": own / "catalog.yaml",
            "cache_directory": own / "hub",
            "hub_endpoint": "http://127.0.0.1:9",  # nobody listens: the model cannot come
            "status_socket": socket,
        }
        await node.start(status_socket=socket)
        try:
            yield node, other, flags
        finally:
            await other.kill()


async def told(node: AgentNode, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status, once it is so."""
    async with asyncio.timeout(30):
        while True:
            try:
                found: dict[str, Any] = json.loads(await node.page("/api/v1/status"))
            except (OSError, IndexError, json.JSONDecodeError):
                found = {}
            if found and so(found):
                return found
            await asyncio.sleep(0.1)


async def test_one_page_has_the_state_of_both_and_says_since_when_one_is_silent(tmp_path: Path) -> None:
    async with two_containers(tmp_path) as (node, other, flags):
        node.wish("small")
        await node.until("success", "small")
        alone = await told(node, lambda status: status["partition"]["layout"]["state"] == "success")
        assert alone["cache"] is None
        assert "does not answer" in alone["missing"]["cache"]

        await other.start("cache", **flags)
        both = await told(node, lambda status: status["cache"] is not None and status["cache"]["models"])
        assert both["missing"] == {}
        assert [model["name"] for model in both["cache"]["models"]] == ["never"]
        assert len(both["partition"]["gpus"][0]["slices"]) == 7
        assert "Applied" in [event["reason"] for event in both["events"]]
        page = await node.page("/")
        assert "never" in page
        assert "1g.10gb@0:1" in page

        await other.kill()
        silent = await told(node, lambda status: status["cache"] is None)
        assert silent["missing_since"]["cache"] >= both["at"]
        assert "The container cache says nothing" in await node.page("/")

        await other.start("cache", **flags)
        assert (await told(node, lambda status: status["cache"] is not None))["missing"] == {}


async def test_a_socket_that_cannot_be_made_costs_the_page_its_models_and_nothing_else(tmp_path: Path) -> None:
    async with two_containers(tmp_path) as (_, other, flags):
        await other.start("cache", **{**flags, "status_socket": tmp_path / "no" / "such" / "place.sock"})
        async with asyncio.timeout(30):
            while not [line for line in other.log() if line["event"] == "started"]:
                await asyncio.sleep(0.05)
        assert [line["path"] for line in other.log() if line["event"] == "status.no-socket"]
        assert await other.stop() == 0


async def test_a_token_file_that_is_not_there_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start(page_token_file=tmp_path / "absent")
        assert await node.ended() == 2
        last = (tmp_path / "agent.log").read_text().splitlines()[-1]
        assert "page_token_file" in last
        assert "cannot be read" in last
