"""`kill -9` at every effect of a change, then a new agent: the wish is reached and the node is given back as found.

The effects are listed by running each story once without a kill, so a new step is in the matrix the day it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.model import labels
from agent.model.errors import HardwareError
from agent.model.mig import Gpu
from agent.plan.way import Policy
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Kill, Killed, Moment, NodeWorld, agent_on, cut, h100

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


@dataclass(frozen=True)
class Story:
    """A world, and what has to be true of it in the end. ``config`` is the device plugin's configuration by its label,
    ``commanded`` says that there is a command which reboots the machine, ``prepares`` that services of the host are stopped for
    the change."""

    name: str
    build: Callable[[], NodeWorld]
    layout: tuple[str, ...]
    state: str
    cordoned: bool = False
    config: str | None = None
    commanded: bool = False
    prepares: bool = False

    def agent_on(self, world: NodeWorld) -> PartitionPass:
        return agent_on(world, Policy(reboots=self.commanded, prepares=self.prepares))[0]


def _drained(deploy_labels: bool = True, cordoned: bool = False) -> NodeWorld:
    """Seven small slices; one pod must go, one must stay, on the way to 4x1g + 1x3g."""
    world = NodeWorld(h100(SEVEN), deploy_labels=deploy_labels)
    world.add_pod("stays", world.device(0, 1))
    world.add_pod("goes", world.device(0, 5))
    if cordoned:
        world.cordon()
    world.label(value="4x1g.10gb_1x3g.40gb")
    return world


def _idle() -> NodeWorld:
    world = NodeWorld(h100(SEVEN), h100("7g.80gb@0:8", index=1))
    world.label(value="2x3g.40gb")
    return world


def _mode_on() -> NodeWorld:
    world = NodeWorld(replace(h100(), mig_enabled=False, mig_pending=False))
    world.add_pod("whole", next(iter(world.gpus.gpus)))
    world.label(value="1x3g.40gb_4x1g.10gb")
    return world


def _guest(layout: str, wish: str, forgetful: bool = False) -> NodeWorld:
    """A virtual machine whose GPUs switch their mode by its reboot only; one is cut, one outside MIG."""
    cut_gpu, whole = cut("A100-SXM4-40GB", layout), cut("A100-SXM4-40GB", "", 1)
    world = NodeWorld(cut_gpu, replace(whole, mig_enabled=False, mig_pending=False))
    world.gpus.guest = True
    world.gpus.forgetful = forgetful
    world.label(value=wish)
    return world


def _resplit() -> NodeWorld:
    """Three compute instances of one 3g: one pod stays on its own, one has to make room for a wider one."""
    world = NodeWorld(h100("1c+1c+1c.3g.40gb@0:4 3g.40gb@4:4"))
    world.add_pod("stays", world.device(0, 0, 2))
    world.add_pod("goes", world.device(0, 0, 0))
    world.label(value="1x2c.3g.40gb_1x1c.3g.40gb_1x3g.40gb")
    return world


def _rolled_back() -> NodeWorld:
    world = _drained()
    world.gpus.failures["3g.40gb", "4:4"] = HardwareError("creating 3g.40gb at 4:4: Insufficient Resources")
    world.gpus.failures["3g.40gb", "0:4"] = HardwareError("creating 3g.40gb at 0:4: Insufficient Resources")
    return world


def _shared(layout: str, *gpus: Gpu, config: str | None = None, deploy_labels: bool = True) -> NodeWorld:
    world = NodeWorld(*gpus, deploy_labels=deploy_labels)
    world.layouts_file = str(Path(__file__).parents[1] / "data" / "shared_layouts.yaml")
    world.label(labels.PLUGIN_CONFIG, config)
    world.tick()
    world.add_pod("stays", world.device(0, 1))
    world.label(value=layout)
    return world


def _shared_alone() -> NodeWorld:
    return _shared("shared-sevenths", h100(SEVEN))


def _shared_anew(deploy_labels: bool = True) -> NodeWorld:
    return _shared("shared-mixed", h100(SEVEN), config=QUARTERS, deploy_labels=deploy_labels)


def _shared_and_rolled_back() -> NodeWorld:
    world = _shared_anew()
    for place in ("0:4", "4:4"):
        world.gpus.failures["3g.40gb", place] = HardwareError(f"creating 3g.40gb at {place}: Insufficient Resources")
    return world


def _shared_with_an_entry_that_is_not_there() -> NodeWorld:
    world = _shared_anew()
    world.lacking.add(HALVED)
    return world


def _shared_no_more() -> NodeWorld:
    return _shared("sevenths", h100(SEVEN), config=QUARTERS)


HALVES = ("3g.20gb@0:4", "3g.20gb@4:4")
QUARTERS, HALVED = "warmslice-time-slicing_1g.10gb-4", "warmslice-time-slicing_1g.10gb-2"
MIXED = ("1g.10gb@0:1", "1g.10gb@1:1", "1g.10gb@2:1", "1g.10gb@3:1", "3g.40gb@4:4")
STORIES = (
    Story("drain", _drained, MIXED, "success"),
    Story("no deploy labels", lambda: _drained(deploy_labels=False), MIXED, "success"),
    Story("cordoned before", lambda: _drained(cordoned=True), MIXED, "success", cordoned=True),
    Story("two idle GPUs", _idle, ("3g.40gb@0:4", "3g.40gb@4:4") * 2, "success"),
    Story("mode on", _mode_on, MIXED, "success"),
    Story("mode by reboot", lambda: _guest("3g.20gb@4:4", "2x3g.20gb"), HALVES * 2, "success", commanded=True),
    Story("mode off by reboot", lambda: _guest("3g.20gb@4:4", "disabled"), (), "success", commanded=True),
    Story("reboot required", lambda: _guest("1g.5gb@3:1", "disabled"), ("1g.5gb@3:1",), "failed"),
    Story("reboot in vain", lambda: _guest("3g.20gb@4:4", "2x3g.20gb", True), HALVES[1:], "failed", commanded=True),
    Story("another split", _resplit, ("2c+1c.3g.40gb@0:4", "3g.40gb@4:4"), "success"),
    Story("create fails", _rolled_back, tuple(SEVEN.split()), "failed"),
    Story("services stopped", _drained, MIXED, "success", prepares=True),
    Story("services stopped, create fails", _rolled_back, tuple(SEVEN.split()), "failed", prepares=True),
    Story("services stopped, mode on", _mode_on, MIXED, "success", prepares=True),
    Story("shared alone", _shared_alone, tuple(SEVEN.split()), "success", config=QUARTERS),
    Story("shared anew", _shared_anew, MIXED, "success", config=HALVED),
    Story("shared anew, no deploy labels", lambda: _shared_anew(False), MIXED, "success", config=HALVED),
    Story("shared, create fails", _shared_and_rolled_back, tuple(SEVEN.split()), "failed", config=QUARTERS),
    Story("shared no more", _shared_no_more, tuple(SEVEN.split()), "success"),
    Story("entry not there", _shared_with_an_entry_that_is_not_there, tuple(SEVEN.split()), "failed", config=QUARTERS),
)


async def settle_or_back_off(world: NodeWorld, partition: PartitionPass) -> None:
    """A rolled-back change waits for its next try: that is settled too."""
    for _ in range(80):
        wait = await partition()
        if wait >= 300.0 or world.reports[-1].waits_for == "back-off":
            return
        world.tick(min(max(wait, 0.5), 5.0))
    raise AssertionError(f"not settled: {world.reports[-1]}")


def _cells() -> list[tuple[Story, Kill | None, str]]:
    cells: list[tuple[Story, Kill | None, str]] = []
    for story in STORIES:
        world = story.build()
        asyncio.run(settle_or_back_off(world, story.agent_on(world)))
        cells.append((story, None, f"{story.name}: undisturbed"))
        for number, effect in enumerate(world.effects.names):
            moments: tuple[Moment, ...] = ("before", "middle", "after") if effect == "create" else ("before", "after")
            cells += [(story, Kill(number, m), f"{story.name}: {m} {number} {effect}") for m in moments]
    return cells


CELLS = _cells()


@pytest.mark.parametrize(("story", "kill"), [cell[:2] for cell in CELLS], ids=[cell[2] for cell in CELLS])
async def test_killed_anywhere_the_wish_is_reached_and_the_node_given_back(story: Story, kill: Kill | None) -> None:
    world = story.build()
    labels_before = dict(world.node["metadata"]["labels"])
    stays = world.uids("stays")
    world.effects.kill = kill
    if kill is None:
        await settle_or_back_off(world, story.agent_on(world))
    else:
        middle_never_came = kill.moment == "middle" and story.state == "failed"
        try:
            await settle_or_back_off(world, story.agent_on(world))
        except Killed:
            world.effects.kill = None
            world.tick()
            await settle_or_back_off(world, story.agent_on(world))
        else:
            assert middle_never_came
    placed = [str(slot) for gpu in world.gpus.gpus.values() for slot in gpu.layout]
    assert tuple(placed) == story.layout
    assert all(i.compute for gpu in world.gpus.gpus.values() for i in gpu.instances)
    metadata = world.node["metadata"]
    config = {} if story.config is None else {labels.PLUGIN_CONFIG: story.config}
    labels_before.pop(labels.PLUGIN_CONFIG, None)
    assert metadata["labels"] == {**labels_before, **config, labels.STATE: story.state}
    assert set(metadata["annotations"]) == {"someone/else", labels.STATUS}
    assert bool(world.node["spec"].get("unschedulable")) is story.cordoned
    assert world.uids("stays") == stays
    assert world.services_run
    shown = {name: int(count) for name, count in world.node["status"]["allocatable"].items() if count != "0"}
    assert shown == world._shown_now()
