"""How often somebody is asked to leave."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from agent.model.errors import RetryError
from agent.model.labels import EVICT, SAFE_TO_EVICT
from agent.model.node import PodRef
from agent.model.report import WaitedFor
from agent.model.steps import Evict
from tests.fakes.world import Fault, NodeWorld, agent_on, h100
from tests.scenario.story import Story


def _one_pod_in_the_way() -> NodeWorld:
    world = NodeWorld(h100("7g.80gb@0:8"))
    world.add_pod("serve", world.device(0, 0), pod_labels={"app": "serve"})
    world.label(value="7x1g.10gb")
    return world


def _budget(name: str, app: str, allowed: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed},
    }


async def test_an_eviction_is_asked_for_once_while_its_effect_is_not_seen_yet() -> None:
    world = _one_pod_in_the_way()
    partition, _ = agent_on(world)
    for _ in range(5):
        await partition()
        for pod in world.pods.values():
            # The watch lags behind: the pod still looks as if nobody had asked.
            pod["metadata"].pop("deletionTimestamp", None)
    assert world.effects.names.count("evict") == 1


async def test_a_refused_eviction_is_tried_again_every_five_seconds_at_most() -> None:
    world = _one_pod_in_the_way()
    world.budgets_list = [_budget("keep", "serve", 0)]
    partition, _ = agent_on(world)
    began = world.time
    while world.time < began + 20:
        wait = await partition()
        assert wait <= 7
        world.tick(0.5)
    assert 3 <= world.effects.names.count("evict") <= 5
    assert world.reports[-1].waits_for == "budget"
    assert world.reports[-1].pods == (WaitedFor("default", "serve", "ReplicaSet/serve-owner", "keep"),)


async def test_a_refused_eviction_is_not_asked_for_again_sooner_because_another_pod_left() -> None:
    """Five seconds between two tries are each pod's own."""
    world = NodeWorld(h100("3g.40gb@0:4 3g.40gb@4:4"))
    kept = world.add_pod("kept", world.device(0, 0), pod_labels={"app": "kept"})
    world.add_pod("other", world.device(0, 4))
    world.label(value="7x1g.10gb")
    world.budgets_list = [_budget("keep", "kept", 0)]
    asked: list[float] = []
    world.effects.witness = lambda name, about: (
        asked.append(world.time) if name == "evict" and about[0].uid == kept else None
    )
    partition, _ = agent_on(world)
    for _ in range(400):
        await partition()
        world.tick(0.1)
    pauses = [after - before for before, after in pairwise(asked)]
    assert len(pauses) > 4
    assert all(5.0 <= pause <= 6.7 for pause in pauses)
    assert len({round(pause, 1) for pause in pauses}) > 1, "agents that wait for one budget ask in step"


async def test_who_has_a_higher_priority_is_asked_only_when_those_below_go() -> None:
    world = NodeWorld(h100("3g.40gb@0:4 3g.40gb@4:4"))
    for name, start, priority in (("important", 0, 1000), ("batch", 4, -10)):
        uid = world.add_pod(name, world.device(0, start), pod_labels={"app": name})
        world.pods[uid]["spec"]["priority"] = priority
    world.budgets_list = [_budget("keep", "batch", 0)]
    asked: list[str] = []
    world.effects.witness = lambda name, about: asked.append(about[0].name) if name == "evict" else None
    world.label(value="7x1g.10gb")
    story = Story(world)
    await story.turns(30)
    assert set(asked) == {"batch"}
    assert "default/batch" in story.status["message"]
    world.budgets_list[0]["status"]["disruptionsAllowed"] = 1
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert asked[-2:] == ["batch", "important"]


async def test_pods_of_one_priority_are_asked_in_one_go() -> None:
    world = NodeWorld(h100("3g.40gb@0:4 3g.40gb@4:4"))
    for name, start in (("one", 0), ("two", 4)):
        world.add_pod(name, world.device(0, start))
    world.label(value="7x1g.10gb")
    story = Story(world)
    await story.until_taken(Evict)
    assert world.effects.names.count("evict") == 2


