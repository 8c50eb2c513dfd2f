"""GPUs that are cut side by side: each for itself, until one of them refuses."""

from __future__ import annotations

from agent.model.errors import HardwareError, RetryError
from agent.model.steps import Create, Destroy
from tests.fakes.world import Fault, NodeWorld, cut, h100
from tests.scenario.story import SEVEN, Story

HALVES = ["3g.40gb@0:4", "3g.40gb@4:4"]


def _three(value: str = "2x3g.40gb") -> Story:
    """Seven small slices on each of three GPUs, on the way to two large ones."""
    story = Story(NodeWorld(*(h100(SEVEN, index=index) for index in range(3))))
    story.world.label(value=value)
    return story


async def test_gpus_are_cut_at_the_same_time() -> None:
    story = _three()
    await story.settled()
    assert (story.layout, story.world.gpus.most_at_work) == ([HALVES] * 3, 3)


async def test_steps_of_one_gpu_keep_their_order() -> None:
    story = _three()
    await story.settled()
    for uuid in story.world.gpus.gpus:
        kinds = [type(s) for s in story.hands.taken if isinstance(s, Destroy | Create) and s.gpu == uuid]
        assert kinds == [Destroy] * 7 + [Create] * 2


async def test_where_one_gpu_refuses_the_others_end_their_call_and_all_go_back() -> None:
    story = _three()
    before = story.found()
    story.world.effects.faults.append(Fault(frozenset({"destroy"}), HardwareError))
    while "destroy" not in story.world.effects.names:
        await story.turns(1)
    assert story.world.effects.names.count("destroy") == 3, "one call on each GPU, and none after it"
    assert [len(layout) for layout in story.layout] == [7, 6, 6]
    await story.until_said("failed", "rolled-back")
    after = story.found()
    assert after.slices.keys() == before.slices.keys()
    assert (after.labels, after.annotations, after.cordoned) == (before.labels, before.annotations, before.cordoned)


async def test_a_fault_that_passes_on_one_gpu_is_waited_for_and_none_of_them_is_left_behind() -> None:
    story = _three()
    story.world.effects.faults.append(Fault(frozenset({"create"}), RetryError, "before", 2))
    await story.settled()
    assert (story.verdict, story.layout) == (("success", "applied"), [HALVES] * 3)


async def test_modes_are_switched_one_after_the_other() -> None:
    """A switch may close the session that other changes are made in."""
    gpus = [cut("A100-SXM4-40GB", "", index) for index in range(3)]
    story = Story(NodeWorld(*gpus))
    story.world.label(value="disabled")
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert story.world.gpus.most_at_work == 1
