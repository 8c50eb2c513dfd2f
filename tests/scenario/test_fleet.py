"""A fleet whose nodes are labelled at once, told in virtual time: no more are in change than may be, and each gets its turn."""

from __future__ import annotations

import json

import pytest

from agent.model import labels
from agent.model.fleet import LEADER
from tests.fakes.fleet import Fleet
from tests.fakes.world import NodeWorld, h100

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
pytestmark = pytest.mark.looptime(idle_timeout=1e9)


def _nodes(count: int) -> list[NodeWorld]:
    return [NodeWorld(h100(SEVEN), name=f"gpu-{number:02}") for number in range(count)]


def _status(world: NodeWorld) -> tuple[str, str]:
    found = json.loads(world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
    return found.get("reason", ""), found.get("message", "")


async def test_fifty_nodes_three_at_once_the_leader_and_two_holders_killed_on_the_way() -> None:
    """Never more than three are cordoned, all are done, and the two that died in mid-change go on where they were."""
    fleet = Fleet("3", *_nodes(50))
    for name in fleet.nodes:
        fleet.start(name)
    fleet.label("2x3g.40gb")
    await fleet.run(300, lambda: len(fleet.done()) >= 5)
    leader = fleet.leader
    assert leader
    await fleet.kill(leader)
    await fleet.run(30, lambda: bool(fleet.leader))
    assert fleet.leader not in ("", leader)
    await fleet.run(60, lambda: len(fleet.cordoned) >= 2)
    holders = fleet.cordoned[:2]
    for name in holders:
        if name in fleet.agents:
            await fleet.kill(name)
    await fleet.run(200)
    assert set(holders) <= set(fleet.cordoned)
    for name in (leader, *holders):
        if name not in fleet.agents:
            fleet.start(name)
    await fleet.run(3000, lambda: len(fleet.done()) == 50)
    assert len(fleet.done()) == 50
    assert fleet.most == 3
    await fleet.run(120)
    assert (fleet.leases.slots(), fleet.leases.items[LEADER]["spec"].get("holderIdentity")) == ([], None)
    said = [write for world in fleet.nodes.values() for write in world.node_writes if "fleet-slot" in str(write)]
    assert len(said) <= 2 * 50 + 5, "no leader yet; so many of so many: a wait is two writes of its node"
    await fleet.end()
