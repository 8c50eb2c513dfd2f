"""Every effect of a change is the last before a `kill -9`, or meets an API server that fails once or is away for a while: the
wish is reached, or the old layout is back, the node is given back as found, and what came of it is told.

The effects are listed by running each story once undisturbed, so a new step is in the matrix the day it is made.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from agent.model import labels
from agent.model.errors import AgentError, HardwareError, RetryError
from agent.model.mig import Gpu
from agent.plan.way import Policy
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Fault, Kill, Killed, Moment, NodeWorld, agent_on, cut, h100
from tests.scenario.story import SEVEN, drained, mode_on

API = ("patch", "evict", "delete")
AWAY_SECONDS = 90.0
AWAY_TIMES = 10**6
"""So many requests fail while the API server is away: all of them."""


@dataclass(frozen=True)
class Disturbance:
    """What happens at one effect. ``fails`` once: before it, or its answer is lost. ``away``: from then on the API server is not
    reached for a while."""

    number: int
    kind: Literal["killed", "fails", "away"]
    moment: Moment = "before"

    def begin(self, world: NodeWorld) -> None:
        effects = world.effects
        match self.kind:
            case "killed":
                effects.kill = Kill(self.number, self.moment)
            case "fails":
                effects.faults.append(Fault(frozenset(API), RetryError, self.moment, 1, self.number))
            case "away":
                effects.faults.append(Fault(frozenset(API), RetryError, "before", AWAY_TIMES, self.number))


@dataclass(frozen=True)
class Story:
    """A world, and what has to be true of it in the end. ``config`` is the device plugin's configuration by its label,
    ``commanded`` says that there is a command which reboots the machine, ``prepares`` that services of the host are stopped for
    the change; ``later`` is called as time goes by."""

    name: str
    build: Callable[[], NodeWorld]
    layout: tuple[str, ...]
    state: str
    cordoned: bool = False
    config: str | None = None
    commanded: bool = False
    prepares: bool = False
    later: Callable[[NodeWorld], None] = lambda world: None

    def agent_on(self, world: NodeWorld) -> PartitionPass:
        # Evictions are asked for with jitter; a cell is an effect by its number.
        random.seed(1)
        return agent_on(world, Policy(reboots=self.commanded, prepares=self.prepares))[0]


def _idle() -> NodeWorld:
    world = NodeWorld(h100(SEVEN), h100("7g.80gb@0:8", index=1))
    world.label(value="2x3g.40gb")
    return world


def _guest(layout: str, wish: str, forgetful: bool = False) -> NodeWorld:
    """A virtual machine whose GPUs switch their mode by its reboot only; one is cut, one outside MIG."""
    cut_gpu, whole = cut("A100-SXM4-40GB", layout), cut("A100-SXM4-40GB", "", 1)
    world = NodeWorld(cut_gpu, replace(whole, mig_enabled=False, mig_pending=False))
    world.gpus.guest = True
    world.gpus.forgetful = forgetful
    world.label(value=wish)
    return world


def _blocked() -> NodeWorld:
    """A disruption budget lets nobody go for half a minute."""
    world = drained()
    for pod in world.pods.values():
        if pod["metadata"]["name"].startswith("goes"):
            pod["metadata"]["labels"] = {"app": "goes"}
    world.budgets_list = [
        {
            "metadata": {"name": "shy", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "goes"}}},
            "status": {"disruptionsAllowed": 0},
        }
    ]
    return world


def _opens(world: NodeWorld) -> None:
    if world.time > 1_000_030.0:
        world.budgets_list[0]["status"]["disruptionsAllowed"] = 1


def _withdrawn(world: NodeWorld) -> None:
    """Once something is destroyed."""
    if "destroy" in world.effects.names:
        world.label(value=None)


def _resplit() -> NodeWorld:
    """Three compute instances of one 3g: one pod stays on its own, one has to make room for a wider one."""
    world = NodeWorld(h100("1c+1c+1c.3g.40gb@0:4 3g.40gb@4:4"))
    world.add_pod("stays", world.device(0, 0, 2))
    world.add_pod("goes", world.device(0, 0, 0))
    world.label(value="1x2c.3g.40gb_1x1c.3g.40gb_1x3g.40gb")
    return world


def _rolled_back() -> NodeWorld:
    world = drained()
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
    Story("drain", drained, MIXED, "success"),
    Story("no deploy labels", lambda: drained(deploy_labels=False), MIXED, "success"),
    Story("cordoned before", lambda: drained(cordoned=True), MIXED, "success", cordoned=True),
    Story("two idle GPUs", _idle, ("3g.40gb@0:4", "3g.40gb@4:4") * 2, "success"),
    Story("mode on", mode_on, MIXED, "success"),
    Story("mode by reboot", lambda: _guest("3g.20gb@4:4", "2x3g.20gb"), HALVES * 2, "success", commanded=True),
    Story("mode off by reboot", lambda: _guest("3g.20gb@4:4", "disabled"), (), "success", commanded=True),
    Story("reboot required", lambda: _guest("1g.5gb@3:1", "disabled"), ("1g.5gb@3:1",), "failed"),
    Story("reboot in vain", lambda: _guest("3g.20gb@4:4", "2x3g.20gb", True), HALVES[1:], "failed", commanded=True),
    Story("another split", _resplit, ("2c+1c.3g.40gb@0:4", "3g.40gb@4:4"), "success"),
    Story("create fails", _rolled_back, tuple(SEVEN.split()), "failed"),
    Story("services stopped", drained, MIXED, "success", prepares=True),
    Story("services stopped, create fails", _rolled_back, tuple(SEVEN.split()), "failed", prepares=True),
    Story("services stopped, mode on", mode_on, MIXED, "success", prepares=True),
    Story("drain blocked", _blocked, MIXED, "success", later=_opens),
    Story("withdrawn", drained, tuple(SEVEN.split()), "failed", later=_withdrawn),
    Story("shared alone", _shared_alone, tuple(SEVEN.split()), "success", config=QUARTERS),
    Story("shared anew", _shared_anew, MIXED, "success", config=HALVED),
    Story("shared anew, no deploy labels", lambda: _shared_anew(False), MIXED, "success", config=HALVED),
    Story("shared, create fails", _shared_and_rolled_back, tuple(SEVEN.split()), "failed", config=QUARTERS),
    Story("shared no more", _shared_no_more, tuple(SEVEN.split()), "success"),
    Story("drain, slices by claim", lambda: drained(dra=True), MIXED, "success"),
    Story("mode on, GPUs by claim", lambda: mode_on(dra=True), MIXED, "success"),
    Story("entry not there", _shared_with_an_entry_that_is_not_there, tuple(SEVEN.split()), "failed", config=QUARTERS),
)


async def settle_or_back_off(story: Story, world: NodeWorld, partition: PartitionPass) -> None:
    """A rolled-back change waits for its next try: that is settled too. An API server that is away comes back."""
    away = None
    for _ in range(200):
        try:
            wait = await partition()
        except AgentError:
            wait = 5.0
        else:
            at_rest = wait >= 300.0 or world.reports[-1].waits_for == "back-off"
            if at_rest and away is None and labels.OPERATION not in world.node["metadata"]["annotations"]:
                return
        world.tick(min(max(wait, 0.5), 5.0))
        story.later(world)
        if away is None and any(1 < fault.times < AWAY_TIMES for fault in world.effects.faults):
            away = world.time
        if away is not None and world.time >= away + AWAY_SECONDS:
            world.effects.faults.clear()
            away = None
    raise AssertionError(f"not settled: {world.reports[-1]}")


def _cells() -> list[tuple[Story, Disturbance | None, str]]:
    cells: list[tuple[Story, Disturbance | None, str]] = []
    for story in STORIES:
        world = story.build()
        asyncio.run(settle_or_back_off(story, world, story.agent_on(world)))
        cells.append((story, None, f"{story.name}: undisturbed"))
        for number, effect in enumerate(world.effects.names):
            moments: tuple[Moment, ...] = ("before", "middle", "after") if effect == "create" else ("before", "after")
            what = [Disturbance(number, "killed", moment) for moment in moments]
            if effect in API:
                what += [Disturbance(number, "fails", moment) for moment in ("before", "after")]
                what.append(Disturbance(number, "away"))
            cells += [(story, one, f"{story.name}: {one.kind} {one.moment} {number} {effect}") for one in what]
    return cells


CELLS = _cells()


def test_the_size_of_the_matrix() -> None:
    """Said, so that a cell that is lost is seen."""
    sys.stdout.write(f"{len(CELLS)} cells of {len(STORIES)} stories\n")
    assert {one.kind for _, one, _ in CELLS if one is not None} == {"killed", "fails", "away"}
    assert len(CELLS) > 900


@pytest.mark.parametrize(("story", "one"), [cell[:2] for cell in CELLS], ids=[cell[2] for cell in CELLS])
async def test_the_wish_is_reached_and_the_node_given_back(story: Story, one: Disturbance | None) -> None:
    world = story.build()
    labels_before = dict(world.node["metadata"]["labels"])
    stays = world.uids("stays")
    if one is not None:
        one.begin(world)
    never_came = one is None or one.kind != "killed" or (one.moment == "middle" and story.state == "failed")
    try:
        await settle_or_back_off(story, world, story.agent_on(world))
    except Killed:
        world.effects.kill = None
        world.tick()
        story.later(world)
        await settle_or_back_off(story, world, story.agent_on(world))
    else:
        assert never_came
    said = json.loads(world.node["metadata"]["annotations"][labels.STATUS])
    assert [event["message"] for event in world.events].count(said["message"]) == 1
    assert world.events[-1]["message"] == said["message"]
    placed = [str(slot) for gpu in world.gpus.gpus.values() for slot in gpu.layout]
    assert tuple(placed) == story.layout
    assert all(i.compute for gpu in world.gpus.gpus.values() for i in gpu.instances)
    metadata = world.node["metadata"]
    config = {} if story.config is None else {labels.PLUGIN_CONFIG: story.config}
    labels_before.pop(labels.PLUGIN_CONFIG, None)
    if story.later is _withdrawn:
        del labels_before[labels.CONFIG]
    assert metadata["labels"] == {**labels_before, **config, labels.STATE: story.state}
    assert set(metadata["annotations"]) == {"someone/else", labels.STATUS}
    assert bool(world.node["spec"].get("unschedulable")) is story.cordoned
    assert world.uids("stays") == stays
    assert world.services_run
    assert world.advertises_what_is_there()
