"""A GPU that stays away, or does not get back to what it was: it is given up, and no other GPU of the node is kept from its pods.

What was found on it is remembered until a wish is reached, so that a way back leads there and not to a half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.model.errors import HardwareError
from agent.model.steps import Begin, Destroy, End, Pause, Step, Turn
from agent.plan.way import Policy
from tests.fakes.world import NodeWorld, h100
from tests.scenario.story import Story

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
HALVES = ["3g.40gb@0:4", "3g.40gb@4:4"]
PATIENCE = Policy().patience_seconds


def _two() -> Story:
    return Story(NodeWorld(h100(SEVEN), h100(SEVEN, index=1)))


def _silence(story: Story, number: int = 0) -> Callable[[], None]:
    """A GPU stops answering; call what is returned and it answers again, as it then is."""
    gpus = story.world.gpus.gpus
    uuid, gpu = list(gpus.items())[number]
    gpus[uuid] = replace(gpu, unknown="a call to the driver has not come back", profiles=(), instances=())
    return lambda: gpus.update({uuid: gpu})


async def _past_patience(story: Story) -> None:
    await story.turns(int(PATIENCE / 5) + 20, 5.0)


async def _until_ended(story: Story) -> None:
    """The way forward is tried for as long as patience lasts, and the way back too."""
    await story.until_taken(End, 5.0, int(2 * PATIENCE / 5) + 40)


@pytest.mark.parametrize("after", [Begin, Pause, Destroy])
async def test_the_others_come_to_their_wish_without_the_one_that_stays_away(after: type[Step]) -> None:
    story = _two()
    found = story.found()
    story.world.add_pod("goes", story.world.device(1, 5))
    story.world.label(value="2x3g.40gb")
    await story.until_taken(after)
    answers_again = _silence(story)
    await story.turns(10, 5.0)
    assert story.verdict == ("pending", "gpu-unknown")
    await _past_patience(story)
    assert story.verdict == ("failed", "gpu-unknown")
    assert "'2x3g.40gb' is not on every GPU: GPU 0 cannot be read: a call" in story.end.message
    assert story.layout[1] == HALVES
    now = story.found()
    assert (now.labels, now.annotations, now.cordoned) == (found.labels, found.annotations, found.cordoned)
    answers_again()
    await story.turns(120, 5.0)
    assert story.verdict == ("success", "applied")
    assert story.layout == [HALVES, HALVES]


async def test_a_restart_in_between_waits_again_and_gives_up_again() -> None:
    story = _two()
    story.world.label(value="2x3g.40gb")
    await story.until_taken(Begin)
    _silence(story)
    await story.turns(20, 5.0)
    story.restart()
    await story.turns(20, 5.0)
    assert story.verdict == ("pending", "gpu-unknown")
    await _past_patience(story)
    assert story.verdict == ("failed", "gpu-unknown")


async def test_the_only_gpu_that_stays_away_gives_the_node_back_too() -> None:
    """With it no GPU of the node has MIG, as far as anybody knows: that is no refusal of the wish."""
    story = Story(NodeWorld(h100(SEVEN)))
    story.world.label(value="2x3g.40gb")
    await story.until_taken(Begin)
    _silence(story)
    await _past_patience(story)
    assert (story.verdict, story.found().cordoned) == (("failed", "gpu-unknown"), False)


async def test_a_gpu_that_is_not_there_any_more_is_waited_for_and_named() -> None:
    story = _two()
    story.world.label(value="2x3g.40gb")
    await story.until_taken(Begin)
    gone = next(iter(story.world.gpus.gpus))
    del story.world.gpus.gpus[gone]
    await story.turns(10, 5.0)
    assert story.verdict == ("pending", "gpu-unknown")
    await _past_patience(story)
    assert f"GPU {gone} cannot be read: it is not there any more" in story.end.message
    assert story.layout == [HALVES]


def _broken(story: Story, *places: str) -> None:
    """The driver makes nothing there."""
    for place in places:
        for profile in ("1g.10gb", "3g.40gb"):
            story.world.gpus.failures[profile, place] = HardwareError(f"creating {profile} at {place}: unknown error")


async def test_an_old_layout_that_cannot_be_put_back_does_not_keep_the_node() -> None:
    story = _two()
    found = story.found()
    story.world.label(value="2x3g.40gb")
    _broken(story, "4:4", "5:1")
    await _until_ended(story)
    assert story.verdict == ("failed", "rollback-failed")
    assert "creating 3g.40gb at 4:4: unknown error" in story.end.message
    assert "GPU 0, 1 its old layout cannot be put back: " in story.end.message
    now = story.found()
    assert (now.labels, now.annotations, now.cordoned) == (found.labels, found.annotations, found.cordoned)
    story.world.gpus.failures.clear()
    await story.turns(150, 60.0)
    assert story.verdict == ("success", "applied")
    assert story.layout == [HALVES, HALVES]


async def test_what_could_not_be_put_back_is_what_the_next_way_back_leads_to() -> None:
    """Not to the half that the first one left."""
    story = Story(NodeWorld(h100(SEVEN)))
    story.world.label(value="2x3g.40gb")
    _broken(story, "4:4", "5:1")
    await _until_ended(story)
    assert len(story.layout[0]) < 7
    del story.world.gpus.failures["1g.10gb", "5:1"]
    await story.turns(150, 60.0)
    assert (story.verdict, story.layout[0]) == (("failed", "rolled-back"), SEVEN.split())
    assert story.status["owed"] == {}


async def test_who_comes_onto_a_slice_of_the_way_back_and_stays_does_not_keep_the_node() -> None:
    """A DaemonSet's pod is not held off by a cordon."""
    story = Story(NodeWorld(h100("1g.10gb@0:1 1g.10gb@5:1")))
    story.world.label(value="2x3g.40gb")
    story.world.gpus.failures["3g.40gb", "4:4"] = HardwareError("unknown error")
    world = story.world

    def comes() -> None:
        if not world.uids("watcher") and "3g.40gb@0:4" in story.layout[0]:
            world.add_pod("watcher", world.device(0, 0), "DaemonSet")

    world.effects.then["create"] = comes
    await _until_ended(story)
    assert (story.verdict, story.found().cordoned) == (("failed", "rollback-failed"), False)
    assert "watcher (DaemonSet watcher-owner" in story.end.message
    assert world.uids("watcher")


