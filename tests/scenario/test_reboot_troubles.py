"""What goes wrong around a reboot that brings a mode: GPUs that fall silent, files and pods that come and go, other people's
pending modes. One wish costs one reboot, and a mode of ours that nobody wants any more is never left to the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model import labels
from agent.model.errors import HardwareError
from agent.model.steps import Begin, End
from agent.plan.way import Policy
from tests.fakes.world import NodeWorld, agent_on, cut, settle
from tests.scenario.story import Story
from tests.scenario.test_mode_changes import (
    A100,
    COMMANDED,
    HALVES,
    board,
    count,
    given_back,
    guest,
    layout,
    off,
    only,
    pending,
    status_of,
    turns,
    until_rebooting,
    verdict,
)

DAY = "{day: [{devices: all, mig-enabled: true, mig-devices: {3g.20gb: 2}}]}"
PATIENCE = Policy().patience_seconds


def _commands(world: NodeWorld) -> int:
    return world.effects.names.count("reboot_command")


def _uuid(world: NodeWorld, number: int) -> str:
    return list(world.gpus.gpus)[number]


async def test_a_gpu_that_stays_away_after_the_reboot_costs_no_second_one() -> None:
    """It answers later, without its mode: this wish has had its reboot."""
    world = guest(off(), off(1))
    partition, _ = agent_on(world, COMMANDED)
    await until_rebooting(world, partition)
    world.gpus.silent.add(_uuid(world, 1))
    world.reboot()
    partition, _ = agent_on(world, COMMANDED)
    await turns(world, partition, int(PATIENCE / 5) + 20)
    assert (verdict(world), layout(world)) == (("failed", "gpu-unknown"), HALVES)
    second = world.gpus.gpus[_uuid(world, 1)]
    world.gpus.gpus[second.uuid] = replace(second, mig_enabled=False, mig_pending=False)
    world.gpus.answers(second.uuid)
    for _ in range(5):
        world.tick(4000.0)
        await turns(world, partition, 20)
    assert (verdict(world), _commands(world)) == (("failed", "reboot-did-not-help"), 1)
    assert given_back(world)


@pytest.mark.parametrize("trouble", ["a silent GPU", "a pod that stays", "a file that is away"])
async def test_nothing_seen_of_a_machine_that_goes_down_turns_it_back(trouble: str, tmp_path: Path) -> None:
    """The mode would be called off, and the reboot be for nothing."""
    story = Story(
        guest(wish=None),
        tmp_path / "layouts.yaml",
        "{day: [{devices: all, mig-enabled: true, mig-devices: {3g.20gb: 2}}]}",
    )
    world = story.world
    world.on_reboot_command = lambda: None
    world.label(value="day")
    partition, hands = agent_on(world, COMMANDED)
    await until_rebooting(world, partition)
    match trouble:
        case "a silent GPU":
            world.gpus.silent.add(_uuid(world, 0))
        case "a pod that stays":
            world.add_pod("stays", _uuid(world, 0), "DaemonSet")
        case _:
            story.remove_layouts()
    await turns(world, partition, int(PATIENCE / 5) + 20)
    assert (verdict(world)[0], count(hands, End)) == ("rebooting", 0)
    world.gpus.answers(_uuid(world, 0))
    for uid in world.uids("stays"):
        world.ends_in(uid, 0.0)
    story.edit(DAY)
    world.reboot()
    await settle(world, agent_on(world, COMMANDED)[0])
    assert (verdict(world)[0], layout(world), _commands(world)) == ("success", HALVES, 1)


async def test_a_mode_that_was_called_off_before_the_machine_went_says_nothing_of_the_reboot() -> None:
    """Another wish called it off; the first one is set again later, and has its reboot."""
    world = guest()
    world.on_reboot_command = lambda: None
    partition, _ = agent_on(world, COMMANDED)
    await until_rebooting(world, partition)
    world.label(value="all-disabled")
    await turns(world, partition, 10)
    assert pending(world) == [False]
    world.reboot()
    world.on_reboot_command = world._go_soon
    world.label(value="2x3g.20gb")
    await settle(world, agent_on(world, COMMANDED)[0])
    assert (verdict(world)[0], layout(world), _commands(world)) == ("success", HALVES, 2)


async def test_a_mode_left_pending_goes_when_the_next_wish_is_of_another_gpu() -> None:
    world = guest(off(), cut(A100, "3g.20gb@4:4", 1), wish=None)
    partition, hands = agent_on(world)
    only(world, 0, "2x3g.20gb")
    await settle(world, partition)
    assert pending(world) == [True, True]
    only(world, 0, "")
    only(world, 1, "1x3g.20gb")
    await turns(world, partition, 20)
    assert (verdict(world), pending(world)) == (("success", "applied"), [False, True])
    assert given_back(world)
    hands.taken.clear()
    await turns(world, partition, 5)
    assert hands.taken == []


@pytest.mark.parametrize("wish", [None, "3g.20gb on the other"])
async def test_a_silent_gpus_pending_mode_is_called_off_once_it_answers(wish: str | None) -> None:
    world = guest(off(), cut(A100, "3g.20gb@4:4", 1), wish=None)
    partition, _ = agent_on(world)
    only(world, 0, "2x3g.20gb")
    await settle(world, partition)
    world.gpus.silent.add(_uuid(world, 0))
    only(world, 0, "")
    if wish is not None:
        only(world, 1, "1x3g.20gb")
    await turns(world, partition, 30)
    assert pending(world)[0] is True
    assert labels.OPERATION not in world.node["metadata"]["annotations"]
    world.gpus.answers(_uuid(world, 0))
    await turns(world, partition, 20)
    assert pending(world)[0] is False
    assert given_back(world)


async def test_what_waits_for_a_human_waits_on_while_its_gpu_is_silent() -> None:
    """A GPU that does not answer has not been called off: nobody is drained anew for it."""
    world = guest(off(), off(1))
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert verdict(world) == ("failed", "reboot-required")
    world.gpus.silent.add(_uuid(world, 0))
    begun = count(hands, Begin)
    await turns(world, partition, 20, 60.0)
    world.gpus.answers(_uuid(world, 0))
    await turns(world, partition, 20, 60.0)
    assert (count(hands, Begin), verdict(world)) == (begun, ("failed", "reboot-required"))


async def test_a_peers_pending_mode_that_is_not_ours_is_not_brought_by_our_reset() -> None:
    world = board(off(), replace(off(1), mig_pending=True))
    only(world, 0, "2x3g.20gb")
    await turns(world, agent_on(world)[0], 20, 0.5)
    assert "GPU 1 has a pending MIG mode" in status_of(world)["message"]
    assert (verdict(world)[0], world.gpus.gpus[_uuid(world, 1)].mig_enabled) == ("failed", False)


async def test_a_peer_that_was_given_up_keeps_its_slices() -> None:
    """It answers again, and the change goes on without it: nobody would bring back what the reset takes."""
    world = board(off(), cut(A100, "3g.20gb@4:4", 1))
    world.label(value="2x3g.20gb")
    partition, hands = agent_on(world)
    while not count(hands, Begin):
        await turns(world, partition, 1, 1.0)
    world.gpus.silent.add(_uuid(world, 1))
    while not any(step.operation.given_up for step in hands.taken if hasattr(step, "operation")):
        await turns(world, partition, 1)
    world.gpus.answers(_uuid(world, 1))
    world.gpus.failures["3g.20gb", "0:4"] = HardwareError("not what this is about")
    await turns(world, partition, 3, 1.0)
    assert layout(world, 1) == ["3g.20gb@4:4"]


async def test_a_mode_that_was_pending_when_it_was_found_is_left_so_on_the_way_back() -> None:
    """Somebody waits for the next reboot; a change of ours that fails makes no end of that."""
    world = NodeWorld(off(), replace(off(1), mig_pending=True))
    world.label(value="2x3g.20gb")
    switch, second = world.gpus._set_mode, _uuid(world, 1)

    def refused(gpu: str, enabled: bool, others: Mapping[str, str]) -> None:
        if gpu == second and enabled:
            raise HardwareError("setting MIG mode: Insufficient Permissions")
        switch(gpu, enabled, others)

    world.gpus._set_mode = refused  # type: ignore[method-assign, assignment]
    partition, hands = agent_on(world)
    while not count(hands, End):
        await turns(world, partition, 1)
    assert verdict(world) == ("failed", "rolled-back")
    assert (layout(world), pending(world)) == (["off"], [False, True])
    assert given_back(world)
