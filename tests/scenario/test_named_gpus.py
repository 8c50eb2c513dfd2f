"""A change touches the GPUs that the wish names, and those that it had begun with; forward and back, no other."""

from __future__ import annotations

from dataclasses import replace

from agent.model import labels
from agent.model.errors import HardwareError, RetryError
from agent.model.steps import Create, Destroy, Step
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Fault, NodeWorld, Steps, agent_on, h100, settle

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
HALVES = ["3g.40gb@0:4", "3g.40gb@4:4"]


def _layout(world: NodeWorld, gpu: int) -> list[str]:
    return [str(slot) for slot in list(world.gpus.gpus.values())[gpu].layout]


def _ask(world: NodeWorld, gpu: int, layout: str | None) -> None:
    world.label(f"{labels.GPU_LAYOUT_PREFIX}{gpu}{labels.GPU_LAYOUT_SUFFIX}", layout)


def _create_fails(world: NodeWorld) -> None:
    for place in ("0:4", "4:4"):
        world.gpus.failures["3g.40gb", place] = HardwareError("Insufficient Resources")


async def _until_taken(world: NodeWorld, partition: PartitionPass, hands: Steps, kind: type[Step]) -> None:
    for _ in range(60):
        await partition()
        if any(isinstance(step, kind) for step in hands.taken):
            return
        world.tick()
    raise AssertionError(f"no {kind.__name__} among {hands.taken}")


async def _turns(world: NodeWorld, partition: PartitionPass, count: int) -> None:
    for _ in range(count):
        await partition()
        world.tick()


async def test_what_somebody_makes_meanwhile_on_a_gpu_that_nobody_asked_for_survives_the_way_back() -> None:
    world = NodeWorld(h100(SEVEN), h100("", index=1))
    _create_fails(world)
    _ask(world, 0, "2x3g.40gb")
    partition, _ = agent_on(world)
    await partition()
    assert labels.OPERATION in world.node["metadata"]["annotations"]
    uuid = list(world.gpus.gpus)[1]
    world.gpus.gpus[uuid] = replace(world.gpus.gpus[uuid], instances=h100("7g.80gb@0:8", index=1).instances)
    await _turns(world, partition, 20)
    assert _layout(world, 0) == SEVEN.split()
    assert _layout(world, 1) == ["7g.80gb@0:8"]


async def test_an_orphan_on_a_gpu_that_nobody_asked_for_is_not_cleaned_up_on_the_way_back() -> None:
    """Somebody may be about to give it its compute instances."""
    second = h100("1g.10gb@0:1", index=1)
    world = NodeWorld(h100(SEVEN), replace(second, instances=(replace(second.instances[0], compute=()),)))
    _create_fails(world)
    _ask(world, 0, "2x3g.40gb")
    await _turns(world, agent_on(world)[0], 20)
    assert _layout(world, 0) == SEVEN.split()
    assert len(list(world.gpus.gpus.values())[1].instances) == 1


async def test_a_gpu_that_a_newer_wish_names_goes_back_with_the_others() -> None:
    world = NodeWorld(h100("7g.80gb@0:8"), h100(SEVEN, index=1))
    _ask(world, 0, "7x1g.10gb")
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Create)
    _create_fails(world)
    _ask(world, 1, "2x3g.40gb")
    await _turns(world, partition, 20)
    assert _layout(world, 0) == ["7g.80gb@0:8"]
    assert _layout(world, 1) == SEVEN.split()


async def test_a_gpu_that_a_newer_wish_does_not_name_any_more_goes_back_to_what_it_was() -> None:
    """It is left alone by that wish, and not half changed by the one before."""
    world = NodeWorld(h100(SEVEN), h100(SEVEN, index=1))
    _ask(world, 0, "2x3g.40gb")
    _ask(world, 1, "2x3g.40gb")
    partition, hands = agent_on(world)
    world.effects.faults = [Fault(frozenset({"create"}), RetryError, times=99)]
    await _until_taken(world, partition, hands, Destroy)
    world.effects.faults.clear()
    _ask(world, 0, None)
    await settle(world, partition)
    assert _layout(world, 0) == SEVEN.split()
    assert _layout(world, 1) == HALVES
