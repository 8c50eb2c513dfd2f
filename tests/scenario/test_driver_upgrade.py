"""A driver upgrade as GPU Operator does it, at any moment of a change: it goes through, nobody uncordons under it, and the change
comes to its end after it. See Note [A driver upgrade in mid-change] in agent/plan/upgrade.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.model import labels
from tests.fakes.world import NodeWorld, h100
from tests.scenario.story import SEVEN, Story, drained, mode_on

OURS = f"{labels.DEPLOY_PREFIX}mig-manager"
PAUSED = "paused-for-driver-upgrade"
MIXED = ["1g.10gb@0:1", "1g.10gb@1:1", "1g.10gb@2:1", "1g.10gb@3:1", "3g.40gb@4:4"]


class Operator:
    """Goes through its phases, one at each turn in which it can. Its k8s-driver-manager pauses the clients by their labels, and
    cannot unload a driver that somebody has open."""

    def __init__(self, world: NodeWorld) -> None:
        self.world = world
        self.phase = ""
        self._found_cordoned = False
        self._turns = self._todo()

    @property
    def over(self) -> bool:
        return self.phase == "upgrade-done"

    @property
    def holds_the_cordon(self) -> bool:
        return self.phase not in ("", "upgrade-required", "cordon-required", "uncordon-required", "upgrade-done")

    def turn(self) -> None:
        next(self._turns, None)

    def _todo(self) -> Iterator[None]:
        world = self.world
        for phase in ("upgrade-required", "cordon-required"):
            self._enter(phase)
            yield
        self._found_cordoned = bool(world.node["spec"].get("unschedulable"))
        world.cordon()
        for phase in ("wait-for-jobs-required", "pod-deletion-required"):
            self._enter(phase)
            yield
        for uid in list(world.devices):
            world.ends_in(uid, 0.0)
        self._enter("pod-restart-required")
        yield
        self._clients(lambda value: PAUSED if value == "true" else f"{value}_{PAUSED}")
        for uid in world.uids("nvidia-device-plugin"):
            world.ends_in(uid, 0.0)
        yield
        while world.gpus.session:
            yield
        world.gpus.away = True
        yield
        yield
        assert not world.gpus.session
        world.reload_driver()
        world.gpus.away = False
        self._clients(lambda value: "true" if value == PAUSED else value.removesuffix(f"_{PAUSED}"))
        self._enter("validation-required")
        yield
        while not self._validated():
            yield
        self._enter("uncordon-required")
        yield
        if not self._found_cordoned:
            world.cordon(False)
        self._enter("upgrade-done")
        yield

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.world.label(labels.DRIVER_UPGRADE_STATE, phase)

    def _clients(self, change: Callable[[str], str]) -> None:
        known = self.world.node["metadata"]["labels"]
        for key, value in list(known.items()):
            if key.startswith(labels.DEPLOY_PREFIX) and value != "false":
                self.world.label(key, change(value))

    def _validated(self) -> bool:
        """By the device plugin, which has to run."""
        return bool(self.world.uids("nvidia-device-plugin"))


class Upgrade(Story):
    """The agent, whose own DaemonSet may be under the operator's label, and the operator beside it."""

    def __init__(self, world: NodeWorld, ours: bool) -> None:
        if ours:
            world.label(OURS, "true")
        super().__init__(world)
        self.operator = Operator(world)
        self._runs = True

    async def step(self) -> None:
        """A pass, where the agent's pod runs."""
        runs = self.world.node["metadata"]["labels"].get(OURS, "true") == "true"
        if not runs and self._runs:
            self.world.gpus.session = False
        elif runs and not self._runs:
            self.restart()
        self._runs = runs
        if runs:
            await self.turns(1, 0.0)
        if self.operator.holds_the_cordon:
            assert self.world.node["spec"].get("unschedulable"), self.operator.phase
        self.world.tick(2.0)


@pytest.mark.parametrize("ours", [False, True], ids=["we stay", "we are paused"])
@pytest.mark.parametrize("build", [drained, mode_on])
@pytest.mark.parametrize("begins", range(14))
async def test_it_goes_through_at_any_moment_of_a_change(
    begins: int, build: Callable[[], NodeWorld], ours: bool
) -> None:
    story = Upgrade(build(), ours)
    before = {k: v for k, v in story.world.node["metadata"]["labels"].items() if k != labels.STATE}
    for _ in range(begins):
        await story.step()
    for _ in range(120):
        story.operator.turn()
        await story.step()
        if story.operator.over and story.verdict == ("success", "applied"):
            break
    assert story.operator.over, story.operator.phase
    assert (story.verdict, story.layout) == (("success", "applied"), [MIXED])
    after = {k: v for k, v in story.world.node["metadata"]["labels"].items() if k != labels.STATE}
    assert after == {**before, labels.DRIVER_UPGRADE_STATE: "upgrade-done"}
    assert not story.world.node["spec"].get("unschedulable")


async def test_no_change_begins_before_the_upgrade_is_over() -> None:
    """Also when the driver is back: the node is not ours to cordon and uncordon yet."""
    story = Story(NodeWorld(h100(SEVEN)))
    for phase in ("cordon-required", "drain-required", "validation-required", "uncordon-required", "another-required"):
        story.world.label(labels.DRIVER_UPGRADE_STATE, phase)
        story.world.label(value="2x3g.40gb")
        await story.turns(3)
        assert (story.verdict, story.hands.taken) == (("pending", "driver-upgrade"), []), phase
    story.world.label(labels.DRIVER_UPGRADE_STATE, "upgrade-failed")
    await story.settled()
    assert story.verdict == ("success", "applied")
