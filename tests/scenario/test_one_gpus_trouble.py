"""Trouble of one GPU is not the others': what they are asked for stands, what they had comes back, and their pods stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model import labels
from agent.model.errors import HardwareError
from agent.model.mig import GpuProcess, Placement, Shape
from agent.model.report import NodeStatus
from agent.model.steps import Begin, End, Evict, Turn
from agent.observe.cluster import node_of
from agent.plan.way import Policy
from agent.report.status import worth_a_write
from tests.fakes.world import NodeWorld, h100
from tests.scenario.story import Story

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
HALVES = ["3g.40gb@0:4", "3g.40gb@4:4"]
PATIENCE = Policy().patience_seconds
BY_INDEX = """
  {day: [{devices: [0], mig-enabled: true, mig-devices: {3g.40gb: 2}},
         {devices: [1], mig-enabled: true, mig-devices: {3g.40gb: 2}}]}
"""


def _two(file: Path | None = None) -> Story:
    return Story(NodeWorld(h100(SEVEN), h100(SEVEN, index=1)), file, BY_INDEX.replace("\n", " "))


def _silence(story: Story, number: int = 0) -> Callable[[], None]:
    gpus = story.world.gpus.gpus
    uuid, gpu = list(gpus.items())[number]
    gpus[uuid] = replace(gpu, unknown="a call to the driver has not come back", profiles=(), instances=())
    return lambda: gpus.update({uuid: gpu})


def _own_layout(story: Story, number: int) -> str:
    gpu = list(story.world.gpus.gpus.values())[number]
    return f"{labels.GPU_LAYOUT_PREFIX}{gpu.short}{labels.GPU_LAYOUT_SUFFIX}"


def _broken(story: Story, number: int, profile: str, place: str) -> None:
    """The driver makes no such instance there, on that GPU alone."""
    gpus, uuid = story.world.gpus, list(story.world.gpus.gpus)[number]
    create = gpus._create

    def refused(gpu: str, placement: Placement, shape: Shape) -> None:
        if (gpu, str(placement), shape.profile) == (uuid, place, profile):
            raise HardwareError(f"creating {profile} at {place} of GPU {number}: unknown error")
        create(gpu, placement, shape)

    gpus._create = refused  # type: ignore[method-assign, assignment]


async def _until_ended(story: Story) -> None:
    await story.until_taken(End, 5.0, int(2 * PATIENCE / 5) + 60)


def _begun(story: Story) -> int:
    return sum(isinstance(step, Begin) for step in story.hands.taken)


@pytest.mark.parametrize("named", ["by index", "by a label of its own"])
async def test_a_silent_gpu_that_is_named_is_no_refusal_of_the_rest(named: str, tmp_path: Path) -> None:
    """A list of devices, and a label of a GPU's own, mean the same while that GPU does not answer."""
    story = _two(tmp_path / "layouts.yaml")
    story.world.label(value="7x1g.10gb")
    await story.settled()
    story.restart()
    if named == "by index":
        story.world.label(value="day")
    else:
        story.world.label(value=None)
        story.world.label(_own_layout(story, 0), "2x3g.40gb")
        story.world.label(_own_layout(story, 1), "2x3g.40gb")
    await story.until_taken(Begin)
    _silence(story)
    await _until_ended(story)
    assert (story.verdict, story.layout[1]) == (("failed", "gpu-unknown"), HALVES)
    await story.turns(400, 10.0)
    assert (_begun(story), story.layout[1]) == (1, HALVES)


async def test_a_silent_gpu_that_nobody_asked_about_makes_no_wish_fail() -> None:
    story = _two()
    _silence(story)
    story.world.label(_own_layout(story, 1), "2x3g.40gb")
    await _until_ended(story)
    await story.settled()
    assert (story.verdict, story.layout[1]) == (("success", "applied"), HALVES)
    assert story.status["layout"] == f"gpu-{list(story.world.gpus.gpus.values())[1].short}=2x3g.40gb"


async def test_a_gpu_that_does_not_get_back_holds_no_other_up() -> None:
    """Its steps come first, and fail; the other GPU has its old layout again all the same."""
    story = _two()
    story.world.label(value="2x3g.40gb")
    _broken(story, 1, "3g.40gb", "4:4")
    _broken(story, 0, "1g.10gb", "5:1")
    await _until_ended(story)
    assert (story.verdict, story.layout[1]) == (("failed", "rollback-failed"), SEVEN.split())
    assert "GPU 0 its old layout cannot be put back" in story.end.message
    assert "GPU 1 its" not in story.end.message


def _sit(story: Story, *numbers: int) -> None:
    """Somebody from outside every pod comes onto each new slice of these GPUs, and stays."""
    gpus = list(story.world.gpus.gpus)

    def come() -> None:
        for number in numbers:
            now = story.world.gpus.gpus[gpus[number]]
            new = [instance for instance in now.instances if instance.profile == "3g.40gb" and instance.compute]
            sitting = tuple(GpuProcess(4711 + i.id, i.id, i.compute[0].id, 1, "sits") for i in new)
            story.world.strangers[now.uuid] = sitting
            story.world._follow_pods()

    story.world.effects.then["create"] = come