async def test_without_the_kubelet_nothing_is_taken_away_and_what_lacks_is_made() -> None:
    """Who holds which slice matters to those that go."""
    story = Story(NodeWorld(h100("3g.40gb@0:4")))
    story.world.label(value="2x3g.40gb")
    await story.until_taken(Begin)
    story.world.kubelet_down = True
    await story.turns(40)
    assert (story.verdict, story.layout[0]) == (("success", "applied"), HALVES)


async def test_a_kubelet_that_stays_away_midway_gives_the_node_back_as_it_was() -> None:
    story = Story(NodeWorld(h100(SEVEN)))
    found = story.found()
    story.world.add_pod("goes", story.world.device(0, 5))
    story.world.label(value="2x3g.40gb")
    await story.until_taken(Begin)
    story.world.kubelet_down = True
    await story.turns(10, 5.0)
    assert story.verdict == ("pending", "kubelet-unreachable")
    await _past_patience(story)
    assert (story.end.reason, story.layout[0], story.found().cordoned) == ("rolled-back", SEVEN.split(), found.cordoned)


async def test_a_node_that_does_not_show_what_it_has_has_its_clients_started_anew() -> None:
    """A call that hung may change the GPUs when nobody waits for it any more."""
    story = Story(NodeWorld(h100(" ".join(HALVES))))
    story.world.label(value="2x3g.40gb")
    await story.settled()
    assert story.verdict == ("success", "applied")
    plugin = story.world.uids("nvidia-device-plugin")
    story.world.node["status"]["allocatable"]["nvidia.com/mig-3g.40gb"] = "1"
    story.world.freeze_plugin = True
    await story.turns(10, 5.0)
    assert story.verdict == ("pending", "not-advertised")
    await story.turns(60, 5.0)
    assert story.world.uids("nvidia-device-plugin") != plugin
    story.world.freeze_plugin = False
    await story.turns(10, 5.0)
    assert story.verdict == ("success", "applied")


async def test_and_not_again_and_again_where_that_did_not_help() -> None:
    story = Story(NodeWorld(h100(" ".join(HALVES))))
    story.world.label(value="2x3g.40gb")
    story.world.freeze_plugin = True
    story.world.node["status"]["allocatable"]["nvidia.com/mig-3g.40gb"] = "1"
    await story.turns(150, 60.0)
    assert story.verdict == ("failed", "not-advertised")
    assert len([step for step in story.hands.taken if isinstance(step, Begin)]) == 2


async def test_a_gpu_that_falls_silent_on_the_way_back_makes_no_other_wish() -> None:
    """The layout that failed is not tried again because one GPU less can be read."""
    story = _two()
    story.world.label(value="2x3g.40gb")
    _broken(story, "4:4")
    await story.until_taken(Turn)
    _silence(story, 1)
    await _until_ended(story)
    assert story.verdict == ("failed", "gpu-unknown")
    assert len([step for step in story.hands.taken if isinstance(step, Turn) and not step.operation.failure]) == 0
    assert story.layout[0] == SEVEN.split()
