"""What a reboot takes comes back where it was, and the pods that it cost are named once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.model import labels
from agent.model.node import Boot
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import NodeWorld, agent_on, h100, settle

HALVES = ["3g.40gb@0:4", "3g.40gb@4:4"]


def _message(world: NodeWorld) -> str:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"][labels.STATUS])
    assert found["state"] == "success"
    return str(found["message"])


def _said(world: NodeWorld) -> list[str]:
    return [event["message"] for event in world.events if "failed by the kubelet" in event["message"]]


async def _applied() -> tuple[NodeWorld, PartitionPass]:
    world = NodeWorld(h100())
    world.label(value="2x3g.40gb")
    partition, _ = agent_on(world)
    await settle(world, partition)
    return world, partition


async def test_pods_that_the_kubelet_failed_meanwhile_are_named_once() -> None:
    world, _ = await _applied()
    world.add_pod("first", world.device(0, 0))
    world.add_pod("second", world.device(0, 4))
    world.tick(100.0)
    world.reboot()
    partition, _ = agent_on(world)
    await settle(world, partition)
    assert _message(world) == (
        "'2x3g.40gb' applied; failed by the kubelet since the boot: default/first (UnexpectedAdmissionError), "
        "default/second (UnexpectedAdmissionError); delete those that no controller makes anew"
    )
    assert _said(world) == [_message(world)]
    writes = len(world.node_writes)
    for uid in world.uids("first"):
        del world.pods[uid]
    await settle(world, partition)
    await settle(world, agent_on(world)[0])
    assert (len(world.node_writes), len(_said(world))) == (writes, 1)
    world.label(value="1x7g.80gb")
    await settle(world, partition)
    assert _message(world) == "'1x7g.80gb' applied"


@pytest.mark.parametrize(
    ("reason", "gpus", "named"),
    [
        ("OutOfnvidia.com/mig-3g.40gb", 1, True),
        ("UnexpectedAdmissionError", 0, False),
        ("OutOfcpu", 1, False),
        ("Evicted", 1, False),
    ],
)
async def test_of_failed_pods_those_are_named_that_lack_a_gpu(reason: str, gpus: int, named: bool) -> None:
    world, _ = await _applied()
    world.tick(100.0)
    world.reboot()
    uid = world.add_pod("new", gpus=gpus)
    world.pods[uid]["status"] |= {"phase": "Failed", "reason": reason}
    await settle(world, agent_on(world)[0])
    assert bool(_said(world)) is named
    assert ("default/new" in _message(world)) is named


async def test_what_failed_in_a_boot_before_is_old_news() -> None:
    world, _ = await _applied()
    world.add_pod("old", world.device(0, 0))
    world.tick(100.0)
    world.reboot()
    await settle(world, agent_on(world)[0])
    assert len(_said(world)) == 1
    world.tick(100.0)
    world.reboot()
    await settle(world, agent_on(world)[0])
    assert len(_said(world)) == 1
    assert _message(world) == "'2x3g.40gb' applied"


async def test_in_a_boot_that_took_nothing_the_names_of_the_one_before_go() -> None:
    world, _ = await _applied()
    world.add_pod("old", world.device(0, 0))
    world.reboot()
    await settle(world, agent_on(world)[0])
    world.boot = Boot("boot-of-a-test", world.time)
    await settle(world, agent_on(world)[0])
    assert _message(world) == "'2x3g.40gb' applied"


async def test_without_a_reboot_a_failed_pod_is_not_ours_to_tell() -> None:
    world, partition = await _applied()
    uid = world.add_pod("unlucky", gpus=1)
    world.pods[uid]["status"] |= {"phase": "Failed", "reason": "UnexpectedAdmissionError"}
    world.label(value="1x7g.80gb")
    await settle(world, partition)
    assert _said(world) == []


async def test_many_are_counted() -> None:
    world, _ = await _applied()
    world.tick(100.0)
    world.reboot()
    for number in range(30):
        uid = world.add_pod(f"pod-{number:02}", gpus=1)
        world.pods[uid]["status"] |= {"phase": "Failed", "reason": "UnexpectedAdmissionError"}
    await settle(world, agent_on(world)[0])
    assert "default/pod-19 (UnexpectedAdmissionError) and 10 more; delete" in _message(world)