async def test_who_sits_on_one_gpu_keeps_no_other_from_its_old_layout() -> None:
    story = _two()
    story.world.label(value="2x3g.40gb")
    _broken(story, 1, "3g.40gb", "4:4")
    _sit(story, 0)
    await story.until_taken(Turn)
    await story.turns(20)
    assert story.layout == [HALVES, SEVEN.split()]
    assert story.verdict[0] == "pending"
    await _until_ended(story)
    assert story.verdict == ("failed", "rollback-failed")


async def test_a_pod_on_a_gpu_that_is_right_already_is_not_moved_for_what_was_there_days_ago() -> None:
    """How a GPU was found matters while the same wish is tried again, in the same boot, for a GPU that the try changes."""
    story = Story(NodeWorld(h100("1g.10gb@0:1"), h100(SEVEN, index=1)))
    story.world.label(value="2x3g.40gb")
    await story.until_taken(Begin)
    answers_again = _silence(story)
    await _until_ended(story)
    assert story.status["owed"]
    story.world.label(value=None)
    answers_again()
    await story.turns(5)
    assert not story.status["owed"]
    first = next(iter(story.world.gpus.gpus.values()))
    story.world.gpus.gpus[first.uuid] = replace(first, instances=h100("7g.80gb@0:8").instances)
    pod = story.world.add_pod("serves", story.world.device(0, 0))
    story.world.gpus.failures["7g.80gb", "0:8"] = HardwareError("unknown error")
    story.world.label(value="1x7g.80gb")
    await story.turns(60)
    assert (story.layout[0], pod in story.world.pods) == (["7g.80gb@0:8"], True)
    assert not any(isinstance(step, Evict) for step in story.hands.taken)


async def test_seven_gpus_that_do_not_get_back_are_all_remembered() -> None:
    """The words of the message give way, not what a way back needs."""
    story = Story(NodeWorld(*(h100(SEVEN, index=number) for number in range(8))))
    story.world.label(value="2x3g.40gb")
    _broken(story, 7, "3g.40gb", "4:4")
    _sit(story, *range(7))
    await _until_ended(story)
    written = story.world.node["metadata"]["annotations"][labels.STATUS]
    assert (story.verdict, len(written) < 8192) == (("failed", "rollback-failed"), True)
    assert len(json.loads(written)["owed"]) == 7


async def test_what_is_said_in_between_does_not_cut_the_back_off_short() -> None:
    """A second owner comes and goes, a file is unreadable for a moment: the row of failures goes on."""
    story = Story(NodeWorld(h100(SEVEN)))
    story.world.gpus.failures["3g.40gb", "0:4"] = HardwareError("unknown error")
    story.world.label(value="2x3g.40gb")
    await story.turns(200, 5.0)
    attempts, begun = story.status["attempts"], _begun(story)
    assert attempts > 3
    pod = story.world.add_pod("mig-manager", None, "DaemonSet", pod_labels={"app": "nvidia-mig-manager"})
    await story.turns(3)
    assert story.verdict == ("pending", "second-owner")
    del story.world.pods[pod]
    await story.turns(3)
    assert (story.verdict, _begun(story), story.status["attempts"]) == (("pending", "back-off"), begun, attempts)
    await story.turns(400, 10.0)
    assert story.status["attempts"] > attempts
    assert story.verdict == ("failed", "rolled-back")


async def test_a_missing_gpu_is_not_forgotten_by_a_look(tmp_path: Path) -> None:
    """By their number is known that indices have shifted: a layout by index would go to the wrong GPU."""
    story = _two(tmp_path / "layouts.yaml")
    story.world.label(value="2x3g.40gb")
    await story.settled()
    lost, left = story.world.gpus.gpus
    del story.world.gpus.gpus[lost]
    story.world.gpus.gpus[left] = replace(story.world.gpus.gpus[left], index=0)
    story.restart()
    story.world.restart_plugin()
    await story.turns(20)
    assert story.verdict == ("success", "applied")
    story.world.label(value="day")
    await story.turns(5)
    assert story.verdict == ("failed", "gpu-count-changed")


def test_a_long_sentence_is_no_news_when_it_has_been_written() -> None:
    status = NodeStatus("failed", "rolled-back", "unknown error " * 1000, 0.0, revision="r")
    written = NodeStatus.from_json(status.to_json())
    world = NodeWorld()
    world.label(labels.STATE, "failed")
    assert written is not None
    assert worth_a_write(status, node_of(world.node), None)
    assert not worth_a_write(status, node_of(world.node), written)


def test_of_a_slot_that_is_waited_for_the_figures_are_no_news_and_another_cause_is() -> None:
    """They stand in the leader's Lease; a thousand nodes that wait would each write every one of them."""
    world = NodeWorld()
    world.label(labels.STATE, "pending")
    node, words = node_of(world.node), "waits since 2026-01-31 10:00:00Z for a slot: "
    first = NodeStatus("pending", "fleet-slot", f"{words}99 of 100 nodes in change", 0.0, revision="r")
    assert not worth_a_write(replace(first, message=f"{words}100 of 100 nodes in change"), node, first)
    assert worth_a_write(first, node, replace(first, message=f"{words}no leader yet"))
    shut = [
        replace(first, message=f"{words}outside the maintenance window, which opens 2026-02-0{day}") for day in (1, 2)
    ]
    assert worth_a_write(shut[1], node, shut[0])
