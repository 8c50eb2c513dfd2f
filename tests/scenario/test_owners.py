"""Another program that cuts the GPUs of this node is named, and nothing is begun beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.model import labels
from agent.model.steps import Create
from tests.fakes.world import NodeWorld, Steps, agent_on, h100, settle

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
MIG_MANAGER = {"app": "nvidia-mig-manager"}
HAMI = {"app.kubernetes.io/component": "hami-device-plugin"}
HAMI_REGISTER = "hami.io/node-nvidia-register"


def _idle() -> NodeWorld:
    world = NodeWorld(h100(SEVEN))
    world.label(value="2x3g.40gb")
    return world


def _status(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"][labels.STATUS])
    return found


def _dra_driver(world: NodeWorld, gates: str, container: str = "gpus") -> str:
    uid = world.add_pod("dra-kubelet-plugin-x", owner="DaemonSet", namespace="nvidia-dra")
    env = [{"name": "FEATURE_GATES", "value": gates}]
    world.pods[uid]["spec"]["containers"] = [{"name": container, "env": env}]
    return uid


def _hami(world: NodeWorld, register: str) -> str:
    world.node["metadata"]["annotations"][HAMI_REGISTER] = register
    return world.add_pod("hami-device-plugin-x", owner="DaemonSet", pod_labels=HAMI, namespace="hami")


def _mig_manager(world: NodeWorld) -> str:
    return world.add_pod("mig-manager-x", owner="DaemonSet", pod_labels=MIG_MANAGER, namespace="gpu-operator")


OWNERS = {
    "mig-manager": (_mig_manager, "gpu-operator/mig-manager-x", "migManager.enabled=false"),
    "DRA driver": (
        lambda world: _dra_driver(world, "DynamicMIG=true,MPSSupport=false,"),
        "nvidia-dra/dra-kubelet-plugin-x",
        "featureGates.DynamicMIG=false",
    ),
    "HAMi": (lambda world: _hami(world, '[{"id":"GPU-1","mode":"mig"}]'), "hami/hami-device-plugin-x", "hami-core"),
    "older HAMi": (
        lambda world: _hami(world, "GPU-1,10,95830,100,NVIDIA-NVIDIA H100 NVL,0,true,0,mig:"),
        "hami/hami-device-plugin-x",
        "hami-core",
    ),
}


@pytest.mark.parametrize("name", OWNERS)
async def test_beside_another_owner_nothing_is_begun_and_its_pod_is_named(name: str) -> None:
    begin, pod, remedy = OWNERS[name]
    world = _idle()
    uid = begin(world)
    partition, hands = agent_on(world)
    for _ in range(5):
        await partition()
        world.tick()
    assert hands.taken == []
    status = _status(world)
    assert (status["state"], status["reason"]) == ("pending", "second-owner")
    assert f"pod {pod} " in status["message"]
    assert remedy in status["message"]
    world.pods[uid]["metadata"]["deletionTimestamp"] = "now"
    world.tick()
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_a_layout_that_is_there_is_no_success_while_another_may_change_it_any_moment() -> None:
    world = NodeWorld(h100(SEVEN))
    world.label(value="7x1g.10gb")
    _mig_manager(world)
    await agent_on(world)[0]()
    assert (_status(world)["state"], _status(world)["reason"]) == ("pending", "second-owner")


OTHERS = {
    "DRA driver without dynamic MIG": lambda world: _dra_driver(world, "DynamicMIG=false,TimeSlicingSettings=true"),
    "DRA driver for compute domains alone": lambda world: _dra_driver(world, "DynamicMIG=true", "compute-domains"),
    "HAMi without MIG": lambda world: _hami(world, '[{"id":"GPU-1","mode":"hami-core"}]'),
    "older HAMi without MIG": lambda world: _hami(world, "GPU-1,10,95830,100,NVIDIA-H100,0,true,0,hami-core:"),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_who_leaves_the_slices_alone_is_no_second_owner(name: str) -> None:
    world = _idle()
    OTHERS[name](world)
    await settle(world, agent_on(world)[0])
    assert _status(world)["state"] == "success"


async def test_a_mig_manager_that_has_ended_is_nobody() -> None:
    world = _idle()
    world.pods[_mig_manager(world)]["status"]["phase"] = "Succeeded"
    await settle(world, agent_on(world)[0])
    assert _status(world)["state"] == "success"


async def test_a_change_that_has_begun_goes_on_to_its_end() -> None:
    """A change half done is worse than two owners."""
    world = _idle()
    partition, hands = agent_on(world)
    await _until_created(world, partition, hands)
    _mig_manager(world)
    for _ in range(30):
        await partition()
        world.tick()
    assert labels.OPERATION not in world.node["metadata"]["annotations"]
    assert [str(slot) for slot in next(iter(world.gpus.gpus.values())).layout] == ["3g.40gb@0:4", "3g.40gb@4:4"]
    assert any(event["reason"] == "Applied" for event in world.events)


async def test_a_node_without_a_wish_has_any_owner_it_likes() -> None:
    world = NodeWorld(h100(SEVEN))
    _mig_manager(world)
    await settle(world, agent_on(world)[0])
    assert world.node_writes == []


async def _until_created(world: NodeWorld, partition: Any, hands: Steps) -> None:
    for _ in range(60):
        await partition()
        if any(isinstance(step, Create) for step in hands.taken):
            return
        world.tick()
    raise AssertionError(hands.taken)
