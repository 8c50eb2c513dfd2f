"""Device plugins that no pod starts anew: a layout that would not be shown is refused, and nothing is touched."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.model import labels
from agent.plan.way import Policy
from tests.fakes.world import NodeWorld, agent_on, h100, settle
from tests.scenario.story import SEVEN, Story

GKE = {"k8s-app": "nvidia-gpu-device-plugin"}
SIZE = "cloud.google.com/gke-gpu-partition-size"


def _bottlerocket(advertised: int = 1) -> NodeWorld:
    """Its plugin is a service of the host, which has read the GPU once."""
    world = NodeWorld(h100(), deploy_labels=False, plugin=False)
    world.node["status"]["nodeInfo"]["osImage"] = "Bottlerocket OS 1.53.0 (aws-k8s-1.34-nvidia)"
    world.node["status"]["allocatable"] = {"nvidia.com/gpu": str(advertised)}
    world.node["status"]["capacity"] = dict(world.node["status"]["allocatable"])
    world.label(value="7x1g.10gb")
    return world


def _gke() -> NodeWorld:
    world = NodeWorld(h100(), deploy_labels=False, plugin=False)
    world.add_pod("nvidia-gpu-device-plugin-x", owner="DaemonSet", pod_labels=GKE, namespace="kube-system")
    world.label(value="7x1g.10gb")
    return world


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_bottlerocket, "on Bottlerocket OS 1.53.0 (aws-k8s-1.34-nvidia) the device plugin is a service of the host"),
        (_gke, "pod kube-system/nvidia-gpu-device-plugin-x is GKE's own device plugin"),
    ],
)
async def test_who_would_not_see_the_layout_is_named_with_what_to_do(
    build: Callable[[], NodeWorld], words: str
) -> None:
    story = Story(build())
    await story.settled()
    assert story.verdict == ("failed", "host-plugin")
    assert words in story.status["message"]
    assert "refresh_commands" in story.status["message"]
    assert (story.hands.taken, story.layout) == ([], [[]])


async def test_with_a_command_that_restarts_it_the_change_is_made_and_verified() -> None:
    world = _bottlerocket()

    def restarted() -> None:
        world.node["status"]["allocatable"] = {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "7"}

    world.effects.then["refresh"] = restarted
    partition, _ = agent_on(world, Policy(refreshes=True))
    await settle(world, partition)
    story = Story(world)
    assert story.verdict == ("success", "applied")
    assert story.layout == [SEVEN.split()]
    assert "word alone" not in story.status["message"]


async def test_a_layout_that_is_there_already_is_not_refused() -> None:
    world = _bottlerocket(advertised=0)
    world.gpus.gpus = {gpu.uuid: gpu for gpu in [h100(SEVEN)]}
    world.node["status"]["allocatable"] = {"nvidia.com/mig-1g.10gb": "7"}
    story = Story(world)
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_on_bottlerocket_a_plugin_in_a_pod_is_a_plugin_as_any() -> None:
    world = NodeWorld(h100())
    world.node["status"]["nodeInfo"]["osImage"] = "Bottlerocket OS 1.53.0 (aws-k8s-1.34-nvidia)"
    world.label(value="7x1g.10gb")
    story = Story(world)
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_where_nobody_knows_who_advertises_the_status_says_where_to_look() -> None:
    """It may be one that looks by itself, so it is not refused."""
    world = _bottlerocket()
    del world.node["status"]["nodeInfo"]["osImage"]
    story = Story(world)
    await story.turns(15)
    assert story.verdict == ("pending", "not-advertised")
    assert "if it is a service of the host, set refresh_commands" in story.status["message"]


async def test_gke_cuts_the_gpus_itself_where_the_node_pool_has_a_partition_size() -> None:
    world = _gke()
    world.label(SIZE, "1g.10gb")
    story = Story(world)
    await story.turns(3)
    assert story.verdict == ("pending", "second-owner")
    assert "the node pool has the partition size 1g.10gb" in story.status["message"]
    assert world.node["metadata"]["labels"][labels.CONFIG] == "7x1g.10gb"
