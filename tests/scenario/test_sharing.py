"""Slices and GPUs that the device plugin shares: its configuration is part of a change, forward and back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model import labels
from agent.model.errors import HardwareError
from agent.model.mig import Gpu
from agent.model.steps import Begin, Destroy, End, Evict, RestartClient, Resume
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import NodeWorld, agent_on, h100, settle

LAYOUTS = Path(__file__).parents[1] / "data" / "shared_layouts.yaml"
SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
HALVES = "3g.40gb@0:4 3g.40gb@4:4"
SMALL, LARGE, WHOLE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb", "nvidia.com/gpu"


def whole(index: int = 0) -> Gpu:
    return replace(h100(index=index), mig_enabled=False, mig_pending=False)


def shared(layout: str, *gpus: Gpu, config: str = "", **options: Any) -> NodeWorld:
    """A node that is asked for a layout of the file."""
    world = NodeWorld(*gpus, **options)
    world.layouts_file = str(LAYOUTS)
    if config:
        world.label(labels.PLUGIN_CONFIG, config)
        world.tick()
    world.label(value=layout)
    return world


def shown(world: NodeWorld) -> dict[str, int]:
    return {name: int(count) for name, count in world.node["status"]["allocatable"].items() if count != "0"}


def config_of(world: NodeWorld) -> str | None:
    found: str | None = world.node["metadata"]["labels"].get(labels.PLUGIN_CONFIG)
    return found


def status_of(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
    return found


async def turns(world: NodeWorld, partition: PartitionPass, count: int, seconds: float = 1.0) -> None:
    for _ in range(count):
        await partition()
        world.tick(seconds)


@pytest.mark.parametrize(
    ("layout", "gpu", "config", "resources"),
    [
        ("shared-gpus", whole(), "warmslice-time-slicing_gpu-4", {WHOLE: 4}),
        ("mps-gpus", whole(), "warmslice-mps_gpu-8", {WHOLE: 8}),
        ("shared-sevenths", whole(), "warmslice-time-slicing_1g.10gb-4", {SMALL: 28}),
        ("shared-mixed", h100(SEVEN), "warmslice-time-slicing_1g.10gb-2", {SMALL: 8, LARGE: 1}),
    ],
)
async def test_success_is_said_once_the_node_shows_the_replicas(
    layout: str, gpu: Gpu, config: str, resources: dict[str, int]
) -> None:
    world = shared(layout, gpu)
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert status_of(world)["state"] == "success"
    assert (config_of(world), shown(world)) == (config, resources)
    assert isinstance(hands.taken[-1], End)


async def test_a_change_of_sharing_alone_moves_nobody_and_stops_no_client() -> None:
    """The plugin's own config-manager takes the new configuration; pods go on with the devices that they have."""
    world = shared("shared-sevenths", h100(SEVEN))
    uid = world.add_pod("serve", world.device(0, 3))
    plugin = world.uids("nvidia-device-plugin")
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert [type(step) for step in hands.taken] == [Begin, Resume, End]
    assert shown(world) == {SMALL: 28}
    assert world.gpus.log == []
    assert (world.uids("serve"), world.uids("nvidia-device-plugin")) == ([uid], plugin)
    assert not world.node["spec"].get("unschedulable")
    assert len(world.node_writes) == 3


async def test_a_change_of_sharing_alone_ends_only_when_the_node_shows_it() -> None:
    world = shared("shared-gpus", whole())
    world.freeze_plugin = True
    partition, _ = agent_on(world)
    await turns(world, partition, 20)
    assert status_of(world)["state"] == "pending"
    assert config_of(world) == "warmslice-time-slicing_gpu-4"
    world.freeze_plugin = False
    await settle(world, partition)
    assert status_of(world)["state"] == "success"


async def test_a_pod_bound_just_before_is_given_its_device_first() -> None:
    """While the plugin registers anew the kubelet has none to give."""
    world = shared("shared-gpus", whole())
    partition, hands = agent_on(world)
    await partition()
    assert [type(step) for step in hands.taken] == [Begin]
    uid = world.add_pod("late", gpus=1)
    await turns(world, partition, 5)
    assert config_of(world) is None
    world.devices[uid] = next(iter(world.gpus.gpus))
    await settle(world, partition)
    assert config_of(world) == "warmslice-time-slicing_gpu-4"


