"""What the node says of who is waited for stays true while others come and go."""

from __future__ import annotations

from tests.fakes.world import NodeWorld, h100
from tests.scenario.story import Story

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


async def test_who_has_left_is_not_named_any_more() -> None:
    story = Story(NodeWorld(h100(SEVEN)))
    world = story.world
    for number, name in enumerate(("first", "second")):
        world.add_pod(name, world.device(0, number), "DaemonSet")
    story.world.label(value="1x7g.80gb")
    await story.turns(3)
    assert story.verdict == ("pending", "blocked")
    assert "default/first" in story.status["message"]
    written = world.node["metadata"]["resourceVersion"]
    await story.turns(5)
    assert world.node["metadata"]["resourceVersion"] == written
    world.ends_in(next(iter(world.uids("first"))), 0.0)
    await story.turns(3)
    assert story.verdict == ("pending", "blocked")
    assert "default/first" not in story.status["message"]
    assert "default/second" in story.status["message"]
