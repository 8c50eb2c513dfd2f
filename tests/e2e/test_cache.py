"""The cache role as a process: from a catalog to a label, and never a label that is not true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.model import labels
from hack.hub.server import Hub
from hack.page_cache import resident_bytes
from tests.e2e.agent_node import DEADLINE_SECONDS, NODE, AgentNode, agent_node
from tests.fakes.hub import REPOSITORY, tiny_model


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    folder = tmp_path / "served"
    folder.mkdir()
    model = tiny_model(folder)
    async with Hub({model.repository: model}) as running:
        yield running


def _label(hub: Hub) -> str:
    return f"models.warmslice.dev/{next(iter(hub.models)).replace('/', '--')}"


def _state(node: AgentNode, hub: Hub) -> str | None:
    found: str | None = node.node()["metadata"]["labels"].get(_label(hub))
    return found


async def _started(node: AgentNode, hub: Hub, more: str = "") -> None:
    catalog = node.folder / "catalog.yaml"
    catalog.write_text(f"models:\n- repository: {next(iter(hub.models))}\n{more}sets: {{none: []}}\n", "utf-8")
    cache = node.folder / "hub-cache"
    await node.start("cache", catalog_file=catalog, hub_endpoint=hub.url, cache_directory=cache)


async def test_a_model_of_the_catalog_becomes_ready_and_stays_so_without_the_hub(tmp_path: Path, hub: Hub) -> None:
    async with agent_node(tmp_path) as node:
        await _started(node, hub)
        await node.cluster_until(lambda: _state(node, hub) == "ready", "the model is ready")
        assert await node.stop() == 0
        requests = len(hub.counters.request_lines)
        await _started(node, hub)
        await node.cluster_until(lambda: len([x for x in node.log() if x["event"] == "started"]) == 2, "started again")
        await _page_says(node, 'warmslice_model_ready{model="')
        assert _state(node, hub) == "ready"
        assert len(hub.counters.request_lines) == requests


async def test_weights_that_are_to_be_in_memory_come_there_once_they_are_on_disk(tmp_path: Path, hub: Hub) -> None:
    """What the fetch brought around the page cache."""
    weights = next(iter(hub.models.values())).files["model.safetensors"]
    async with agent_node(tmp_path) as node:
        await _started(node, hub, "  page_cache: true\n")
        await node.cluster_until(lambda: _state(node, hub) == "ready", "the model is ready")
        name = next(iter(hub.models)).replace("/", "--")
        await _page_says(node, f'warmslice_model_page_cache_bytes{{model="{name}",revision="main"}} 5.243201e+06\n')
        (blob,) = (tmp_path / "hub-cache").rglob(f"blobs/{weights.etag}")
        assert resident_bytes(blob) >= weights.size_bytes
        assert await node.stop() == 0


async def test_nothing_is_fetched_before_the_node_has_said_which_models_it_wants(tmp_path: Path, hub: Hub) -> None:
    """Without labels a node wants all models; one whose labels are not known yet wants nothing."""
    async with agent_node(tmp_path) as node:
        node.cluster.label_node(NODE, {labels.MODEL_SET: "none"})
        await _started(node, hub)
        await node.cluster_until(lambda: any(line["event"] == "started" for line in node.log()), "started")
        await _page_says(node, "warmslice_cache_used_bytes ")
        assert [line for line in node.log() if line["event"] == "model"] == []
        assert hub.counters.requests == {}


async def test_wrong_bytes_of_the_right_length_are_never_ready(tmp_path: Path, hub: Hub) -> None:
    hub.faults.add("GET cdn/", "wrong-bytes")
    async with agent_node(tmp_path) as node:
        await _started(node, hub)
        await node.cluster_until(lambda: _state(node, hub) == "failed", "the model has failed")
        published = [p for p in (tmp_path / "hub-cache").rglob("snapshots/*/*") if p.is_file()]
        assert not [p for p in published if p.name.endswith(".safetensors")]
        hub.faults.clear()


async def test_a_node_that_is_told_to_go_stops_fetching_at_once_and_comes_back_to_what_it_had(tmp_path: Path) -> None:
    """As a spot machine whose disk stays: what had come is not asked for again, and a model that was whole needs no hub."""
    served = tmp_path / "served"
    served.mkdir()
    size = 96 * 2**20
    async with Hub({REPOSITORY: tiny_model(served, weights_bytes=size)}) as hub, agent_node(tmp_path) as node:
        hub.throttle.address_bytes_per_second = 24e6
        await _started(node, hub)
        await node.cluster_until(lambda: hub.counters.body_bytes > size / 2, "half of it is sent")
        hub.throttle.address_bytes_per_second = (
            1e6  # however slow this machine is, the rest does not come before it is told
        )
        while (kept := await _arrived(node)) < size / 3:
            await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        assert await node.stop() == 0
        assert asyncio.get_running_loop().time() - began < 5
        assert _state(node, hub) != "ready"
        hub.throttle.address_bytes_per_second = None
        hub.counters.reset()
        await _started(node, hub)
        await node.cluster_until(lambda: _state(node, hub) == "ready", "the model is ready")
        assert hub.counters.body_bytes < size - kept + 17 * 2**20  # a grain of each connection may come twice


async def _arrived(node: AgentNode) -> float:
    """Bytes that the agent has; what a hub has sent may lie in sockets."""
    lines = (await node.page("/metrics")).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("warmslice_model_fetched_bytes{"))


async def _page_says(node: AgentNode, text: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while text not in await node.page("/metrics"):
            await asyncio.sleep(0.02)