@pytest.mark.parametrize(
    ("owner", "scratch", "annotations", "goes"),
    [
        ("ReplicaSet", False, {SAFE_TO_EVICT: "false"}, False),
        ("ReplicaSet", False, {SAFE_TO_EVICT: "false", EVICT: "true"}, True),
        ("", False, {SAFE_TO_EVICT: "true"}, True),
        ("ReplicaSet", True, {SAFE_TO_EVICT: "true"}, True),
        ("ReplicaSet", False, {SAFE_TO_EVICT: "true", EVICT: "false"}, False),
        ("ReplicaSet", False, {SAFE_TO_EVICT: "true", EVICT: "wait"}, False),
        ("DaemonSet", False, {SAFE_TO_EVICT: "true"}, False),
        ("", False, {SAFE_TO_EVICT: "perhaps"}, False),
    ],
)
async def test_the_autoscaler_s_word_counts_where_ours_says_nothing(
    owner: str, scratch: bool, annotations: dict[str, str], goes: bool
) -> None:
    story = Story(NodeWorld(h100("7g.80gb@0:8")))
    world = story.world
    uid = world.add_pod("serve", world.device(0, 0), owner, annotations)
    if scratch:
        world.pods[uid]["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    world.label(value="7x1g.10gb")
    await story.turns(20)
    assert story.verdict == (("success", "applied") if goes else ("pending", "blocked"))
    assert goes or "default/serve" in story.status["message"]
    assert (uid in world.pods) is not goes


async def test_a_pod_in_a_namespace_that_ends_is_waited_for() -> None:
    """The API server evicts nobody there, but deletes everybody."""
    story = Story(_one_pod_in_the_way())
    world = story.world
    world.effects.faults = [Fault(frozenset({"evict"}), RetryError, times=99)]
    await story.until_said("pending", "eviction-failing")
    world.ends_in(world.uids("serve")[0], 3.0)
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_an_eviction_that_failed_is_no_success() -> None:
    world = _one_pod_in_the_way()

    async def broken(pod: PodRef) -> None:
        raise RetryError("HTTP 500")

    partition, hands = agent_on(world)
    hands._cluster.evict = broken  # type: ignore[method-assign]
    for _ in range(4):
        try:
            await partition()
        except RetryError:
            continue
        assert world.reports[-1].status is None or world.reports[-1].status.state == "pending"


async def test_a_budget_that_keeps_one_pod_keeps_no_other() -> None:
    """The rest of the drain goes on meanwhile, so the change begins as soon as the budget lets go."""
    world = NodeWorld(h100("3g.40gb@0:4 3g.40gb@4:4"))
    world.add_pod("kept", world.device(0, 0), pod_labels={"app": "kept"})
    world.add_pod("other", world.device(0, 4))
    world.label(value="7x1g.10gb")
    world.budgets_list = [_budget("keep", "kept", 0)]
    partition, _ = agent_on(world)
    for _ in range(10):
        await partition()
        world.tick()
    assert not world.uids("other")
    assert world.uids("kept")
    assert world.reports[-1].waits_for == "budget"
    status = world.reports[-1].status
    assert status is not None
    assert "default/kept" in status.message


async def test_who_blocks_a_change_is_told_to_programs_too_but_nobody_who_does_not() -> None:
    """One pod alone is in the way; the other could go, and nobody asks it to."""
    world = NodeWorld(h100("3g.40gb@0:4 3g.40gb@4:4"))
    world.add_pod("stays", world.device(0, 0), owner="")
    world.add_pod("goes", world.device(0, 4))
    world.label(value="1x7g.80gb")
    partition, _ = agent_on(world)
    await partition()
    assert world.reports[-1].waits_for == "blocked"
    assert world.reports[-1].pods == (WaitedFor("default", "stays", "", ""),)
