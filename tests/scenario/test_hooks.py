"""Commands around a change: services of the host let go of the GPUs before the first act on them, and have them back in any case.
And what looks at the GPUs once, when it starts, is started anew.
"""

from __future__ import annotations

from typing import Any

import pytest

from agent.model import labels
from agent.model.errors import HardwareError, RetryError
from agent.model.steps import Begin, End, Pause, Prepare, RestartClient
from agent.plan.way import Policy
from tests.fakes.world import NodeWorld, agent_on, cut, h100, settle
from tests.scenario.story import Story, mode_on

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
ACTS = ("create", "destroy", "trim", "set_mode")
HOOKED = Policy(prepares=True)


def _story(policy: Policy = HOOKED) -> Story:
    story = Story(NodeWorld(h100(SEVEN)))
    story.partition, story.hands = agent_on(story.world, policy)
    story.world.label(value="2x3g.40gb")
    return story


def _watched(story: Story) -> list[tuple[str, bool]]:
    """Each act on the hardware, with whether the host's services ran then."""
    acts: list[tuple[str, bool]] = []

    def sees(name: str, about: tuple[Any, ...]) -> None:
        if name in ACTS:
            acts.append((name, story.world.services_run))

    story.world.effects.witness = sees
    return acts


async def test_services_let_go_before_the_first_act_and_have_the_gpus_back() -> None:
    story = _story()
    acts = _watched(story)
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert acts
    assert {run for _, run in acts} == {False}
    assert story.world.services_run
    assert story.world.effects.names.count("prepare") == 1
    kinds = [type(step) for step in story.hands.taken]
    begun = kinds.index(Pause) if Pause in kinds else kinds.index(Begin)
    assert begun < kinds.index(Prepare)


async def test_without_such_commands_nothing_is_run() -> None:
    story = _story(Policy())
    await story.settled()
    assert "prepare" not in story.world.effects.names


async def test_a_command_that_fails_leaves_the_hardware_alone_and_is_named() -> None:
    story = _story()
    acts = _watched(story)
    runs = 0

    async def fails() -> None:
        nonlocal runs
        runs += 1
        raise RetryError("systemctl stop nvidia-dcgm: exit code 5: not loaded")

    story.world.prepare = fails  # type: ignore[method-assign]
    await story.turns(8)
    assert story.verdict == ("pending", "before-failing")
    assert "systemctl stop nvidia-dcgm" in story.status["message"]
    await story.until_taken(End, 5.0, int(HOOKED.patience_seconds / 5) + 20)
    assert story.verdict == ("failed", "rolled-back")
    assert "systemctl stop nvidia-dcgm" in story.status["message"]
    assert (acts, story.layout, runs > 2) == ([], [SEVEN.split()], True)
    assert story.world.effects.names.count("refresh") >= 1


async def test_going_back_after_the_services_were_let_go_stops_them_no_second_time() -> None:
    story = _story()
    acts = _watched(story)
    story.world.gpus.failures["3g.40gb", "4:4"] = HardwareError("creating: Insufficient Resources")
    story.world.gpus.failures["3g.40gb", "0:4"] = HardwareError("creating: Insufficient Resources")
    await story.until_said("failed", "rolled-back")
    assert {run for _, run in acts} == {False}
    assert (story.world.effects.names.count("prepare"), story.world.services_run) == (1, True)


async def test_after_a_reboot_in_mid_change_the_services_run_again_and_are_stopped_again() -> None:
    story = _story()
    await story.until_taken(Prepare)
    story.world.services_run = True
    story.world.reboot()
    acts = _watched(story)
    story.partition, story.hands = agent_on(story.world, HOOKED)
    await settle(story.world, story.partition)
    assert story.verdict[0] == "success"
    assert {run for _, run in acts} == {False}


@pytest.mark.parametrize("mode", [False, True])
async def test_the_validator_starts_anew_once_after_a_change(mode: bool) -> None:
    """It has checked GPUs that are cut otherwise by now."""
    world = NodeWorld(cut("H100-80GB-SXM", SEVEN) if not mode else h100(SEVEN))
    old = world.add_pod("validator", owner="DaemonSet", pod_labels={"app": "nvidia-operator-validator"})
    world.label(value="disabled" if mode else "2x3g.40gb")
    await settle(world, agent_on(world)[0])
    assert old not in world.pods
    writes = len(world.node_writes)
    new = world.add_pod("validator", owner="DaemonSet", pod_labels={"app": "nvidia-operator-validator"})
    await settle(world, agent_on(world)[0])
    assert (new in world.pods, len(world.node_writes)) == (True, writes)


async def test_clients_without_the_operator_are_started_anew_once_and_nobody_else_is() -> None:
    """The charts of device plugin and DCGM exporter, without deploy labels."""
    world = NodeWorld(h100(SEVEN), deploy_labels=False)
    exporter = world.add_pod(
        "exporter", owner="DaemonSet", pod_labels={"app.kubernetes.io/name": "dcgm-exporter"}, namespace="monitoring"
    )
    other = world.add_pod(
        "node-exporter", owner="DaemonSet", pod_labels={"app": "node-exporter"}, namespace="monitoring"
    )
    by_hand = world.add_pod("my-exporter", owner="", pod_labels={"app": "dcgm-exporter"}, namespace="monitoring")
    plugin = world.uids("nvidia-device-plugin")
    world.label(value="2x3g.40gb")
    story = Story(world)
    await story.settled()
    assert story.verdict == ("success", "applied")
    restarted = [step.pod.uid for step in story.hands.taken if isinstance(step, RestartClient)]
    assert sorted(restarted) == sorted([exporter, *plugin])
    assert {other, by_hand} <= set(world.pods), "a pod that no DaemonSet starts again is nobody's to delete"


@pytest.mark.parametrize(("mode", "paused"), [(False, False), (True, True)], ids=["slices", "mode"])
async def test_third_party_clients_are_paused_by_their_label_where_the_mode_changes(mode: bool, paused: bool) -> None:
    world = mode_on() if mode else NodeWorld(h100(SEVEN))
    world.label("nvidia.com/gpu.deploy.client", "v2")
    world.label(value="2x3g.40gb")
    story = Story(world)
    await story.settled()
    written = [patch["metadata"].get("labels", {}).get("nvidia.com/gpu.deploy.client") for patch in world.node_writes]
    assert (labels.PAUSED in written) is paused
    assert world.node["metadata"]["labels"]["nvidia.com/gpu.deploy.client"] == "v2"


async def test_each_phase_of_a_change_is_measured() -> None:
    world = mode_on()
    world.grace[world.uids("whole")[0]] = 10.0
    other = world.add_pod("slow-exporter", owner="DaemonSet", pod_labels={"app": "nvidia-dcgm-exporter"})
    world.effects.then["patch"] = lambda: world.ends_in(other, 5.0) if other in world.pods else None
    partition, _ = agent_on(world, HOOKED)
    await settle(world, partition)
    world.label(value="7x1g.10gb")
    await settle(world, partition)
    measured = {count[1] for count in world.counts.seen if count[0] == "phase"}
    assert measured >= {"draining", "clients-stopping", "prepare", "mode", "destroy", "create", "refresh", "total"}
