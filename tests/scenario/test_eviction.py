"""How often somebody is asked to leave."""

from __future__ import annotations

from agent.model.errors import RetryError
from agent.model.node import PodRef
from tests.fakes.world import NodeWorld, agent_on, h100


def _one_pod_in_the_way() -> NodeWorld:
    world = NodeWorld(h100("7g.80gb@0:8"))
    world.add_pod("serve", world.device(0, 0), pod_labels={"app": "serve"})
    world.label(value="7x1g.10gb")
    return world


async def test_an_eviction_is_asked_for_once_while_its_effect_is_not_seen_yet() -> None:
    world = _one_pod_in_the_way()
    partition, _ = agent_on(world)
    for _ in range(5):
        await partition()
        for pod in world.pods.values():
            # The watch lags behind: the pod still looks as if nobody had asked.
            pod["metadata"].pop("deletionTimestamp", None)
    assert world.effects.names.count("evict") == 1


async def test_a_refused_eviction_is_tried_again_every_five_seconds_at_most() -> None:
    world = _one_pod_in_the_way()
    world.budgets_list = [
        {
            "metadata": {"name": "keep", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "serve"}}},
            "status": {"disruptionsAllowed": 0},
        }
    ]
    partition, _ = agent_on(world)
    began = world.time
    while world.time < began + 20:
        wait = await partition()
        assert wait <= 7
        world.tick(0.5)
    assert 3 <= world.effects.names.count("evict") <= 5
    assert world.reports[-1].waits_for == "budget"


async def test_an_eviction_that_failed_is_no_success() -> None:
    world = _one_pod_in_the_way()

    async def broken(pod: PodRef) -> None:
        raise RetryError("HTTP 500")

    partition, hands = agent_on(world)
    hands._cluster.evict = broken  # type: ignore[method-assign]
    for _ in range(4):
        try:
            await partition()
        except RetryError:
            continue
        assert world.reports[-1].status is None or world.reports[-1].status.state == "pending"


async def test_a_budget_that_keeps_one_pod_keeps_no_other() -> None:
    """The rest of the drain goes on meanwhile, so the change begins as soon as the budget lets go."""
    world = NodeWorld(h100("3g.40gb@0:4 3g.40gb@4:4"))
    world.add_pod("kept", world.device(0, 0), pod_labels={"app": "kept"})
    world.add_pod("other", world.device(0, 4))
    world.label(value="7x1g.10gb")
    world.budgets_list = [
        {
            "metadata": {"name": "keep", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "kept"}}},
            "status": {"disruptionsAllowed": 0},
        }
    ]
    partition, _ = agent_on(world)
    for _ in range(10):
        await partition()
        world.tick()
    assert not world.uids("other")
    assert world.uids("kept")
    assert world.reports[-1].waits_for == "budget"
    status = world.reports[-1].status
    assert status is not None
    assert "default/kept" in status.message
