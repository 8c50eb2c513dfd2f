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


def _waiting_for_a_job(evict: str = "") -> Story:
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    world.add_pod("train", world.device(0, 0), "Job", {labels.EVICT: evict} if evict else {})
    world.add_pod("serve", world.device(0, 4))
    story.partition, story.hands = agent_on(world, Policy(wait_for_jobs_seconds=600.0))
    world.label(value=SEVEN)
    return story


@pytest.mark.parametrize("kept", [0, 4])
async def test_while_an_evicted_pod_is_ending_no_other_is_asked_in_its_place(kept: int) -> None:
    """One half of the GPU has to go, and while its pod takes its time the budget of the other one opens."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    stays = world.add_pod("stays", world.device(0, kept), pod_labels={"app": "stays"})
    world.budgets_list = [_budget("keep", "stays", 0)]
    goes = world.add_pod("goes", world.device(0, 4 - kept))
    world.grace[goes] = 90.0
    world.label(value="1x3g.40gb_2x1g.10gb")
    await story.until_said("pending", "draining")
    world.budgets_list[0]["status"]["disruptionsAllowed"] = 1
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert stays in world.pods
    assert goes not in world.pods


async def test_a_pod_of_a_job_is_waited_for_and_nobody_is_asked_to_go_meanwhile() -> None:
    story = _waiting_for_a_job()
    world = story.world
    await story.turns(100)
    assert story.verdict == ("pending", "job-running")
    assert "default/train (Job train-owner)" in story.status["message"]
    assert story.hands.taken == []
    world.pods[world.uids("train")[0]]["status"]["phase"] = "Succeeded"
    world.idle.add(world.uids("train")[0])
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert world.effects.names.count("evict") == 1


async def test_a_job_is_waited_for_so_long_whoever_asks() -> None:
    """Since the wish first waited for it: the node's status remembers that over restarts of the agent."""
    story = _waiting_for_a_job()
    world = story.world
    for _ in range(2):
        await story.turns(29, 10.0)
        assert story.verdict == ("pending", "job-running")
        story.partition, story.hands = agent_on(world, Policy(wait_for_jobs_seconds=600.0))
    await story.turns(5, 10.0)
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert world.effects.names.count("evict") == 2
    assert story.status["jobs"] is None


async def test_another_wish_waits_for_jobs_anew() -> None:
    story = _waiting_for_a_job()
    world = story.world
    await story.turns(59, 10.0)
    assert story.verdict == ("pending", "job-running")
    world.label(value="2x1g.10gb_1x2g.20gb")
    world.tick(20.0)
    await story.turns(50, 10.0)
    assert story.verdict == ("pending", "job-running")


async def test_a_way_around_a_job_is_taken() -> None:
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    uid = world.add_pod("train", world.device(0, 0), "Job")
    world.add_pod("serve", world.device(0, 4))
    story.partition, story.hands = agent_on(world, Policy(wait_for_jobs_seconds=600.0))
    world.label(value="1x3g.40gb_3x1g.10gb")
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert uid in world.pods


async def test_who_cannot_be_moved_at_all_blocks_beside_a_job() -> None:
    story = _waiting_for_a_job()
    world = story.world
    await story.turns(3)
    world.pods[world.uids("serve")[0]]["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet"
    await story.turns(5)
    assert story.verdict == ("pending", "blocked")
    assert "default/serve (DaemonSet" in story.status["message"]


@pytest.mark.parametrize(("evict", "verdict"), [("true", ("success", "applied")), ("wait", ("pending", "blocked"))])
async def test_a_pod_s_own_word_counts_before_the_waiting_for_jobs(evict: str, verdict: tuple[str, str]) -> None:
    story = _waiting_for_a_job(evict=evict)
    await story.turns(100, 10.0)
    assert story.verdict == verdict


async def test_who_is_to_be_waited_for_is_never_evicted_and_the_change_goes_on_when_it_ends() -> None:
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    uid = world.add_pod("train", world.device(0, 0), "Job", {labels.EVICT: "wait"})
    world.label(value=SEVEN)
    await story.turns(200, 60.0)
    assert story.verdict == ("pending", "blocked")
    assert (
        "default/train (Job train-owner: annotation warmslice.dev/evict=wait: until it ends by itself)"
        in story.status["message"]
    )
    world.ends_in(uid, 0.0)
    world.tick()
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert "evict" not in world.effects.names
