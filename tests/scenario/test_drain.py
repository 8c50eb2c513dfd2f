"""How long pods are waited for, and what becomes of a change that they do not let happen."""

from __future__ import annotations

from typing import Any

import pytest

from agent.model import labels
from agent.plan.way import Policy
from agent.settings import Settings
from tests.fakes.world import NodeWorld, agent_on, h100
from tests.scenario.story import Story

HALVES = "3g.40gb@0:4 3g.40gb@4:4"
SEVEN = "7x1g.10gb"
DRAIN = Policy().drain_seconds


def _budget(name: str, app: str, allowed: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed},
    }


def _kept_by_a_budget() -> Story:
    story = Story(NodeWorld(h100(HALVES)))
    story.world.add_pod("kept", story.world.device(0, 0), pod_labels={"app": "kept"})
    story.world.budgets_list = [_budget("keep", "kept", 0)]
    return story


async def test_the_default_is_the_same_in_both_places() -> None:
    assert Settings().drain_seconds == DRAIN


async def test_pods_that_do_not_go_in_time_send_the_change_back_before_anything_was_destroyed() -> None:
    story = _kept_by_a_budget()
    world = story.world
    slow = world.add_pod("slow", world.device(0, 4))
    world.grace[slow] = 10 * DRAIN
    found = story.found()
    world.label(value=SEVEN)
    await story.until_said("pending", "budget")
    await story.turns(int(DRAIN / 10) - 15, 10.0)
    assert story.verdict == ("pending", "budget")
    await story.until_said("failed", "drain-timeout")
    said = story.status["message"]
    assert "default/kept (ReplicaSet kept-owner, budget keep allows 0)" in said
    assert "default/slow (ReplicaSet slow-owner, it is ending)" in said
    assert world.gpus.log == []
    assert story.found() == found


async def test_what_was_not_drained_is_tried_again_later_each_time_and_goes_on_when_the_budget_opens() -> None:
    story = _kept_by_a_budget()
    world = story.world
    world.label(value=SEVEN)
    waits = []
    for _ in range(3):
        await story.turns(int(DRAIN / 10) - 15, 10.0)
        await story.until_said("failed", "drain-timeout")
        waits.append(story.status["next_try"] - story.status["since"])
        world.tick(max(0.0, story.status["next_try"] - world.time))
        await story.until_said("pending", "budget")
    assert waits[0] < waits[1] < waits[2]
    world.budgets_list[0]["status"]["disruptionsAllowed"] = 1
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_the_time_to_drain_outlives_the_agent() -> None:
    """The record on the node says when it began."""
    story = _kept_by_a_budget()
    story.world.label(value=SEVEN)
    for _ in range(9):
        await story.turns(int(DRAIN / 100), 10.0)
        story.restart()
    assert story.verdict == ("pending", "budget")
    await story.turns(int(DRAIN / 100) - 2, 10.0)
    await story.until_said("failed", "drain-timeout")


async def test_a_drain_without_end_may_be_asked_for() -> None:
    story = _kept_by_a_budget()
    story.partition, story.hands = agent_on(story.world, Policy(drain_seconds=0.0))
    story.world.label(value=SEVEN)
    await story.turns(100, 300.0)
    assert story.verdict == ("pending", "budget")


async def test_a_pod_that_the_kubelet_gives_nothing_blocks_by_its_name_after_half_a_minute() -> None:
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    uid = world.add_pod("starting", gpus=1)
    world.label(value=SEVEN)
    await story.turns(28)
    assert story.verdict == ("pending", "pod-starting")
    await story.turns(60)
    assert story.verdict == ("pending", "blocked")
    assert "default/starting" in story.status["message"]
    assert story.status["since"] - 1_000_000 < 40
    assert story.hands.taken == []
    world.devices[uid] = world.device(0, 0)
    world.tick(0.0)
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_each_pod_has_its_own_half_minute() -> None:
    """One after the other they start: nobody is blamed."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    world.label(value=SEVEN)
    before = ""
    for number in range(4):
        uid = world.add_pod(f"starting-{number}", gpus=1)
        if before:
            world.ends_in(before, 0.0)
        before = uid
        await story.turns(20)
        assert story.verdict == ("pending", "pod-starting")


@pytest.mark.parametrize("owner", ["ReplicaSet", "Job"])
async def test_a_finished_pod_is_not_waited_for_to_start(owner: str) -> None:
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    world.pods[world.add_pod("failed", gpus=1, owner=owner)]["status"]["phase"] = "Failed"
    world.label(value=SEVEN)
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_of_twenty_pods_two_have_to_go() -> None:
    """Those on doomed slices; who needs no GPU, is on a slice that stays, or comes with the node keeps its UID."""
    story = Story(
        NodeWorld(h100("1g.10gb@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1 1g.10gb@4:1 1g.10gb@5:1 1g.10gb@6:1"))
    )
    world = story.world
    doomed = {world.add_pod(f"doomed-{start}", world.device(0, start)) for start in (4, 5)}
    for start in range(4):
        world.add_pod(f"kept-{start}", world.device(0, start))
    for number in range(10):
        world.add_pod(f"cpu-{number}")
    for number in range(3):
        world.add_pod(f"daemon-{number}", None, "DaemonSet")
    world.tick()
    assert len(world.pods) == 20, "the device plugin is one of them"
    others = world.pods.keys() - doomed - set(world.uids("nvidia-device-plugin"))
    world.label(value="4x1g.10gb_1x3g.40gb")
    evicted: list[str] = []
    world.effects.witness = lambda name, about: evicted.append(about[0].uid) if name == "evict" else None
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert sorted(evicted) == sorted(doomed)
    assert others <= world.pods.keys()


async def test_a_budget_that_allows_none_is_named_soon_and_the_change_goes_on_by_itself_when_it_opens() -> None:
    story = _kept_by_a_budget()
    world = story.world
    world.label(value=SEVEN)
    while "evict" not in world.effects.names:
        await story.turns(1, 0.5)
    tried = world.time
    await story.until_said("pending", "budget")
    assert world.time - tried <= 10
    assert "default/kept" in story.status["message"]
    assert "keep" in story.status["message"]
    wish = world.node["metadata"]["labels"][labels.CONFIG]
    await story.turns(100)
    world.budgets_list[0]["status"]["disruptionsAllowed"] = 1
    opened = world.time
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert world.time - opened < 60
    assert world.node["metadata"]["labels"][labels.CONFIG] == wish
