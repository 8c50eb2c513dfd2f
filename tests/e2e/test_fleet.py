"""The agent as a process in a fleet of which the others are only objects: it leads, and waits for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.model import labels
from agent.model.fleet import LEADER, SLOT_PREFIX, slot_name
from hack.devcluster import kinds
from hack.devcluster.objects import Object, name_of
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.devcluster import bare_node

NAMESPACE = "warmslice"


def _slots(node: AgentNode) -> dict[str, Object]:
    found = {name_of(lease): lease for lease in node.cluster.api.all(kinds.LEASES, NAMESPACE)}
    return {name: lease for name, lease in found.items() if name.startswith(SLOT_PREFIX)}


def _other(node: AgentNode, name: str, **annotations: Any) -> None:
    other = bare_node(name, labels={labels.STATE: "pending", labels.CONFIG: "small"})
    other["metadata"]["annotations"] = annotations
    node.cluster.create(kinds.NODES, other)


async def test_a_node_waits_while_another_is_in_change_and_a_kill_does_not_cost_it_its_place(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        node.cluster.create(kinds.NAMESPACES, {"metadata": {"name": NAMESPACE}})
        _other(node, "gpu-2", **{labels.OPERATION: "{}"})
        node.wish("mixed")
        await node.start(max_unavailable="1")
        await node.cluster_until(
            lambda: node.status().get("message", "").endswith("for a slot: 1 of 1 nodes in change"), "it says so"
        )
        assert (node.status()["state"], node.status()["reason"]) == ("pending", "fleet-slot")
        place = _slots(node)[slot_name(NODE)]
        assert "holderIdentity" not in place["spec"]
        await node.kill()
        node.cluster.merge(kinds.NODES, "gpu-2", {"metadata": {"annotations": {labels.OPERATION: None}}})
        await node.start(max_unavailable="1")
        await node.until("success", "mixed")
        await node.cluster_until(lambda: not _slots(node), "the slot is given back")
        asked = [
            entry
            for entry in node.cluster.requests("create", "warmslice")
            if entry.path.endswith("/leases") and entry.status == 201
        ]
        assert len(asked) == 2, "the leader's and its own, once each: the second process found both"
        assert node.cluster.get(kinds.LEASES, LEADER, NAMESPACE)["spec"]["leaseTransitions"] == 1


async def test_the_slot_of_a_node_that_is_gone_is_found_to_be_free(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        node.cluster.create(kinds.NAMESPACES, {"metadata": {"name": NAMESPACE}})
        gone = {"metadata": {"name": slot_name("gpu-9")}, "spec": {"holderIdentity": "gpu-9"}}
        node.cluster.create(kinds.LEASES, gone, NAMESPACE)
        node.wish("mixed")
        await node.start(max_unavailable="1")
        await node.until("success", "mixed")
        await node.cluster_until(lambda: not _slots(node), "both slots are gone")
        entries = node.cluster.requests("delete", "warmslice")
        assert [entry.path.rpartition("/")[2] for entry in entries if "leases" in entry.path] == [
            slot_name("gpu-9"), slot_name(NODE),
        ]  # fmt: skip


async def test_an_agent_that_ends_in_order_lets_the_next_lead_at_once(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        node.cluster.create(kinds.NAMESPACES, {"metadata": {"name": NAMESPACE}})
        _other(node, "gpu-2", **{labels.OPERATION: "{}"})
        node.wish("mixed")
        await node.start(max_unavailable="1")
        await node.cluster_until(lambda: "1 of 1" in node.status().get("message", ""), "it leads")
        await node.stop()
        lease = node.cluster.get(kinds.LEASES, LEADER, NAMESPACE)
        assert "holderIdentity" not in lease["spec"]
        assert list(_slots(node)) == [slot_name(NODE)], "it waits still"
