"""An autoscaler that removes nodes which look empty: while a change runs, this one does not look so to it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.model import labels
from tests.fakes.world import Kill, Killed, NodeWorld, agent_on, h100, settle

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


class Autoscaler:
    """Looks before every effect of the agent, and removes a cordoned node that does not say otherwise in its words: as
    cluster-autoscaler and Karpenter do with what was drained."""

    def __init__(self, world: NodeWorld, guard: str) -> None:
        self._world = world
        self._guard = guard
        self.removed = False
        self.saw_it_drained = False
        world.effects.witness = self._look

    def _look(self, name: str, about: tuple[Any, ...]) -> None:
        self.look()

    def look(self) -> None:
        if self._world.node["spec"].get("unschedulable"):
            self.saw_it_drained = True
            self.removed |= self._world.node["metadata"]["annotations"].get(self._guard) != "true"


@pytest.mark.parametrize("guard", sorted(labels.AUTOSCALER_GUARDS))
@pytest.mark.parametrize("killed", [None, *range(12)])
async def test_a_node_in_mid_change_is_not_removed(guard: str, killed: int | None) -> None:
    world = NodeWorld(h100(SEVEN))
    world.add_pod("goes", world.device(0, 5))
    world.label(value="4x1g.10gb_1x3g.40gb")
    autoscaler = Autoscaler(world, guard)
    world.effects.kill = None if killed is None else Kill(killed, "after")
    try:
        await settle(world, agent_on(world)[0])
    except Killed:
        world.effects.kill = None
        for _ in range(20):
            world.tick(60.0)
            autoscaler.look()
        await settle(world, agent_on(world)[0])
    autoscaler.look()
    assert autoscaler.saw_it_drained
    assert not autoscaler.removed
    assert guard not in world.node["metadata"]["annotations"]
    assert not world.node["spec"].get("unschedulable")


@pytest.mark.parametrize("guard", sorted(labels.AUTOSCALER_GUARDS))
async def test_what_its_owner_says_to_the_autoscaler_is_said_again_after_the_change(guard: str) -> None:
    world = NodeWorld(h100(SEVEN))
    world.annotate(guard, "false")
    world.label(value="2x3g.40gb")
    autoscaler = Autoscaler(world, guard)
    await settle(world, agent_on(world)[0])
    assert not autoscaler.removed
    assert world.node["metadata"]["annotations"][guard] == "false"