async def test_a_layout_without_sharing_takes_ours_away_and_leaves_another_alone() -> None:
    world = shared("sevenths", h100(SEVEN), config="warmslice-time-slicing_1g.10gb-4")
    assert shown(world) == {SMALL: 28}
    await settle(world, agent_on(world)[0])
    assert (config_of(world), shown(world)) == (None, {SMALL: 7})

    world = NodeWorld(h100(SEVEN))
    world.foreign["team-a"] = {SMALL: 2}
    world.layouts_file = str(LAYOUTS)
    world.label(labels.PLUGIN_CONFIG, "team-a")
    world.label(f"{SMALL}.replicas", "2")
    world.tick()
    world.label(value="sevenths")
    await settle(world, agent_on(world)[0])
    assert (config_of(world), shown(world)) == ("team-a", {SMALL: 14})
    assert status_of(world)["state"] == "success"


@pytest.mark.parametrize("config", ["team-a", "default"])
async def test_a_configuration_that_somebody_else_chose_is_never_overwritten(config: str) -> None:
    world = shared("shared-sevenths", whole(), config=config)
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert hands.taken == []
    assert (status_of(world)["state"], status_of(world)["reason"]) == ("failed", "sharing-config-taken")
    assert config in status_of(world)["message"]
    assert config_of(world) == config


async def test_what_somebody_chooses_midway_is_theirs() -> None:
    """The wish is refused from then on, and the rest goes back."""
    world = shared("shared-halves", h100(SEVEN))
    world.foreign["team-a"] = {}
    partition, hands = agent_on(world)
    world.freeze_plugin = True
    for _ in range(30):
        await partition()
        world.tick()
        if any(isinstance(step, Resume) for step in hands.taken):
            break
    world.label(labels.PLUGIN_CONFIG, "team-a")
    world.freeze_plugin = False
    await settle(world, partition)
    assert (config_of(world), status_of(world)["reason"]) == ("team-a", "sharing-config-taken")
    assert shown(world) == {SMALL: 7}


@pytest.mark.parametrize("config", ["", "warmslice-time-slicing_1g.10gb-4"])
async def test_a_change_that_fails_leaves_the_configuration_as_it_was_found(config: str) -> None:
    world = shared("shared-halves", h100(SEVEN), config=config)
    before = shown(world)
    for place in ("0:4", "4:4"):
        world.gpus.failures["3g.40gb", place] = HardwareError("creating 3g.40gb: Insufficient Resources")
    partition, _ = agent_on(world)
    await turns(world, partition, 25)
    assert status_of(world)["reason"] == "rolled-back"
    assert (config_of(world), shown(world)) == (config or None, before)


async def test_a_configuration_that_the_plugin_never_takes_is_undone_with_the_rest() -> None:
    """An entry that its ConfigMap lacks keeps the plugin's pod from starting: nothing would be advertised at all."""
    world = shared("shared-halves", h100(SEVEN))
    world.lacking.add("warmslice-time-slicing_3g.40gb-3")
    partition, _ = agent_on(world)
    await turns(world, partition, 20, seconds=30.0)
    assert status_of(world)["reason"] == "rolled-back"
    assert "have the entry warmslice-time-slicing_3g.40gb-3?" in status_of(world)["message"]
    assert (config_of(world), shown(world)) == (None, {SMALL: 7})
    assert not world.node["spec"].get("unschedulable")


async def test_a_wish_withdrawn_midway_puts_the_old_configuration_back() -> None:
    world = shared("shared-gpus", whole(), config="warmslice-time-slicing_gpu-2")
    world.freeze_plugin = True
    partition, _ = agent_on(world)
    await turns(world, partition, 4)
    assert config_of(world) == "warmslice-time-slicing_gpu-4"
    world.freeze_plugin = False
    world.label(value=None)
    await settle(world, partition)
    assert (config_of(world), shown(world)) == ("warmslice-time-slicing_gpu-2", {WHOLE: 2})


async def test_an_edit_of_the_replicas_alone_takes_effect(tmp_path: Path) -> None:
    file, text = tmp_path / "layouts.yaml", await asyncio.to_thread(LAYOUTS.read_text, "utf-8")
    file.write_text(text, "utf-8")
    world = shared("shared-sevenths", h100(SEVEN))
    world.layouts_file = str(file)
    partition, _ = agent_on(world)
    await settle(world, partition)
    file.write_text(text.replace("{1g.10gb: 4}", "{1g.10gb: 3}"), "utf-8")
    await settle(world, partition)
    assert (config_of(world), shown(world)) == ("warmslice-time-slicing_1g.10gb-3", {SMALL: 21})


async def test_a_dry_run_says_what_would_be_shared_and_touches_nothing() -> None:
    world = shared("shared-gpus", whole())
    world.node["metadata"]["annotations"][labels.DRY_RUN] = "true"
    partition, hands = agent_on(world)
    await turns(world, partition, 3)
    assert hands.taken == []
    answer = json.loads(world.node["metadata"]["annotations"][labels.PLAN])
    assert "warmslice-time-slicing_gpu-4" in answer["message"]


