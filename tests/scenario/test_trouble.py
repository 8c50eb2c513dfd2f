"""Faults of the driver, of the host and of the cluster in the middle of a change: nothing is said that is not so, nothing is
left behind, and the agent gets out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.model import labels
from agent.model.errors import AgentError, RetryError
from agent.model.steps import Begin, Step
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Kill, Killed, NodeWorld, Steps, agent_on, h100, settle

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


def _idle(**options: Any) -> NodeWorld:
    world = NodeWorld(h100(SEVEN), **options)
    world.label(value="2x3g.40gb")
    return world


def _status(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
    return found


def _given_back(world: NodeWorld) -> bool:
    deploy = [value for key, value in world.node["metadata"]["labels"].items() if key.startswith(labels.DEPLOY_PREFIX)]
    recorded = labels.OPERATION in world.node["metadata"]["annotations"]
    return not recorded and not world.node["spec"].get("unschedulable") and labels.PAUSED not in deploy


async def _turns(world: NodeWorld, partition: PartitionPass, count: int, seconds: float = 1.0) -> None:
    """Passes with time between them; one that fails is followed by the next."""
    for _ in range(count):
        with contextlib.suppress(AgentError):
            await partition()
        world.tick(seconds)


async def _until_taken(world: NodeWorld, partition: PartitionPass, hands: Steps, kind: type[Step]) -> None:
    for _ in range(60):
        await partition()
        if any(isinstance(step, kind) for step in hands.taken):
            return
        world.tick()
    raise AssertionError(f"no {kind.__name__} among {hands.taken}")


def _lose(world: NodeWorld, number: int = 0) -> Callable[[], None]:
    """A GPU stops answering; call what is returned and it answers again."""
    uuid, gpu = list(world.gpus.gpus.items())[number]
    world.gpus.gpus[uuid] = replace(gpu, unknown="a call has not come back", profiles=(), instances=())
    return lambda: world.gpus.gpus.update({uuid: gpu})


async def test_a_gpu_that_stops_answering_midway_is_waited_for() -> None:
    world = _idle()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Begin)
    answers_again = _lose(world)
    await _turns(world, partition, 10, 5.0)
    assert labels.OPERATION in world.node["metadata"]["annotations"]
    assert _status(world)["reason"] == "gpu-unknown"
    answers_again()
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_with_one_gpu_silent_the_others_are_changed_and_that_is_no_success() -> None:
    world = NodeWorld(h100(SEVEN), h100(SEVEN, index=1))
    world.label(value="2x3g.40gb")
    answers_again = _lose(world)
    partition, _ = agent_on(world)
    await _turns(world, partition, 40)
    assert [str(slot) for slot in list(world.gpus.gpus.values())[1].layout] == ["3g.40gb@0:4", "3g.40gb@4:4"]
    assert _given_back(world)
    assert (_status(world)["state"], _status(world)["reason"]) == ("failed", "gpu-unknown")
    assert not any(event["reason"] == "Applied" for event in world.events)
    answers_again()
    await _turns(world, partition, 40)
    assert _status(world)["state"] == "success"


async def test_a_silent_gpu_is_not_one_without_mig() -> None:
    world = _idle()
    _lose(world)
    await _turns(world, agent_on(world)[0], 3)
    assert (_status(world)["state"], _status(world)["reason"]) == ("pending", "gpu-unknown")


def _count_refreshes(world: NodeWorld, fails: Callable[[int], bool]) -> list[bool]:
    """Whether each run of the configured commands worked."""
    worked: list[bool] = []

    async def refresh() -> None:
        worked.append(not fails(len(worked)))
        if not worked[-1]:
            raise RetryError("nvidia-ctk cdi generate: exit code 1")

    world.refresh = refresh  # type: ignore[method-assign]
    return worked


async def test_no_success_before_the_host_followed_the_slices() -> None:
    """Without its capability nodes a slice is of no use to anybody."""
    world = _idle()
    worked = _count_refreshes(world, lambda number: number == 0)
    await _turns(world, agent_on(world)[0], 40)
    assert worked == [False, True]
    assert _status(world)["state"] == "success"


@pytest.mark.parametrize("deploy_labels", [True, False])
async def test_killed_before_the_host_followed_it_is_made_to(deploy_labels: bool) -> None:
    world = _idle(deploy_labels=deploy_labels)
    await settle(world, agent_on(world)[0])
    number = world.effects.names.index("refresh")
    world = _idle(deploy_labels=deploy_labels)
    world.effects.kill = Kill(number, "before")
    with pytest.raises(Killed):
        await settle(world, agent_on(world)[0])
    world.effects.kill = None
    await settle(world, agent_on(world)[0])
    assert world.effects.names[number + 1 :].count("refresh") == 1
