"""An API server that is away, at any time and for as long as it likes: slices are whole, and the change ends when it is back."""

from __future__ import annotations

from pathlib import Path

from agent.model import labels
from hack.devcluster import kinds
from hack.devcluster.faults import Fault
from tests.e2e.agent_node import NODE, AgentNode, agent_node

SMALL = [f"1g.10gb@{start}" for start in range(7)]
MIXED = ["1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "3g.40gb"]


def _away(node: AgentNode) -> Fault:
    """From now on no request is answered, and the watches break off."""
    fault = Fault(reset=True, count=None)
    node.cluster.inject(fault)
    node.cluster.control_plane.server.restart()
    return fault


def _back(node: AgentNode) -> None:
    node.cluster.control_plane.server.faults.clear()


async def test_one_that_is_away_when_the_agent_starts_is_waited_for(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        node.wish("small")
        fault = _away(node)
        await node.start()
        await node.cluster_until(lambda: fault.hits > 2, "the agent has asked")
        _back(node)
        await node.until("success", "small")
        assert node.slices() == SMALL


async def test_one_that_never_comes_back_leaves_the_hardware_whole(tmp_path: Path) -> None:
    """It goes away at the first slice that is destroyed; what is decided is done to its end, and told when it can be."""
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        done = len(node.gpus.log())
        node.gpus.run("latency", "--function", "nvmlGpuInstanceDestroy", "--ms", "300")
        node.wish("mixed")
        await node.cluster_until(lambda: len(node.gpus.log()) > done, "the first slice goes")
        _away(node)
        await node.cluster_until(lambda: _profiles(node) == MIXED, "all slices are there")
        assert await node.kill() != 0
        await node.start()
        assert _profiles(node) == MIXED
        _back(node)
        await node.until("success", "mixed")
        found = node.node()
        assert not found["spec"].get("unschedulable")
        assert found["metadata"]["labels"][labels.DEVICE_PLUGIN] == "true"


async def test_a_node_that_is_deleted_in_mid_change_and_comes_back_is_another_one(tmp_path: Path) -> None:
    """With its record went what was to be put back, and the new node has none of it; its label is a wish like any other."""
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        first = node.node()["metadata"]["uid"]
        done = len(node.gpus.log())
        node.gpus.run("latency", "--function", "nvmlGpuInstanceDestroy", "--ms", "300")
        node.wish("mixed")
        await node.cluster_until(lambda: len(node.gpus.log()) > done, "the first slice goes")
        node.cluster.delete(kinds.NODES, NODE)
        await node.kubelet.restart()
        await node.cluster_until(lambda: node.cluster.find(kinds.NODES, NODE) is not None, "the kubelet registers anew")
        assert node.node()["metadata"]["uid"] != first
        node.wish("small")
        await node.until("success", "small")
        assert node.slices() == SMALL
        assert not node.node()["spec"].get("unschedulable")


def _profiles(node: AgentNode) -> list[str]:
    return sorted(one.partition("@")[0] for one in node.slices())