async def test_with_single_the_plugin_never_starts_on_half_a_layout() -> None:
    """It reads the GPUs at its start and at its config-manager's signal: neither happens between destroy and create."""
    world = shared("shared-halves", h100(SEVEN), h100(SEVEN, index=1), strategy="single")
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert world.plugin_crashes == []
    assert (config_of(world), shown(world)) == ("warmslice-single-time-slicing_gpu-3", {WHOLE: 12})
    assert not [step for step in hands.taken if isinstance(step, Evict)]


async def test_with_single_the_way_back_is_as_safe() -> None:
    world = shared("shared-halves", h100(SEVEN), h100(SEVEN, index=1), strategy="single")
    world.gpus.failures["3g.40gb", "0:4"] = HardwareError("creating 3g.40gb at 0:4: Insufficient Resources")
    partition, hands = agent_on(world)
    await turns(world, partition, 30)
    assert status_of(world)["reason"] == "rolled-back"
    assert [step for step in hands.taken if isinstance(step, Destroy)]
    assert world.plugin_crashes == []
    assert (config_of(world), shown(world)) == (None, {WHOLE: 14})


async def test_a_plugin_that_cannot_be_stopped_is_started_anew_after_it_met_half_a_layout() -> None:
    """Without deploy labels its DaemonSet may start it at any time."""
    world = shared("shared-halves", h100(SEVEN), strategy="single", deploy_labels=False)
    partition, hands = agent_on(world)

    def restart_the_plugin() -> None:
        if not any(gpu.instances for gpu in world.gpus.gpus.values()):
            for uid in world.uids("nvidia-device-plugin"):
                del world.pods[uid]
            world.tick()

    world.effects.then["destroy"] = restart_the_plugin
    await settle(world, partition)
    assert world.plugin_crashes == ["['()']"]
    assert shown(world) == {WHOLE: 6}
    assert [step for step in hands.taken if isinstance(step, RestartClient)]


async def test_a_layout_that_single_cannot_express_is_refused_before_anything_is_touched() -> None:
    world = shared("shared-mixed", h100(SEVEN), strategy="single")
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert hands.taken == []
    assert status_of(world)["reason"] == "single-strategy"
    assert shown(world) == {WHOLE: 7}


async def test_gpu_feature_discovery_that_still_speaks_of_the_old_sharing_is_not_believed_at_once() -> None:
    """It writes once a minute; the plugin that has not read its new configuration yet agrees with it."""
    world = shared("sevenths", h100(SEVEN), config="warmslice-time-slicing_1g.10gb-4")
    world.label(f"{SMALL}.replicas", "4")
    world.freeze_plugin = True
    partition, _ = agent_on(world)
    await turns(world, partition, 10)
    assert status_of(world)["state"] != "success"
    world.freeze_plugin = False
    world.label(f"{SMALL}.replicas", None)
    await settle(world, partition)
    assert shown(world) == {SMALL: 7}


async def test_at_rest_a_shared_node_is_not_written() -> None:
    world = shared("shared-sevenths", h100(SEVEN))
    partition, _ = agent_on(world)
    await settle(world, partition)
    writes = len(world.node_writes)
    await turns(world, partition, 5, seconds=300.0)
    assert len(world.node_writes) == writes


async def test_a_configuration_that_somebody_took_away_comes_back_and_is_no_drift_of_the_hardware() -> None:
    world = shared("shared-sevenths", h100(SEVEN))
    partition, _ = agent_on(world)
    await settle(world, partition)
    config = config_of(world)
    assert config
    world.label(labels.PLUGIN_CONFIG, None)
    await settle(world, partition)
    assert config_of(world) == config
    assert [event for event in world.events if event["reason"] == "Drift"] == []


async def test_a_configuration_that_somebody_takes_away_each_time_ends_failed_and_not_never() -> None:
    """A program that keeps the node's labels as its own list has them: it has the last word, and the node is given back."""
    world = shared("shared-sevenths", h100(SEVEN))
    partition, hands = agent_on(world)

    def prune() -> None:
        world.node["metadata"]["labels"].pop(labels.PLUGIN_CONFIG, None)

    for _ in range(60):
        await partition()
        prune()
        world.tick()
    end = next(step for step in hands.taken if isinstance(step, End))
    assert (end.state, end.reason) == ("failed", "sharing-config-taken")
    assert "changed back 3 times by somebody else" in end.message
    assert not world.node["spec"].get("unschedulable")
