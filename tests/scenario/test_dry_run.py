"""A node that asks "what would this label do?": the answer is true, stays true, and costs few writes."""

from __future__ import annotations

import json
from typing import Any

from agent.model import labels
from agent.model.mig import GpuProcess
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import NodeWorld, agent_on, h100

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


def _asking(value: str = "1x3g.40gb_4x1g.10gb") -> NodeWorld:
    world = NodeWorld(h100(SEVEN))
    world.add_pod("goes", world.device(0, 5), pod_labels={"app": "serve"})
    world.add_pod("stays", world.device(0, 1))
    world.label(value=value)
    world.node["metadata"]["annotations"][labels.DRY_RUN] = "true"
    return world


def _answer(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"][labels.PLAN])
    return found


def _budget(world: NodeWorld, allowed: int) -> None:
    spec = {"selector": {"matchLabels": {"app": "serve"}}}
    metadata = {"name": "serving", "namespace": "default"}
    world.budgets_list = [{"metadata": metadata, "spec": spec, "status": {"disruptionsAllowed": allowed}}]


async def _turns(world: NodeWorld, partition: PartitionPass, turns: int, seconds: float) -> None:
    for _ in range(turns):
        await partition()
        world.tick(seconds)


async def test_it_names_holders_pods_and_their_budgets() -> None:
    world = _asking()
    _budget(world, 0)
    await agent_on(world)[0]()
    answer = _answer(world)
    assert answer["verdict"] == "change"
    assert answer["gpus"][0]["holders"] == {"1g.10gb@1:1": ["default/stays"], "1g.10gb@5:1": ["default/goes"]}
    assert answer["gpus"][0]["destroy"] == ["1g.10gb@4:1", "1g.10gb@5:1", "1g.10gb@6:1"]
    assert (answer["pods"], answer["budgets"]) == (["default/goes"], {"default/goes": ["serving"]})
    assert answer["held_back"] == ["default/goes"]


async def test_the_answer_follows_the_world() -> None:
    world = _asking()
    partition, hands = agent_on(world)
    await partition()
    assert _answer(world)["budgets"] == {"default/goes": []}
    _budget(world, 1)
    world.add_pod("new", world.device(0, 6))
    await _turns(world, partition, 2, 31.0)
    assert _answer(world)["budgets"] == {"default/goes": ["serving"], "default/new": []}
    assert hands.taken == []


async def test_whatever_comes_and_goes_the_node_is_not_written_all_the_time() -> None:
    world = _asking()
    partition, _ = agent_on(world)
    await partition()
    before = len(world.node_writes)
    for turn in range(60):
        _budget(world, turn % 2)
        await _turns(world, partition, 1, 1.0)
    assert len(world.node_writes) - before <= 2


async def test_an_answer_that_stays_true_is_written_once() -> None:
    world = _asking()
    partition, _ = agent_on(world)
    await partition()
    before = len(world.node_writes)
    await _turns(world, partition, 10, 60.0)
    assert len(world.node_writes) == before


async def test_another_question_is_answered_at_once() -> None:
    world = _asking()
    partition, _ = agent_on(world)
    await partition()
    world.label(value="2x3g.40gb")
    await partition()
    assert _answer(world)["layout"] == "2x3g.40gb"


async def test_who_is_in_the_way_and_what_can_never_be_are_answers_too() -> None:
    world = _asking("1x7g.80gb")
    world.strangers = {gpu: (GpuProcess(7, world.gpus.gpus[gpu].instances[0].id, 0),) for gpu in world.gpus.gpus}
    world.tick()
    partition, _ = agent_on(world)
    await partition()
    assert (_answer(world)["verdict"], _answer(world)["reason"]) == ("wait", "blocked")
    assert _answer(world)["gpus"][0]["holders"]["1g.10gb@0:1"] == ["process 7 (unknown command)"]
    world.label(value="1x9g.90gb")
    await partition()
    assert (_answer(world)["verdict"], _answer(world)["reason"]) == ("refused", "unknown-profile")


async def test_the_answer_goes_with_the_question() -> None:
    """Also where nothing else is to be said: the wish is withdrawn together with the question."""
    world = _asking()
    partition, _ = agent_on(world)
    await partition()
    del world.node["metadata"]["annotations"][labels.DRY_RUN]
    world.label(value=None)
    await _turns(world, partition, 2, 1.0)
    assert labels.PLAN not in world.node["metadata"]["annotations"]
